"""The API as the command line sees it: JSON over mutually authenticated TLS 1.3.

Every command that changes state has one Idempotency-Key of its own; where a repetition can help,
the same request is sent again with the same key, so that nothing happens twice.
"""

import json
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from kms.cli.errors import MalformedAnswerError, RefusedError, UnreachableError, UsageProblemError
from kms.config import ClientSettings

ATTEMPTS = 5
MAX_ANSWER = 64 << 20
"""Largest answer that is read, in bytes."""
PAGE = 100
"""Records asked for at a time."""

_KEY = re.compile(r"[\x21-\x7e]{1,100}")
_FIRST_WAIT = 0.2
_MAX_WAIT = 10.0
_TIMEOUT = 30.0


def open_api(settings: ClientSettings) -> httpx.Client:
    """A connection with the client's certificate; proxies of the environment are not used.

    Raises:
        UsageProblemError: A file is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=settings.trust)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(settings.cert, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise UsageProblemError(
            f"{settings.cert}, {settings.key} or {settings.trust} cannot be used: {error}",
            "--cert and --key are a certificate and its private key, --trust the root, all PEM",
        ) from error
    return httpx.Client(base_url=settings.server, verify=context, trust_env=False, timeout=_TIMEOUT)


def open_public(base_url: str) -> httpx.Client:
    """A connection to the public listener: what it gives is signed, so plain HTTP will do."""
    return httpx.Client(base_url=base_url, trust_env=False, timeout=_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Page:
    """Records of a listing, and where it goes on; `next` None at its end."""

    records: list[dict[str, Any]]
    next: object


class ApiClient:
    """Thin client over one connection; a context manager."""

    def __init__(
        self,
        http: httpx.Client,
        *,
        idempotency_key: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use this connection; without a key a fresh one is made.

        Raises:
            UsageProblemError: The base URL or the key is not one.
        """
        if http.base_url.scheme not in {"http", "https"} or not http.base_url.host:
            raise UsageProblemError(
                f"not the address of a service: {http.base_url}",
                "--server is of the form https://host:port",
            )
        if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
            raise UsageProblemError(
                "the Idempotency-Key is not 1 to 100 visible ASCII characters",
                "leave --idempotency-key away to have one made",
            )
        self._http = http
        self.idempotency_key = idempotency_key or uuid.uuid4().hex
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Read a JSON document; None values of the query are left out.

        Raises:
            CliError: Refused, unreachable, or not JSON.
        """
        return _object(self._send(self._request("GET", path, query)))

    def post(self, path: str, body: Mapping[str, Any], *, step: str = "") -> dict[str, Any]:
        """Change state, once, however often it has to be sent.

        Args:
            path: Below the base URL.
            body: JSON object; None values are left out.
            step: Tells calls of one command apart, where it makes several.

        Raises:
            CliError: Refused, unreachable, or not JSON.
        """
        key = f"{self.idempotency_key}.{step}" if step else self.idempotency_key
        request = self._http.build_request(
            "POST",
            path,
            json={name: value for name, value in body.items() if value is not None},
            headers={"Idempotency-Key": key},
        )
        try:
            return _object(self._send(request))
        except (RefusedError, UnreachableError) as error:
            # Whoever is told to repeat under the same key must know it.
            option = "--idempotency-key"
            error.remedy = error.remedy.replace(option, f"{option} {self.idempotency_key}")
            raise

    def download(self, path: str) -> bytes:
        """Read bytes.

        Raises:
            CliError: Refused or unreachable.
        """
        return self._send(self._request("GET", path, None))

    def listing(self, path: str, name: str, query: Mapping[str, object], limit: int) -> Page:
        """Up to `limit` records of a paged listing.

        Raises:
            CliError: Refused, unreachable, or not of the documented shape.
        """
        records: list[dict[str, Any]] = []
        after: object = query.get("after")
        while len(records) < limit:
            asked = {**query, "after": after, "limit": min(PAGE, limit - len(records))}
            answer = self.get(path, asked)
            page = records_of(answer, name)
            records += page
            before, after = after, answer.get("next")
            if after is None:
                break
            if after == before:
                raise MalformedAnswerError(f"the listing {path} does not go on after {after!r}")
        return Page(records, after)

    def _request(self, method: str, path: str, query: Mapping[str, object] | None) -> httpx.Request:
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        return self._http.build_request(method, path, params=params)

    def _send(self, request: httpx.Request) -> bytes:
        """Send until answered, refused for good, or out of attempts."""
        wait = _FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                response = self._http.send(request, stream=True)
                with closing(response):
                    body = _read(response)
            except httpx.HTTPError as error:
                if last or _hopeless(error):
                    raise UnreachableError(_unreachable(request, error)) from error
                pause = wait
            else:
                if response.is_success:
                    return body
                problem = _problem(response.status_code, body)
                if problem.retry not in {"same", "later"} or last:
                    raise problem
                pause = _seconds(response.headers.get("Retry-After"), wait)
            self._sleep(min(pause, _MAX_WAIT))
            wait *= 2
        raise AssertionError("the last attempt returns or raises")


def segment(text: str) -> str:
    """A path segment; ids may hold `@` and `:`, never a slash."""
    return quote(text, safe="")


def records_of(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A member that is a list of objects.

    Raises:
        MalformedAnswerError: It is not.
    """
    records = answer.get(name)
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        raise MalformedAnswerError(f"the answer has no list {name!r}")
    return records


def field_of(answer: Mapping[str, Any], name: str) -> str:
    """A member that is a string.

    Raises:
        MalformedAnswerError: It is not.
    """
    value = answer.get(name)
    if not isinstance(value, str):
        raise MalformedAnswerError(f"the answer has no text {name!r}")
    return value


def _read(response: httpx.Response) -> bytes:
    """The body, as far as it is of sane size."""
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_ANSWER:
            raise MalformedAnswerError(f"the answer exceeds {MAX_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswerError("the answer is not JSON") from error
    if not isinstance(value, dict):
        raise MalformedAnswerError("the answer is not a JSON object")
    return value


def _problem(status: int, body: bytes) -> RefusedError:
    """The problem document of a refusal; a plain one where something else answered."""
    try:
        document = _object(body)
        type_ = field_of(document, "type")
    except MalformedAnswerError:
        retry = "later" if status in {429, 502, 503, 504} else "never"
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "refused"
        return RefusedError("about:blank", status, f"{status} {phrase}", retry=retry, field=None)
    field = document.get("field")
    return RefusedError(
        type_,
        status,
        str(document.get("detail") or document.get("title") or type_),
        retry=str(document.get("retry", "never")),
        field=None if field is None else str(field),
    )


def _seconds(retry_after: str | None, otherwise: float) -> float:
    """`Retry-After` in its seconds form; dates are not used by this service."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else otherwise


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _hopeless(error: httpx.HTTPError) -> bool:
    """A TLS alert or a certificate that does not verify: another attempt ends the same way."""
    return isinstance(error, httpx.UnsupportedProtocol) or any(
        isinstance(cause, ssl.SSLError) for cause in _causes(error)
    )


def _unreachable(request: httpx.Request, error: httpx.HTTPError) -> str:
    place = f"{request.url.scheme}://{request.url.netloc.decode()}"
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return f"{place} does not show a certificate that --trust vouches for: {error}"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return f"{place} refuses this client's certificate, or speaks no TLS 1.3: {error}"
    return f"{place} does not answer: {str(error) or type(error).__name__}"
