"""What is measured beside the service: raw signing, a signer through its socket, the ledger."""

import asyncio
import hashlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from places import MODULE, BenchError, Site

from hsm_drivers.client import SignerClient
from hsm_drivers.ports import KeyLabel, Statement
from kms.bootstrap import probe
from kms.config import load
from kms.device import SlotKey
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Enrolment,
    EnrolmentId,
    EnrolmentStatus,
    Fingerprint,
    Idempotent,
    LogId,
    Serial,
    Standing,
    TenantId,
    User,
    UserId,
)
from kms.processes.home import home_lock
from kms.processes.pin import obtain_pin
from kms.processes.signer_process import temporary_signer
from kms.services.events import EventFactory
from kms.services.ports import EventDraft, Insert, Placed, Replace, Unit
from kms.services.system import SystemIds
from kms.storage.migrate import migrate
from kms.storage.sql import SqlLedger
from kms.wire import Committed, EnrolmentPurpose, EventType, LeafCertificate, b64
from pki.certificates import CertificateFactory, CertificateRequest, Issuer
from pki.keys import parse_public_key
from pki.names import Subject, device_uri
from pki.profiles import certificate_profile
from policies.algorithms import algorithm

_DOMAIN = "id.ministry.example"
_P256 = "ECDSA-P256"
_PROFILE = "device-identity"


def raw_rate(program: Path, token: Path, label: str, seconds: float) -> float:
    """P-256 signatures a second that the token makes for a C program."""
    done = subprocess.run(
        [program, MODULE, label, token / "pin", str(seconds)],
        env=os.environ | {"SOFTHSM2_CONF": str(token / "softhsm2.conf")},
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
    statements: Sequence[Statement]

    def rate(self, seconds: float, batch: int) -> float:
        """Statements a second through the socket, checked and journalled."""
        return asyncio.run(self._rate(seconds, batch))

    async def _rate(self, seconds: float, batch: int) -> float:
        client = SignerClient(self.socket)
        try:
            await client.keys()  # connected
            signed, started = 0, time.perf_counter()
            while (now := time.perf_counter()) - started < seconds:
                first = signed % len(self.statements)
                outcomes = await client.sign(self.statements[first : first + batch])
                if not all(isinstance(item, bytes) for item in outcomes):
                    raise BenchError("the signer refused a statement")
                signed += len(outcomes)
            return signed / (now - started)
        finally:
            await client.aclose()


@contextmanager
def signer(site: Site, people: bytes, statements: int) -> Iterator[Signer]:
    """The site's signer without its service; what it signs here, no ledger ever holds."""
    settings = load(site.config)
    wanted = _statements(people, statements)
    with (
        home_lock(settings),
        temporary_signer(settings, obtain_pin(settings), probe, ceremony=False) as path,
    ):
        yield Signer(path, wanted)


def _statements(people: bytes, count: int) -> list[Statement]:
    """Device certificates of the people CA, as an enrolment would have them signed."""
    issuer = Issuer("people", 1, KeyLabel("people-1"), algorithm(_P256), people)
    factory = CertificateFactory(issuer, "http://127.0.0.1:8080")
    begin = datetime.now(UTC).replace(microsecond=0)
    end = min(begin + timedelta(days=30), issuer.not_after)
    statements = []
    for number in range(count):
        name = f"device-{number}"
        request = CertificateRequest(
            profile=certificate_profile(_PROFILE),
            serial=secrets.randbits(127) + 1,
            not_before=begin,
            not_after=end,
            subject=Subject(name, _DOMAIN),
            key=parse_public_key(SlotKey.generate(_P256).public_key, algorithm(_P256)),
            uris=(device_uri(_DOMAIN, f"user-{number}@bench.example", name),),
        )
        statements.append(factory.prepare(request).statement)
    return statements


class Commits:
    """A ledger of its own that takes what enrolments commit, and nothing else."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        path = directory / "ledger.db"
        path.touch(mode=0o600)
        url = f"sqlite:///{path}"
        migrate(url, create=True)
        self._ledger = SqlLedger(url)
        self._ledger.open_log(LogId(1), "log.bench.example/1", "log-1", "vkey")
        self._events = EventFactory("log.bench.example/1", SystemIds())

    def rate(self, seconds: float, size: int, reserve: int) -> float:
        """Devices a second, `size` in a commit; their reservations are made before, unmeasured.

        Args:
            seconds: How long at most.
            size: Devices in a commit.
            reserve: Devices made ready.
        """
        pending = [_enrolment() for _ in range(reserve)]
        self._ledger.reserve([Insert(item) for item in pending])
        groups = [pending[at : at + size] for at in range(0, len(pending), size)]
        units = [Unit(*self._certified(group)) for group in groups]
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

    def _certified(
        self, group: Sequence[Enrolment]
    ) -> tuple[tuple[Insert | Replace, ...], tuple[EventDraft, ...], Idempotent]:
        """What certifying these devices writes (`kms.services.enrolment_changes`)."""
        changes: list[Insert | Replace] = []
        events = [self._event(item) for item in group]
        for item, event in zip(group, events, strict=True):
            user = User(item.tenant, item.user, Standing.ACTIVE, event.event)
            device = Device(
                item.tenant, item.device, item.user, item.bundle, Standing.ACTIVE, event.event
            )
            completed = _with_status(item, EnrolmentStatus.COMPLETED)
            print_ = Fingerprint(item.tenant, secrets.token_hex(32), f"{item.device}/x", "ecdsa")
            changes += [
                Insert(user),
                Insert(device),
                Replace(completed, expected=item),
                Insert(_certificate(item, event)),
                Insert(print_),
            ]
        return tuple(changes), tuple(events), _answer(len(group))

    def _event(self, item: Enrolment) -> EventDraft:
        values = {
            Committed.ACTOR: "messenger",
            Committed.USER: item.user,
            Committed.DEVICE: item.device,
        }
        named = LeafCertificate("people", "00" * 16, _PROFILE, "identity", "00" * 32)
        return self._events.draft(
            EventType.DEVICE_ENROLLED,
            item.expires,
            item.tenant,
            values,
            certificates=[named],
            policy={"hash": "00" * 32, "rules": {"identity": "ecdsa"}},
            detail={"bundle": item.bundle},
        )


def _enrolment() -> Enrolment:
    name = secrets.token_hex(8)
    slot = {
        "name": "identity",
        "algorithm": _P256,
        "spki": b64(bytes(91)),
        "fingerprints": ["00" * 32],
        "profile": _PROFILE,
        "serial": "00" * 16,
        "not_before": "2026-01-01T00:00:00Z",
        "not_after": "2026-12-31T00:00:00Z",
        "rule": "ecdsa",
        "sealed": None,
        "mac_sha256": None,
    }
    return Enrolment(
        tenant=TenantId("ministry"),
        enrolment=EnrolmentId(secrets.token_hex(16)),
        principal="messenger",
        user=UserId(f"user-{name}@bench.example"),
        device=DeviceId(f"device-{name}"),
        bundle=_PROFILE,
        purpose=EnrolmentPurpose.ENROL,
        transcript=secrets.token_bytes(800),
        slots=(slot,),
        expires=datetime.now(UTC).replace(microsecond=0),
        status=EnrolmentStatus.PENDING,
    )


def _with_status(item: Enrolment, status: EnrolmentStatus) -> Enrolment:
    values = {name: getattr(item, name) for name in Enrolment.__slots__}
    return Enrolment(**values | {"status": status})


def _certificate(item: Enrolment, event: EventDraft) -> Certificate:
    der = secrets.token_bytes(600)
    return Certificate(
        tenant=item.tenant,
        authority="people",
        serial=Serial(secrets.token_hex(16)),
        generation=1,
        profile=_PROFILE,
        profile_version=1,
        algorithm=_P256,
        user=item.user,
        device=item.device,
        slot="identity",
        principal=None,
        der=der,
        sha256=hashlib.sha256(der).hexdigest(),
        tbs_sha256=secrets.token_hex(32),
        not_before=item.expires,
        not_after=item.expires + timedelta(days=30),
        status=CertificateStatus.GOOD,
        event=event.event,
        policy="00" * 32,
        rule="ecdsa",
    )


def _answer(devices: int) -> Idempotent:
    """A stored answer is about 2.6 KB a device."""
    return Idempotent(
        tenant=TenantId("ministry"),
        principal="messenger",
        route="POST /v1/enrolments:batch-proofs",
        idempotency_key=secrets.token_hex(16),
        body_sha256=secrets.token_hex(32),
        log=LogId(0),
        first_index=0,
        events=0,
        size=0,
        answer=bytes(2600 * devices),
        created=datetime.now(UTC).replace(microsecond=0),
    )
