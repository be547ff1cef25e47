"""A pool over token processes that are threads of the test, with software tokens behind them."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsm_drivers import token_process
from hsm_drivers.calls import SignCall, TokenCall, perform
from hsm_drivers.errors import HsmError, PinRefusedError
from hsm_drivers.login import LoginGate
from hsm_drivers.pool.link import Link
from hsm_drivers.pool.tokens import Place, PoolOfTokens
from hsm_drivers.ports import Driver, KeyLabel
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.vendor import standard


def twin(driver: SoftwareDriver, name: str) -> SoftwareDriver:
    """Another token with the same keys, as a maker's clone."""
    other = SoftwareDriver(name)
    other._keys = driver._keys
    return other


@dataclass
class Served:
    """A token process's thread; `end` is as if the process died."""

    path: Path
    driver: Driver
    _stop: socket.socket | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        if self._stop is not None:
            self._stop.close()
        told, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, args=(listener, told))
        self._thread.start()

    def _serve(self, listener: socket.socket, stop: socket.socket) -> None:
        gate = os.memfd_create("gate")
        service = token_process.Service(self.driver, standard(), LoginGate(gate), lambda: None)
        with listener, stop, contextlib.suppress(PinRefusedError):
            token_process.serve(service, listener, stop, lambda: None, frozenset({os.geteuid()}))
        os.close(gate)

    def end(self) -> None:
        if self._thread is not None and self._stop is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._stop.send(b"x")
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._stop.close()
            self.path.unlink(missing_ok=True)
            self._thread = None

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


@dataclass
class Pooled:
    """The pool, and the threads behind it by token."""

    pool: PoolOfTokens
    served: dict[str, list[Served]]
    expected: dict[str, dict[KeyLabel, bytes]]


@contextlib.contextmanager
def pooled(
    directory: Path, drivers: Mapping[str, Sequence[Driver]], call_seconds: float = 5.0
) -> Iterator[Pooled]:
    """A pool of these tokens, each with the processes that have these drivers."""
    served = {
        token: [Served(directory / f"{token or 'main'}-{at}", each) for at, each in enumerate(them)]
        for token, them in drivers.items()
    }
    expected: dict[str, dict[KeyLabel, bytes]] = {token: {} for token in drivers}
    places = [
        Place(
            token,
            them[0].name,
            tuple(Link(token, each.path, call_seconds) for each in served[token]),
        )
        for token, them in drivers.items()
    ]
    pool = PoolOfTokens(places, lambda token: expected[token])
    everything = [each for them in served.values() for each in them]
    try:
        for each in everything:
            each.start()
        yield Pooled(pool, served, expected)
    finally:
        pool.close()
        for each in everything:
            each.end()


class Erring(SoftwareDriver):
    """Answers calls for a key with what it is told to; counts what it is asked for.

    Attributes:
        errors: Raised one after the other, then it is well.
        made: Calls that it was asked for.
        when: Started before the call of that number.
        pause: Waited for before each call.
    """

    def __init__(self, name: str = "erring") -> None:
        super().__init__(name)
        self.errors: list[HsmError] = []
        self.made = 0
        self.when: dict[int, threading.Thread] = {}
        self.pause: threading.Event | None = None

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        self._trouble()
        return super().sign(label, message)

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        self._trouble()
        return super().decrypt(label, nonce, ciphertext, associated)

    def _trouble(self) -> None:
        self.made += 1
        if self.made in self.when:
            self.when[self.made].start()
        if self.pause is not None:
            self.pause.wait(30)
        if self.errors:
            raise self.errors.pop(0)


__all__ = ["Erring", "Pooled", "Served", "SignCall", "TokenCall", "perform", "pooled", "twin"]
