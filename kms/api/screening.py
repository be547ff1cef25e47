"""Private key material is refused before anything else looks at a request (P1).

Every place where a request carries content is searched: path, query, headers, and each string of
the body. Nothing of what is found is kept, echoed or logged, not even where it was.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote, unquote_plus

from starlette.types import Scope

from kms.api import strict_json
from kms.api.errors import MalformedJsonError
from kms.services.errors import PrivateKeyMaterialError
from pki.private_material import find_private_key
from pki.private_structures import LEAST

_MAX_SEGMENTS = 32
_SEARCHED = 64 << 10
"""Bytes that are searched of what is refused anyway; a file with a private key is smaller.

A search of megabytes takes a second, and during much of it nothing else is served.
"""
_JWK_PRIVATE = frozenset({"d", "k", "priv", "p", "q", "dp", "dq", "qi", "oth"})
"""Private members of RFC 7518 chapter 6, RFC 8037 and the AKP keys of RFC 9964."""


def screen_target(scope: Scope) -> None:
    """Search path, query and headers.

    Raises:
        PrivateKeyMaterialError: One of them carries a private key.
    """
    refuse(_tails(scope["path"]))
    if b"%" in scope.get("raw_path", b""):  # bytes that are no UTF-8 are lost in the path
        refuse(_tails(scope["raw_path"].decode("latin-1")))
    query: bytes = scope["query_string"]
    if query:
        text = query.decode("latin-1")
        refuse((text, unquote(text), unquote_plus(text)))
    refuse(value.decode("latin-1") for _, value in scope["headers"])


def _tails(path: str) -> Iterator[str]:
    """A path from each of its first segments on: base64 has slashes of its own."""
    segments = path.split("/", _MAX_SEGMENTS)
    for start, segment in enumerate(segments):
        yield segment
        yield "/".join(segments[start:])


def screen_body(body: bytes) -> Any:
    """Search a body; answer its JSON value, None for an empty one.

    What is not JSON is searched as it stands, so that a bare PEM file is called what it is.

    Raises:
        PrivateKeyMaterialError: It carries a private key.
        MalformedJsonError: It is not strict JSON.
    """
    if not body:
        return None
    try:
        value = strict_json.parse(body)
        refuse(strict_json.strings(value))
    except MalformedJsonError:
        refuse([body[:_SEARCHED]])
        raise
    _refuse_containers(value)
    return value


def refuse(texts: Iterable[str | bytes]) -> None:
    """Refuse the request if any of the texts holds a private key.

    Raises:
        PrivateKeyMaterialError: One does.
    """
    for text in texts:
        if len(text) < LEAST:
            continue
        kind = find_private_key(text)
        if kind is not None:
            raise _refusal(kind)


def _refusal(kind: str) -> PrivateKeyMaterialError:
    return PrivateKeyMaterialError(
        f"the request carries a private key ({kind}); nothing of it was kept. Private keys stay "
        "where they were made: send the public key only, and consider this private key exposed"
    )


def _refuse_containers(value: Any) -> None:
    """Refuse what no single string shows: private JWKs as objects, and keys in pieces.

    Raises:
        PrivateKeyMaterialError: There is one, however deep it stands.
    """
    level = [value]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if "kty" in item and not _JWK_PRIVATE.isdisjoint(item):
                    raise _refusal("JWK")
                members = list(item.values())
            elif isinstance(item, list):
                members = item
                refuse(_lines(members))
            else:
                continue
            refuse(_octets(members))
            below += members
        level = below


def _lines(items: list[Any]) -> Iterator[str]:
    """A list of strings as one text."""
    if len(items) > 1 and all(isinstance(item, str) for item in items):
        yield "\n".join(items)


def _octets(items: list[Any]) -> Iterator[bytes]:
    """Numbers as the bytes that they may be, signed or not."""
    if len(items) < LEAST or not isinstance(items[0], int):
        return
    for kind in ("B", "b"):
        try:
            yield array(kind, items).tobytes()
        except (TypeError, OverflowError):
            continue
