"""A signer as a process of its own, with checkers that believe whatever is not marked as bad.

Run as a module it is that process: `python -m tests.support.signer` with a JSON argument.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import HsmError, StatementRefusedError, TokenUnavailableError
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import (
    CheckContext,
    Checked,
    Head,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Operation,
    Purpose,
    Statement,
    StatementChecker,
)
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.signer import serve
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from tests.support.softhsm import SoftHsm

ROOT = Path(__file__).parents[2]
CA = KeyLabel("ca")
LOG = KeyLabel("log")
CA_SPEC = KeySpec(CA, "ECDSA-P256", (Purpose.CERTIFICATE, Purpose.CRL), {Purpose.CERTIFICATE: {}})
LOG_SPEC = KeySpec(
    LOG, "Ed25519", (Purpose.CHECKPOINT,), {Purpose.CHECKPOINT: {"name": "example.org/log"}}
)

SERVICE_SPEC = KeySpec(
    KeyLabel(f"s-{7:032x}-1"), "ECDSA-P256", (), {}, operations=(Operation.SIGN,)
)


def certificate(message: bytes = b"tbs") -> Statement:
    return Statement(CA, Purpose.CERTIFICATE, message)


def crl(message: bytes, key: KeyLabel = CA) -> Statement:
    return Statement(key, Purpose.CRL, message)


def checkpoint(size: int, root: bytes = b"r", origin: str = "example.org/log/1") -> Statement:
    return Statement(LOG, Purpose.CHECKPOINT, b"%s\n%d\n%s\n" % (origin.encode(), size, root))


def check_any(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    if statement.message.startswith(b"bad"):
        raise StatementRefusedError("the message says itself that it is bad")
    if statement.message.startswith(b"bug"):
        raise ZeroDivisionError
    return Checked(reference=hashlib.sha256(statement.message).hexdigest()[:40])


def check_number(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    """The message says its number: `7`, or `7 and anything`."""
    return Checked(reference=statement.message.split(b" ", 1)[0].decode())


def check_size(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    """No more than the parse: growth is the core's second look."""
    origin, size, root, _ = statement.message.split(b"\n")
    new = Head(origin.decode(), int(size), hashlib.sha256(root).digest())
    return Checked(reference=size.decode(), head=new)


CHECKERS: dict[Purpose, StatementChecker] = {
    Purpose.CERTIFICATE: check_any,
    Purpose.CRL: check_number,
    Purpose.CHECKPOINT: check_size,
}


@dataclass
class SignerProcess:
    """A running signer; `stop` and `kill` may be called once each, in any order."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def start(
    directory: Path,
    token: SoftHsm,
    *,
    ceremony: bool = True,
    uids: tuple[int, ...] | None = None,
    pin: str | None = None,
    slow: float = 0,
    destruction_days: float = 7,
) -> SignerProcess:
    """Start a signer and wait until it listens or has ended; `slow`: seconds for a signature."""
    directory.mkdir(exist_ok=True)
    job = {
        "directory": str(directory),
        "module": token.module,
        "token": token.label,
        "ceremony": ceremony,
        "slow": slow,
        "destruction_days": destruction_days,
        "uids": [os.getuid()] if uids is None else list(uids),
    }
    with (directory / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.signer", json.dumps(job)],
            cwd=ROOT,
            env={**os.environ, "SOFTHSM2_CONF": str(token.conf)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as stdin, process.stdout as stdout:
        stdin.write((token.pin.reveal() if pin is None else pin).encode())
        stdin.close()
        stdout.readline()
    return SignerProcess(directory, process)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


Start = Callable[..., SignerProcess]
"""`start` on a directory and token that a fixture has chosen; its options."""


@contextlib.asynccontextmanager
async def client(process: SignerProcess) -> AsyncIterator[SignerClient]:
    connected = SignerClient(process.socket, timeout=20)
    try:
        yield connected
    finally:
        await connected.aclose()


async def ceremony(process: SignerProcess, *specs: KeySpec) -> None:
    async with client(process) as signer:
        for spec in specs:
            await signer.generate(spec)


async def signs(process: SignerProcess) -> None:
    """The signer is well: a new client gets a signature."""
    async with client(process) as signer:
        (outcome,) = await signer.sign([certificate()])
        assert isinstance(outcome, bytes)


async def answers(process: SignerProcess) -> bool:
    async with client(process) as signer:
        with contextlib.suppress(TokenUnavailableError):
            return (await signer.health()).ready
        return False


class SlowDriver(Pkcs11Driver):
    """A token that takes its time for each signature."""

    seconds = 0.0

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        time.sleep(self.seconds)
        return super().sign(label, message)


def main() -> int:
    """As `bootstrap` composes a signer, but with the checkers above."""
    job = json.loads(sys.argv[1])
    directory = Path(job["directory"])
    try:
        driver = SlowDriver(job["module"], job["token"], Pin(sys.stdin.read()))
        driver.seconds = job["slow"]
        state = SignerState(directory / "state")
    except HsmError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 3
    path = directory / "socket"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, state:
        listener.bind(str(path))
        listener.listen()
        os.write(sys.stdout.fileno(), b"listening\n")
        serve(
            SingleToken(driver),
            CHECKERS,
            state,
            listener,
            ceremony=job["ceremony"],
            allowed_uids=frozenset(job["uids"]),
            limits=ServiceLimits(timedelta(days=job["destruction_days"])),
        )
    driver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
