"""Reading JSON answers: every member typed and bounded, errors name the member."""

import re
from collections.abc import Mapping
from typing import Any

from kms import wire
from kms.device.errors import MalformedAnswerError

MAX_TEXT = 1_000_000
"""Longest string of an answer in characters; a leaf in base64 has at most 87,380."""


def member(document: object, name: str) -> Any:
    """A member of a JSON object.

    Raises:
        MalformedAnswerError: Not an object, or no such member.
    """
    if not isinstance(document, Mapping) or name not in document:
        raise MalformedAnswerError(f"the answer has no {name!r}")
    return document[name]


def text(document: object, name: str, pattern: str | None = None) -> str:
    """A string member, wholly of the pattern if one is given.

    Raises:
        MalformedAnswerError: Anything else.
    """
    value = member(document, name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise MalformedAnswerError(f"{name!r} of the answer is not a string of sane length")
    if pattern is not None and not re.fullmatch(pattern, value, re.ASCII):
        raise MalformedAnswerError(f"{name!r} of the answer is not of the form {pattern}")
    return value


def binary(document: object, name: str) -> bytes:
    """A base64 member.

    Raises:
        MalformedAnswerError: Anything else.
    """
    try:
        return wire.unb64(text(document, name))
    except wire.WireError as error:
        raise MalformedAnswerError(f"{name!r} of the answer: {error}") from error


def listing(document: object, name: str, *, at_most: int) -> list[Any]:
    """An array member of bounded length.

    Raises:
        MalformedAnswerError: Anything else.
    """
    value = member(document, name)
    if not isinstance(value, list) or len(value) > at_most:
        raise MalformedAnswerError(f"{name!r} of the answer is not a list of at most {at_most}")
    return value


def mapping(document: object, name: str) -> Mapping[str, Any]:
    """An object member.

    Raises:
        MalformedAnswerError: Anything else.
    """
    value = member(document, name)
    if not isinstance(value, dict):
        raise MalformedAnswerError(f"{name!r} of the answer is not an object")
    return value
