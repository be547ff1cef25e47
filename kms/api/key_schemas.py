"""Bodies and queries of calls on keys: unknown members refused, everything bounded."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from kms.api.schemas import PAGE, TenantQuery, described
from kms.api.validation import NameText, PrincipalText, SlotText, TenantText, decoded
from kms.domain.key_records import LogUses
from kms.services.errors import ConfirmationError
from kms.services.keys.orders import KeySettings
from kms.wire import WireError, parse_timestamp
from policies.decisions import Protection
from policies.key_life import MAX_DAYS, KeyPurpose

MAX_DATA = 32 << 10
"""Bytes to be encrypted or wrapped at once: larger things take a data key."""
MAX_MESSAGE = 48 << 10
"""Bytes to be signed or authenticated at once: larger things go by their digest."""
_SEALED = 64
"""Bytes that a ciphertext has beyond its plaintext, and some to spare."""


def _time(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_timestamp(value)
    except WireError as error:
        raise PydanticCustomError("time", "Not a time like 2026-01-31T23:59:59Z") from error


def _bytes(most: int, least: int = 0) -> Any:
    """So many bytes in base64."""
    schema: dict[str, Any] = {
        "type": "string",
        "contentEncoding": "base64",
        "minLength": 4 * ((least + 2) // 3),
        "maxLength": 4 * ((most + 2) // 3),
    }
    return Annotated[
        bytes,
        BeforeValidator(decoded),
        Field(min_length=least, max_length=most),
        WithJsonSchema(schema),
    ]


Moment = Annotated[
    datetime,
    BeforeValidator(_time),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"},
    ),
]
"""RFC 3339, UTC, whole seconds, with `Z`."""
Message = _bytes(MAX_MESSAGE)
Data = _bytes(MAX_DATA)
Sealed = _bytes(MAX_DATA + _SEALED)
Associated = _bytes(4 << 10)
Digest = _bytes(64, 32)
Proof = _bytes(8 << 10)
HeldBy = Literal[Protection.TOKEN, Protection.TRANSFERABLE, Protection.WRAPPED]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
Days = Annotated[int, Field(ge=0, le=MAX_DAYS)]


class SettingsBody(BaseModel):
    """How a key is to live."""

    model_config = described({"rotation_days": 90, "log_uses": "count"})

    rotation_days: Days = Field(default=0, description="From one version to the next; 0: never.")
    originator_days: Days | None = Field(
        default=None, description="For protecting; the purpose's own if left out."
    )
    recipient_days: Days | None = Field(
        default=None, description="For undoing and checking; 0: without end."
    )
    overlap_days: Days = Field(default=0, description="Of a version with the one that follows.")
    retention_days: Days = Field(
        default=0, description="From deactivation to scheduled destruction; 0: never."
    )
    log_uses: LogUses = LogUses.NONE

    def settings(self) -> KeySettings:
        """As the use case takes them."""
        return KeySettings(
            rotation_days=self.rotation_days,
            originator_days=self.originator_days,
            recipient_days=self.recipient_days,
            overlap_days=self.overlap_days,
            retention_days=self.retention_days,
            log_uses=self.log_uses,
        )


class KeyBody(BaseModel):
    """A key to be made, by what it is for."""

    model_config = described({"name": "room-archive", "purpose": "encryption"})

    tenant: TenantText | None = None
    name: PrincipalText = Field(description="Unique in the tenant, for good.")
    purpose: KeyPurpose = Field(description="KEM slots have calls of their own.")
    algorithm: NameText | None = Field(
        default=None, description="The first that the policy allows, if left out."
    )
    protection: HeldBy | None = Field(
        default=None, description="Of every part; if left out, the strongest that the token offers."
    )
    token: SlotText | None = Field(default=None, description="The service's own, if left out.")
    activates: Moment | None = Field(default=None, description="At once, if left out.")
    settings: SettingsBody = SettingsBody()


class RotationBody(BaseModel):
    """When the next version takes over."""

    model_config = described({"activates": "2027-01-01T00:00:00Z"})

    tenant: TenantText | None = None
    activates: Moment | None = Field(default=None, description="At once, if left out.")


class VersionBody(BaseModel):
    """Which version is meant."""

    model_config = described({"version": 1})

    tenant: TenantText | None = None
    version: Version | None = Field(
        default=None, description="Every version that the step fits, if left out."
    )


class ConfirmedBody(VersionBody):
    """A step that there is no way back from, confirmed by name."""

    model_config = described({"confirm": "room-archive"})

    confirm: PrincipalText = Field(description="The name of the key, again.")

    def check(self, name: str) -> None:
        """Refuse what names another key.

        Raises:
            ConfirmationError: It does.
        """
        if self.confirm != name:
            raise ConfirmationError("repeat the name of the key in confirm", field="confirm")


class CompromiseBody(ConfirmedBody):
    """What is known of the compromise."""

    model_config = described({"confirm": "room-archive", "since": "2026-10-01T00:00:00Z"})

    since: Moment | None = Field(default=None, description="Now, if left out.")
    recover_until: Moment | None = Field(
        default=None,
        description="Until when it still opens what was sealed for it; not at all if left out."
        " Officers alone say so, here or later with `recover`.",
    )


class RecoveryBody(VersionBody):
    """Until when what is compromised opens what was sealed for it."""

    model_config = described({"version": 1, "until": "2026-12-01T00:00:00Z"})

    until: Moment


class DestructionBody(ConfirmedBody):
    """A destruction, confirmed by name."""

    at: Moment | None = Field(
        default=None, description="As soon as the operator's delay allows, if left out."
    )


class PermissionBody(BaseModel):
    """What a principal may do with the key from now on."""

    model_config = described({"principal": "archive-1", "operations": ["decrypt"]})

    tenant: TenantText | None = None
    principal: PrincipalText = Field(description="Of the key's own tenant.")
    operations: tuple[SlotText, ...] = Field(
        max_length=16, description="Operations of the key's purpose, and `manage`; none takes all."
    )


class RandomBody(BaseModel):
    """How many random bytes are wanted."""

    model_config = described({"size": 32})

    size: Annotated[int, Field(ge=1, le=4096)]


class KeysQuery(TenantQuery):
    """Which page of the keys is asked for."""

    after: PrincipalText | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=PAGE, ge=1, le=PAGE)


class KeyUsesQuery(TenantQuery):
    """Which page of a key's logged uses is asked for."""

    after: int = Field(default=-1, ge=-1, le=2**53, description="`next` of the page before.")


class TouchesQuery(TenantQuery):
    """Which version is meant."""

    version: Version | None = None
