"""One attempt with a PIN, however many processes share it.

The processes of a token inherit a file in memory. Who logs in holds its lock; once a PIN was
refused the file says so, and nobody tries it again until whoever made the file makes another.
"""

import fcntl
import os
import time
from collections.abc import Callable

from hsm_drivers.errors import PinRefusedError
from hsm_drivers.pin import Pin

_REFUSED = b"refused"
_LOOK_S = 0.01


class LoginGate:
    """This process's view of the file."""

    def __init__(self, fd: int) -> None:
        """Take the file, open for reading and writing, that the token's processes share."""
        self._fd = fd
        self.waiting: Callable[[], None] = lambda: None
        """Called while another process logs in."""

    def enter(self) -> None:
        """Wait until nobody else logs in; held until `leave` or this process's end.

        Raises:
            PinRefusedError: The PIN was refused before.
        """
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self.waiting()
                time.sleep(_LOOK_S)
        if os.pread(self._fd, len(_REFUSED), 0) == _REFUSED:
            raise PinRefusedError(
                "the token refused this PIN already, to another process; it is not tried again"
            )

    def leave(self) -> None:
        """Let others log in."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def refuse(self) -> None:
        """Say to all that the PIN is wrong; call it before `leave`."""
        os.pwrite(self._fd, _REFUSED, 0)


class GatedPin(Pin):
    """A PIN that comes out when nobody else tries it, and not at all once it was refused."""

    __slots__ = ("_gate",)

    def __init__(self, value: str, gate: LoginGate) -> None:
        super().__init__(value)
        self._gate = gate

    def reveal(self) -> str:
        """As `Pin.reveal`; the gate is held afterwards.

        Raises:
            PinRefusedError: The PIN was refused before.
        """
        self._gate.enter()
        return super().reveal()
