"""A messaging server's view of the service: JSON over mutually authenticated TLS 1.3.

One keep-alive connection, not for several threads at once. Every call that changes state carries
an `Idempotency-Key`; where a repetition can help, the same call is repeated with the same key, so
that nothing happens twice (DESIGN section 5).
"""

import http.client
import json
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from kms.device import answers
from kms.device.enrolment import Device
from kms.device.errors import (
    DeviceError,
    MalformedAnswerError,
    ProblemError,
    UnreachableError,
    UsageError,
)
from kms.device.verification import Certified

BATCH = 1_000
"""Most items of one batch call."""

_MAX_ANSWER = 128 * 1024 * 1024
_MAX_WAIT = 10.0
_FIRST_WAIT = 0.2


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    retry_after: str | None
    body: bytes


class MessagingServer:
    """Thin client of the enrolment API; a context manager."""

    def __init__(
        self,
        base_url: str,
        cert: Path,
        key: Path,
        trust: Path,
        *,
        timeout: float = 30.0,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; the connection is made by the first call.

        Args:
            base_url: `https://host:port`.
            cert: Client certificate, PEM, with its chain below the root.
            key: Its private key, PEM.
            trust: Root certificate that the server's certificate must chain to, PEM.
            timeout: Seconds to wait for the server at each step.
            attempts: How often a call is sent at most.
            sleep: Waits so many seconds between attempts.

        Raises:
            UsageError: Not an https URL.
            OSError: A file cannot be read, or is not what it should be (`ssl.SSLError`).
        """
        host, port = _address(base_url)
        context = ssl.create_default_context(cafile=trust)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(cert, key)
        self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        self._attempts = attempts
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        self._connection.close()

    def enrol(self, device: Device, bundle: str = "device") -> Certified:
        """Certify one device in two calls.

        Raises:
            DeviceError: Refused, unreachable, or an answer that does not verify.
        """
        answer = self.post("/v1/enrolments", device.request(bundle))
        proofs = device.prove(answer)
        return device.accept(self.post(_proofs_path(answer), proofs))

    def enrol_many(
        self, devices: Sequence[Device], bundle: str = "device"
    ) -> list[Certified | DeviceError]:
        """Certify devices in two calls per thousand; one bad item does not sink the rest.

        Returns:
            Per device, in order, what it got or why it did not.

        Raises:
            DeviceError: A batch call as a whole was refused or not answered.
        """
        results: list[Certified | DeviceError] = []
        for start in range(0, len(devices), BATCH):
            results += self._enrol_batch(devices[start : start + BATCH], bundle)
        return results

    def revoke_user(self, user: str, reason: str = "unspecified") -> dict[str, Any]:
        """Revoke a person: every device, every certificate, for good.

        Args:
            user: User id.
            reason: As CRLs have it, `key-compromise` for example.

        Raises:
            DeviceError: Refused or unreachable.
        """
        return self.post(f"/v1/users/{quote(user, safe='')}/revoke", {"reason": reason})

    def revoke_device(self, device: str, reason: str = "unspecified") -> dict[str, Any]:
        """Revoke one device and its certificates; see `revoke_user`."""
        return self.post(f"/v1/devices/{quote(device, safe='')}/revoke", {"reason": reason})

    def get(self, path: str) -> dict[str, Any]:
        """Read a JSON document.

        Raises:
            ProblemError: The server refused.
            UnreachableError: No usable answer came.
        """
        return self._call("GET", path, None, {})

    def post(
        self, path: str, body: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Change state, once, however often it has to be sent.

        Args:
            path: Below the base URL.
            body: JSON object.
            idempotency_key: A fresh one if none is given; give the one of an earlier call to
                repeat it.

        Raises:
            ProblemError: The server refused.
            UnreachableError: No usable answer came.
        """
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key or uuid.uuid4().hex,
        }
        return self._call("POST", path, json.dumps(body).encode(), headers)

    def _enrol_batch(self, devices: Sequence[Device], bundle: str) -> list[Certified | DeviceError]:
        """Two batch calls; devices that fail in the first are left out of the second."""
        requests = [device.request(bundle) for device in devices]
        begun = self._batch("/v1/enrolments:batch", requests)
        results: list[Certified | DeviceError | None] = [None] * len(devices)
        proven: list[tuple[int, dict[str, Any]]] = []
        for at, (device, answer) in enumerate(zip(devices, begun, strict=True)):
            try:
                body = device.prove(_unwrap(answer))
                proven.append((at, {"enrolment": _unwrap(answer)["enrolment"], **body}))
            except DeviceError as error:
                results[at] = error
        ended = self._batch("/v1/enrolments:batch-proofs", [body for _, body in proven])
        for (at, _), answer in zip(proven, ended, strict=True):
            try:
                results[at] = devices[at].accept(_unwrap(answer))
            except DeviceError as error:
                results[at] = error
        return [item for item in results if item is not None]

    def _batch(self, path: str, items: Sequence[Mapping[str, Any]]) -> list[Any]:
        """One result per item, in order."""
        if not items:
            return []
        results = answers.listing(self.post(path, {"items": list(items)}), "results", at_most=BATCH)
        if len(results) != len(items):
            raise MalformedAnswerError(f"{len(results)} results for {len(items)} items")
        return results

    def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Send until answered, refused for good, or out of attempts."""
        wait = _FIRST_WAIT
        for attempt in range(1, self._attempts + 1):
            try:
                response = self._exchange(method, path, body, headers)
                if response.status < 400:
                    return _object(response.body)
                problem = _problem(response.status, response.body)
                if problem.retry not in ("same", "later") or attempt == self._attempts:
                    raise problem
                pause = _seconds(response.retry_after, wait)
            except (OSError, http.client.HTTPException) as error:
                # A kept-alive connection may have been closed under us; the key makes it safe.
                self._connection.close()
                if attempt == self._attempts:
                    raise UnreachableError(f"{method} {path}: {error!r}") from error
                pause = wait
            self._sleep(min(pause, _MAX_WAIT))
            wait *= 2
        raise UsageError("at least one attempt must be allowed")

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> _Response:
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        content = response.read(_MAX_ANSWER + 1)
        if len(content) > _MAX_ANSWER:
            self._connection.close()
            raise MalformedAnswerError(f"the answer exceeds {_MAX_ANSWER} bytes")
        return _Response(response.status, response.getheader("Retry-After"), content)


def _address(base_url: str) -> tuple[str, int]:
    url = urlsplit(base_url)
    try:
        port = url.port or 443
    except ValueError as error:
        raise UsageError(f"not a port in {base_url!r}") from error
    if url.scheme != "https" or not url.hostname or url.path not in ("", "/"):
        raise UsageError(f"not of the form https://host:port: {base_url!r}")
    return url.hostname, port


def _proofs_path(answer: object) -> str:
    return f"/v1/enrolments/{quote(answers.text(answer, 'enrolment'), safe='')}/proofs"


def _unwrap(result: object) -> Mapping[str, Any]:
    """The body of a batch result.

    Raises:
        ProblemError: The item was refused.
        MalformedAnswerError: Not a batch result.
    """
    status = answers.member(result, "status")
    if not isinstance(status, int):
        raise MalformedAnswerError("'status' of a batch result is not a number")
    if status >= 400:
        raise _problem_of(status, answers.mapping(result, "problem"))
    return answers.mapping(result, "body")


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswerError("the answer is not JSON") from error
    if not isinstance(value, dict):
        raise MalformedAnswerError("the answer is not a JSON object")
    return value


def _problem(status: int, body: bytes) -> ProblemError:
    """The problem document of a refusal; a plain one where a proxy answered without."""
    try:
        return _problem_of(status, _object(body))
    except MalformedAnswerError:
        retry = "later" if status in (429, 502, 503, 504) else "never"
        return ProblemError(
            "about:blank", status, retry, None, http.client.responses.get(status, "refused")
        )


def _problem_of(status: int, document: Mapping[str, Any]) -> ProblemError:
    field = document.get("field")
    return ProblemError(
        answers.text(document, "type"),
        status,
        str(document.get("retry", "never")),
        str(field) if field is not None else None,
        str(document.get("detail", "")),
    )


def _seconds(retry_after: str | None, otherwise: float) -> float:
    """`Retry-After` in its seconds form; dates are not used by this service."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else otherwise
