"""What answers about KEM slots look like, for OpenAPI; tests hold real answers against them."""

from pydantic import Field

from kms.api.answer_schemas import Base64, Document, ItemRefused, Opening, Receipt, Time, shown
from kms.api.examples import DER, OPENING, RECEIPT
from kms.api.key_answers import KeyShownAnswer, KeyVersionDocument
from kms.api.key_examples import SHOWN, VERSION


class HpkeKey(Document):
    """A public key as HPKE has it (RFC 9180 7; draft-ietf-hpke-pq)."""

    kem_id: int
    kdf_id: int
    aead_id: int
    public_key: Base64 = Field(description="Raw bytes.")


class PublicSlotVersion(KeyVersionDocument):
    """A version that may be sealed to, with the proof that the organisation made it."""

    hpke: HpkeKey
    certificate: Base64 = Field(description="DER; here the certificate itself.")
    chain: list[Base64]
    leaf: Base64
    openings: list[Opening]
    receipt: Receipt


_HPKE = {"kem_id": 25722, "kdf_id": 1, "aead_id": 2, "public_key": "q83v..."}
_PUBLIC = {
    **VERSION,
    "algorithm": "MLKEM768-X25519",
    "protection": "wrapped",
    "components": [
        {"algorithm": "ML-KEM-768", "protection": "wrapped"},
        {"algorithm": "X25519", "protection": "token"},
    ],
    "public_key": "MIIE...",
    "hpke": _HPKE,
    "certificate": DER,
    "chain": [DER, DER],
    "leaf": "eyJh...",
    "openings": [OPENING],
    "receipt": RECEIPT,
}
_SLOT = {**SHOWN, "key": "archive-2026", "purpose": "kem", "slot": "archive", "hold": False}


class PublicSlotAnswer(Document):
    """What a sender needs; `kms.device.slots` verifies it."""

    model_config = shown(
        {
            "tenant": "interior",
            "key": "archive-2026",
            "key_id": "8f14e45fceea167a5a36dedd4bea2543",
            "slot": "archive",
            "versions": [_PUBLIC],
        }
    )

    tenant: str
    key: str
    key_id: str
    slot: str
    versions: list[PublicSlotVersion] = Field(description="The one to seal to first.")


class HoldDocument(Document):
    """The legal hold on a slot."""

    event: str
    since: Time | None
    reason: str | None


class SlotShownAnswer(KeyShownAnswer):
    """A slot with its places, its permissions, and its hold."""

    model_config = shown({**_SLOT, "held": None})

    held: HoldDocument | None


class SlotUsed(Document):
    """What came of one use; which members there are depends on the operation."""

    model_config = shown({"version": 1, "sha256": "0b9c...", "plaintext": "aGVsbG8="})

    version: int = Field(description="The version that opened it.")
    sha256: str | None = Field(default=None, description="Of the object, as the log has it.")
    plaintext: Base64 | None = None
    content_key: Base64 | None = None
    shared_secret: Base64 | None = None


class SlotUsedItem(Document):
    """A good item of a batch."""

    status: int
    body: SlotUsed


class SlotUsedBatch(Document):
    """One result per item, in order."""

    results: list[SlotUsedItem | ItemRefused]
