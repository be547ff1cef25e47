"""Everything a use case may refuse, one class per problem type.

KmsError
├── InputError            the request is wrong (400/413/422); `field` says where
├── AccessError           who asks may not (401/403/404)
├── StateError            the state does not allow it (409/410)
└── UnavailableError      not now (429/503); `retry` says how

`kms.api.problems` maps each class to a status in one table; `kms.cli.errors` to an exit code.
"""

from enum import StrEnum


class Retry(StrEnum):
    """Whether sending the request again can help."""

    NEVER = "never"
    SAME = "same"
    LATER = "later"


class KmsError(Exception):
    """Root. `problem` is the last part of the problem type URN."""

    problem = "internal"
    retry = Retry.NEVER
    after = 1
    """Seconds that a refused caller is told to wait, where waiting helps."""

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class InputError(KmsError):
    """The request is wrong."""

    problem = "invalid-request"


class BodyTooLargeError(InputError):
    """The body exceeds the limit."""

    problem = "body-too-large"


class PrivateKeyMaterialError(InputError):
    """The request carries private key material (P1)."""

    problem = "private-key-material"


class InvalidKeyError(InputError):
    """A public key is malformed, not canonical, or not of the named algorithm."""

    problem = "invalid-key"


class WeakKeyError(InputError):
    """A public key is weak or known to be compromised."""

    problem = "weak-key"


class KeyReusedError(InputError):
    """A component key is registered already."""

    problem = "key-reused"


class AlgorithmRefusedError(InputError):
    """The policy refuses the algorithm here and now."""

    problem = "algorithm-refused"


class BundleMismatchError(InputError):
    """The slots are not those of the bundle profile."""

    problem = "bundle-mismatch"


class UnknownBundleError(InputError):
    """No bundle profile of that name."""

    problem = "unknown-bundle"


class InvalidCsrError(InputError):
    """The certification request is malformed, unproven or asks for what it may not."""

    problem = "invalid-csr"


class ProofFailedError(InputError):
    """A proof of possession does not hold."""

    problem = "proof-failed"


class IdempotencyKeyMissingError(InputError):
    """The call changes state and carries no Idempotency-Key."""

    problem = "idempotency-key-missing"


class IdempotencyKeyReusedError(InputError):
    """The Idempotency-Key was used with another body."""

    problem = "idempotency-key-reused"


class WrongPurposeError(InputError):
    """Keys of this purpose do not do this."""

    problem = "wrong-purpose"


class ConfirmationError(InputError):
    """The confirmation does not name the key."""

    problem = "confirmation-missing"


class CiphertextMalformedError(InputError):
    """Not a ciphertext of this service, or one that was cut off."""

    problem = "ciphertext-malformed"


class CiphertextOfAnotherKeyError(InputError):
    """The ciphertext names another key: of this tenant or of any."""

    problem = "ciphertext-of-another-key"


class KeyVersionUnknownError(InputError):
    """The key has no such version."""

    problem = "key-version-unknown"


class CiphertextRefusedError(InputError):
    """Bytes, associated data and key do not belong together: something was changed."""

    problem = "ciphertext-refused"


class AccessError(KmsError):
    """Who asks may not."""

    problem = "forbidden"


class UnauthenticatedError(AccessError):
    """No valid client certificate."""

    problem = "unauthenticated"


class CertificateRevokedError(AccessError):
    """The client certificate is revoked or expired."""

    problem = "certificate-revoked"


class UnknownPrincipalError(AccessError):
    """The certificate names no registered, active principal."""

    problem = "unknown-principal"


class OperationNotPermittedError(AccessError):
    """The principal has no permission for this operation on this key."""

    problem = "operation-not-permitted"


class NotFoundError(AccessError):
    """No such thing, or it is another tenant's."""

    problem = "not-found"


class StateError(KmsError):
    """The state does not allow it."""

    problem = "conflict"


class ChallengeExpiredError(StateError):
    """The enrolment's time is over."""

    problem = "challenge-expired"


class ChallengeUsedError(StateError):
    """The enrolment has been completed or refused."""

    problem = "challenge-used"


class RevokedError(StateError):
    """The user, device or tenant is revoked."""

    problem = "revoked"


class KeyStateError(StateError):
    """The key's state does not allow the step."""

    problem = "key-state"


class KeyNotActiveError(KeyStateError):
    """The key is not active yet."""

    problem = "key-not-active"


class KeySuspendedError(KeyStateError):
    """The key is suspended."""

    problem = "key-suspended"


class KeyDeactivatedError(KeyStateError):
    """The key version protects nothing any more."""

    problem = "key-deactivated"


class KeyExpiredError(KeyStateError):
    """The usage period is over."""

    problem = "key-expired"


class KeyCompromisedError(KeyStateError):
    """The key version is compromised."""

    problem = "key-compromised"


class KeyDestroyedError(KeyStateError):
    """The key version is destroyed."""

    problem = "key-destroyed"


class LegalHoldError(KeyStateError):
    """A legal hold blocks the destruction of the key."""

    problem = "legal-hold"


class StillRunningError(StateError):
    """The same call is still running."""

    problem = "still-running"
    retry = Retry.LATER


class UnavailableError(KmsError):
    """Not now."""

    problem = "unavailable"
    retry = Retry.LATER


class SignerUnavailableError(UnavailableError):
    """The signer or its token is away; the same request with the same key may succeed later."""

    problem = "signer-unavailable"
    retry = Retry.SAME


class SigningRateError(SignerUnavailableError):
    """The authority's key has signed as many certificates as it may for now."""

    problem = "signing-rate-exceeded"
    after = 10


class LogUnavailableError(UnavailableError):
    """The event could not be committed or covered by a signed checkpoint."""

    problem = "log-unavailable"
    retry = Retry.SAME


class OverloadedError(UnavailableError):
    """Too much is waiting.

    Args:
        after: Seconds to wait before the next attempt.
    """

    problem = "overloaded"

    def __init__(self, detail: str, *, field: str | None = None, after: int = 1) -> None:
        super().__init__(detail, field=field)
        self.after = after


class TooManyRequestsError(OverloadedError):
    """Too much of what is waiting is this caller's."""

    problem = "too-many-requests"
