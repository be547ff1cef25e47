"""The log against the vectors of others: Merkle proofs, a whole C2SP log, spec examples, Rekor."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kms.tlog.append import append
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.errors import FormatError, ProofError, SignatureError, TlogError
from kms.tlog.hashing import leaf_hash
from kms.tlog.notes import KeyType, VerifierKey, parse_note, verify_note
from kms.tlog.proofs import verify_consistency, verify_inclusion
from kms.tlog.receipt import format_receipt, parse_receipt, verify_receipt
from kms.tlog.tiles import NodeCache, decode_entries, encode_entries, entries_path, tile_path
from kms.tlog.tree import consistency_proof, inclusion_proof, root
from tests.support import vectors

TLOG = vectors.folder("tlog")

# Merkle proofs (transparency-dev/merkle)

PROOFS: dict[str, dict[str, Any]] = vectors.load_json(TLOG / "merkle-proofs.json")
COUNTS = {
    "inclusion": 53,
    "consistency": 50,
    "subtreeinclusion": 108,
    "subtreeconsistency": 55,
}
# Subtrees that do not begin at the first leaf, or are empty, have no consistency verifier here:
# only whole trees are signed.
SUBTREES_ELSEWHERE = 6
EMPTY_AND_ACCEPTED = (
    "subtreeconsistency/additional/subtree-is-empty-sizes-are-equal-zero"
    "-subtree-root-valid-tree-root-random-proof-is-empty.json"
)


def test_every_merkle_case_is_counted():
    kinds = [name.split("/")[0] for name in PROOFS]
    assert {kind: kinds.count(kind) for kind in kinds} == COUNTS


def cases(kind: str) -> list[str]:
    return sorted(name for name in PROOFS if name.split("/")[0] == kind)


def unb64(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def hashes(case: dict[str, Any]) -> list[bytes]:
    return [unb64(item) for item in case["proof"] or []]


def check(case: dict[str, Any], verify: Any, *arguments: Any) -> None:
    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify(*arguments)
    else:
        verify(*arguments)


@pytest.mark.parametrize("name", cases("inclusion"))
def test_inclusion(name: str):
    case = PROOFS[name]
    leaf, head = unb64(case["leafHash"]), unb64(case["root"])
    check(case, verify_inclusion, leaf, case["leafIdx"], case["treeSize"], hashes(case), head)


@pytest.mark.parametrize("name", cases("consistency"))
def test_consistency(name: str):
    case = PROOFS[name]
    roots = unb64(case["root1"]), unb64(case["root2"])
    check(case, verify_consistency, case["size1"], case["size2"], hashes(case), *roots)


def is_subtree(start: int, end: int) -> bool:
    """draft-ietf-plants-merkle-tree-certs section 4.1: aligned to its own size, rounded up."""
    size = end - start
    return size > 0 and start % (1 << (size - 1).bit_length()) == 0


@pytest.mark.parametrize("name", cases("subtreeinclusion"))
def test_subtree_inclusion(name: str):
    """A subtree is a tree of its own, shifted; whether a range is one is not the log's affair."""
    case = PROOFS[name]
    start, end = case["start"], case["end"]
    if not is_subtree(start, end):
        assert case["wantErr"]
        return
    leaf, head = unb64(case["leafHash"]), unb64(case["root"])
    check(case, verify_inclusion, leaf, case["leafIdx"] - start, end - start, hashes(case), head)


def test_subtree_consistency():
    """From the first leaf on, a subtree is an older tree; the others are counted."""
    elsewhere = 0
    for name in cases("subtreeconsistency"):
        case = PROOFS[name]
        if case["start"]:
            elsewhere += 1
            continue
        wanted = case | {"wantErr": case["wantErr"] or name == EMPTY_AND_ACCEPTED}
        roots = unb64(case["root1"]), unb64(case["root2"])
        check(wanted, verify_consistency, case["end"], case["size"], hashes(case), *roots)
    assert elsewhere == SUBTREES_ELSEWHERE


# A complete log (transparency-dev/tessera)

TESSERA = TLOG / "tessera-log"
TESSERA_KEY = VerifierKey.parse((TLOG / "tessera-log.vkey").read_text().strip())
SIZES = range(16)


def tessera_checkpoint(size: int) -> bytes:
    return (TESSERA / f"checkpoint.{size}").read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_foreign_log_is_rebuilt(size: int):
    note = parse_note(tessera_checkpoint(size))
    assert verify_note(note, [TESSERA_KEY]) == [TESSERA_KEY.name]
    head = parse_checkpoint(note.text)
    assert (head.origin, head.size, head.body()) == (TESSERA_KEY.name, size, note.text)
    leaves: list[bytes] = []
    if size:
        bundle = (TESSERA / entries_path(0, size)).read_bytes()
        leaves = decode_entries(bundle, size)
        assert encode_entries(leaves) == bundle
    appended = append(lambda _level, _number: None, 0, [leaf_hash(leaf) for leaf in leaves])
    assert appended.root == head.root
    for (level, number), content in appended.tiles.items():
        path = TESSERA / tile_path(level, number, len(content) // 32)
        assert path.read_bytes() == content


def test_every_tile_of_the_foreign_log_was_compared():
    tiles = [path for path in (TESSERA / "tile").rglob("*") if path.is_file()]
    expected = {TESSERA / tile_path(0, 0, size) for size in SIZES if size}
    expected |= {TESSERA / entries_path(0, size) for size in SIZES if size}
    assert set(tiles) == expected
    assert (TESSERA / "checkpoint").read_bytes() == tessera_checkpoint(15)


def test_proofs_out_of_foreign_tiles():
    tile = (TESSERA / tile_path(0, 0, 15)).read_bytes()
    cache = NodeCache(lambda level, number: tile if (level, number) == (0, 0) else None)
    heads = [parse_checkpoint(parse_note(tessera_checkpoint(size)).text) for size in SIZES]
    leaves = decode_entries((TESSERA / entries_path(0, 15)).read_bytes(), 15)
    for new in heads[1:]:
        assert root(new.size, cache) == new.root
        for old in heads[1 : new.size + 1]:
            proof = consistency_proof(old.size, new.size, cache)
            verify_consistency(old.size, new.size, proof, old.root, new.root)
        for index, leaf in enumerate(leaves[: new.size]):
            note = tessera_checkpoint(new.size)
            receipt = format_receipt(index, inclusion_proof(index, new.size, cache), note)
            assert verify_receipt(receipt, leaf, [TESSERA_KEY], TESSERA_KEY.name) == new


# Examples in the specifications (C2SP/C2SP)

EXAMPLES: dict[str, list[str]] = vectors.load_json(TLOG / "c2sp-spec-examples.json")
EXAMPLES_NOT_USED = {
    "tlog-policy": "witness policies are not read yet",
    "tlog-checkpoint:indented": "prose",
    "tlog-cosignature:indented": "a template",
}


def test_every_example_is_accounted_for():
    used = {"signed-note", "tlog-checkpoint", "tlog-cosignature", "tlog-proof", "tlog-witness"}
    used |= {"signed-note:indented", "tlog-witness:indented"}
    filled = {name for name, examples in EXAMPLES.items() if examples}
    assert filled == used | EXAMPLES_NOT_USED.keys()


def test_the_signed_note_example_verifies():
    key = VerifierKey.parse(EXAMPLES["signed-note:indented"][2].strip())
    for template in EXAMPLES["signed-note:indented"][:2]:
        with pytest.raises(FormatError):
            VerifierKey.parse(template.strip())
    poem, message = (parse_note(item.encode()) for item in EXAMPLES["signed-note"])
    assert verify_note(message, [key]) == ["example.com/foo"]
    assert poem.text.endswith("ed \u00e8 subito sera.\n".encode())
    assert [item.name for item in poem.signatures] == ["quasimodo.example/salvatore"]
    with pytest.raises(SignatureError):
        verify_note(poem, [key])


@pytest.mark.parametrize("kind", ["tlog-checkpoint", "tlog-cosignature"])
def test_checkpoint_examples_are_read(kind: str):
    """Their keys are not published, so their signatures cannot be verified."""
    (example,) = EXAMPLES[kind]
    note = parse_note(example.encode())
    head = parse_checkpoint(note.text)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.body() == note.text
    sizes = {"example.com/behind-the-sofa": 64, "witness.example.com/w1": 72}
    for item in note.signatures:
        assert len(item.signature) == sizes[item.name]


def test_witness_examples_hold_readable_notes():
    """Those that the specification abbreviates with [...] are no base64 and are refused."""
    add_checkpoint = EXAMPLES["tlog-witness:indented"][1].strip()
    proof, _, note = add_checkpoint.partition("\n\n")
    assert proof.startswith("old 20852014\n")
    assert parse_checkpoint(parse_note((note + "\n").encode()).text).size == 20852163
    cosignatures = EXAMPLES["tlog-witness:indented"][2].strip() + "\n"
    signed = parse_note(b"text\n\n" + cosignatures.encode())
    assert [item.name for item in signed.signatures] == [
        "witness.example/w1",
        "witness.example/w1",
        "witness.example/w2",
    ]
    abbreviated = EXAMPLES["tlog-witness:indented"][3].strip() + "\n"
    for shortened in (b"text\n\n" + abbreviated.encode(), EXAMPLES["tlog-witness"][0].encode()):
        assert b"[...]" in shortened
        with pytest.raises(FormatError):
            parse_note(shortened)


def test_the_receipt_example_is_read_as_far_as_it_is_whole():
    """Its signatures are abbreviated with [...]."""
    (example,) = EXAMPLES["tlog-proof"]
    receipt = parse_receipt(example.encode())
    assert (receipt.index, len(receipt.proof)) == (73894, 5)
    assert receipt.extra
    assert receipt.extra.startswith(b"age-v1.2.1-darwin-arm64.tar.gz")
    again = format_receipt(receipt.index, receipt.proof, receipt.checkpoint_note, receipt.extra)
    assert again == example.encode()
    with pytest.raises(FormatError):
        parse_note(receipt.checkpoint_note)


# Rekor (sigstore-conformance)

REKOR = TLOG / "rekor-bundles"
VERIFIED, ONLY_PROOF, NO_PROOF = "verified", "proof verified", "no proof"
"""ONLY_PROOF: the checkpoint is signed with ECDSA (signed-note type 2), which logs of ours never
use and `kms.tlog` does not verify; tree, proof and checkpoint are checked as far as they go."""

# What our part of a bundle shows. A bundle that must fail and is fine in our part fails elsewhere;
# the second word says where.
REKOR_OUTCOMES: dict[str, tuple[object, str]] = {
    "bundle-empty-certificate-chain_fail": (ProofError, ""),
    "bundle-invalid-base64-signature_fail": (ProofError, ""),
    "bundle-malformed-json_fail": (json.JSONDecodeError, ""),
    "bundle-negative-log-index_fail": (NO_PROOF, "log index"),
    "bundle-with-root-cert_fail": (FormatError, ""),
    "bundle-with-sct-with-extensions": (VERIFIED, ""),
    "checkpoint-bad-keyhint_fail": (ONLY_PROOF, "ECDSA key id"),
    "dsse-invalid-sig_fail": (ONLY_PROOF, "artifact signature"),
    "dsse-mismatch-envelope_fail": (ONLY_PROOF, "artifact"),
    "happy-path-intoto-in-dsse-v3": (ONLY_PROOF, ""),
    "happy-path-v0.1": (ONLY_PROOF, ""),
    "happy-path-v0.2": (ONLY_PROOF, ""),
    "integrated-time-in-future_fail": (ONLY_PROOF, "time"),
    "intoto-expired-certificate_fail": (ONLY_PROOF, "certificate"),
    "intoto-log-entry-mismatch_fail": (ONLY_PROOF, "artifact"),
    "intoto-set-outside-signing-cert-validity_fail": (ONLY_PROOF, "time"),
    "intoto-with-custom-trust-root": (ONLY_PROOF, ""),
    "invalid-checkpoint-signature_fail": (ONLY_PROOF, "ECDSA signature"),
    "invalid-inclusion-proof_fail": (ProofError, ""),
    "message-digest-mismatch_fail": (ONLY_PROOF, "artifact"),
    "rekor2-checkpoint-cosigned": (VERIFIED, ""),
    "rekor2-checkpoint-missing-origin_fail": (SignatureError, ""),
    "rekor2-checkpoint-missing-root-hash_fail": (SignatureError, ""),
    "rekor2-checkpoint-missing-size_fail": (SignatureError, ""),
    "rekor2-checkpoint-multiple-cosigs": (VERIFIED, ""),
    "rekor2-checkpoint-no-matching-signature_fail": (SignatureError, ""),
    "rekor2-checkpoint-two-sigs-from-origin": (VERIFIED, ""),
    "rekor2-dsse-mismatch-envelope_fail": (VERIFIED, "artifact"),
    "rekor2-dsse-mismatch-sig_fail": (VERIFIED, "artifact signature"),
    "rekor2-happy-path": (VERIFIED, ""),
    "rekor2-no-inclusion-proof_fail": (NO_PROOF, "no proof"),
    "rekor2-no-timestamp_fail": (VERIFIED, "time"),
    "rekor2-timestamp-outside-tsa-cert-validity_fail": (VERIFIED, "time"),
    "rekor2-timestamp-payload-mismatch_fail": (VERIFIED, "time"),
    "set-invalid-signature_fail": (ONLY_PROOF, "signed entry timestamp"),
    "trust-root-tlog-missing-validity-start_fail": (VERIFIED, "key validity"),
    "trust-root-tlog-validity-end-inclusive": (ONLY_PROOF, ""),
    "wrong-hashedrekord-cert-and-sig_fail": (ONLY_PROOF, "certificate"),
    "wrong-hashedrekord-entry_fail": (ONLY_PROOF, "artifact"),
}


def test_every_rekor_bundle_is_judged():
    names = {path.name for path in REKOR.iterdir()}
    assert names == REKOR_OUTCOMES.keys()
    for name, (outcome, elsewhere) in REKOR_OUTCOMES.items():
        refused_here = outcome not in {VERIFIED, ONLY_PROOF, NO_PROOF}
        assert (refused_here or bool(elsewhere)) == name.endswith("_fail")


def log_key(bundle: Path, entry: dict[str, Any]) -> VerifierKey | None:
    """The Ed25519 key of the entry's log in the bundle's own trusted root."""
    path = bundle / "trusted_root.json"
    logs = json.loads(path.read_text())["tlogs"] if path.exists() else []
    for log in logs:
        if log["logId"] == entry["logId"] and log["publicKey"]["keyDetails"] == "PKIX_ED25519":
            name = urlsplit(log["baseUrl"]).hostname
            raw = unb64(log["publicKey"]["rawBytes"])[-32:]
            return VerifierKey(name, KeyType.ED25519, raw)
    return None


def judge(bundle: Path) -> str:
    content = json.loads((bundle / "bundle.sigstore.json").read_text())
    (entry,) = content["verificationMaterial"]["tlogEntries"]
    proof = entry.get("inclusionProof")
    if proof is None or entry["logIndex"].startswith("-"):
        return NO_PROOF
    index, path = int(proof["logIndex"]), [unb64(item) for item in proof["hashes"]]
    body = unb64(entry["canonicalizedBody"])
    note = proof.get("checkpoint", {}).get("envelope", "").encode()
    key = log_key(bundle, entry)
    if key is not None:
        head = verify_receipt(format_receipt(index, path, note), body, [key], key.name)
        assert head.size == int(proof["treeSize"])
        return VERIFIED
    size, head_root = int(proof["treeSize"]), unb64(proof["rootHash"])
    verify_inclusion(leaf_hash(body), index, size, path, head_root)
    head = parse_checkpoint(parse_note(note).text)
    assert (head.size, head.root) == (size, head_root)
    return ONLY_PROOF


@pytest.mark.parametrize("name", sorted(REKOR_OUTCOMES))
def test_rekor(name: str):
    outcome, _ = REKOR_OUTCOMES[name]
    try:
        found: object = judge(REKOR / name)
    except (TlogError, json.JSONDecodeError, binascii.Error) as error:
        found = type(error)
    assert found == outcome
