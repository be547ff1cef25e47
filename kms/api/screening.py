"""Private key material is refused before anything else looks at a request (P1).

Every place where a request carries content is searched: path, query, headers, and each string of
the body. Nothing of what is found is kept, echoed or logged, not even where it was.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote, unquote_plus

from starlette.types import Scope

from kms.api import strict_json
from kms.api.errors import MalformedJsonError
from kms.services.errors import PrivateKeyMaterialError
from pki.private_material import LEAST, find_private_key

_MAX_SEGMENTS = 32
_JWK_PRIVATE = frozenset({"d", "k", "priv", "p", "q", "dp", "dq", "qi", "oth"})
"""Private members of RFC 7518 chapter 6, RFC 8037 and the AKP keys of RFC 9964."""
_SEPARATORS = re.compile(r"[=&;,\s\"]+")


def screen_target(scope: Scope) -> None:
    """Search path, query and headers.

    Raises:
        PrivateKeyMaterialError: One of them carries a private key.
    """
    refuse(_tails(scope["path"]))
    query: bytes = scope["query_string"]
    if query:
        text = query.decode("latin-1")
        refuse(_pieces(unquote(text)))
        refuse(_pieces(unquote_plus(text)))
    for _, value in scope["headers"]:
        refuse(_pieces(value.decode("latin-1")))


def _tails(path: str) -> Iterator[str]:
    """A path from each of its first segments on: base64 has slashes of its own."""
    segments = path.split("/", _MAX_SEGMENTS)
    for start, segment in enumerate(segments):
        yield segment
        yield "/".join(segments[start:])


def _pieces(text: str) -> Iterator[str]:
    """A text, and what stands between its separators: `name=value` hides where the value begins."""
    yield text
    if len(text) >= LEAST:
        yield from _SEPARATORS.split(text)


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
        refuse([body])
        raise
    _refuse_key_objects(value)
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


def _refuse_key_objects(value: Any) -> None:
    """Refuse objects that call themselves keys and have a private member, however deep they stand.

    Raises:
        PrivateKeyMaterialError: There is one.
    """
    level = [value]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if "kty" in item and not _JWK_PRIVATE.isdisjoint(item):
                    raise _refusal("JWK")
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
