"""`make bench`: how fast the service is, as ratios to what could be had without it.

Sets up tokens, homes, services and whatever they are compared with in a scratch directory, then
measures every row in each round, one after the other, so that what disturbs the machine disturbs
all rows alike. No absolute time is judged. Prints tables, writes JSON and plots.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import crowded
import estate
import foreign
import measures
import reading
import report
import rows
import scale
import service_keys
from enrolled import learn
from enrolments import Enrolments, by_load, by_size
from helpers import HERE, Helper, enrolling, plain
from machine import Quiet, machine
from places import BenchError, Running, Site, make_site, make_token, running, serve_command
from rows import BATCH_SIZE, Sample

from kms.config import load
from kms.device import Device, MessagingServer
from kms.storage.sql import SqlLedger

ROOT = Path(__file__).resolve().parents[2]
RAW_LABEL = "bench-raw"
DJANGO_CA = ROOT / "var" / "build" / "django-ca" / "bin" / "python"
_STATEMENTS = 2_000
_WARM = 0.5
_TUNE = 0.3
_LEAST_LOAD = 2.0
"""Seconds of a load that a CRL is made beside."""
Measurement = Callable[[float], Sample]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Of all rows.
        seconds: For each row of a round.
        sweep: For each point of a plot; 0 leaves the plots out.
        devices: In the ledger of the scale measurements; 0 leaves them out.
        django_ca: Whether django-ca is measured.
    """

    rounds: int
    seconds: float
    sweep: float
    devices: int
    django_ca: bool


MODES = {
    "short": Plan(rounds=3, seconds=0.5, sweep=0.7, devices=5_000, django_ca=False),
    "middle": Plan(rounds=5, seconds=1.5, sweep=3.0, devices=100_000, django_ca=False),
    "long": Plan(rounds=7, seconds=3.0, sweep=15.0, devices=1_000_000, django_ca=True),
}
"""Every day in two minutes, before a merge, for the record."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A running service with its client, and all that is measured on or beside it."""

    site: Site
    service: Running
    client: Helper
    wanted: dict[str, Measurement]
    missing: dict[str, str]


@contextmanager
def setting(directory: Path, raw_sign: Path, plan: Plan) -> Iterator[Setting]:
    """Everything but the scale measurements, set up and checked."""
    site = make_site(directory / "service")
    with ExitStack() as stack:
        service = stack.enter_context(running(site, serve_command()))
        client = stack.enter_context(enrolling(site))
        check(site)
        enrol(client, 3 * BATCH_SIZE)
        raw_token = make_token(directory / "raw-token", RAW_LABEL)
        wanted = {
            rows.RAW: raw(raw_sign, raw_token),
            **signing(stack, directory / "signer", raw_sign, raw_token),
            **pools(stack, directory),
            rows.BATCH: Enrolments(client, "device-identity", service, batch=BATCH_SIZE),
            rows.BUNDLE: Enrolments(client, "device", service, batch=BATCH_SIZE),
            rows.SINGLE: Enrolments(client, "device-identity", service),
            **beside(stack, site, client, directory),
            **crowded_tokens(directory),
            **committing(stack, site, directory / "commits"),
        }
        others, missing = competitors(stack, directory, plan)
        yield Setting(site, service, client, wanted | others, missing)


def raw(program: Path, token: Path, *what: str) -> Measurement:
    """The C program on a token of its own."""
    return lambda seconds: Sample(measures.raw_rate(program, token, RAW_LABEL, seconds, *what))


def signing(
    stack: ExitStack, directory: Path, program: Path, token: Path
) -> dict[str, Measurement]:
    """A signer without a service, and the C program beside its service keys."""
    site = make_site(directory)
    signer = stack.enter_context(measures.signer(site, site.people, _STATEMENTS))
    macs, sealed, opened = service_keys.batches(signer.socket, BATCH_SIZE)
    parts = service_keys.components(program, token, RAW_LABEL)
    size = str(service_keys.MESSAGE_SIZE)
    return {
        rows.SIGNER: lambda seconds: Sample(signer.rate(seconds, BATCH_SIZE)),
        rows.BUILD: lambda seconds: Sample(signer.build_rate(seconds, BATCH_SIZE)),
        rows.MACS_RAW: raw(program, token, "hmac", size),
        rows.MACS: lambda seconds: Sample(macs(seconds)),
        rows.SEALED_RAW: raw(program, token, "gcm", size),
        rows.SEALED: lambda seconds: Sample(sealed(seconds)),
        rows.OPENED_RAW: lambda seconds: Sample(parts(seconds)),
        rows.OPENED: lambda seconds: Sample(opened(seconds)),
    }


def pools(stack: ExitStack, directory: Path) -> dict[str, Measurement]:
    """A signer over a token process, and pools of several."""
    site = estate.make_pooled_site(directory / "pooled-signer")
    signer = stack.enter_context(measures.signer(site, site.people, _STATEMENTS))
    found = stack.enter_context(estate.measured(directory / "pools"))
    rated = {
        rows.POOL_ONE: found.one,
        rows.POOL_TWO: found.two,
        rows.LATENT_ONE: found.latent_one,
        rows.LATENT_MANY: found.latent_many,
    }

    def run(pool: estate.Pooled, seconds: float) -> Sample:
        return Sample(pool.rate(seconds))

    return {
        rows.POOL: lambda seconds: Sample(signer.rate(seconds, BATCH_SIZE)),
        **{name: partial(run, pool) for name, pool in rated.items()},
    }


def beside(stack: ExitStack, site: Site, client: Helper, directory: Path) -> dict[str, Measurement]:
    """The echo, static files, and the service that commits each call by itself."""
    recorded = client.ask("sample")
    echo = stack.enter_context(reading.echo(site, directory / "echo", recorded))
    echoed = stack.enter_context(enrolling(site, echo.api))
    each = make_site(directory / "each")
    slow = stack.enter_context(running(each, variant("commit-each")))
    slowly = stack.enter_context(enrolling(each))
    getter = stack.enter_context(plain())
    return {
        rows.ECHO: Enrolments(echoed, "device-identity"),
        rows.EACH: Enrolments(slowly, "device-identity", slow),
        **reading.reads(getter, site, echo),
    }


def crowded_tokens(directory: Path) -> dict[str, Measurement]:
    """Tokens with few objects and with many."""
    sizes = {rows.FEW: rows.FEW_OBJECTS, rows.MANY: rows.MANY_OBJECTS}
    tokens = {
        name: crowded.make_crowded(directory / f"token-of-{size}", size)
        for name, size in sizes.items()
    }

    def run(token: Path, seconds: float) -> Sample:
        return Sample(crowded.crowded_rate(token, seconds))

    return {name: partial(run, token) for name, token in tokens.items()}


def committing(stack: ExitStack, site: Site, directory: Path) -> dict[str, Measurement]:
    """A ledger without a service."""
    ledger = SqlLedger(load(site.config).database_url)
    try:
        commits = measures.Commits(directory, learn(ledger))
    finally:
        ledger.close()
    stack.callback(commits.close)
    return {
        rows.COMMITS: lambda seconds: Sample(
            commits.rate(seconds, BATCH_SIZE, int(8_000 * seconds) + BATCH_SIZE)
        ),
        rows.COMMITS_EACH: lambda seconds: Sample(
            commits.rate(seconds, 1, int(2_500 * seconds) + 1)
        ),
    }


def competitors(
    stack: ExitStack, directory: Path, plan: Plan
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Other authorities: what can be measured, and why the rest cannot."""
    wanted: dict[str, Measurement] = {}
    missing: dict[str, str] = {}
    cfssl = stack.enter_context(foreign.cfssl(directory / "cfssl"))
    if isinstance(cfssl, str):
        missing[rows.CFSSL] = cfssl
    else:
        cfssl.tune(_TUNE)
        wanted[rows.CFSSL] = lambda seconds: Sample(cfssl.rate(seconds))
    python = DJANGO_CA if plan.django_ca else None
    django_ca = stack.enter_context(foreign.django_ca(directory / "django-ca", python))
    if isinstance(django_ca, str):
        missing |= dict.fromkeys((rows.DJANGO, rows.DJANGO_HELD), django_ca)
    else:
        for name, held in ((rows.DJANGO, False), (rows.DJANGO_HELD, True)):
            wanted[name] = partial(_django, django_ca, held)
    return wanted, missing


def _django(authority: foreign.DjangoCa, held: bool, seconds: float) -> Sample:  # noqa: FBT001 - bound by name above
    return Sample(authority.rate(seconds, held=held))


def variant(name: str) -> list[str | Path]:
    """The command of a service that differs in one thing; see `variant.py`."""
    return [sys.executable, HERE / "variant.py", name, "serve"]


def enrol(client: Helper, devices: int) -> None:
    """Enrol so many, in batches: what the read path shows and records are learned from."""
    client.ask("make", bundle="device-identity", devices=devices)
    client.ask("batches", seconds=60.0, connections=1, size=BATCH_SIZE)


def check(site: Site) -> None:
    """A few devices enrolled as real ones would be, everything verified.

    Raises:
        BenchError: Something about an answer is wrong, so no rate would mean anything.
    """
    cert, key = site.client
    url = f"https://127.0.0.1:{site.api}"
    slots = {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"}
    devices = [
        Device(f"check-{n}@bench.example", f"check-{n}", slots, site.expectations) for n in range(8)
    ]
    with MessagingServer(url, cert, key, site.trust) as server:
        for outcome in server.enrol_many(devices):
            if isinstance(outcome, Exception):
                raise BenchError(f"an enrolment did not verify: {outcome}")


def measure(directory: Path, raw_sign: Path, plan: Plan) -> dict[str, Any]:
    """Everything; answers what goes into the JSON file."""
    quiet, began = Quiet(), time.monotonic()
    note("setting up tokens, homes and services")
    with setting(directory, raw_sign, plan) as at:
        samples = rounds(at.wanted, plan)
        summaries = report.rows(samples)
        sweeps = swept(at.client, summaries[rows.SINGLE]["rate"] / 2, plan)
    note("stages of the worker")
    stages = staged(at.site, plan.seconds)
    note("fail-over of signing keys to another token")
    failed_over = estate.fail_over(directory / "fail-over", max(_LEAST_LOAD, 4 * plan.seconds))
    grown = scaled(directory / "scale", plan)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "plan": asdict(plan),
        "machine": machine() | quiet.shares(),
        "took_seconds": time.monotonic() - began,
        "ratios": report.ratios(samples, at.missing),
        "rows": summaries,
        "samples": [{name: asdict(one) for name, one in each.items()} for each in samples],
        **sweeps,
        "stages": stages,
        "fail_over": failed_over,
        "scale": grown,
    }


def rounds(wanted: dict[str, Measurement], plan: Plan) -> list[dict[str, Sample]]:
    """Every row in every round."""
    for run in wanted.values():
        if isinstance(run, Enrolments):
            run(min(plan.seconds, _WARM))  # caches filled, rates known
    samples = []
    for number in range(plan.rounds):
        note(f"round {number + 1} of {plan.rounds}")
        samples.append({name: run(plan.seconds) for name, run in wanted.items()})
    return samples


def swept(client: Helper, most: float, plan: Plan) -> dict[str, Any]:
    """What the plots show."""
    if not plan.sweep:
        return {"by_load": [], "by_size": []}
    note("latency against load, rate against batch size")
    return {
        "by_load": by_load(client, most, plan.sweep),
        "by_size": by_size(client, min(plan.sweep, plan.seconds)),
    }


def staged(site: Site, seconds: float) -> dict[str, Any]:
    """A second pass with a clock on the worker's stages."""
    with running(site, variant("stages")) as service, enrolling(site) as client:
        run = Enrolments(client, "device-identity", service, batch=BATCH_SIZE)
        run(min(seconds, _WARM))
        before = service.stages()
        sample = run(seconds)
        after = service.stages()
    return report.stages(before, after, sample.rate)


def scaled(directory: Path, plan: Plan) -> dict[str, Any] | None:
    """The service over a large ledger."""
    if not plan.devices:
        return None
    return scale.measure(directory, plan.devices, max(_LEAST_LOAD, 4 * plan.seconds), note)


@contextmanager
def scratch(parent: Path, *, keep: bool) -> Iterator[Path]:
    """A fresh directory on the disk of the project, removed afterwards."""
    directory = parent / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        if not keep:
            shutil.rmtree(directory)


def note(text: str) -> None:
    """Progress, beside the result."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, default="short")
    parser.add_argument("--rounds", type=int, help="instead of the mode's")
    parser.add_argument("--seconds", type=float, help="for each row of a round")
    parser.add_argument("--sweep", type=float, help="for each point of a plot; 0: no plots")
    parser.add_argument("--devices", type=int, help="in the large ledger; 0: no large ledger")
    parser.add_argument("--output", type=Path, default=ROOT / "var" / "bench.json")
    parser.add_argument("--raw-sign", type=Path, default=ROOT / "var" / "build" / "raw_sign")
    parser.add_argument("--scratch", type=Path, default=ROOT / "var")
    parser.add_argument("--keep", action="store_true", help="leave the scratch directory")
    return parser.parse_args()


def planned(given: argparse.Namespace) -> Plan:
    """The mode's plan with what the command line changes."""
    names = ("rounds", "seconds", "sweep", "devices")
    changed = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return replace(MODES[given.mode], **changed)


def main() -> int:
    """Run the benchmark; 0 done, 2 when something is missing for it."""
    given = arguments()
    try:
        with scratch(given.scratch, keep=given.keep) as directory:
            found = measure(directory, given.raw_sign, planned(given))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report.tables(found))
    note(f"all of it: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
