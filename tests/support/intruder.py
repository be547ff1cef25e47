"""Whoever has taken over a worker: with its user, its code, its files and its socket to the signer.

`python -m tests.support.intruder serve --home DIR` is a service whose worker is the intruder's and
does nothing by itself. `… act` with a JSON argument, started as the worker's user, then does its
worst and prints what came of each attempt as JSON: what it got signed is named by serial, number or
size.
"""

import argparse
import asyncio
import ctypes
import json
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import HsmError
from hsm_drivers.operations import ServiceCall, SignMessage
from hsm_drivers.ports import KeyLabel, KeySpec, Operation, Purpose, Statement
from kms import bootstrap
from kms.audit.tree import Tree
from kms.config import load
from kms.domain.records import Event, SignerMark
from kms.logs import configure
from kms.processes.pin import obtain_pin
from kms.processes.supervisor import Commands, serve
from kms.services.core import INFRASTRUCTURE, PEOPLE, ROOT, AuthoritySet
from kms.services.ports import Insert, Replace
from kms.settings import Settings
from kms.storage.sql import SqlLedger
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.tree import consistency_proof
from kms.wire import serial_hex
from pki.authorities import prepare_subordinate
from pki.certificates import CertificateRequest
from pki.keys import parse_public_key
from pki.names import Subject
from pki.profiles import certificate_profile
from policies.algorithms import algorithm

PROGRAM = (sys.executable, "-P", "-m", "tests.support.intruder")
SERVE = (*PROGRAM, "serve")
DAY = timedelta(days=1)
LOG = KeyLabel("log-1")
_PTRACE_SEIZE = 0x4206  # attaches and, unlike PTRACE_ATTACH, stops nobody


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Intruder:
    """One, with the doors that a worker has; `got` is what it got signed."""

    settings: Settings
    ledger: SqlLedger
    signer: SignerClient
    authorities: AuthoritySet
    got: dict[str, list[str]]

    async def ask(self, statement: Statement, reference: str) -> str:
        """`signed`, or the code of the refusal."""
        (outcome,) = await self.signer.sign([statement])
        if not isinstance(outcome, bytes):
            return outcome.code
        self.got[statement.purpose].append(reference)
        return "signed"

    async def refused(self, key: KeyLabel, purpose: Purpose, message: bytes) -> str:
        return await self.ask(Statement(key, purpose, message), "never")

    def key_of(self, authority: str) -> KeyLabel:
        return self.authorities[authority].issuer.key

    def certificate(self, authority: str, profile: str, **change: Any) -> tuple[Statement, str]:
        """For a key of its own, in the name of somebody else; and its serial."""
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        whose = "users/ada/devices/stolen" if authority == PEOPLE else "principals/alice"
        request = CertificateRequest(
            profile=certificate_profile(profile),
            serial=secrets.randbits(120) | 1 << 119,
            not_before=now(),
            not_after=now() + DAY,
            subject=Subject("stolen", "id.ministry.example"),
            key=parse_public_key(spki, algorithm("ECDSA-P256")),
            uris=(f"https://id.ministry.example/{whose}",),
        )
        request = replace(request, **change)
        prepared = self.authorities[authority].certificates.prepare(request)
        return prepared.statement, serial_hex(request.serial)

    def subordinate(self, issuer: str) -> Statement:
        """An authority of its own."""
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return prepare_subordinate(
            self.authorities[issuer].issuer,
            PEOPLE,
            Subject("my own", "id.ministry.example"),
            parse_public_key(spki, algorithm("ECDSA-P256")),
            serial=secrets.randbits(120) | 1 << 119,
            not_before=now(),
            not_after=now() + 3 * DAY,
            base_url=self.settings.public_url,
        ).statement

    def crl(self, number: int, seconds: int = 0) -> Statement:
        """A list of the people's authority without a single revocation."""
        begin = now() - timedelta(seconds=seconds)
        factory = self.authorities[PEOPLE].crls
        return factory.prepare(number, begin, begin + timedelta(hours=1), []).statement

    def leaves(self) -> list[bytes]:
        head = self.ledger.head()
        assert head is not None
        return [event.leaf for event in self.ledger.find(Event, log=head.log)]

    async def head(self, leaves: list[bytes], origin: str = "", *, proven: bool = True) -> str:
        """A head over these leaves, with the best proof there is."""
        current = self.ledger.head()
        assert current is not None
        tree = Tree.of(leaves)
        body = Checkpoint(origin or current.origin, len(leaves), tree.root_at(len(leaves))).body()
        proof = b""
        if proven and 0 < current.size < len(leaves):
            proof = b"".join(consistency_proof(current.size, len(leaves), tree.nodes))
        statement = Statement(LOG, Purpose.CHECKPOINT, body, proof)
        return await self.ask(statement, str(len(leaves)))

    async def hide(self) -> None:
        """Tell the ledger that the journal was reconciled: the service looks for no orphans."""
        health = await self.signer.health()
        mark = SignerMark(health.token, health.counter)
        known = self.ledger.get(SignerMark, health.token)
        assert self.ledger.reserve([Insert(mark) if known is None else Replace(mark)]) is None


async def forge(own: Intruder) -> dict[str, str]:
    """What is within the bounds of a key's record is signed, and what is not is refused."""
    device, serial = own.certificate(PEOPLE, "device-identity")
    officer, other = own.certificate(INFRASTRUCTURE, "officer")
    last = dict((await own.signer.health()).crl_numbers).get(own.key_of(PEOPLE), 0)
    found = {
        "device": await own.ask(device, serial),
        "officer": await own.ask(officer, other),
        "crl": await own.ask(own.crl(last + 1), str(last + 1)),
        "device again": await own.ask(device, serial),
    }
    people, infrastructure = own.key_of(PEOPLE), own.key_of(INFRASTRUCTURE)
    begin, long_ago = (f"{moment:%y%m%d%H%M%SZ}".encode() for moment in (now(), now() - 3 * DAY))
    young, _ = own.certificate(PEOPLE, "device-identity", not_before=now())
    past = young.message.replace(begin, long_ago, 1)
    certificate, crl, checkpoint = Purpose.CERTIFICATE, Purpose.CRL, Purpose.CHECKPOINT
    found |= {
        "authority by the root": await own.ask(own.subordinate(ROOT), "never"),
        "authority by an authority": await own.ask(own.subordinate(PEOPLE), "never"),
        "officer by the people's key": await own.refused(people, certificate, officer.message),
        "device by the infrastructure": await own.refused(
            infrastructure, certificate, device.message
        ),
        "certificate of last week": await own.refused(people, certificate, past),
        "digest": await own.refused(people, certificate, secrets.token_bytes(32)),
        "certificate as a list": await own.refused(people, crl, device.message),
        "certificate by the log": await own.refused(LOG, certificate, device.message),
        "certificate as a head": await own.refused(LOG, checkpoint, device.message),
        "unknown key": await own.refused(KeyLabel("mine"), certificate, device.message),
        "list of long ago": await own.ask(own.crl(last + 2, 7200), "never"),
        "list of the same number": await own.ask(own.crl(last + 1, 5), "never"),
        "list of an old number": await own.ask(own.crl(last), "never"),
        "list of a number far ahead": await own.ask(own.crl(last + 2_000_000), "never"),
    }
    return found


async def rewrite(own: Intruder) -> dict[str, str]:
    """Another past for the log."""
    leaves = own.leaves()
    name, _, epoch = (own.ledger.head() or Checkpoint("", 0, b"")).origin.rpartition("/")
    forged = b'{"forged":true}'
    return {
        "the last head again": await own.head(leaves),
        "a smaller log": await own.head(leaves[:-1]),
        "another last event": await own.head([*leaves[:-1], forged]),
        "another first event": await own.head([forged, *leaves[1:], forged]),
        "growth without a proof": await own.head([*leaves, forged], proven=False),
        "a new epoch": await own.head(leaves, f"{name}/{int(epoch) + 1}"),
        "another log": await own.head(leaves, "log.elsewhere.example/1"),
    }


async def make_key(own: Intruder) -> dict[str, str]:
    """A key that signs statements, and what it can do with those of clients."""
    statements = KeySpec(KeyLabel("mine"), "ECDSA-P256", (Purpose.CERTIFICATE,), {})
    own_key, authority, does = KeyLabel(f"s-{1:032x}-1"), KeyLabel("people-1"), (Operation.SIGN,)
    service = KeySpec(own_key, "ECDSA-P256", (), {}, operations=does)
    both = replace(service, purposes=(Purpose.CERTIFICATE,))
    named = replace(service, label=authority)
    signer, now = own.signer, datetime.now(UTC)
    return {
        "a new key": await _outcome(signer.generate(statements)),
        "a service key that signs statements": await _outcome(signer.generate(both)),
        "a service key of an authority's name": await _outcome(signer.generate(named)),
        "a service key": await _outcome(signer.generate(service)),
        "it destroyed now": await _outcome(signer.schedule_destruction(own_key, now)),
        "it destroyed unscheduled": await _outcome(signer.destroy(own_key)),
        "it widened": await _outcome(signer.narrow(own_key, (*does, Operation.DECRYPT))),
        "an authority narrowed": await _outcome(signer.narrow(authority, ())),
        "an authority destroyed": await _outcome(signer.destroy(authority)),
        "an authority's signature": await _called(own, SignMessage(authority, b"mine")),
        "a service key's signature": await _called(own, SignMessage(own_key, b"mine")),
    }


async def _outcome(asked: Awaitable[object]) -> str:
    try:
        await asked
    except HsmError as error:
        return error.code
    return "done"


async def _called(own: Intruder, call: ServiceCall) -> str:
    (outcome,) = await own.signer.use([call])
    return outcome.code if isinstance(outcome, HsmError) else "done"


async def exhaust(own: Intruder) -> dict[str, int]:
    """As many certificates as it gets, then whether lists and heads still go."""
    made = [own.certificate(PEOPLE, "device-identity") for _ in range(100)]
    outcomes = await own.signer.sign([statement for statement, _ in made])
    count: dict[str, int] = {}
    for (_, serial), outcome in zip(made, outcomes, strict=True):
        kind = "signed" if isinstance(outcome, bytes) else outcome.code
        count[kind] = count.get(kind, 0) + 1
        if kind == "signed":
            own.got[Purpose.CERTIFICATE].append(serial)
    return count


def look_around(settings: Settings, others: Mapping[str, int]) -> dict[str, str]:
    """What it can read, write and reach besides the signer's socket."""
    state, token = settings.signer_state, settings.token
    tries: dict[str, Callable[[], object]] = {
        "ledger": lambda: (settings.data_dir / "ledger.db").open("r+b").close(),
        "tls key": (settings.tls_dir / "server.key").read_bytes,
        "settings": settings.path.read_bytes,
        "write settings": lambda: settings.path.open("ab").close(),
        "pin file": (token.pin_file or Path("/")).read_bytes,
        "token": lambda: list((token.directory or Path("/")).iterdir()),
        "signer's state": lambda: list(state.iterdir()),
        "journal": lambda: (state / "journal").open("r+b").close(),
        "key records": (state / "keys.json").read_bytes,
        "run directory": (settings.run_dir / "mine").touch,
        "squat the socket": settings.signer_socket.unlink,
    }
    for name, pid in others.items():
        tries |= {
            f"{name}: memory": lambda pid=pid: Path(f"/proc/{pid}/mem").open("rb").close(),
            f"{name}: environment": lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes(),
            f"{name}: descriptors": lambda pid=pid: list(Path(f"/proc/{pid}/fd").iterdir()),
            f"{name}: signal": lambda pid=pid: os.kill(pid, 0),
            f"{name}: trace": lambda pid=pid: _attach(pid),
        }
    return {name: _tried(attempt) for name, attempt in tries.items()}


def _attach(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_SEIZE, pid, 0, 0) != 0:
        raise PermissionError(ctypes.get_errno(), "ptrace")


def _tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError:
        return "refused"
    return "done"


async def act(order: Mapping[str, Any]) -> dict[str, Any]:
    """`order`: `home`, `acts` (names) and `others` (name to process id)."""
    settings = load(Path(order["home"]) / "kms.toml")
    ledger, signer = SqlLedger(settings.database_url), SignerClient(settings.signer_socket)
    authorities = AuthoritySet(ledger, settings.public_url)
    authorities.load()
    own = Intruder(settings, ledger, signer, authorities, {purpose: [] for purpose in Purpose})
    acts: dict[str, Any] = {
        "forge": forge,
        "rewrite": rewrite,
        "make_key": make_key,
        "exhaust": exhaust,
        "grow": lambda own: own.head([*own.leaves(), b'{"forged":true}']),
        "hide": Intruder.hide,
    }
    try:
        found = {name: await acts[name](own) for name in order["acts"] if name in acts}
    finally:
        await signer.aclose()
        ledger.close()
    if "look_around" in order["acts"]:
        found["look_around"] = look_around(settings, order["others"])
    return {**found, "got": own.got}


def idle(arguments: argparse.Namespace) -> int:
    """The worker of a service that was taken over: it says that it is ready, and waits."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.write(arguments.ready_fd, b"ready\n")
    while True:
        signal.pause()


def supervise(home: Path) -> int:
    settings = load(home / "kms.toml")
    configure("supervisor")
    commands = Commands(worker=(*PROGRAM, "worker"))
    return serve(settings, obtain_pin(settings), bootstrap.probe, commands=commands)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("serve", "worker", "act"))
    parser.add_argument("order", nargs="?")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--ready-fd", type=int)
    arguments, _ = parser.parse_known_args()
    if arguments.what == "serve":
        return supervise(arguments.home)
    if arguments.what == "worker":
        return idle(arguments)
    sys.stdout.write(json.dumps(asyncio.run(act(json.loads(arguments.order)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
