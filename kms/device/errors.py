"""What a device or its messaging server may run into.

DeviceError
├── UsageError               the calling code asked for what cannot be
├── MalformedAnswerError     the answer is not of the documented shape
├── TranscriptMismatchError  the server wants proofs over something else than was asked for
├── ChallengeError           a KEM challenge is missing, superfluous or does not open
├── UntrustedAnswerError     certificates, leaf, receipt or openings do not verify
├── ProblemError             the server refused, with a problem document (RFC 9457)
└── UnreachableError         no answer, after all attempts
"""


class DeviceError(Exception):
    """Root of this package's errors."""


class UsageError(DeviceError):
    """The calling code asked for what cannot be: an unknown algorithm, a step out of order."""


class MalformedAnswerError(DeviceError):
    """The answer is not of the documented shape."""


class TranscriptMismatchError(DeviceError):
    """The transcript differs from the one the device built itself; nothing was signed.

    Attributes:
        fields: Names of the differing members; empty if only the encoding differs.
    """

    def __init__(self, fields: tuple[str, ...]) -> None:
        what = ", ".join(fields) if fields else "its encoding"
        super().__init__(f"the server's transcript differs from what was asked for: {what}")
        self.fields = fields


class ChallengeError(DeviceError):
    """A KEM challenge is missing, superfluous or does not open."""


class UntrustedAnswerError(DeviceError):
    """What was issued or logged does not verify; do not use these certificates."""


class ProblemError(DeviceError):
    """The server's refusal.

    Attributes:
        type: Problem type, `urn:sovereign-kms:problem:<name>`.
        status: HTTP status.
        retry: `never`, `same` (same request, same Idempotency-Key) or `later`.
        field: Which part of the request is meant, if any.
        detail: A sentence for people.
    """

    def __init__(self, type_: str, status: int, retry: str, field: str | None, detail: str) -> None:
        where = f" (field {field})" if field else ""
        super().__init__(f"{status} {type_}{where}: {detail}")
        self.type = type_
        self.status = status
        self.retry = retry
        self.field = field
        self.detail = detail


class UnreachableError(DeviceError):
    """No usable answer came, after all attempts.

    Whether the last request took effect is unknown; repeating it with the same Idempotency-Key
    is safe.
    """
