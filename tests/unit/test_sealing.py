"""What is sealed to a slot opens with its key, version and context, and with nothing else."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
from hypothesis import given
from hypothesis import strategies as st

from kms import envelopes
from kms.device.encapsulation import KEMS, parse_slot_key
from kms.device.errors import UsageError
from kms.device.sealing import (
    MAX_MESSAGE,
    MAX_OBJECT,
    MAX_RECIPIENTS,
    Recipient,
    hpke_schedule,
    seal_envelope,
    seal_message,
)
from kms.wire import WireError
from pki.cms import parse_envelope
from pki.keys import key_id
from policies.algorithms import algorithm
from tests.support.unsealing import PrivateKem

NAMES = [kem.name for kem in KEMS]
SLOT = "00112233445566778899aabbccddeeff"
PRIVATE = {name: PrivateKem.generate(name) for name in NAMES}


def recipient(name: str, version: int = 3) -> Recipient:
    private = PRIVATE[name]
    return Recipient.of(SLOT, version, private.spki, key_id(private.public_key))


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_knows_the_same(name: str):
    (kem,) = (kem for kem in KEMS if kem.name == name)
    row = algorithm(name)
    assert (kem.size, kem.hpke_id) == (row.public_key_size, row.hpke_kem_id)
    assert kem.oid == bytes.fromhex(PRIVATE[name].spki.hex())[6 : 6 + len(kem.oid)]
    found, raw = parse_slot_key(PRIVATE[name].spki)
    assert (found, raw) == (kem, PRIVATE[name].public_key)


@pytest.mark.parametrize("name", NAMES)
def test_an_envelope_opens(name: str):
    envelope = parse_envelope(seal_envelope([recipient(name)], b"an object", b"room 7"))
    (info,) = envelope.recipients
    assert info.kem.name == name
    assert info.key_id == key_id(PRIVATE[name].public_key)
    assert PRIVATE[name].open_envelope(envelope, info) == b"an object"
    header = envelopes.slot_header(SLOT, 3)
    assert info.ukm == envelopes.slot_keying_material(header, b"room 7")


def test_each_of_several_recipients_opens_it():
    envelope = parse_envelope(seal_envelope([recipient(name) for name in NAMES], b"an object"))
    assert {info.kem.name for info in envelope.recipients} == set(NAMES)
    for info in envelope.recipients:
        assert PRIVATE[info.kem.name].open_envelope(envelope, info) == b"an object"


@pytest.mark.parametrize("change", ["version", "context", "key"])
def test_an_envelope_is_bound(change: str):
    """The keying material that a recipient works with must be that of slot, version and context."""
    name = "MLKEM768-X25519"
    envelope = parse_envelope(seal_envelope([recipient(name)], b"an object", b"room 7"))
    (info,) = envelope.recipients
    version, context = (4 if change == "version" else 3), b"room 8" if change == "context" else b""
    other = envelopes.slot_header("f" * 32 if change == "key" else SLOT, version)
    ukm = envelopes.slot_keying_material(other, context or b"room 7")
    forged = type(info)(None, None, None, info.kem, info.ciphertext, ukm, info.wrapped)
    with pytest.raises(InvalidUnwrap):
        PRIVATE[name].open_envelope(envelope, forged)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "MLKEM768-P256"])
def test_a_message_opens_with_a_foreign_implementation(name: str):
    """`cryptography` has an HPKE of its own, with hybrids of its own."""
    message = seal_message(recipient(name), b"a message", b"room 7")
    header, sealed = message[: envelopes.SLOT_HEADER_SIZE], message[envelopes.SLOT_HEADER_SIZE :]
    assert envelopes.parse_slot_header(message) == (SLOT, 3)
    suite, private = PRIVATE[name].hpke()
    info = envelopes.slot_hpke_info(header, b"room 7")
    assert suite.decrypt(sealed, private, info) == b"a message"
    for version, context in ((4, b"room 7"), (3, b"room 8")):
        other = envelopes.slot_hpke_info(envelopes.slot_header(SLOT, version), context)
        with pytest.raises(InvalidTag):
            suite.decrypt(sealed, private, other)


def test_a_message_to_the_hybrid_that_the_library_lacks_opens():
    name = "MLKEM768-P256"
    message = seal_message(recipient(name), b"a message", b"")
    header, sealed = message[: envelopes.SLOT_HEADER_SIZE], message[envelopes.SLOT_HEADER_SIZE :]
    size = algorithm(name).ciphertext_size or 0
    secret = PRIVATE[name].decapsulate(sealed[:size])
    info = envelopes.slot_hpke_info(header, b"")
    key, nonce = hpke_schedule(algorithm(name).hpke_kem_id or 0, secret, info)
    assert AESGCM(key).decrypt(nonce, sealed[size:], None) == b"a message"


def test_nothing_is_sealed_twice_alike():
    for seal in (seal_message, lambda to, data: seal_envelope([to], data)):
        assert seal(recipient("ML-KEM-768"), b"x") != seal(recipient("ML-KEM-768"), b"x")


def test_what_cannot_be_opened_is_not_sealed():
    to = recipient("ML-KEM-768")
    for plaintext, recipients in ((bytes(MAX_OBJECT + 1), [to]), (b"", []), (b"", [to] * 17)):
        with pytest.raises(UsageError):
            seal_envelope(recipients, plaintext)
    with pytest.raises(UsageError):
        seal_message(to, bytes(MAX_MESSAGE + 1))
    assert len(parse_envelope(seal_envelope([to] * MAX_RECIPIENTS, b"")).recipients) == 16
    assert parse_envelope(seal_envelope([to], bytes(MAX_OBJECT)))


@pytest.mark.parametrize("name", NAMES)
def test_keys_that_are_none_are_refused(name: str):
    spki = PRIVATE[name].spki
    for wrong in (b"", spki[:-1], spki + b"\x00", b"\x31" + spki[1:]):
        with pytest.raises(UsageError):
            parse_slot_key(wrong)
    kem, raw = parse_slot_key(spki)
    broken = b"\xff" * 384 + raw[384:]  # coefficients that are not reduced (FIPS 203 7.2)
    with pytest.raises(UsageError, match="not a public key"):
        kem.encapsulate(broken)
    if kem.traditional:
        with pytest.raises(UsageError, match="not a public key"):
            kem.encapsulate(raw[: kem.module_size] + bytes(kem.traditional.size))


def test_secrets_do_not_show():
    fresh = recipient("ML-KEM-768").encapsulate()
    assert fresh.secret.hex() not in repr(fresh)
    assert repr(fresh.secret) not in repr(fresh)


@given(key=st.binary(min_size=16, max_size=16), version=st.integers(1, 2**32 - 1), rest=st.binary())
def test_headers_are_read_as_they_are_written(key: bytes, version: int, rest: bytes):
    header = envelopes.slot_header(key.hex(), version)
    assert len(header) == envelopes.SLOT_HEADER_SIZE
    assert envelopes.parse_slot_header(header + rest) == (key.hex(), version)
    ukm = envelopes.slot_keying_material(header, rest)
    found = envelopes.parse_slot_keying_material(ukm)
    assert found is not None
    assert found[0] == header
    assert envelopes.slot_keying_material(header, rest) == ukm


@given(data=st.binary(max_size=120))
def test_any_bytes_are_a_header_or_refused(data: bytes):
    try:
        key, version = envelopes.parse_slot_header(data)
    except WireError:
        assert len(data) < 21 or data[0] != envelopes.SLOT_FORM or not any(data[17:21])
    else:
        assert data.startswith(envelopes.slot_header(key, version))


@given(tail=st.binary(max_size=80))
def test_keying_material_of_others_is_theirs(tail: bytes):
    label = b"sovereign-kms/kem-slot/cms/v1\x00"
    assert envelopes.parse_slot_keying_material(b"x" + tail) is None
    try:
        found = envelopes.parse_slot_keying_material(label + tail)
    except WireError:
        assert len(tail) != 53 or tail[0] != envelopes.SLOT_FORM or not any(tail[17:21])
    else:
        assert found == (tail[:21], tail[21:])


@pytest.mark.parametrize(
    ("key", "version"), [("0" * 31, 1), ("G" * 32, 1), (SLOT, 0), (SLOT, 2**32)]
)
def test_headers_of_no_slot_are_not_written(key: str, version: int):
    with pytest.raises(WireError):
        envelopes.slot_header(key, version)
