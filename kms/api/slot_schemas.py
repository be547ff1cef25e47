"""Bodies of calls on KEM slots. What slots share with keys stands in `kms.api.key_schemas`."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from kms.api.key_schemas import Associated, Data, HeldBy, Message, Moment, SettingsBody, Version
from kms.api.key_use_schemas import bodies_of
from kms.api.schemas import described
from kms.api.validation import NameText, PrincipalText, SlotText, TenantText
from kms.domain.key_records import LogUses
from kms.services.keys.orders import KeySettings
from kms.services.slots.composed import ARCHIVE

MAX_REASON = 500

Reason = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_REASON, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class KemSlotSettingsBody(SettingsBody):
    """How a slot is to live."""

    model_config = described({"rotation_days": 365, "overlap_days": 30, "retention_days": 1825})

    log_uses: LogUses | None = Field(  # type: ignore[assignment]  # None is settled by the use
        default=None, description="Left out: every opening of an archive, else a count per call."
    )

    def settings_for(self, use: str) -> KeySettings:
        """As the use case takes them."""
        usual = LogUses.EVERY if use == ARCHIVE else LogUses.COUNT
        return self.model_copy(update={"log_uses": self.log_uses or usual}).settings()


class KemSlotBody(BaseModel):
    """A KEM slot to be made, by what it is for."""

    model_config = described({"name": "archive-2026", "slot": "archive"})

    tenant: TenantText | None = None
    name: PrincipalText = Field(description="Unique among the tenant's keys and slots, for good.")
    slot: SlotText = Field(
        default=ARCHIVE, description="What it is for, as the policy has it: `archive`, `transport`."
    )
    algorithm: NameText | None = Field(
        default=None, description="The first hybrid that the policy allows, if left out."
    )
    protection: HeldBy | None = Field(
        default=None, description="Of every part; if left out, the strongest that the token offers."
    )
    token: SlotText | None = Field(default=None, description="The service's own, if left out.")
    activates: Moment | None = Field(default=None, description="At once, if left out.")
    settings: KemSlotSettingsBody = KemSlotSettingsBody()


class HoldBody(BaseModel):
    """A legal hold placed or lifted."""

    model_config = described({"reason": "court order 7 O 12/26"})

    tenant: TenantText | None = None
    reason: Reason = Field(description="Why, in a sentence without personal data: it is logged.")


class OpenItem(BaseModel):
    """An HPKE message or a CMS envelope to open."""

    model_config = described({"ciphertext": "AwAB", "context": "cm9vbQ=="})

    ciphertext: Message = Field(description="Larger envelopes: see `unwrap`.")
    context: Associated = Field(default=b"", description="What it was sealed for.")


class UnwrapEnvelopeItem(BaseModel):
    """A CMS envelope, with its encrypted content or without, whose content key is wanted."""

    model_config = described({"ciphertext": "MIIB", "context": "cm9vbQ=="})

    ciphertext: Message
    context: Associated = Field(default=b"", description="What it was sealed for.")


class DecapsulateItem(BaseModel):
    """A ciphertext of the slot's KEM."""

    model_config = described({"ciphertext": "q83v"})

    ciphertext: Data
    version: Version | None = Field(default=None, description="The current one if left out.")


OPEN, UNWRAP_ENVELOPE = bodies_of(OpenItem), bodies_of(UnwrapEnvelopeItem)
DECAPSULATE = bodies_of(DecapsulateItem)
BODIES = {"open": OPEN, "unwrap": UNWRAP_ENVELOPE, "decapsulate": DECAPSULATE}
"""By verb."""
MODELS: list[type[BaseModel]] = [
    KemSlotSettingsBody,
    KemSlotBody,
    HoldBody,
    *(model for bodies in BODIES.values() for model in bodies),
]
