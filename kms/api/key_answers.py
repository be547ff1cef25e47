"""What answers about keys look like, for OpenAPI; tests hold real answers against them."""

from pydantic import Field

from kms.api import key_examples as examples
from kms.api.answer_schemas import Base64, Document, ItemRefused, Receipt, Time, shown
from kms.domain.key_records import LogUses
from kms.domain.records import CertificateStatus
from policies.decisions import Protection
from policies.key_life import KeyPurpose, KeyState


class KeySettingsDocument(Document):
    """How a key is to live."""

    rotation_days: int
    originator_days: int
    recipient_days: int
    overlap_days: int
    retention_days: int
    log_uses: LogUses


class KeyComponent(Document):
    """A part of a key and how it is held."""

    algorithm: str
    protection: Protection


class KeyVersionDocument(Document):
    """One version of a key."""

    version: int
    state: KeyState
    algorithm: str
    protection: Protection
    components: list[KeyComponent]
    public_key: Base64 | None
    certificate: str | None
    created: Time
    activates: Time | None
    originator_end: Time | None
    recipient_end: Time | None
    deactivates: Time | None
    compromised: Time | None
    recover_until: Time | None
    destroys: Time | None
    destroyed: Time | None


class KeyDocument(Document):
    """A key and its versions."""

    model_config = shown(examples.KEY)

    tenant: str
    key: str
    key_id: str
    purpose: KeyPurpose
    slot: str | None
    token: str
    settings: KeySettingsDocument
    hold: bool
    current: int
    versions: list[KeyVersionDocument]


class KeysAnswer(Document):
    """A page of keys."""

    model_config = shown({"keys": [examples.KEY], "next": None})

    keys: list[KeyDocument]
    next: str | None


class KeyReplicaDocument(Document):
    """Where a version lives."""

    version: int
    token: str
    token_label: str
    how: str
    added: Time
    destroyed: Time | None


class KeyPermissionDocument(Document):
    """What a principal may do."""

    principal: str
    operations: list[str]


class KeyShownAnswer(KeyDocument):
    """A key with its places and permissions; those of others for who manages it."""

    model_config = shown(examples.SHOWN)

    replicas: list[KeyReplicaDocument]
    permitted: list[str]
    permissions: list[KeyPermissionDocument] | None = None


class KeyChangedAnswer(KeyDocument):
    """A key after a step, and the proof that the log has it."""

    model_config = shown({**examples.KEY, "receipts": [examples.RECEIPT]})

    receipts: list[Receipt]


class TouchedCertificate(Document):
    """A certificate of a public key."""

    authority: str
    serial: str
    status: CertificateStatus


class TouchedWrapped(Document):
    """A part that is wrapped, and under which key of the token."""

    version: int
    algorithm: str
    under: str


class KeyTouches(Document):
    """What a compromise touches."""

    model_config = shown(examples.TOUCHES)

    versions: list[KeyVersionDocument]
    slots: list[str]
    certificates: list[TouchedCertificate]
    replicas: list[KeyReplicaDocument]
    wrapped: list[TouchedWrapped]


class KeyCompromisedAnswer(KeyChangedAnswer):
    """A key held to be compromised, and what that touches."""

    model_config = shown(
        {**examples.KEY, "receipts": [examples.RECEIPT], "touches": examples.TOUCHES}
    )

    touches: KeyTouches


class KeyPermittedAnswer(Document):
    """A permission just given or taken."""

    model_config = shown(
        {
            "key": "room-archive",
            "principal": "archive-1",
            "operations": ["decrypt"],
            "receipts": [examples.RECEIPT],
        }
    )

    key: str
    principal: str
    operations: list[str]
    receipts: list[Receipt]


class KeyUseEvent(Document):
    """A logged use."""

    index: int
    time: Time
    leaf: Base64


class KeyUsesAnswer(Document):
    """A page of logged uses; it may be empty and not the last."""

    model_config = shown({"uses": [], "next": 4711})

    uses: list[KeyUseEvent]
    next: int | None


class KeyUsed(Document):
    """What came of one use; which members there are depends on the operation."""

    model_config = shown({"version": 1, "ciphertext": "AQAB..."})

    version: int = Field(description="The key version that was used.")
    signature: Base64 | None = None
    mac: Base64 | None = None
    valid: bool | None = None
    ciphertext: Base64 | None = None
    plaintext: Base64 | None = None
    wrapped: Base64 | None = None
    plain: Base64 | None = None


class KeyUsedItem(Document):
    """A good item of a batch."""

    status: int
    body: KeyUsed


class KeyUsedBatch(Document):
    """One result per item, in order."""

    results: list[KeyUsedItem | ItemRefused]


class RandomAnswer(Document):
    """Random bytes of the token."""

    model_config = shown({"random": "q83v..."})

    random: Base64
