"""Why a proof's signature is refused is told, not only that it is."""

from dataclasses import replace

from kms.device.keys import SlotKey
from kms.services.verifying import SignatureCheck, refusal
from kms.wire import sign_message

KEY = SlotKey.generate("ECDSA-P256")
GOOD = SignatureCheck(
    "ECDSA-P256", KEY.public_key, sign_message(b"t"), KEY.prove("identity", b"t", b"")
)


def test_a_right_signature_is_not_refused():
    assert refusal(GOOD) is None


def test_each_refusal_has_its_reason():
    assert refusal(replace(GOOD, message=b"x")) == "the signature is not of this key and message"
    assert "DER" in (refusal(replace(GOOD, signature=b"x")) or "")
    assert refusal(replace(GOOD, spki=b"")) not in {None, "None", ""}
