"""SIGTERM and SIGINT as a socket that a loop can wait for."""

import contextlib
import signal
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """A socket that becomes readable when the process is told to stop; for the main thread."""
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    wakeup = signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        readable.close()
        writable.close()
