"""The user PIN of a token, in a wrapper that does not leak it."""

from typing import NoReturn


class Pin:
    """A PIN: it prints as stars, is never pickled or copied, and comes out by `reveal` only."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The PIN itself, for the call that logs in and for nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "Pin(****)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PIN is neither pickled nor copied")
