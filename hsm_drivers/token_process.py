"""A token process: one PKCS#11 module, one token, one thread, and no judgement.

`python -m hsm_drivers.token_process` gets everything secret or shared as inherited descriptors: the
PIN in a pipe, its listening socket, a pipe to tell its sign of life, and the login gate. It serves
the signer, one connection at a time, and ends with

    77   the token refused the PIN: to be started again with another PIN only
    1    anything else: token away, module broken; to be started again after a while

It needs the standard library, msgspec and python-pkcs11 only, since it also runs where the service
is not installed: inside a chroot, with another system's libraries.
"""

import argparse
import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, assert_never

from hsm_drivers.calls import TokenCall, perform
from hsm_drivers.errors import (
    HsmError,
    PinRefusedError,
    TokenFailureError,
    UnsupportedError,
)
from hsm_drivers.framing import FrameBuffer, FrameError, encode
from hsm_drivers.hardening import HardeningError, die_with, harden
from hsm_drivers.login import GatedPin, LoginGate
from hsm_drivers.pin import Pin
from hsm_drivers.pool import frames
from hsm_drivers.ports import Driver, KeyLabel
from hsm_drivers.stopping import stop_signals
from hsm_drivers.vendor import Profile, ProfileError, Remedy, called, remedy_of

if TYPE_CHECKING:
    from hsm_drivers.pkcs11.driver import Pkcs11Driver

EXIT_PIN_REFUSED = 77
EXIT_MISCONFIGURED = 78

T = TypeVar("T")

BEAT_S = 0.25
"""Distance between signs of life, at least."""
_READ_SIZE = 256 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""


class Pulse:
    """A byte in a pipe every now and then: the process's thread is not stuck in the module."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._next = 0.0
        os.set_blocking(fd, False)

    def beat(self) -> None:
        """Give the sign, if it is time; nobody may be reading, and the pipe may be full."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BEAT_S
            with contextlib.suppress(OSError):
                os.write(self._fd, b".")


class Service:
    """Answers requests over one driver."""

    def __init__(
        self, driver: Driver, profile: Profile, gate: LoginGate, beat: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._profile = profile
        self._gate = gate
        self._beat = beat

    def answer(self, request: frames.Request) -> frames.Answer:
        """Do what is asked; the token's errors are answers too.

        Raises:
            PinRefusedError: The driver had to log in again, and the PIN was refused.
        """
        outcome = self._outcome(lambda: self._answer(request))
        return frames.Failed(request.id, outcome) if isinstance(outcome, frames.Fault) else outcome

    def _answer(self, request: frames.Request) -> frames.Answer:
        driver = self._driver
        match request:
            case frames.Make():
                return frames.Made(request.id, [self._make(call) for call in request.calls])
            case frames.Prove():
                driver.random(frames.RANDOM_BYTES)
                return frames.Proved(request.id, [self._read(each) for each in request.labels])
            case frames.Describe():
                lacking = [list(driver.lacking(name)) for name in request.algorithms]
                return frames.Described(
                    request.id, sorted(driver.capabilities), list(driver.algorithms), lacking
                )
            case frames.Generate():
                made = driver.generate(
                    request.label, request.algorithm, transferable=request.transferable
                )
                return frames.Generated(request.id, *made)
            case frames.Labels():
                return frames.Listed(request.id, list(driver.labels(request.only)))
            case frames.Attributes():
                return frames.Read(request.id, driver.attributes(request.label))
            case frames.Destroy():
                driver.destroy(request.label)
                return frames.Done(request.id)
            case frames.Export():
                return frames.Done(request.id, driver.export_key(request.label, request.trusted))
            case frames.Import():
                key_id, attributes = driver.import_key(
                    request.label,
                    request.algorithm,
                    request.trusted,
                    request.wrapped,
                    request.public_key,
                )
                return frames.Generated(request.id, key_id, b"", attributes)
            case _:
                assert_never(request)

    def _make(self, call: TokenCall) -> bytes | frames.Fault:
        return self._outcome(lambda: perform(self._driver, call))

    def _read(self, label: KeyLabel) -> bytes | frames.Fault:
        return self._outcome(lambda: self._driver.public_key(label))

    def _outcome(self, action: Callable[[], T]) -> T | frames.Fault:
        """The action's value or its error; each leaves the gate open and gives a sign of life."""
        try:
            return action()
        except PinRefusedError:
            self._gate.refuse()
            raise
        except HsmError as error:
            return frames.Fault(error.code, str(error), remedy_of(self._profile, error))
        except Exception as error:  # noqa: BLE001 - a module that does what no standard says
            kind = type(error).__name__
            failure = TokenFailureError(f"token {self._driver.name!r}: unforeseen ({kind})")
            say("token.unforeseen", error_type=kind)
            return frames.Fault(failure.code, str(failure), Remedy.QUARANTINE)
        finally:
            self._gate.leave()
            self._beat()


class _Connection:
    """The signer: its requests one after the other, each answered before the next is read."""

    def __init__(self, sock: socket.socket, wait: Callable[..., bool]) -> None:
        self._sock = sock
        self._wait = wait
        self._received = FrameBuffer()
        sock.setblocking(False)

    def requests(self) -> Iterator[frames.Request]:
        """Requests until the other side ends the connection or a stop was asked for.

        Raises:
            FrameError: Bytes that are none.
            OSError: The connection broke.
        """
        while True:
            body = self._received.next()
            if body is not None:
                yield frames.decode_request(body)
                continue
            if not self._wait(readable=self._sock):
                return
            with contextlib.suppress(BlockingIOError):
                data = self._sock.recv(_READ_SIZE)
                if not data:
                    return
                self._received.feed(data)

    def reply(self, answer: frames.Answer) -> None:
        """Send it whole, however slowly it is taken."""
        left = memoryview(_fitting(answer))
        while left:
            with contextlib.suppress(BlockingIOError):
                left = left[self._sock.send(left) :]
                continue
            if not self._wait(writable=self._sock):
                return


def serve(
    service: Service,
    listener: socket.socket,
    stop: socket.socket,
    beat: Callable[[], None],
    allowed_uids: frozenset[int],
) -> None:
    """Serve one connection after the other until `stop` is readable.

    Raises:
        PinRefusedError: As `Service.answer`.
    """

    def wait(readable: socket.socket | None = None, writable: socket.socket | None = None) -> bool:
        """Until the socket is ready; False once told to stop."""
        while True:
            beat()
            reading = [stop] if readable is None else [stop, readable]
            writing = [] if writable is None else [writable]
            ready = select.select(reading, writing, [], BEAT_S)
            if stop in ready[0]:
                return False
            if ready[0] or ready[1]:
                return True

    listener.setblocking(False)
    while wait(readable=listener):
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                uid = _peer_uid(sock)
                if uid not in allowed_uids:
                    say("token.stranger-refused", uid=uid)
                    continue
                _serve_one(service, _Connection(sock, wait))


def _serve_one(service: Service, connection: _Connection) -> None:
    try:
        for request in connection.requests():
            connection.reply(service.answer(request))
    except FrameError as error:
        say("token.client-disconnected", detail=str(error))


def _fitting(answer: frames.Answer) -> bytes:
    try:
        return encode(answer)
    except FrameError as error:
        refused = UnsupportedError(f"the answer does not fit a frame; ask for less ({error})")
        return encode(
            frames.Failed(answer.id, frames.Fault(refused.code, str(refused), Remedy.NONE))
        )


def _peer_uid(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    return int(_PEER_CREDENTIALS.unpack(raw)[1])


def say(event: str, **facts: object) -> None:
    """A log line, in the form of the service's other processes."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"process": _process, "event": event, "level": "warning", "timestamp": moment, **facts}
    with contextlib.suppress(OSError):
        sys.stderr.write(json.dumps(line) + "\n")


_process = "token"


class MisconfiguredError(Exception):
    """The settings ask for what cannot be; to be started again with others."""


def open_driver(arguments: argparse.Namespace, pin: Pin) -> "Pkcs11Driver":
    """Load the module and log in, once.

    Raises:
        HsmError: Token or module cannot be used, or the PIN was refused.
        ProfileError: There is no such profile.
        MisconfiguredError: The token bears fewer processes than it has been given.
    """
    from hsm_drivers.pkcs11.driver import Pkcs11Driver  # noqa: PLC0415 - after hardening

    named = None if arguments.profile is None else called(arguments.profile)
    driver = Pkcs11Driver(
        arguments.module, arguments.label, pin, profile=named, serial=arguments.serial
    )
    most = driver.profile.concurrency.processes
    if 0 < most < arguments.processes:
        driver.close()
        raise MisconfiguredError(
            f"profile {driver.profile.name} says that the token bears {most} process(es) at once,"
            f" and `signers` is {arguments.processes}"
        )
    return driver


def run(arguments: argparse.Namespace) -> None:
    """Log in once, then serve until SIGTERM.

    Raises:
        PinRefusedError: The token refused the PIN, now or later.
        HsmError: Token or module cannot be used.
        HardeningError: The kernel refused, or the parent is gone.
        ProfileError: There is no such profile.
        MisconfiguredError: As `open_driver`.
    """
    pulse = Pulse(arguments.beat_fd)
    gate = LoginGate(arguments.gate_fd)
    with os.fdopen(arguments.pin_fd, "rb") as pipe:
        pin = GatedPin(pipe.read().decode(), gate)
    listener = socket.socket(fileno=arguments.socket_fd)
    with stop_signals() as stop:
        try:
            driver = open_driver(arguments, pin)
        except PinRefusedError:
            gate.refuse()
            raise
        finally:
            gate.leave()
        with contextlib.closing(driver):
            gate.waiting = pulse.beat  # from here on silence means a wedge
            service = Service(driver, driver.profile, gate, pulse.beat)
            serve(service, listener, stop, pulse.beat, frozenset(arguments.allow_uid))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hsm_drivers.token_process")
    parser.add_argument("--name", required=True, help="of the process, in log lines")
    parser.add_argument("--module", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--serial")
    parser.add_argument("--profile")
    parser.add_argument("--processes", type=int, default=1, help="how many serve the token")
    for descriptor in ("--socket-fd", "--pin-fd", "--gate-fd", "--beat-fd"):
        parser.add_argument(descriptor, type=int, required=True)
    parser.add_argument("--allow-uid", type=int, action="append", required=True)
    parser.add_argument("--parent", type=int, required=True)
    return parser


def main() -> int:
    """Entry of the process; answers the exit status."""
    global _process  # noqa: PLW0603 - the name of this very process
    arguments = _parser().parse_args()
    _process = arguments.name
    try:
        harden()
        die_with(arguments.parent)
        run(arguments)
    except PinRefusedError as error:
        say("token.pin-refused", detail=str(error))
        return EXIT_PIN_REFUSED
    except (ProfileError, MisconfiguredError) as error:
        say("token.misconfigured", detail=str(error))
        return EXIT_MISCONFIGURED
    except (HsmError, HardeningError) as error:
        say("token.ended", detail=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
