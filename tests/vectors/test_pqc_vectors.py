"""The library against RFC 9881 (ML-DSA), RFC 9935 (ML-KEM), X-Wing and RFC 9180 (HPKE)."""

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pki import extensions
from pki.errors import ProofError
from pki.keys import parse_public_key, signature_identifier
from pki.possession import verify_signature
from pki.profiles import SCHEME_USAGES, KeyUsage
from pki.structure import Signed, read_tbs, split
from policies.algorithms import Scheme, algorithm
from tests.support import vectors

CRYPTO = vectors.folder("crypto")
PQC = vectors.folder("pqc")

Case = dict[str, Any]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


# Example keys and certificates of RFC 9881 (ML-DSA) and RFC 9935 (ML-KEM)

ML_DSA = {44: mldsa.MLDSA44PrivateKey, 65: mldsa.MLDSA65PrivateKey, 87: mldsa.MLDSA87PrivateKey}
ML_KEM = {768: mlkem.MLKEM768PrivateKey, 1024: mlkem.MLKEM1024PrivateKey}
PRIVATE_FORMS = ("seed", "expanded", "both")
FORMS_NOT_READ = {"expanded", "both"}
"""The library reads private keys by their seed only. Nobody's are ever sent to the service."""


def spki(folder: Path, name: str) -> bytes:
    pem = (folder / f"{name}.pub").read_text()
    return base64.b64decode("".join(pem.strip().splitlines()[1:-1]))


def names(folder: Path, suffix: str) -> set[str]:
    return {path.stem for path in folder.glob(f"*.{suffix}")}


def test_every_rfc_example_is_accounted_for():
    for folder, numbers in ((PQC / "rfc-mldsa", ML_DSA), (PQC / "rfc-mlkem", ML_KEM)):
        prefix = "ML-DSA" if numbers is ML_DSA else "ML-KEM"
        every = {f"{prefix}-{number}" for number in numbers}
        every |= {"ML-KEM-512"} if numbers is ML_KEM else set()
        assert names(folder, "pub") == names(folder, "crt") == every
        assert names(folder, "priv") == {
            f"{name}-{form}" for name in every for form in PRIVATE_FORMS
        }


@pytest.mark.parametrize("number", ML_DSA)
def test_ml_dsa_examples(number: int):
    folder, name = PQC / "rfc-mldsa", f"ML-DSA-{number}"
    row = algorithm(name)
    public_key = load_pem_public_key((folder / f"{name}.pub").read_bytes())
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der == spki(folder, name)
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == public_key
    assert certificate.signature_algorithm_oid.dotted_string == row.signature_oid == row.oid
    assert len(certificate.signature) == row.signature_size
    private = load_pem_private_key((folder / f"{name}-seed.priv").read_bytes(), None)
    assert isinstance(private, ML_DSA[number])
    assert private.public_key() == public_key


@pytest.mark.parametrize("number", ML_KEM)
def test_ml_kem_examples(number: int):
    folder, name = PQC / "rfc-mlkem", f"ML-KEM-{number}"
    public_key = load_pem_public_key((folder / f"{name}.pub").read_bytes())
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der == spki(folder, name)
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    assert certificate.public_key() == public_key
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage == key_encipherment_only()
    private = load_pem_private_key((folder / f"{name}-seed.priv").read_bytes(), None)
    assert isinstance(private, ML_KEM[number])
    assert private.public_key() == public_key
    secret, ciphertext = private.public_key().encapsulate()
    assert private.decapsulate(ciphertext) == secret


def key_encipherment_only() -> x509.KeyUsage:
    return x509.KeyUsage(False, False, True, False, False, False, False, False, False)


@pytest.mark.parametrize("folder", ["rfc-mldsa", "rfc-mlkem"])
def test_other_private_forms_are_not_read(folder: str):
    for form in FORMS_NOT_READ:
        for path in sorted((PQC / folder).glob(f"*-{form}.priv")):
            with pytest.raises((ValueError, UnsupportedAlgorithm)):
                load_pem_private_key(path.read_bytes(), None)


def test_ml_kem_512_is_known_by_its_sizes_alone():
    """The library has no ML-KEM-512; the registry's row stands against the RFC's example."""
    folder, row = PQC / "rfc-mlkem", algorithm("ML-KEM-512")
    with pytest.raises(UnsupportedAlgorithm):
        load_pem_public_key((folder / "ML-KEM-512.pub").read_bytes())
    assert row.public_key_size
    header = bytes.fromhex("30820332300b06096086480165030404010382032100")
    assert spki(folder, "ML-KEM-512")[: len(header)] == header
    assert len(spki(folder, "ML-KEM-512")) == len(header) + row.public_key_size


ISSUERS = {"ML-KEM-512": 44, "ML-KEM-768": 65, "ML-KEM-1024": 87}
"""Whose RFC 9881 key signed the RFC 9935 example."""


def certificate_of(folder: str, name: str) -> Signed:
    pem = (PQC / folder / f"{name}.crt").read_bytes()
    return split(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))


@pytest.mark.parametrize("name", [*(f"ML-DSA-{number}" for number in ML_DSA), *ISSUERS])
def test_our_own_reader_agrees_with_the_rfcs_certificates(name: str):
    """Key, algorithm identifiers and signature; each flipped byte of the content is noticed."""
    signer = f"ML-DSA-{ISSUERS[name]}" if name in ISSUERS else name
    row = algorithm(signer)
    issuer = parse_public_key(spki(PQC / "rfc-mldsa", signer), row)
    signed = certificate_of("rfc-mlkem" if name in ISSUERS else "rfc-mldsa", name)
    assert signed.algorithm == signature_identifier(row)
    verify_signature(issuer, signed.content, signed.signature)
    for at in range(0, len(signed.content), 97):
        wrong = bytearray(signed.content)
        wrong[at] ^= 1
        with pytest.raises(ProofError):
            verify_signature(issuer, bytes(wrong), signed.signature)
    tbs = read_tbs(signed.content)
    key = parse_public_key(tbs.spki, algorithm(name))
    assert key.spki == spki(PQC / ("rfc-mlkem" if name in ISSUERS else "rfc-mldsa"), name)
    if name in ISSUERS:
        usage = extensions.read_key_usage(tbs.extensions[extensions.KEY_USAGE].value)
        assert usage == SCHEME_USAGES[Scheme.ML_KEM] == {KeyUsage.KEY_ENCIPHERMENT}


# X-Wing (draft-connolly-cfrg-xwing-kem), which is MLKEM768-X25519

XWING: list[Case] = vectors.load_json(CRYPTO / "xwing-draft-test-vectors.json")
XWING_LABEL = bytes.fromhex("5c2e2f2f5e5c")


def xwing_parts(seed: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    expanded = hashlib.shake_256(seed).digest(96)
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


@pytest.mark.parametrize("case", XWING, ids=range(len(XWING)))
def test_xwing(case: Case):
    """Keys, both component secrets and the combiner; then the library's own hybrid by way of HPKE.

    `eseed` (the encapsulator's randomness) cannot be given to the library.
    """
    pq, classical = xwing_parts(unhex(case["sk"]))
    public_key = pq.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
    assert public_key == unhex(case["pk"])
    ciphertext = unhex(case["ct"])
    row = algorithm("MLKEM768-X25519")
    assert (len(public_key), len(ciphertext)) == (row.public_key_size, row.ciphertext_size)
    ephemeral = x25519.X25519PublicKey.from_public_bytes(ciphertext[1088:])
    secrets = pq.decapsulate(ciphertext[:1088]) + classical.exchange(ephemeral)
    bound = ciphertext[1088:] + classical.public_key().public_bytes_raw() + XWING_LABEL
    shared = hashlib.sha3_256(secrets + bound).digest()
    assert shared == unhex(case["ss"])
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    sealed = ciphertext + hpke_seal(shared, row.hpke_kem_id or 0, b"info", b"secret")
    private = hpke.MLKEM768X25519PrivateKey(pq, classical)
    assert suite.decrypt(sealed, private, b"info") == b"secret"
    with pytest.raises(InvalidTag):
        suite.decrypt(sealed, private, b"other")


def hpke_seal(shared: bytes, kem: int, info: bytes, plaintext: bytes) -> bytes:
    """RFC 9180 5.1 and 5.2, base mode, HKDF-SHA256 and AES-256-GCM, first message."""
    suite = b"HPKE" + kem.to_bytes(2, "big") + b"\0\1\0\2"

    def extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")

    def expand(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
        content = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context + b"\1"
        return hmac.digest(secret, content, "sha256")[:size]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    nonce = expand(secret, b"base_nonce", context, 12)
    return AESGCM(expand(secret, b"key", context, 32)).encrypt(nonce, plaintext, b"")


# HPKE (RFC 9180)

HPKE: list[Case] = vectors.load_json(CRYPTO / "hpke-rfc9180-test-vectors-first4.json.gz")
HPKE_KEMS = {0x0010: hpke.KEM.P256, 0x0012: hpke.KEM.P521, 0x0020: hpke.KEM.X25519}
HPKE_KDFS = {1: hpke.KDF.HKDF_SHA256, 3: hpke.KDF.HKDF_SHA512}
HPKE_AEADS = {
    1: hpke.AEAD.AES_128_GCM,
    2: hpke.AEAD.AES_256_GCM,
    3: hpke.AEAD.CHACHA20_POLY1305,
}
HPKE_CURVES = {0x0010: ec.SECP256R1(), 0x0012: ec.SECP521R1()}
HPKE_NOT_EXPRESSIBLE = {
    "mode": (96, "only base mode is offered"),
    "kem_id": (8, "X448 is not offered"),
    "aead_id": (6, "export-only contexts are not offered"),
}


def hpke_obstacle(case: Case) -> str | None:
    """The first field that the library cannot express."""
    if case["mode"]:
        return "mode"
    if case["kem_id"] not in HPKE_KEMS:
        return "kem_id"
    return None if case["aead_id"] in HPKE_AEADS else "aead_id"


def test_hpke():
    """First message of each context; the interface is single-shot, so later ones have no place.

    The vectors all have associated data, which only the library's test hook takes.
    """
    obstacles = [hpke_obstacle(case) for case in HPKE]
    counted = {name: obstacles.count(name) for name in HPKE_NOT_EXPRESSIBLE}
    assert counted == {name: count for name, (count, _) in HPKE_NOT_EXPRESSIBLE.items()}
    done = 0
    for case, obstacle in zip(HPKE, obstacles, strict=True):
        if obstacle is None:
            check_hpke(case)
            done += 1
    assert (len(HPKE), done) == (128, 18)


def check_hpke(case: Case) -> None:
    suite = hpke.Suite(
        HPKE_KEMS[case["kem_id"]], HPKE_KDFS[case["kdf_id"]], HPKE_AEADS[case["aead_id"]]
    )
    raw = unhex(case["skRm"])
    private: Any = (
        ec.derive_private_key(int.from_bytes(raw, "big"), HPKE_CURVES[case["kem_id"]])
        if case["kem_id"] in HPKE_CURVES
        else x25519.X25519PrivateKey.from_private_bytes(raw)
    )
    first = case["encryptions"][0]
    sealed, aad = unhex(case["enc"]) + unhex(first["ct"]), unhex(first["aad"])
    info = unhex(case["info"])
    open_ = rust_openssl.hpke._decrypt_with_aad
    assert open_(suite, sealed, private, info, aad) == unhex(first["pt"])
    for other in ((sealed[:-1] + bytes([sealed[-1] ^ 1]), info, aad), (sealed, b"", aad)):
        with pytest.raises(InvalidTag):
            open_(suite, other[0], private, *other[1:])
