"""Notes, verifier keys, cosignatures, checkpoints and receipts: strict, bounded, refusing."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from kms.tlog.append import append
from kms.tlog.checkpoint import MAX_EXTENSIONS, MAX_ORIGIN, Checkpoint, parse_checkpoint
from kms.tlog.encoding import MAX_NUMBER
from kms.tlog.errors import FormatError, ProofError, SignatureError, TlogError
from kms.tlog.hashing import EMPTY_ROOT, leaf_hash
from kms.tlog.notes import (
    MAX_NOTE,
    MAX_SIGNATURES,
    KeyType,
    Note,
    NoteSignature,
    VerifierKey,
    ed25519_cosigned,
    format_note,
    key_id,
    ml_dsa_cosigned,
    parse_note,
    verify_note,
    vkey,
)
from kms.tlog.receipt import MAX_EXTRA, MAX_RECEIPT, format_receipt, parse_receipt, verify_receipt
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import inclusion_proof

ORIGIN = "kms.example/log/1"
WITNESS = "witness.example/w1"
ROOT = leaf_hash(b"root")
HEAD = Checkpoint(ORIGIN, 7, ROOT)
SEED = bytes(range(32))


class Log:
    """A log key and one cosigner of each type."""

    def __init__(self) -> None:
        self.ed = Ed25519PrivateKey.from_private_bytes(SEED)
        self.ml = MLDSA44PrivateKey.from_seed_bytes(SEED)
        ed, ml = self.ed.public_key().public_bytes_raw(), self.ml.public_key().public_bytes_raw()
        self.key = VerifierKey(ORIGIN, KeyType.ED25519, ed)
        self.ed_witness = VerifierKey(WITNESS, KeyType.ED25519_COSIGNATURE, ed)
        self.ml_witness = VerifierKey(WITNESS, KeyType.ML_DSA_44_COSIGNATURE, ml)

    def sign(self, text: bytes) -> NoteSignature:
        return NoteSignature(ORIGIN, self.key.key_id, self.ed.sign(text))

    def cosign(self, head: Checkpoint, time: int = 1_700_000_000) -> list[NoteSignature]:
        stamp = time.to_bytes(8, "big")
        ed = stamp + self.ed.sign(ed25519_cosigned(head, time))
        ml = stamp + self.ml.sign(ml_dsa_cosigned(head, time, WITNESS))
        return [
            NoteSignature(WITNESS, self.ed_witness.key_id, ed),
            NoteSignature(WITNESS, self.ml_witness.key_id, ml),
        ]


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


# Checkpoints


def test_checkpoint_text():
    body = HEAD.body()
    assert body == f"{ORIGIN}\n7\n{base64.b64encode(ROOT).decode()}\n".encode()
    assert parse_checkpoint(body) == HEAD
    assert Checkpoint(ORIGIN, 0, EMPTY_ROOT).size == 0


def test_extension_lines_survive():
    body = HEAD.body() + b"Timestamp: 1\nmore\n"
    assert parse_checkpoint(body) == Checkpoint(ORIGIN, 7, ROOT, ("Timestamp: 1", "more"))
    assert parse_checkpoint(body).body() == body


R64 = base64.b64encode(ROOT)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"o\n7\n",
        b"o\n7\n" + R64,
        b"\n7\n" + R64 + b"\n",
        b"o\n\n" + R64 + b"\n",
        b"o\n07\n" + R64 + b"\n",
        b"o\n+7\n" + R64 + b"\n",
        b"o\n-7\n" + R64 + b"\n",
        b"o\n 7\n" + R64 + b"\n",
        b"o\n7_0\n" + R64 + b"\n",
        "o\n\u0667\n".encode() + R64 + b"\n",
        b"o\n9223372036854775808\n" + R64 + b"\n",
        b"o\n" + b"9" * 10_000 + b"\n" + R64 + b"\n",
        b"o\n7\n" + R64[:-1] + b"\n",
        b"o\n7\n" + R64 + b" \n",
        b"o\n7\n" + R64[:-2] + b"1=\n",
        b"o\n7\n" + R64[:40] + b"\n",
        b"o\n7\n" + base64.b64encode(ROOT + b"x") + b"\n",
        b"o\n7\n" + R64 + b"\n\n",
        b"o\n7\n" + R64 + b"\next\n\n",
        b"o\n7\n" + R64 + b"\nwithout end",
        b"o\n7\r\n" + R64 + b"\n",
        b"o\r\n7\n" + R64 + b"\n",
        b"o\n0\n" + R64 + b"\n",
        b"\xff\n7\n" + R64 + b"\n",
        b"o" * (MAX_ORIGIN + 1) + b"\n7\n" + R64 + b"\n",
        b"o\n7\n" + R64 + b"\n" + b"x\n" * (MAX_EXTENSIONS + 1),
    ],
    ids=range(28),
)
def test_other_checkpoints_are_refused(text: bytes):
    with pytest.raises(FormatError):
        parse_checkpoint(text)


def test_the_largest_checkpoint():
    largest = Checkpoint("o" * MAX_ORIGIN, MAX_NUMBER, ROOT, ("x",) * MAX_EXTENSIONS)
    assert MAX_NUMBER == 2**63 - 1
    assert parse_checkpoint(largest.body()) == largest


@given(st.binary(max_size=120) | st.text(max_size=60).map(str.encode))
def test_what_is_accepted_is_what_would_be_written(noise: bytes):
    for text in (noise, b"o\n" + noise, HEAD.body() + noise):
        try:
            assert parse_checkpoint(text).body() == text
        except FormatError:
            continue


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 1, ROOT),
        ("a\nb", 1, ROOT),
        ("a", -1, ROOT),
        ("a", 2**63, ROOT),
        ("a", 1, b""),
        ("a", 0, ROOT),
    ],
)
def test_checkpoints_that_cannot_be(origin: str, size: int, root: bytes):
    with pytest.raises(FormatError):
        Checkpoint(origin, size, root)


# Verifier keys


def test_verifier_keys(log: Log):
    for key in (log.key, log.ed_witness, log.ml_witness):
        assert VerifierKey.parse(key.text()) == key
        assert key.key_id == key_id(key.name, key.type, key.public)
    assert len({key.key_id for key in (log.key, log.ed_witness, log.ml_witness)}) == 3
    assert vkey(ORIGIN, log.key.public) == log.key.text()


def test_key_types_as_assigned(log: Log):
    """C2SP signed-note and tlog-cosignature assign these bytes; they are part of every key id."""
    assert [int(kind) for kind in KeyType] == [0x01, 0x04, 0x06]
    longest = VerifierKey("n" * MAX_ORIGIN, KeyType.ML_DSA_44_COSIGNATURE, log.ml_witness.public)
    assert VerifierKey.parse(longest.text()) == longest


def test_other_verifier_keys_are_refused(log: Log):
    name, number, data = log.key.text().split("+", 2)
    other = "00000000" if number != "00000000" else "00000001"
    foreign = base64.b64encode(b"\x02" + log.key.public).decode()
    short = base64.b64encode(b"\x01" + log.key.public[:-1]).decode()
    for text in (
        "",
        "+",
        "a+b+c",
        f"{name}+{number}",
        f"{name}+{number}+",
        f"+{number}+{data}",
        f"{name}+{other}+{data}",
        f"{name}+{number.upper()}x+{data}",
        f"{name}+{number}+{data}=",
        f"{name}+{number}+{data}\n",
        f"na me+{key_id('na me', 1, log.key.public).hex()}+{data}",
        f"{name}+{number}+{foreign}",
        f"{name}+{number}+{short}",
        f"{name}+{number}+{'A' * 5000}",
        f"\udc80+{number}+{data}",
    ):
        with pytest.raises(FormatError):
            VerifierKey.parse(text)
    for bad in ("", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\n", "x" * 256):
        with pytest.raises(FormatError):
            vkey(bad, log.key.public)
    with pytest.raises(FormatError):
        vkey("a", b"short")


# Notes


def test_a_signed_note(log: Log):
    text = HEAD.body()
    data = format_note(text, [log.sign(text), *log.cosign(HEAD)])
    note = parse_note(data)
    assert note.text == text
    assert format_note(note.text, note.signatures) == data
    assert verify_note(note, [log.key]) == [ORIGIN]
    assert verify_note(note, [log.ml_witness, log.key]) == [ORIGIN, WITNESS]
    assert verify_note(note, [log.ed_witness, log.ml_witness]) == [WITNESS]


def test_text_may_hold_empty_lines(log: Log):
    text = b"one\n\ntwo\n\n\n"
    note = parse_note(format_note(text, [log.sign(text)]))
    assert note.text == text
    assert verify_note(note, [log.key]) == [ORIGIN]


def test_unknown_keys_are_ignored_known_ones_are_not(log: Log):
    text = HEAD.body()
    good = log.sign(text)
    same_name = NoteSignature(ORIGIN, b"\0\0\0\0", b"x" * 64)
    same_id = NoteSignature("other.example", good.key_id, b"x" * 64)
    assert verify_note(Note(text, (same_name, same_id, good, good)), [log.key]) == [ORIGIN]
    with pytest.raises(SignatureError, match="no known key"):
        verify_note(Note(text, (same_name, same_id)), [log.key])
    with pytest.raises(SignatureError, match="no known key"):
        verify_note(Note(text, (good,)), [])
    for broken in (b"x" * 64, good.signature[:-1], good.signature + b"\0", b""):
        bad = NoteSignature(ORIGIN, good.key_id, broken)
        for signatures in ((bad,), (good, bad), (bad, good)):
            with pytest.raises(SignatureError, match="signature of"):
                verify_note(Note(text, signatures), [log.key])


@given(st.integers(0, 2**32), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_is_noticed(position: int, bit: int):
    log = Log()
    text = HEAD.body()
    data = bytearray(format_note(text, [log.sign(text)]))
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(TlogError):
        verify_note(parse_note(bytes(data)), [log.key])


def test_cosignatures_bind_time_origin_size_root_and_name(log: Log):
    ed, ml = log.cosign(HEAD)
    keys = [log.ed_witness, log.ml_witness]
    others = [
        Checkpoint("other", 7, ROOT),
        Checkpoint(ORIGIN, 8, ROOT),
        Checkpoint(ORIGIN, 7, leaf_hash(b"x")),
    ]
    for other in others:
        for item in (ed, ml):
            with pytest.raises(SignatureError):
                verify_note(Note(other.body(), (item,)), keys)
    for item in (ed, ml):
        later = bytes([item.signature[0], *item.signature[1:7], item.signature[7] ^ 1])
        moved = NoteSignature(item.name, item.key_id, later + item.signature[8:])
        with pytest.raises(SignatureError):
            verify_note(Note(HEAD.body(), (moved,)), keys)
    renamed = VerifierKey("witness.example/w2", log.ml_witness.type, log.ml_witness.public)
    with pytest.raises(SignatureError):
        renamed.verify(HEAD.body(), ml.signature)


def test_extensions_are_in_an_ed25519_cosignature_only(log: Log):
    """As tlog-cosignature has it; why our own logs write none."""
    ed, ml = log.cosign(HEAD)
    extended = Checkpoint(ORIGIN, 7, ROOT, ("more",)).body()
    assert verify_note(Note(extended, (ml,)), [log.ml_witness]) == [WITNESS]
    with pytest.raises(SignatureError):
        verify_note(Note(extended, (ed,)), [log.ed_witness])


def test_cosigned_messages_as_specified():
    assert ed25519_cosigned(HEAD, 1679315147) == (
        b"cosignature/v1\ntime 1679315147\n" + HEAD.body()
    )
    assert ml_dsa_cosigned(HEAD, 1, "w") == (
        b"subtree/v1\n\0"
        b"\x01w" + (1).to_bytes(8, "big") + bytes([len(ORIGIN)]) + ORIGIN.encode()
        + bytes(8) + (7).to_bytes(8, "big") + ROOT
    )  # fmt: skip


@pytest.mark.parametrize("time", [0, MAX_NUMBER])
def test_first_and_last_time(log: Log, time: int):
    note = Note(HEAD.body(), tuple(log.cosign(HEAD, time)))
    assert verify_note(note, [log.ed_witness, log.ml_witness]) == [WITNESS]


def test_impossible_times_are_refused(log: Log):
    with pytest.raises(SignatureError, match="impossible time"):
        ed25519_cosigned(HEAD, -1)
    stamp = (2**63).to_bytes(8, "big")
    for key, size in ((log.ed_witness, 64), (log.ml_witness, 2420)):
        with pytest.raises(SignatureError, match="impossible time"):
            key.verify(HEAD.body(), stamp + bytes(size))


def test_a_cosignature_needs_a_checkpoint(log: Log):
    ed, _ = log.cosign(HEAD)
    with pytest.raises(FormatError):
        verify_note(Note(b"no checkpoint\n", (ed,)), [log.ed_witness])


LINE = "\u2014 name AAAAAGE=\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n" + LINE,
        b"text\n\n" + LINE[:-1],
        b"text\n\n" + LINE + b"\n",
        b"text\n\n" + LINE + b"more\n",
        b"text\n\n- name AAAAAGE=\n",
        "text\n\n\u2014  name AAAAAGE=\n".encode(),
        "text\n\n\u2014 name AAAAAGE= \n".encode(),
        "text\n\n\u2014 name AAAA\n".encode(),
        "text\n\n\u2014 name AAAAAA==\n".encode(),
        "text\n\n\u2014 name AAAAAGF=\n".encode(),
        "text\n\n\u2014 name AAAAAGE\n".encode(),
        "text\n\n\u2014 na+me AAAAAGE=\n".encode(),
        "text\n\n\u2014 na\u00a0me AAAAAGE=\n".encode(),
        "text\n\n\u2014 AAAAAGE=\n".encode(),
        b"te\txt\n\n" + LINE,
        b"te\0xt\n\n" + LINE,
        b"te\rxt\n\n" + LINE,
        b"te\xffxt\n\n" + LINE,
        b"text\n\n" + LINE * (MAX_SIGNATURES + 1),
        b"x" * MAX_NOTE + b"\n\n" + LINE,
    ],
    ids=range(23),
)
def test_other_notes_are_refused(data: bytes):
    with pytest.raises(FormatError):
        parse_note(data)


def test_as_many_signatures_as_promised(log: Log):
    text = HEAD.body()
    many = [NoteSignature(f"w{i}", b"\0\0\0\1", bytes(5000)) for i in range(16)]
    note = parse_note(format_note(text, [*many, log.sign(text)]))
    assert verify_note(note, [log.key]) == [ORIGIN]
    assert len(parse_note(b"text\n\n" + LINE * MAX_SIGNATURES).signatures) == MAX_SIGNATURES
    tail = b"\n\n" + LINE
    assert parse_note(b"x" * (MAX_NOTE - len(tail)) + tail).signatures


@pytest.mark.parametrize(
    ("text", "name"),
    [(b"no newline", "n"), (b"", "n"), (b"a\tb\n", "n"), (b"a\n", "n m"), (b"a\n", "")],
)
def test_what_cannot_stand_in_a_note_is_not_written(text: bytes, name: str):
    with pytest.raises(FormatError):
        format_note(text, [NoteSignature(name, bytes(4), b"s")])
    with pytest.raises(FormatError):
        format_note(b"text\n", [])


# Receipts


def make_receipt(log: Log, size: int, index: int, extra: bytes | None = None) -> bytes:
    tiles = append(lambda _level, _number: None, 0, [leaf_hash(b"%d" % i) for i in range(size)])
    head = Checkpoint(ORIGIN, size, tiles.root).body()
    cache = NodeCache(lambda level, number: tiles.tiles.get((level, number)))
    note = format_note(head, [log.sign(head)])
    return format_receipt(index, inclusion_proof(index, size, cache), note, extra)


@pytest.mark.parametrize("extra", [None, b"x", b"\0" * MAX_EXTRA])
@pytest.mark.parametrize(("size", "index"), [(1, 0), (2, 1), (300, 299), (300, 0)])
def test_receipts(log: Log, size: int, index: int, extra: bytes | None):
    receipt = make_receipt(log, size, index, extra)
    head = verify_receipt(receipt, b"%d" % index, [log.key], ORIGIN)
    assert (head.origin, head.size) == (ORIGIN, size)
    parsed = parse_receipt(receipt)
    assert (parsed.index, parsed.extra) == (index, extra)
    again = format_receipt(parsed.index, parsed.proof, parsed.checkpoint_note, parsed.extra)
    assert again == receipt


def test_a_receipt_shows_one_leaf_in_one_log(log: Log):
    receipt = make_receipt(log, 10, 3)
    with pytest.raises(ProofError):
        verify_receipt(receipt, b"4", [log.key], ORIGIN)
    with pytest.raises(ProofError):
        verify_receipt(receipt.replace(b"index 3", b"index 4"), b"3", [log.key], ORIGIN)
    with pytest.raises(SignatureError):
        verify_receipt(receipt, b"3", [log.key], "kms.example/log/2")
    with pytest.raises(SignatureError):
        verify_receipt(receipt, b"3", [], ORIGIN)


def test_a_log_cannot_sign_for_another(log: Log):
    """The key of one epoch does not vouch for a checkpoint of the next."""
    head = Checkpoint("kms.example/log/2", 1, leaf_hash(b"leaf")).body()
    receipt = format_receipt(0, [], format_note(head, [log.sign(head)]))
    with pytest.raises(ProofError, match=r"of the log .kms\.example/log/2"):
        verify_receipt(receipt, b"leaf", [log.key], ORIGIN)


def test_a_cosigner_does_not_stand_in_for_the_log(log: Log):
    head = Checkpoint(ORIGIN, 1, leaf_hash(b"leaf"))
    receipt = format_receipt(0, [], format_note(head.body(), log.cosign(head)))
    with pytest.raises(SignatureError, match="not signed by the log"):
        verify_receipt(receipt, b"leaf", [log.key, log.ed_witness], ORIGIN)


@given(st.integers(0, 2**32), st.integers(0, 7))
@settings(max_examples=80, deadline=None)
def test_any_flipped_bit_of_a_receipt_is_noticed(position: int, bit: int):
    log = Log()
    data = bytearray(make_receipt(log, 10, 3))
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(TlogError):
        verify_receipt(bytes(data), b"3", [log.key], ORIGIN)


HEADER = b"c2sp.org/tlog-proof@v1\n"
NOTE = HEAD.body() + b"\n" + LINE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER,
        HEADER + b"index 0\n" + NOTE,
        b"c2sp.org/tlog-proof@v2\nindex 0\n\n" + NOTE,
        HEADER[:-1] + b"\r\nindex 0\n\n" + NOTE,
        HEADER + b"\n" + NOTE,
        HEADER + b"\nindex 0\n\n" + NOTE,
        HEADER + b"index\n\n" + NOTE,
        HEADER + b"index 00\n\n" + NOTE,
        HEADER + b"index -1\n\n" + NOTE,
        HEADER + b"index  1\n\n" + NOTE,
        HEADER + b"index 9223372036854775808\n\n" + NOTE,
        HEADER + b"index 0\nextra AA==\n\n" + NOTE,
        HEADER + b"extra \nindex 0\n\n" + NOTE,
        HEADER + b"extra AB==\nindex 0\n\n" + NOTE,
        HEADER + b"extra AA==\nextra AA==\nindex 0\n\n" + NOTE,
        HEADER + b"index 0\nindex 0\n\n" + NOTE,
        HEADER + b"index 0\nAAAA\n\n" + NOTE,
        HEADER + b"index 0\n" + (R64 + b"\n") * 64 + b"\n" + NOTE,
        HEADER + b"index 0\n" + R64 + b" \n\n" + NOTE,
        HEADER + "index 0\n\u2014\n\n".encode() + NOTE,
        HEADER + b"index 0\n\n" + b"x" * MAX_RECEIPT,
    ],
    ids=range(22),
)
def test_other_receipts_are_refused(data: bytes):
    with pytest.raises(FormatError):
        parse_receipt(data)


def test_the_largest_receipt():
    note = b"x" * (MAX_NOTE - len(LINE) - 2) + b"\n\n" + LINE
    receipt = format_receipt(MAX_NUMBER, [ROOT] * 63, note, b"x" * MAX_EXTRA)
    assert len(receipt) <= MAX_RECEIPT
    parsed = parse_receipt(receipt)
    assert (parsed.index, len(parsed.proof)) == (MAX_NUMBER, 63)
    assert parse_note(parsed.checkpoint_note).signatures


def test_what_cannot_stand_in_a_receipt_is_not_written():
    for index, proof, extra in [
        (-1, [], None),
        (MAX_NUMBER + 1, [], None),
        (0, [b"short"], None),
        (0, [ROOT] * 64, None),
        (0, [], b""),
        (0, [], b"x" * (MAX_EXTRA + 1)),
    ]:
        with pytest.raises(FormatError):
            format_receipt(index, proof, NOTE, extra)
