"""Reference client: what a device and its messaging server do (DESIGN section 5).

Start from here for a bot, a test or a port to another language; `docs/wire-format.md` has every
byte. The keys of a `Device` are made in this process and never leave it.
"""

from kms.device.enrolment import Device, Expectations
from kms.device.errors import (
    ChallengeError,
    DeviceError,
    MalformedAnswerError,
    ProblemError,
    TranscriptMismatchError,
    UnreachableError,
    UntrustedAnswerError,
    UsageError,
)
from kms.device.keys import ALGORITHMS, KemKey, SigningKey, SlotKey
from kms.device.sealing import Recipient, seal_envelope, seal_message
from kms.device.server import MessagingServer
from kms.device.slots import SlotVersion, verify_slot
from kms.device.verification import Certified, SlotCertificate

__all__ = [
    "ALGORITHMS",
    "Certified",
    "ChallengeError",
    "Device",
    "DeviceError",
    "Expectations",
    "KemKey",
    "MalformedAnswerError",
    "MessagingServer",
    "ProblemError",
    "Recipient",
    "SigningKey",
    "SlotCertificate",
    "SlotKey",
    "SlotVersion",
    "TranscriptMismatchError",
    "UnreachableError",
    "UntrustedAnswerError",
    "UsageError",
    "seal_envelope",
    "seal_message",
    "verify_slot",
]
