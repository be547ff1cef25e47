"""Envelopes are read strictly: one encoding, bounded, and nothing that is not authenticated."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.device.sealing import Recipient, seal_envelope
from pki import der
from pki.cms import MAX_ENVELOPE, MAX_RECIPIENTS, detached, parse_envelope
from pki.errors import EnvelopeError
from pki.keys import key_id
from tests.support.unsealing import PrivateKem

PRIVATE = PrivateKem.generate("MLKEM768-X25519")
TO = Recipient.of("ab" * 16, 1, PRIVATE.spki, key_id(PRIVATE.public_key))
SEALED = seal_envelope([TO], b"an object", b"room 7")
TREE = der.parse(SEALED)

Change = Callable[[list[der.Element]], None]


def rebuilt(path: tuple[int, ...], change: Change, element: der.Element = TREE) -> bytes:
    """The envelope with the children of the element at a path changed."""
    return _rebuild(element, path, change).encode()


def _rebuild(element: der.Element, path: tuple[int, ...], change: Change) -> der.Element:
    children = list(element.children)
    if path:
        children[path[0]] = _rebuild(children[path[0]], path[1:], change)
    else:
        change(children)
    return der.Element(element.tag, element.content, tuple(children))


BODY = (1, 0)
RECIPIENT = (*BODY, 1, 0)
INFO = (*RECIPIENT, 1)
CONTENT = (*BODY, 2)


def put(position: int, *elements: bytes) -> Change:
    def change(children: list[der.Element]) -> None:
        children[position : position + 1] = [der.parse(item) for item in elements]

    return change


def add(element: bytes, position: int | None = None) -> Change:
    def change(children: list[der.Element]) -> None:
        children.insert(len(children) if position is None else position, der.parse(element))

    return change


def test_what_is_read_is_what_stands_there():
    envelope = parse_envelope(SEALED)
    (recipient,) = envelope.recipients
    assert (recipient.key_id, recipient.issuer, recipient.serial) == (TO.key_id, None, None)
    assert PRIVATE.open_envelope(envelope, recipient) == b"an object"


WRONG: dict[str, bytes] = {
    "an EnvelopedData": rebuilt((), put(0, der.oid("1.2.840.113549.1.7.3"))),
    "version 1": rebuilt(BODY, put(0, der.integer(1))),
    "originator information": rebuilt(BODY, add(der.context(0, b""), 1)),
    "no recipient": rebuilt((*BODY, 1), lambda children: children.clear()),
    "a key transport recipient": rebuilt((*BODY, 1), put(0, der.sequence(der.integer(0)))),
    "another kind of recipient": rebuilt(RECIPIENT, put(0, der.oid("1.2.840.113549.1.9.16.13.4"))),
    "recipient version 2": rebuilt(INFO, put(0, der.integer(2))),
    "an unknown KEM": rebuilt(INFO, put(2, der.sequence(der.oid("1.2.3.4")))),
    "a signature algorithm": rebuilt(INFO, put(2, der.sequence(der.oid("1.3.101.112")))),
    "KEM parameters": rebuilt((*INFO, 2), add(der.null())),
    "HKDF-SHA512": rebuilt(INFO, put(4, der.sequence(der.oid("1.2.840.113549.1.9.16.3.30")))),
    "a short wrapping key": rebuilt(INFO, put(5, der.integer(16))),
    "much keying material": rebuilt((*INFO, 6), put(0, der.octet_string(bytes(1025)))),
    "AES-128 wrap": rebuilt(INFO, put(7, der.sequence(der.oid("2.16.840.1.101.3.4.1.5")))),
    "a long content key": rebuilt(INFO, put(8, der.octet_string(bytes(48)))),
    "a member too many": rebuilt(INFO, add(der.null())),
    "signed content": rebuilt(CONTENT, put(0, der.oid("1.2.840.113549.1.7.2"))),
    "AES-256-CBC": rebuilt((*CONTENT, 1), put(0, der.oid("2.16.840.1.101.3.4.1.42"))),
    "a short nonce": rebuilt((*CONTENT, 1, 1), put(0, der.octet_string(bytes(8)))),
    "a short tag announced": rebuilt((*CONTENT, 1, 1), put(1, der.integer(12))),
    "a short tag": rebuilt(BODY, put(3, der.octet_string(bytes(12)))),
    "unauthenticated attributes": rebuilt(BODY, add(der.context(2, der.sequence()))),
    "something behind it": SEALED + b"\x00",
    "too much": SEALED.ljust(MAX_ENVELOPE + 1, b"\x00"),
    "an indefinite length": b"\x30\x80" + SEALED[4:] + b"\x00\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str):
    with pytest.raises(EnvelopeError):
        parse_envelope(WRONG[what])


def test_recipients_are_bounded_and_in_order():
    others = [der.parse(der.sequence(der.integer(0)))] * MAX_RECIPIENTS
    most = rebuilt((*BODY, 1), lambda found: found.__setitem__(slice(0, 0), others[1:]))
    assert len(parse_envelope(most).recipients) == 1
    many = rebuilt((*BODY, 1), lambda found: found.__setitem__(slice(0, 0), others))
    with pytest.raises(EnvelopeError, match="at most 16"):
        parse_envelope(many)
    after = rebuilt((*BODY, 1), lambda found: found.append(others[0]))
    with pytest.raises(EnvelopeError, match="not in order"):
        parse_envelope(after)


def test_authenticated_attributes_are_associated_data():
    attribute = der.sequence(der.oid("1.2.3"), der.set_of([der.null()]))
    changed = rebuilt(BODY, add(der.context(1, attribute), 3))
    assert parse_envelope(changed).associated == der.set_of([attribute])
    disorder = rebuilt(BODY, add(der.context(1, der.null() + der.boolean(True)), 3))
    with pytest.raises(EnvelopeError):
        parse_envelope(disorder)


def test_content_may_be_kept_apart():
    apart = detached(SEALED)
    assert apart == rebuilt(CONTENT, lambda children: children.pop())
    assert detached(apart) == apart
    envelope, whole = parse_envelope(apart), parse_envelope(SEALED)
    assert envelope.ciphertext is None
    assert (envelope.recipients, envelope.nonce, envelope.tag) == (
        whole.recipients,
        whole.nonce,
        whole.tag,
    )
    with pytest.raises(EnvelopeError, match="missing"):
        envelope.decrypt(bytes(32))
    with pytest.raises(EnvelopeError, match="changed"):
        whole.decrypt(bytes(32))
    with pytest.raises(EnvelopeError):
        detached(SEALED[:-1])


def test_issuer_and_serial_name_a_recipient():
    issuer = der.sequence(der.set_of([der.sequence(der.oid("2.5.4.3"), der.utf8("ca"))]))
    changed = rebuilt(INFO, put(1, der.sequence(issuer, der.integer(5))))
    (recipient,) = parse_envelope(changed).recipients
    assert (recipient.key_id, recipient.issuer, recipient.serial) == (None, issuer, 5)


def test_without_keying_material_the_derivation_is_bound_to_the_wrap_alone():
    (recipient,) = parse_envelope(rebuilt(INFO, lambda found: found.pop(6))).recipients
    assert recipient.ukm is None
    wrap = der.sequence(der.oid("2.16.840.1.101.3.4.1.45"))
    assert recipient.kdf_info == der.sequence(wrap, der.integer(32))


@given(position=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_no_changed_bit_goes_unnoticed(position: int, bit: int):
    """It is refused, or the content does not open, or another recipient is named."""
    changed = bytearray(SEALED)
    changed[position] ^= 1 << bit
    try:
        envelope = parse_envelope(bytes(changed))
        (recipient,) = envelope.recipients
        PRIVATE.open_envelope(envelope, recipient)
    except Exception:  # noqa: BLE001 - which one is for other tests
        return
    assert recipient.key_id != TO.key_id


@given(data=st.binary(max_size=200), cut=st.integers(0, len(SEALED)))
def test_any_bytes_are_an_envelope_or_refused(data: bytes, cut: int):
    for candidate in (data, SEALED[:cut], SEALED[:cut] + data):
        if candidate == SEALED:
            continue
        try:
            parse_envelope(candidate)
        except EnvelopeError:
            continue
        assert len(candidate) == len(SEALED)


def test_errors_say_nothing_of_the_content():
    for wrong in WRONG.values():
        with pytest.raises(EnvelopeError) as caught:
            parse_envelope(wrong)
        assert len(str(caught.value)) < 200
    assert SEALED[-20:].hex() not in repr(parse_envelope(SEALED))
