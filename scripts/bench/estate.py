"""Tokens behind processes: what the pool costs, what more tokens and processes bring, a fail-over.

The signer's own path over the pool is measured as that of one token is (`measures.Signer`); spread
and latency are measured at the pool itself, where nothing else stands in the way.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import Helper, enrolling
from places import MODULE, BenchError, Site, make_site, make_token, running, serve_command
from rows import percentile

from hsm_drivers.calls import SignCall
from hsm_drivers.pool.tokens import PoolOfTokens
from hsm_drivers.ports import KeyLabel
from hsm_drivers.tokens import Job, drained
from kms.config import load, parse
from kms.processes.accounts import Separation
from kms.processes.opening import pool_of
from kms.processes.pin import obtain_pin
from kms.processes.token_processes import TokenProcesses
from kms.settings import Settings

LATENCY_MS = 5
MANY = 16
FAILOVER_RATE = 200.0
FAILOVER_SECONDS = 2.0
"""Most that a fail-over may add to an answer."""
_KEY = KeyLabel("bench")
_JOBS = 512
_LATENT_JOBS = 128
_CONNECTIONS = 64
_START_S = 60.0
_SHIM = Path(__file__).parents[2] / "tests" / "support" / "faulty_pkcs11.c"
_PROFILE = """\
name = "bench"
title = "SoftHSM2, only read, by many processes"
tested = false

[concurrency]
source = "a benchmark that makes no keys meanwhile"
os_locking = false
processes = 0
sessions = 0
"""


@dataclass(frozen=True, slots=True)
class Pooled:
    """A pool over running processes that all hold the key.

    Attributes:
        places: Tokens of its jobs.
        jobs: In a batch.
    """

    pool: PoolOfTokens
    places: tuple[str, ...]
    jobs: int

    def rate(self, seconds: float) -> float:
        """P-256 signatures a second."""
        batch = [Job(self.places, SignCall(_KEY, b"message %d" % n)) for n in range(self.jobs)]
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            outcomes = drained(self.pool.perform(batch))
            if not all(isinstance(outcome, bytes) for outcome in outcomes):
                raise BenchError(f"the pool failed: {outcomes[0]}")
            done += len(outcomes)
        return done / (time.perf_counter() - began)


@contextlib.contextmanager
def pooled(
    directory: Path, tokens: Mapping[str, Mapping[str, Any]], processes: int, jobs: int
) -> Iterator[Pooled]:
    """Processes for these tables of settings; the key is made on the first if it is not there."""
    settings = _settings(directory, tokens)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with _kept(settings):
        pool = pool_of(settings, list)
        try:
            _await(pool, processes)
            if _KEY not in pool.driver("").labels():
                pool.driver("").generate(_KEY, "ECDSA-P256")
            yield Pooled(pool, tuple(tokens), jobs)
        finally:
            pool.close()


def _settings(directory: Path, tokens: Mapping[str, Mapping[str, Any]]) -> Settings:
    further = {name: dict(table) for name, table in tokens.items() if name}
    values = {"name": "log.bench.example", "public_url": "http://127.0.0.1:1"}
    return parse(directory / "kms.toml", {**values, "token": dict(tokens[""]), "tokens": further})


@contextlib.contextmanager
def _kept(settings: Settings) -> Iterator[None]:
    """The supervisor's part, in a thread: starts the processes, and ends them."""
    pins = {name: obtain_pin(settings, token=name) for name in settings.estate}
    over, started = threading.Event(), threading.Event()

    def keep() -> None:
        processes = TokenProcesses(settings, pins, Separation(reason="a benchmark"))
        try:
            processes.start()
            started.set()
            while not over.wait(0.1):
                processes.watch(restart=True)
        finally:
            started.set()
            processes.close()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        started.wait(_START_S)
        yield
    finally:
        over.set()
        thread.join()


def _await(pool: PoolOfTokens, processes: int) -> None:
    deadline = time.monotonic() + _START_S
    while sum(status.processes for status in pool.statuses()) < processes:
        if time.monotonic() > deadline:
            raise BenchError(f"token processes did not start: {pool.statuses()}")
        pool.tend()
        pool.sleep(0.02)


def table(token: Path, **further: Any) -> dict[str, Any]:
    """Settings of a SoftHSM2 token in a directory of `make_token`."""
    environment = {"SOFTHSM2_CONF": str(token / "softhsm2.conf"), **further.pop("environment", {})}
    own = {"module": str(MODULE), "label": "bench", "pin_file": str(token / "pin")}
    return {**own, "environment": environment, **further}


def clone(token: Path, directory: Path) -> Path:
    """The token with its keys once more."""
    shutil.copytree(token, directory)
    conf = directory / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(token), str(directory)))
    return directory


def build_shim(directory: Path) -> Path:
    """The module that passes calls on, and waits before signatures as an HSM in a network does."""
    made = directory / "latent_pkcs11.so"
    command = ["gcc", "-std=c11", "-O2", "-shared", "-fPIC", "-o", made, _SHIM, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{_SHIM.name} cannot be built: {done.stderr}")
    return made


@dataclass(frozen=True, slots=True)
class Measured:
    """The pools that rows are measured on, all there at once, each idle while another works."""

    one: Pooled
    two: Pooled
    latent_one: Pooled
    latent_many: Pooled


@contextlib.contextmanager
def measured(directory: Path) -> Iterator[Measured]:
    """Two tokens with the same key, and one behind an injected latency."""
    directory.mkdir()
    first = make_token(directory / "first", "bench")
    alone = {"": table(first, python=sys.executable)}
    with pooled(directory / "founding", alone, 1, 1):
        pass  # the key is made
    copies = [clone(first, directory / f"clone-{number}") for number in range(4)]
    profile, orders = directory / "bench.toml", directory / "orders"
    profile.write_text(_PROFILE)
    orders.write_text(f"C_Sign delay {LATENCY_MS}")
    slow = {"FAULTY_PKCS11_MODULE": str(MODULE), "FAULTY_PKCS11_ORDERS": str(orders)}
    latent = {"module": str(build_shim(directory)), "profile": str(profile), "environment": slow}
    pair = {"": table(copies[0]), "b": table(copies[1])}
    latent_one = {"": table(copies[2], python=sys.executable, **latent)}
    latent = {**latent, "environment": dict(slow)}
    latent_many = {"": table(copies[3], signers=MANY, **latent)}
    with (
        pooled(directory / "one", alone, 1, _JOBS) as one,
        pooled(directory / "two", pair, 2, _JOBS) as two,
        pooled(directory / "latent-one", latent_one, 1, _LATENT_JOBS) as single,
        pooled(directory / "latent-many", latent_many, MANY, _LATENT_JOBS) as many,
    ):
        yield Measured(one, two, single, many)


def make_pooled_site(directory: Path) -> Site:
    """A site whose only token has a process of its own."""
    site = make_site(directory)
    text, found = re.subn(
        r"(?m)^# python =.*$", f'python = "{sys.executable}"', site.config.read_text()
    )
    if found != 1:
        raise BenchError(f"{site.config} has no token.python")
    site.config.write_text(text)
    return site


def fail_over(directory: Path, seconds: float) -> dict[str, Any]:
    """Single enrolments at a steady rate while the first token goes away, for good.

    The client ends at the first answer that is not the right one, and so does the benchmark.

    Args:
        directory: To make.
        seconds: Of load before the token goes, and after.
    """
    site = make_site(directory)
    _add_clone(site, directory)
    with running(site, serve_command()), enrolling(site) as client:
        calm = _paced(client, seconds)
        pid = int((site.home / "run" / "tokens" / "main-1.pid").read_text())
        gone = threading.Timer(seconds / 2, _take_away, (directory / "token", pid))
        gone.start()
        away = _paced(client, seconds)
        gone.join()
    return {
        "rate": FAILOVER_RATE,
        "bound_s": FAILOVER_SECONDS,
        "enrolments": len(away),
        "calm_most_ms": 1e3 * max(calm),
        "calm_p99_ms": 1e3 * percentile(calm, 0.99),
        "most_ms": 1e3 * max(away),
        "added_ms": 1e3 * (max(away) - percentile(calm, 0.5)),
    }


def _take_away(token: Path, process: int) -> None:
    """The files first: the process that starts anew finds no token."""
    (token / "tokens").rename(token / "away")
    os.kill(process, signal.SIGKILL)


def _paced(client: Helper, seconds: float) -> list[float]:
    """Latencies of both calls, from when they were due, ordered."""
    enrolments = int(FAILOVER_RATE / 2 * seconds)
    client.ask("make", bundle="device-identity", devices=enrolments + 100)
    result = client.ask("paced", seconds=seconds, rate=FAILOVER_RATE / 2, connections=_CONNECTIONS)
    return sorted(result["latencies"])


def _add_clone(site: Site, directory: Path) -> None:
    """A second token that holds every key, and signs the log."""
    second = clone(directory / "token", directory / "second")
    own = load(site.config).token
    site.config.write_text(
        site.config.read_text()
        + f"""
[tokens.second]
label = "{own.label}"
module = "{own.module}"
pin_file = "{second / "pin"}"
environment = {{ SOFTHSM2_CONF = "{second / "softhsm2.conf"}" }}
"""
    )
    officers = ["--officer", "alice", "--officer", "bob", "--yes"]
    for label in ("people-1", "infrastructure-1", "root-1", "log-1"):
        _kms(site, "key", "replicate", label, "--to", "second", *officers)
    _kms(site, "log", "move", "--to", "second", *officers)


def _kms(site: Site, *arguments: str) -> None:
    command = [*serve_command()[:1], *arguments, "--home", site.home]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"kms {' '.join(arguments)} failed: {done.stderr}")
