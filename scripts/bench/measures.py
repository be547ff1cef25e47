"""What is measured beside the service: raw signing, a signer through its socket, the ledger."""

import asyncio
import itertools
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enrolled import Pattern, completing, make_device
from places import MODULE, BenchError, Site, softhsm

from hsm_drivers.client import SignerClient
from hsm_drivers.ports import KeyLabel, Statement
from kms.bootstrap import probe
from kms.config import load
from kms.device import SlotKey
from kms.domain.records import LogId
from kms.processes.home import home_lock
from kms.processes.pin import obtain_pin
from kms.processes.signer_process import temporary_signer
from kms.services.events import EventFactory
from kms.services.ports import Insert, Placed
from kms.services.system import SystemIds
from kms.storage.migrate import migrate
from kms.storage.sql import SqlLedger
from pki.certificates import CertificateFactory, CertificateRequest, Issuer
from pki.keys import parse_public_key
from pki.names import Subject, device_uri
from pki.profiles import certificate_profile
from policies.algorithms import algorithm

_DOMAIN = "id.ministry.example"
_P256 = "ECDSA-P256"
_PROFILE = "device-identity"
_AT_ONCE = 2


def raw_rate(program: Path, token: Path, label: str, seconds: float, *what: str) -> float:
    """P-256 signatures a second, or of what else, that the token makes for a C program."""
    done = subprocess.run(
        [program, MODULE, label, token / "pin", str(seconds), *what],
        env=softhsm(token),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(done.stderr.strip())
    answer = json.loads(done.stdout)
    return float(answer["signatures"]) / float(answer["seconds"])


@dataclass(frozen=True, slots=True)
class Signer:
    """A signer process of its own, and certificates that it may sign."""

    socket: Path
    factory: CertificateFactory
    requests: Sequence[CertificateRequest]
    statements: Sequence[Statement]

    def rate(self, seconds: float, batch: int) -> float:
        """Statements a second through the socket, checked and journalled."""

        async def sign(client: SignerClient, first: int) -> None:
            outcomes = await client.sign(self.statements[first : first + batch])
            if not all(isinstance(item, bytes) for item in outcomes):
                raise BenchError("the signer refused a statement")

        return asyncio.run(self._rate(sign, seconds, batch))

    def build_rate(self, seconds: float, batch: int) -> float:
        """Certificates a second: built from templates, signed as above, put together."""

        async def issue(client: SignerClient, first: int) -> None:
            requests = self.requests[first : first + batch]
            prepared = [self.factory.prepare(request) for request in requests]
            outcomes = await client.sign([item.statement for item in prepared])
            for item, signature in zip(prepared, outcomes, strict=True):
                if not isinstance(signature, bytes):
                    raise BenchError("the signer refused a certificate")
                item.complete(signature)

        return asyncio.run(self._rate(issue, seconds, batch))

    async def _rate(
        self,
        work: Callable[[SignerClient, int], Coroutine[Any, Any, None]],
        seconds: float,
        batch: int,
    ) -> float:
        """Of both: so many batches at a time as keep the signer from waiting for its callers."""
        client = SignerClient(self.socket)
        batches = itertools.count()
        started = time.perf_counter()

        async def keep_going() -> None:
            while time.perf_counter() - started < seconds:
                await work(client, next(batches) * batch % len(self.requests))

        try:
            await client.keys()  # connected
            started = time.perf_counter()
            await asyncio.gather(*(keep_going() for _ in range(_AT_ONCE)))
            return next(batches) * batch / (time.perf_counter() - started)
        finally:
            await client.aclose()


@contextmanager
def signer(site: Site, people: bytes, statements: int) -> Iterator[Signer]:
    """The site's signer without its service; what it signs here, no ledger ever holds."""
    settings = load(site.config)
    issuer = Issuer("people", 1, KeyLabel("people-1"), algorithm(_P256), people)
    factory = CertificateFactory(issuer, "http://127.0.0.1:8080")
    requests = [_request(issuer, number) for number in range(statements)]
    prepared = [factory.prepare(request).statement for request in requests]
    with (
        home_lock(settings),
        temporary_signer(settings, obtain_pin(settings), probe, ceremony=False) as path,
    ):
        yield Signer(path, factory, requests, prepared)


def _request(issuer: Issuer, number: int) -> CertificateRequest:
    """A device certificate of the people CA, as an enrolment would have it signed."""
    begin = datetime.now(UTC).replace(microsecond=0)
    name = f"device-{number}"
    return CertificateRequest(
        profile=certificate_profile(_PROFILE),
        serial=secrets.randbits(127) + 1,
        not_before=begin,
        not_after=min(begin + timedelta(days=30), issuer.not_after),
        subject=Subject(name, _DOMAIN),
        key=parse_public_key(SlotKey.generate(_P256).public_key, algorithm(_P256)),
        uris=(device_uri(_DOMAIN, f"user-{number}@bench.example", name),),
    )


class Commits:
    """A ledger of its own that takes what enrolments commit, and nothing else.

    Args:
        directory: To make.
        pattern: What an enrolment leaves.
    """

    def __init__(self, directory: Path, pattern: Pattern) -> None:
        directory.mkdir()
        path = directory / "ledger.db"
        path.touch(mode=0o600)
        url = f"sqlite:///{path}"
        migrate(url, create=True)
        self._ledger = SqlLedger(url)
        self._ledger.open_log(LogId(1), "log.bench.example/1", "log-1", "vkey")
        self._events = EventFactory("log.bench.example/1", SystemIds())
        self._pattern = pattern

    def rate(self, seconds: float, size: int, reserve: int) -> float:
        """Devices a second, `size` in a commit; their reservations are made before, unmeasured.

        Args:
            seconds: How long at most.
            size: Devices in a commit.
            reserve: Devices made ready.
        """
        pending = [make_device(self._pattern, self._events) for _ in range(reserve)]
        self._ledger.reserve([Insert(item.enrolment) for item in pending])
        groups = [pending[at : at + size] for at in range(0, len(pending), size)]
        units = [completing(self._pattern, group) for group in groups]
        done, started = 0, time.perf_counter()
        for unit, group in zip(units, groups, strict=True):
            (placed,) = self._ledger.commit([unit])
            if not isinstance(placed, Placed):
                raise BenchError(f"a commit was refused: {placed}")
            done += len(group)
            if time.perf_counter() - started >= seconds:
                break
        return done / (time.perf_counter() - started)

    def close(self) -> None:
        """Let the store go."""
        self._ledger.close()
