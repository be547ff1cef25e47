"""The wire format that server, device and auditor share: transcript, statements, leaf, commitments.

Pure: values in, bytes out. Whatever is written here is a promise to the outside (DESIGN sections
5 to 7); `docs/wire-format.md` describes it and `tests/vectors/wire.json` pins it.
"""

import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from types import NoneType
from typing import Any

import msgspec
import rfc8785

TRANSCRIPT_VERSION = 1
LEAF_VERSION = 1
MAX_LEAF = 65_535
"""Largest leaf in bytes: an entry bundle prefixes entries with 16 bits (C2SP tlog-tiles)."""

_SIGN_LABEL = b"sovereign-kms/enrol/sign/v1\x00"
_HPKE_LABEL = b"sovereign-kms/enrol/hpke/v1\x00"
_MAC_LABEL = b"sovereign-kms/enrol/mac/v1\x00"

COMMITMENT_KEY = hashlib.sha256(b"sovereign-kms/commitment/v1").digest()
"""Fixed public key of the commitment HMAC; it separates the domain and hides nothing."""

OPENING_SIZE = 32

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")

USER_PATTERN = r"[A-Za-z0-9._@:+=-]{1,128}"
DEVICE_PATTERN = r"[A-Za-z0-9._-]{1,64}"
TENANT_PATTERN = DEVICE_PATTERN
_PLACES = frozenset({".", ".."})


class WireError(ValueError):
    """Bytes or values that do not follow the wire format; the message says which."""


def canonical(value: object) -> bytes:
    """Canonical JSON (RFC 8785).

    For what leaves and transcripts are made of, `msgspec` writes the same bytes in a fraction of
    the time.

    Raises:
        WireError: The value has no canonical form (a float out of range, a non-string key).
    """
    try:
        if _is_plain(value):
            return _write_plain(value)
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # its type is recursive JSON
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise WireError(f"not representable as canonical JSON: {error}") from error


def _is_plain(value: object) -> bool:
    """Whether `msgspec` writes the value as RFC 8785 does.

    It sorts names by code points where RFC 8785 sorts by UTF-16 units, and writes numbers its own
    way: so only ASCII names, no floats, no integers beyond those of a double.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            if type(name) is not str or not name.isascii():
                return False
            if type(item) is not str and not _is_plain(item):
                return False
        return type(value) is dict
    if isinstance(value, list | tuple):
        for item in value:
            if type(item) is not str and not _is_plain(item):
                return False
        return type(value) in {list, tuple}
    if type(value) is int:
        return abs(value) <= _MAX_INTEGER
    return type(value) in {str, bool, NoneType}


_MAX_INTEGER = 2**53 - 1

_write_plain = msgspec.json.Encoder(order="sorted").encode


def _known(document: dict[str, Any]) -> bytes:
    """Canonical JSON of a document of this module.

    Its names are ASCII and its values strings or small integers, so nobody need look; whatever
    callers bring comes in as `_given`.
    """
    try:
        return _write_plain(document)
    except UnicodeEncodeError as error:
        raise WireError(f"not representable as canonical JSON: {error}") from error


def _given(value: object) -> msgspec.Raw:
    """A caller's JSON value as part of a document of this module."""
    return msgspec.Raw(canonical(value))


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def unb64(text: str) -> bytes:
    """Undo `b64`, strictly: padding required, no foreign characters, no stray bits.

    Raises:
        WireError: The text is not standard base64 as `b64` writes it.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, or characters outside ASCII
        raise WireError("not standard base64 with padding") from error
    if b64(data) != text:
        raise WireError("base64 with non-zero trailing bits")
    return data


@lru_cache(maxsize=256)  # a batch writes the same few times again and again
def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with `Z`, whole seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"


@lru_cache(maxsize=256)
def parse_timestamp(text: str) -> datetime:
    """Undo `timestamp`.

    Raises:
        WireError: Any other form.
    """
    if _TIMESTAMP.fullmatch(text) is None:
        raise WireError(f"not a time of the form 2026-01-31T23:59:59Z: {text[:40]!r}")
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise WireError(f"no such time: {text}") from error


def serial_hex(serial: int) -> str:
    """A certificate serial as the outside writes it: lower-case hex, even length, no `0x`."""
    return serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big").hex()


class EnrolmentPurpose(StrEnum):
    """Why a transcript is made."""

    ENROL = "enrol"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class TranscriptSlot:
    """One key of the bundle; `spki` is SubjectPublicKeyInfo DER."""

    name: str
    algorithm: str
    spki: bytes


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything an enrolment is about; the device signs exactly this.

    Attributes:
        origin: Log origin (`<name>/<epoch>`).
        authority: Id of the certifying authority: SHA-256 of its certificate, hex.
        policy: Policy hash, hex.
        nonce: 32 fresh random bytes of the server.
        expires: After this moment no proof over it is accepted.
        previous: SHA-256 (hex) of the identity certificate that is renewed, else None.
        bindings: Evidence bound to the enrolment, `{"type", "hash"}` each; empty today.
    """

    origin: str
    authority: str
    tenant: str
    enrolment: str
    purpose: EnrolmentPurpose
    user: str
    device: str
    bundle: str
    policy: str
    nonce: bytes
    expires: datetime
    slots: tuple[TranscriptSlot, ...]
    previous: str | None = None
    bindings: tuple[Mapping[str, str], ...] = ()

    def encode(self) -> bytes:
        """The transcript's bytes: canonical JSON."""
        return _known(
            {
                "version": TRANSCRIPT_VERSION,
                "origin": self.origin,
                "authority": self.authority,
                "tenant": self.tenant,
                "enrolment": self.enrolment,
                "purpose": self.purpose.value,
                "user": self.user,
                "device": self.device,
                "bundle": self.bundle,
                "policy": self.policy,
                "nonce": b64(self.nonce),
                "expires": timestamp(self.expires),
                "slots": [
                    {"name": slot.name, "algorithm": slot.algorithm, "spki": b64(slot.spki)}
                    for slot in self.slots
                ],
                "previous": self.previous,
                "bindings": _given([dict(binding) for binding in self.bindings]),
            }
        )


def sign_message(transcript: bytes) -> bytes:
    """What a signature slot signs."""
    return _SIGN_LABEL + transcript


def hpke_info(transcript: bytes) -> bytes:
    """The HPKE `info` under which a KEM slot's secret is sealed."""
    return _HPKE_LABEL + hashlib.sha256(transcript).digest()


def kem_mac(secret: bytes, slot: str, transcript: bytes, sealed: bytes) -> bytes:
    """A KEM slot's answer to its challenge.

    Args:
        secret: The 32 bytes the server sealed.
        slot: Name of the slot.
        transcript: Transcript bytes.
        sealed: `enc ‖ ct` as the server sent it.
    """
    message = b"".join(
        (
            _MAC_LABEL,
            slot.encode(),
            b"\x00",
            hashlib.sha256(transcript).digest(),
            hashlib.sha256(sealed).digest(),
        )
    )
    return hmac.digest(secret, message, "sha256")


class Committed(StrEnum):
    """Personal values that a leaf carries as commitments."""

    TENANT = "tenant"
    ACTOR = "actor"
    USER = "user"
    DEVICE = "device"
    KEY = "key"


def commitment(opening: bytes, kind: Committed, tenant: str, value: str) -> bytes:
    """HMAC commitment to a value (DESIGN section 7); 32 bytes.

    opening ‖ type ‖ len ‖ tenant ‖ len ‖ value, `len` being 16 bits, big-endian. No type is a
    prefix of another, so no two inputs share an encoding.

    Raises:
        WireError: The opening has the wrong size.
    """
    if len(opening) != OPENING_SIZE:
        raise WireError(f"an opening has {OPENING_SIZE} bytes, not {len(opening)}")
    owner, content = tenant.encode(), value.encode()
    message = b"".join(
        (
            opening,
            kind.encode(),
            len(owner).to_bytes(2, "big"),
            owner,
            len(content).to_bytes(2, "big"),
            content,
        )
    )
    return hmac.digest(COMMITMENT_KEY, message, "sha256")


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens one commitment: kept in the database, given to those concerned."""

    field: Committed
    tenant: str
    value: str
    opening: bytes

    def commitment(self) -> str:
        """The commitment as it stands in the leaf, base64."""
        return b64(commitment(self.opening, self.field, self.tenant, self.value))

    def document(self) -> dict[str, str]:
        """JSON form, as answers and `openings.json` carry it."""
        return {
            "field": self.field.value,
            "tenant": self.tenant,
            "value": self.value,
            "opening": b64(self.opening),
        }


class EventType(StrEnum):
    """Every kind of event that the log can hold."""

    LOG_OPENED = "log.opened"
    LOG_CONTINUED = "log.continued"
    CEREMONY_STEP = "ceremony.step"
    KEY_CREATED = "key.created"
    KEY_GENERATED = "key.generated"
    KEY_ORPHANED = "key.orphaned"
    KEY_ACTIVATED = "key.activated"
    KEY_SUSPENDED = "key.suspended"
    KEY_RESUMED = "key.resumed"
    KEY_DEACTIVATED = "key.deactivated"
    KEY_COMPROMISED = "key.compromised"
    KEY_RECOVERY_ALLOWED = "key.recovery-allowed"
    KEY_DESTRUCTION_SCHEDULED = "key.destruction-scheduled"
    KEY_DESTRUCTION_CANCELLED = "key.destruction-cancelled"
    KEY_DESTROYED = "key.destroyed"
    KEY_PERMITTED = "key.permitted"
    KEY_HELD = "key.held"
    KEY_RELEASED = "key.released"
    KEY_USED = "key.used"
    KEY_REPLICATED = "key.replicated"
    KEY_MOVED = "key.moved"
    TOKEN_HEALTH = "token.health"  # noqa: S105 - a kind of event, no password
    AUTHORITY_CREATED = "authority.created"
    POLICY_ACTIVATED = "policy.activated"
    TENANT_REGISTERED = "tenant.registered"
    PRINCIPAL_REGISTERED = "principal.registered"
    PRINCIPAL_DISABLED = "principal.disabled"
    CERTIFICATE_ISSUED = "certificate.issued"
    CERTIFICATE_ORPHANED = "certificate.orphaned"
    CERTIFICATE_REVOKED = "certificate.revoked"
    CRL_ISSUED = "crl.issued"
    CRL_ORPHANED = "crl.orphaned"
    DEVICE_ENROLLED = "device.enrolled"
    DEVICE_RENEWED = "device.renewed"
    DEVICE_REVOKED = "device.revoked"
    USER_REVOKED = "user.revoked"
    RECOVERY_KEY_REGISTERED = "recovery.key-registered"
    SERVICE_RESTORED = "service.restored"


@dataclass(frozen=True, slots=True)
class LeafCertificate:
    """A certificate as a leaf names it; `sha256` is over its DER, None while it is not released."""

    authority: str
    serial: str
    profile: str
    slot: str | None
    sha256: str | None

    def document(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "authority": self.authority,
            "serial": self.serial,
            "profile": self.profile,
            "slot": self.slot,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Leaf:
    """One event as it stands in the log.

    Attributes:
        event: Event id, distinct from the index the leaf will have.
        commitments: Committed field to base64 commitment.
        certificates: What was certified or revoked, in slot order.
        policy: `{"hash", "rules"}` of the decision, or None where no algorithm was decided.
        approvals: References of approvals; empty until approvals exist.
        detail: What the event type adds; JSON values without personal data.
    """

    event: str
    type: EventType
    time: datetime
    origin: str
    commitments: Mapping[Committed, str]
    certificates: tuple[LeafCertificate, ...] = ()
    policy: Mapping[str, Any] | None = None
    approvals: tuple[str, ...] = ()
    detail: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        """Exact bytes of the leaf.

        Raises:
            WireError: It would exceed `MAX_LEAF`.
        """
        data = _known(
            {
                "version": LEAF_VERSION,
                "event": self.event,
                "type": self.type.value,
                "time": timestamp(self.time),
                "origin": self.origin,
                "commitments": {field.value: text for field, text in self.commitments.items()},
                "certificates": [item.document() for item in self.certificates],
                "policy": None if self.policy is None else _given(dict(self.policy)),
                "approvals": list(self.approvals),
                "detail": _given({} if self.detail is None else dict(self.detail)),
            }
        )
        if len(data) > MAX_LEAF:
            raise WireError(f"a leaf of {len(data)} bytes exceeds {MAX_LEAF}; log a hash instead")
        return data


def opened(commitments: Mapping[str, str], openings: Sequence[Opening]) -> bool:
    """Whether every opening matches the commitment of its field in a parsed leaf."""
    return all(
        hmac.compare_digest(commitments.get(item.field.value, ""), item.commitment())
        for item in openings
    )


def is_user(text: str) -> bool:
    """Whether the text is a user id; `.` and `..` are none, for they stand for places in paths."""
    return re.fullmatch(USER_PATTERN, text) is not None and text not in _PLACES


def is_device(text: str) -> bool:
    """Whether the text is a device or tenant id."""
    return re.fullmatch(DEVICE_PATTERN, text) is not None and text not in _PLACES
