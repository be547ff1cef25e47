"""Private key material is refused before anything else looks at a request (P1).

Every place where a request carries content is searched: path, query, headers, and each string of
the body. Nothing of what is found is kept, echoed or logged, not even where it was.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote_plus

from starlette.types import Scope

from kms.api import strict_json
from kms.api.errors import MalformedJsonError
from kms.services.errors import PrivateKeyMaterialError
from pki.private_material import find_private_key


def screen_target(scope: Scope) -> None:
    """Search path, query and headers.

    Raises:
        PrivateKeyMaterialError: One of them carries a private key.
    """
    query: bytes = scope["query_string"]
    parts = [scope["path"], *(part for part in query.decode("latin-1").split("&"))]
    refuse(parts)
    refuse(unquote_plus(part).partition("=")[2] for part in parts[1:])
    refuse(value.decode("latin-1") for _, value in scope["headers"])


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
    refuse(_key_objects(value))
    return value


def refuse(texts: Iterable[str | bytes]) -> None:
    """Refuse the request if any of the texts holds a private key.

    Raises:
        PrivateKeyMaterialError: One does.
    """
    for text in texts:
        kind = find_private_key(text)
        if kind is not None:
            raise PrivateKeyMaterialError(
                f"the request carries a private key ({kind}); nothing of it was kept. Private "
                "keys stay where they were made: send the public key only, and consider this "
                "private key exposed"
            )


def _key_objects(value: Any) -> Iterator[str]:
    """JSON of every object that calls itself a key (RFC 7517 `kty`), however deep it stands."""
    level = [value]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if "kty" in item:
                    yield json.dumps(item)
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
