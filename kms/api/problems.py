"""Errors as problem documents (RFC 9457): one table from error class to status and title.

`docs/problems.md` explains every type to callers; a test holds table, error tree and document
together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from kms.api import errors as http
from kms.services import errors as use_case
from kms.services.errors import KmsError, LogUnavailableError, Retry
from kms.services.head_signer import LogRolledBackError
from kms.services.ports import LedgerUnavailableError

TYPE_PREFIX = "urn:sovereign-kms:problem:"
MEDIA_TYPE = "application/problem+json"

_encoder = msgspec.json.Encoder()


class Row(NamedTuple):
    """HTTP status and title of one problem type."""

    status: int
    title: str


PROBLEMS: Mapping[type[KmsError], Row] = {
    use_case.KmsError: Row(500, "The service failed"),
    use_case.InputError: Row(422, "The request is wrong"),
    use_case.BodyTooLargeError: Row(413, "The body is too large"),
    use_case.PrivateKeyMaterialError: Row(422, "The request carries private key material"),
    use_case.InvalidKeyError: Row(422, "The public key is not valid"),
    use_case.WeakKeyError: Row(422, "The public key is weak"),
    use_case.KeyReusedError: Row(422, "The key is registered already"),
    use_case.AlgorithmRefusedError: Row(422, "The policy refuses the algorithm"),
    use_case.BundleMismatchError: Row(422, "The slots are not those of the bundle profile"),
    use_case.UnknownBundleError: Row(422, "There is no such bundle profile"),
    use_case.InvalidCsrError: Row(422, "The certification request is not acceptable"),
    use_case.ProofFailedError: Row(422, "The proof of possession does not hold"),
    use_case.IdempotencyKeyMissingError: Row(400, "The Idempotency-Key is missing"),
    use_case.IdempotencyKeyReusedError: Row(422, "The Idempotency-Key belongs to another body"),
    use_case.WrongPurposeError: Row(422, "Keys of this purpose do not do this"),
    use_case.ConfirmationError: Row(422, "The confirmation does not name the key"),
    use_case.CiphertextMalformedError: Row(422, "Not a ciphertext of this service"),
    use_case.CiphertextOfAnotherKeyError: Row(422, "The ciphertext is of another key"),
    use_case.KeyVersionUnknownError: Row(422, "The key has no such version"),
    use_case.CiphertextRefusedError: Row(422, "Ciphertext and key do not belong together"),
    use_case.AccessError: Row(403, "The caller may not do this"),
    use_case.UnauthenticatedError: Row(401, "No valid client certificate"),
    use_case.CertificateRevokedError: Row(403, "The client certificate does not stand"),
    use_case.UnknownPrincipalError: Row(403, "The certificate names no active principal"),
    use_case.OperationNotPermittedError: Row(403, "The caller may not do this with the key"),
    use_case.NotFoundError: Row(404, "There is no such thing"),
    use_case.StateError: Row(409, "The state does not allow it"),
    use_case.ChallengeExpiredError: Row(410, "The enrolment has expired"),
    use_case.ChallengeUsedError: Row(409, "The enrolment's challenges are used"),
    use_case.RevokedError: Row(409, "The user, device or tenant is revoked"),
    use_case.KeyStateError: Row(409, "The key's state does not allow it"),
    use_case.KeyNotActiveError: Row(409, "The key is not active yet"),
    use_case.KeySuspendedError: Row(409, "The key is suspended"),
    use_case.KeyDeactivatedError: Row(409, "The key version is deactivated"),
    use_case.KeyExpiredError: Row(409, "The key's usage period is over"),
    use_case.KeyCompromisedError: Row(409, "The key version is compromised"),
    use_case.KeyDestroyedError: Row(409, "The key version is destroyed"),
    use_case.LegalHoldError: Row(409, "A legal hold blocks the destruction"),
    use_case.StillRunningError: Row(409, "The same call is still running"),
    use_case.UnavailableError: Row(503, "Not possible now"),
    use_case.SignerUnavailableError: Row(503, "The signer or its token is away"),
    use_case.SigningRateError: Row(503, "The key has signed all that it may for now"),
    use_case.LogUnavailableError: Row(503, "The log cannot take the event now"),
    LogRolledBackError: Row(503, "The log lost events and is not continued"),
    use_case.OverloadedError: Row(503, "The service has too much to do"),
    use_case.TooManyRequestsError: Row(429, "Too many requests"),
    http.MalformedJsonError: Row(400, "The body is not strict JSON"),
    http.UnsupportedMediaTypeError: Row(415, "The body is not declared as JSON"),
    http.MethodNotAllowedError: Row(405, "The method is not offered here"),
    http.RequestTimeoutError: Row(408, "The body took too long"),
    http.HeadersTooLargeError: Row(431, "The headers are too large"),
    http.MalformedRequestError: Row(400, "The request is not HTTP"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem ready to be sent."""

    name: str
    status: int
    body: bytes
    headers: Mapping[str, str]


def row(error: KmsError) -> Row:
    """Status and title; those of the nearest base where a class has no row of its own."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def document(error: KmsError) -> dict[str, Any]:
    """The problem document of an error. It holds nothing of the request's values."""
    found = row(error)
    content: dict[str, Any] = {
        "type": TYPE_PREFIX + error.problem,
        "title": found.title,
        "status": found.status,
        "detail": error.detail,
        "retry": error.retry.value,
    }
    if error.field is not None:
        content["field"] = error.field
    return content


def describe(error: KmsError) -> dict[str, Any]:
    """A refused item as batch answers carry it."""
    return {"status": row(error).status, "problem": document(error)}


def problem(error: KmsError) -> Problem:
    """Status, body and headers of a refusal."""
    found = row(error)
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    if error.retry is not Retry.NEVER:
        headers["retry-after"] = str(error.after)
    if found.status == 401:
        # RFC 9110 11.6.1 wants a challenge; no scheme is registered for TLS client certificates.
        headers["www-authenticate"] = 'TLS-Client-Certificate realm="sovereign-kms"'
    return Problem(error.problem, found.status, _encoder.encode(document(error)), headers)


def as_kms_error(error: Exception) -> KmsError:
    """What a caller is told of any exception: the unforeseen is `internal` and says no more."""
    if isinstance(error, KmsError):
        return error
    if isinstance(error, LedgerUnavailableError):
        return LogUnavailableError("the ledger cannot be used now; send the same request again")
    return KmsError("the service failed; its log names the request id")
