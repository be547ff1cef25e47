"""JSON that any two parsers read alike: UTF-8, no duplicate names, no NaN, bounded depth."""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from kms.api.errors import MalformedJsonError

MAX_DEPTH = 12
"""Deepest nesting of arrays and objects; the API's own documents need 5."""
MAX_VALUES = 100_000
"""Most commas and brackets; a batch of 1,000 devices needs 15,000.

Two bytes of JSON can be a hundred of memory: without this, eight megabytes are two hundred.
"""

MAX_STRING = 64 << 10
"""Most characters of a string; the longest that a call needs is a CSR's, of at most 16 KB."""


def parse(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        MalformedJsonError: Not JSON (RFC 8259), ambiguous, or of too many values.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise MalformedJsonError(f"the body holds more than {MAX_VALUES} values")
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise MalformedJsonError("the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise MalformedJsonError(f"the body is not JSON at character {error.pos}") from error
    except RecursionError as error:
        raise MalformedJsonError(f"the body is nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:  # an integer beyond what Python converts
        raise MalformedJsonError("the body holds a number that is too long") from error


def strings(value: Any) -> Iterator[str]:
    """Every string of a parsed value, names included.

    Raises:
        MalformedJsonError: Nested too deep, or a string that is too long or no Unicode text; of one
            that is too long the beginning has been yielded.
    """
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not item.isascii():
                    _refuse_surrogates(item)
                yield item[:MAX_STRING]
                if len(item) > MAX_STRING:
                    raise MalformedJsonError(f"a string is longer than {MAX_STRING} characters")
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item
                below += item.values()
        if not below:
            return
        level = below
    raise MalformedJsonError(f"the body is nested deeper than {MAX_DEPTH}")


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedJsonError("the body holds half a surrogate pair") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise MalformedJsonError("an object of the body names a member twice")
    return value


def _no_constant(_name: str) -> NoReturn:
    raise MalformedJsonError("NaN and Infinity are not JSON")
