"""A device against an honest and a dishonest server (P1, P3, P5)."""

import copy
import dataclasses
import hashlib
import json
import pickle
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from kms import wire
from kms.device import (
    ALGORITHMS,
    Certified,
    ChallengeError,
    Device,
    DeviceError,
    Expectations,
    MalformedAnswerError,
    SlotKey,
    TranscriptMismatchError,
    UntrustedAnswerError,
    UsageError,
)
from kms.spki import certificate_spki
from tests.support.authority import Authority
from tests.support.enrolment_service import DOMAIN, NOW, EnrolmentService, copied, seal

SIGNATURES = ("ECDSA-P256", "ECDSA-P384", "Ed25519", "ML-DSA-65", "ML-DSA-87", "RSA-3072")
KEMS = (
    "X25519",
    "ECDH-P256",
    "ML-KEM-768",
    "ML-KEM-1024",
    "MLKEM768-X25519",
    "MLKEM1024-P384",
)
BUNDLE = {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"}


def device(service: EnrolmentService, slots: dict[str, str] | None = None) -> Device:
    return Device("ada@example", "phone-1", slots or BUNDLE, service.expectations())


def enrol(service: EnrolmentService, client: Device) -> Certified:
    answer = service.begin(client.request("device"))
    return client.accept(service.finish(answer["enrolment"], client.prove(answer)))


@pytest.fixture
def service() -> EnrolmentService:
    return EnrolmentService()


def test_every_algorithm_of_the_brief_is_there() -> None:
    assert ALGORITHMS == SIGNATURES + KEMS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_end_to_end(service: EnrolmentService, algorithm: str) -> None:
    client = device(service, {"slot": algorithm})
    certified = enrol(service, client)
    (item,) = certified.certificates
    assert certificate_spki(x509.load_der_x509_certificate(item.certificate)) == (
        client.keys["slot"].public_key
    )
    assert hashlib.sha256(item.certificate).hexdigest().encode() in certified.leaf
    assert service.log.leaves[certified.index] == certified.leaf
    assert item.pem().startswith(b"-----BEGIN CERTIFICATE-----\n")


def test_a_bundle_of_many_slots_in_the_servers_order(service: EnrolmentService) -> None:
    client = device(service, {"a": "Ed25519", "b": "X25519", "c": "ML-DSA-65"})
    request = client.request("device")
    request["slots"].reverse()
    answer = service.begin(request)
    done = client.accept(service.finish(answer["enrolment"], client.prove(answer)))
    assert [item.slot for item in done.certificates] == ["c", "b", "a"]


def test_composite_keys_are_ml_kem_then_traditional() -> None:
    key = SlotKey.generate("MLKEM768-X25519").public_key
    assert key[:18].hex() == "308204d1300a06082b0601050507063a0382"
    assert len(key) == 4 + 12 + 5 + 1216
    key = SlotKey.generate("MLKEM1024-P384").public_key
    assert len(key) == 4 + 12 + 5 + 1665
    assert key[-97] == 4  # uncompressed point


# --- keys stay inside ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_private_halves_are_not_shown_copied_or_pickled(algorithm: str) -> None:
    key = SlotKey.generate(algorithm)
    assert "private half hidden" in repr(key)
    assert not hasattr(key, "__dict__")
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stay where they were made"):
            leave(key)


def test_reprs_name_no_secret(service: EnrolmentService) -> None:
    assert repr(device(service)) == (
        "<Device phone-1 of ada@example, identity: ECDSA-P256, kem: MLKEM768-X25519>"
    )


def test_misuse_is_named(service: EnrolmentService) -> None:
    with pytest.raises(UsageError, match="cannot generate"):
        SlotKey.generate("ROT13")
    with pytest.raises(UsageError, match="not a user and device id"):
        Device("ada lovelace", "phone", {}, service.expectations())
    client = device(service)
    answer = service.begin(device(service).request("device"))
    with pytest.raises(UsageError, match="request first"):
        client.prove(answer)
    with pytest.raises(UsageError, match="prove first"):
        client.accept({})


# --- before anything is signed ------------------------------------------------------------------

LIES: dict[str, dict[str, Any]] = {
    "origin": {"origin": "log.example/2"},
    "authority": {"authority": "00" * 32},
    "tenant": {"tenant": "defence"},
    "purpose": {"purpose": wire.EnrolmentPurpose.RENEW},
    "user": {"user": "eve@example"},
    "device": {"device": "phone-2"},
    "bundle": {"bundle": "device-identity"},
    "previous": {"previous": "11" * 32},
    "bindings": {"bindings": ({"type": "attestation", "hash": "22" * 32},)},
}


@pytest.mark.parametrize("field", LIES)
def test_a_transcript_about_something_else_is_not_signed(
    service: EnrolmentService, field: str
) -> None:
    client = device(service)
    answer = service.begin(client.request("device"))
    honest, _ = service.pending[answer["enrolment"]]
    lie = service.offer(dataclasses.replace(honest, **LIES[field]))
    with pytest.raises(TranscriptMismatchError, match=field) as caught:
        client.prove(lie)
    assert caught.value.fields == (field,)


def test_a_foreign_key_algorithm_or_slot_in_the_transcript_is_not_signed(
    service: EnrolmentService,
) -> None:
    client = device(service)
    answer = service.begin(client.request("device"))
    honest, _ = service.pending[answer["enrolment"]]
    identity, kem = honest.slots
    foreign = SlotKey.generate("ECDSA-P256").public_key
    for slots in (
        (dataclasses.replace(identity, spki=foreign), kem),
        (dataclasses.replace(identity, algorithm="ECDSA-P384"), kem),
        (identity,),
        (identity, kem, dataclasses.replace(kem, name="kem2")),
        (identity, identity),
        (dataclasses.replace(identity, name="kem"), dataclasses.replace(kem, name="identity")),
    ):
        lie = service.offer(dataclasses.replace(honest, slots=slots))
        with pytest.raises((TranscriptMismatchError, MalformedAnswerError)):
            client.prove(lie)


def test_what_is_said_beside_the_transcript_must_be_in_it(service: EnrolmentService) -> None:
    client = device(service)
    honest = service.begin(client.request("device"))
    for path, value in (
        (("enrolment",), "00" * 16),
        (("expires",), wire.timestamp(NOW + timedelta(days=1))),
        (("policy", "hash"), "00" * 32),
    ):
        lie = copied(honest)
        target = lie if len(path) == 1 else lie[path[0]]
        target[path[-1]] = value
        with pytest.raises(TranscriptMismatchError):
            client.prove(lie)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_nonce_of_another_size_is_refused(service: EnrolmentService, size: int) -> None:
    client = device(service)
    answer = service.begin(client.request("device"))
    honest, _ = service.pending[answer["enrolment"]]
    with pytest.raises(MalformedAnswerError, match="nonce"):
        client.prove(service.offer(dataclasses.replace(honest, nonce=bytes(size))))


def test_another_encoding_of_the_same_values_is_refused(service: EnrolmentService) -> None:
    client = device(service)
    answer = service.begin(client.request("device"))
    loose = json.dumps(json.loads(wire.unb64(answer["transcript"]))).encode()
    with pytest.raises(TranscriptMismatchError) as caught:
        client.prove(answer | {"transcript": wire.b64(loose)})
    assert caught.value.fields == ()


_SERVICE = EnrolmentService()
_CLIENT = device(_SERVICE)
_OFFER = _SERVICE.begin(_CLIENT.request("device"))
_OFFER_BYTES = wire.unb64(_OFFER["transcript"])
_PROOFS = _CLIENT.prove(_OFFER)
_ANSWER = _SERVICE.finish(_OFFER["enrolment"], _PROOFS)


def _flip(data: bytes, position: float, bit: int) -> bytes:
    at = int(position * len(data))
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


_NONCE_AT = (_OFFER_BYTES.index(b'"nonce":"') + 12) / len(_OFFER_BYTES)

positions = st.floats(0, 1, exclude_max=True)
bits = st.integers(0, 7)


@given(positions, bits)
@example(_NONCE_AT, 0)
def test_a_flipped_bit_in_the_transcript_is_refused(position: float, bit: int) -> None:
    flipped = _flip(wire.unb64(_OFFER["transcript"]), position, bit)
    # Another nonce is the server's to choose, but then the challenge is not for this transcript.
    with pytest.raises((TranscriptMismatchError, MalformedAnswerError, ChallengeError)):
        _CLIENT.prove(_OFFER | {"transcript": wire.b64(flipped)})


@given(positions, bits)
def test_a_flipped_bit_in_a_challenge_is_refused_or_answers_nothing(
    position: float, bit: int
) -> None:
    sealed = _flip(wire.unb64(_OFFER["challenges"]["kem"]), position, bit)
    with pytest.raises(ChallengeError, match="does not open"):
        _CLIENT.prove(_OFFER | {"challenges": {"kem": wire.b64(sealed)}})


@pytest.mark.parametrize("algorithm", KEMS)
def test_a_challenge_for_another_transcript_key_or_secret_size_is_refused(
    service: EnrolmentService, algorithm: str
) -> None:
    client = device(service, {"kem": algorithm})
    first = service.begin(client.request("device"))
    second = service.begin(client.request("device"))
    with pytest.raises(ChallengeError, match="does not open"):
        client.prove(first | {"challenges": second["challenges"]})
    info = wire.hpke_info(wire.unb64(first["transcript"]))
    foreign = seal(algorithm, SlotKey.generate(algorithm).public_key, info, bytes(32))
    with pytest.raises(ChallengeError, match="does not open"):
        client.prove(first | {"challenges": {"kem": wire.b64(foreign)}})
    short = seal(algorithm, client.keys["kem"].public_key, info, bytes(31))
    with pytest.raises(ChallengeError, match="31 bytes, not 32"):
        client.prove(first | {"challenges": {"kem": wire.b64(short)}})
    with pytest.raises(ChallengeError, match="does not open"):
        client.prove(first | {"challenges": {"kem": ""}})


def test_challenges_must_be_for_the_kem_slots_exactly(service: EnrolmentService) -> None:
    client = device(service)
    answer = service.begin(client.request("device"))
    sealed = answer["challenges"]["kem"]
    for challenges in ({}, {"identity": sealed}, {"kem": sealed, "identity": sealed}):
        with pytest.raises(ChallengeError, match="the KEM slots are"):
            client.prove(answer | {"challenges": challenges})


def test_a_signature_key_answers_no_challenge() -> None:
    with pytest.raises(ChallengeError, match="takes no challenge"):
        SlotKey.generate("Ed25519").prove("identity", b"{}", b"sealed")


# --- after issuance -----------------------------------------------------------------------------


def test_the_honest_answer_is_accepted() -> None:
    done = _CLIENT.accept(_ANSWER)
    assert [item.slot for item in done.certificates] == ["identity", "kem"]
    assert {item.field for item in done.openings} == set(wire.Committed) - {wire.Committed.KEY}


@given(positions, bits)
def test_a_flipped_bit_in_the_leaf_is_refused(position: float, bit: int) -> None:
    flipped = _flip(wire.unb64(_ANSWER["leaf"]), position, bit)
    with pytest.raises((UntrustedAnswerError, MalformedAnswerError)):
        _CLIENT.accept(_ANSWER | {"leaf": wire.b64(flipped)})


@given(positions, bits)
def test_a_flipped_bit_in_the_receipt_is_refused(position: float, bit: int) -> None:
    text = _ANSWER["receipt"]["text"]
    at = int(position * len(text))
    changed = text[:at] + chr(ord(text[at]) ^ (1 << bit)) + text[at + 1 :]
    with pytest.raises(UntrustedAnswerError):
        _CLIENT.accept(_ANSWER | {"receipt": _ANSWER["receipt"] | {"text": changed}})


@given(st.integers(0, 1), positions, bits)
def test_a_flipped_bit_in_a_certificate_is_refused(number: int, position: float, bit: int) -> None:
    answer = copied(_ANSWER)
    item = answer["certificates"][number]
    item["certificate"] = wire.b64(_flip(wire.unb64(item["certificate"]), position, bit))
    with pytest.raises((UntrustedAnswerError, MalformedAnswerError)):
        _CLIENT.accept(answer)


@given(st.integers(0, 1), positions, bits)
def test_a_flipped_bit_in_the_chain_is_refused(number: int, position: float, bit: int) -> None:
    chain = list(_ANSWER["chain"])
    chain[number] = wire.b64(_flip(wire.unb64(chain[number]), position, bit))
    with pytest.raises((UntrustedAnswerError, MalformedAnswerError)):
        _CLIENT.accept(_ANSWER | {"chain": chain})


@given(st.integers(0, 3), positions, bits)
def test_a_flipped_bit_in_an_opening_is_refused(number: int, position: float, bit: int) -> None:
    answer = copied(_ANSWER)
    item = answer["openings"][number]
    item["opening"] = wire.b64(_flip(wire.unb64(item["opening"]), position, bit))
    with pytest.raises(UntrustedAnswerError, match="does not open"):
        _CLIENT.accept(answer)


CHANGES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "another enrolment": (("enrolment",), "00" * 16),
    "another user": (("user",), "eve@example"),
    "another device": (("device",), "phone-2"),
    "misdescribes the certificate": (("certificates", 0, "serial"), "00"),
    "misdescribes the": (("certificates", 0, "not_before"), "2026-01-01T00:00:00Z"),
    "misdescribes": (("certificates", 1, "not_after"), "2036-01-01T00:00:00Z"),
    "not those of the slots": (("certificates", 0, "slot"), "kem"),
    "does not name exactly": (("certificates", 0, "profile"), "officer"),
    "not final": (("receipt", "status"), "pending"),
    "another index": (("receipt", "index"), 0),
    "not shown to be about this user": (("openings", 2, "field"), "nothing"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_member_is_refused(what: str) -> None:
    path, value = CHANGES[what]
    answer = copied(_ANSWER)
    target = answer
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises((UntrustedAnswerError, MalformedAnswerError)) as caught:
        _CLIENT.accept(answer)
    if value != "nothing":
        assert what in str(caught.value)


@pytest.mark.parametrize("kind", ["tenant", "user", "device"])
def test_an_opening_left_out_is_noticed(kind: str) -> None:
    left = [item for item in _ANSWER["openings"] if item["field"] != kind]
    with pytest.raises(UntrustedAnswerError, match=f"about this {kind}"):
        _CLIENT.accept(_ANSWER | {"openings": left})


@pytest.mark.parametrize("kind", ["user", "device", "tenant"])
def test_an_event_logged_for_someone_else_is_refused(service: EnrolmentService, kind: str) -> None:
    client = device(service)
    answer = service.begin(client.request("device"))
    client.prove(answer)
    honest, _ = service.pending[answer["enrolment"]]
    if kind == "tenant":
        service.tenant = "defence"
        other = honest
    else:
        other = dataclasses.replace(honest, **{kind: "someone"})
    forged = service.certify(other) | {"user": honest.user, "device": honest.device}
    with pytest.raises(UntrustedAnswerError):
        client.accept(forged)


def _forged(change: str) -> tuple[Device, dict[str, Any]]:
    """An answer that is right but for one thing the service did wrong before signing it."""
    service = EnrolmentService()
    client = device(service)
    answer = service.begin(client.request("device"))
    client.prove(answer)
    transcript, _ = service.pending[answer["enrolment"]]
    if change == "key":
        slots = tuple(
            dataclasses.replace(slot, spki=SlotKey.generate(slot.algorithm).public_key)
            for slot in transcript.slots
        )
        transcript = dataclasses.replace(transcript, slots=slots)
    elif change == "policy":
        transcript = dataclasses.replace(transcript, policy="00" * 32)
    elif change == "authority":
        service.people = Authority.create("people", service.root, 9, NOW - timedelta(days=1))
    elif change == "root":
        service.root = Authority.create("root", None, 1, NOW - timedelta(days=1))
        service.people = Authority.create("people", service.root, 9, NOW - timedelta(days=1))
    elif change == "log key":
        service.log.key = Ed25519PrivateKey.generate()
    elif change == "origin":
        service.log.origin = "log.example/2"
    return client, service.certify(transcript)


@pytest.mark.parametrize("change", ["key", "policy", "authority", "root", "log key", "origin"])
def test_a_service_that_does_one_thing_wrong_is_refused(change: str) -> None:
    client, answer = _forged(change)
    with pytest.raises(UntrustedAnswerError):
        client.accept(answer)


PHONE = "/users/ada@example/devices/phone-1"


@pytest.mark.parametrize(
    "uri",
    [
        f"http://{DOMAIN}{PHONE}",
        f"https://{DOMAIN}{PHONE}/",
        f"https://{DOMAIN}{PHONE}?x",
        f"https://{DOMAIN}{PHONE}#x",
        f"https://{DOMAIN}:443{PHONE}",
        f"https://ada@{DOMAIN}{PHONE}",
        f"https://{DOMAIN.upper()}{PHONE}",
        f"https://{DOMAIN}/users/x{PHONE}",
        f"https://{DOMAIN}/users/ada%40example/devices/phone-1",
        f"https://{PHONE}",
        f"https://{DOMAIN}/users/ada@example",
    ],
)
def test_only_the_exact_name_is_this_devices(service: EnrolmentService, uri: str) -> None:
    service.uris["kem"] = uri
    with pytest.raises(UntrustedAnswerError, match=f"does not name {PHONE}"):
        enrol(service, device(service))


@pytest.mark.parametrize("more", [x509.DNSName("id.example"), x509.RFC822Name("a@b.example")])
def test_a_name_beside_the_devices_own_is_refused(
    service: EnrolmentService, more: x509.GeneralName
) -> None:
    own = x509.UniformResourceIdentifier(f"https://{DOMAIN}{PHONE}")
    for names in ([own, more], [more], [own, own]):
        service.names = names
        with pytest.raises(UntrustedAnswerError, match="name is not one URI"):
            enrol(service, device(service))


def test_two_ministries_in_one_answer_are_refused(service: EnrolmentService) -> None:
    service.uris["kem"] = f"https://id.defence.example{PHONE}"
    with pytest.raises(UntrustedAnswerError, match=r"'kem': .* 'id\.defence\.example'"):
        enrol(service, device(service))


def test_another_ministrys_domain_is_refused_by_who_knows_its_own(
    service: EnrolmentService,
) -> None:
    expected = dataclasses.replace(service.expectations(), domain=DOMAIN)
    assert enrol(service, Device("ada@example", "phone-1", BUNDLE, expected)).certificates
    for slot in BUNDLE:
        service.uris[slot] = f"https://id.defence.example{PHONE}"
    assert enrol(service, device(service)).certificates
    with pytest.raises(UntrustedAnswerError, match=f"not '{DOMAIN}'"):
        enrol(service, Device("ada@example", "phone-1", BUNDLE, expected))


def test_another_devices_receipt_is_refused(service: EnrolmentService) -> None:
    first, second = device(service), device(service)
    answers = []
    for client in (first, second):
        answer = service.begin(client.request("device"))
        answers.append(service.finish(answer["enrolment"], client.prove(answer)))
    with pytest.raises(UntrustedAnswerError):
        first.accept(answers[0] | {"receipt": answers[1]["receipt"]})
    with pytest.raises(UntrustedAnswerError):
        first.accept(answers[1])


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(_ANSWER)), _JUNK)
def test_junk_in_the_last_answer_is_a_typed_error(name: str, junk: Any) -> None:
    if junk != _ANSWER[name]:
        with pytest.raises(DeviceError):
            _CLIENT.accept(_ANSWER | {name: junk})


@given(st.sampled_from(sorted(_OFFER)), _JUNK)
def test_junk_in_the_first_answer_is_a_typed_error(name: str, junk: Any) -> None:
    with pytest.raises(DeviceError):
        _CLIENT.prove(_OFFER | {name: junk})


def test_expectations_from_the_files_an_operator_hands_out(service: EnrolmentService) -> None:
    root = x509.load_der_x509_certificate(service.root.certificate)
    people = x509.load_der_x509_certificate(service.people.certificate)
    files = root.public_bytes(Encoding.PEM), people.public_bytes(Encoding.PEM)
    loaded = Expectations.load("interior", *files, service.log.vkey + "\n")
    assert loaded == service.expectations()
    loaded = Expectations.load("interior", *files, service.log.vkey, domain=DOMAIN)
    assert loaded == dataclasses.replace(service.expectations(), domain=DOMAIN)
