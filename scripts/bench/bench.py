"""`make bench`: how fast the service is, as ratios to what its token can do at all.

Sets up tokens, homes and a service in a scratch directory, then measures every row in each round,
one after the other, so that what disturbs the machine disturbs all rows alike. No absolute time is
judged. Prints a table, writes JSON.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import measures
import report
from places import MODULE, BenchError, Running, Site, make_site, make_token, running, serve_command

from kms.device import Device, MessagingServer

ROOT = Path(__file__).resolve().parents[2]
RAW_LABEL = "bench-raw"
BATCH = 100
BATCH_CONNECTIONS = 4
SINGLE_CONNECTIONS = 32
_STATEMENTS = 2_000
_FIRST_GUESS = 1_000.0
_SPARE = 1.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of one round.

    Attributes:
        rate: Of what the row counts, a second.
        requests: HTTP requests a second; 0 where there are none.
        cpu: CPU microseconds per counted thing: worker, signer, load client; empty where
            the row has no service.
        p50: Median latency of a request in milliseconds; 0 where there are none.
        p99: As `p50`.
    """

    rate: float
    requests: float = 0.0
    cpu: tuple[float, ...] = ()
    p50: float = 0.0
    p99: float = 0.0


class LoadClient:
    """The load client's process; see `load.py`."""

    def __init__(self, site: Site) -> None:
        script = Path(__file__).with_name("load.py")
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        cert, key = site.client
        self._say(
            {
                "host": "127.0.0.1",
                "port": site.api,
                "cert": str(cert),
                "key": str(key),
                "trust": str(site.trust),
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """One command and its answer.

        Raises:
            BenchError: The client ended; its traceback stands above.
        """
        self._say({"do": do, **values})
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the load client ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _say(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()


class Enrolments:
    """Enrolments of one kind, again and again; learns how many devices a run needs."""

    def __init__(self, client: LoadClient, service: Running, bundle: str, run: str) -> None:
        self._client = client
        self._service = service
        self._bundle = bundle
        self._run = run
        self._rate = _FIRST_GUESS

    def __call__(self, seconds: float) -> Sample:
        """One run; keys are made before it begins."""
        self._client.ask(
            "make", bundle=self._bundle, devices=int(self._rate * seconds * _SPARE) + 4 * BATCH
        )
        if self._run == "batches":
            wanted = {"connections": BATCH_CONNECTIONS, "size": BATCH}
        else:
            wanted = {"connections": SINGLE_CONNECTIONS}
        before = self._service.cpu()
        result = self._client.ask(self._run, seconds=seconds, **wanted)
        after = self._service.cpu()
        self._rate = result["devices"] / result["seconds"]
        used = [after[0] - before[0], after[1] - before[1], result["client_cpu"]]
        latencies = sorted(result["latencies"])
        certificates = result["certificates"]
        return Sample(
            rate=certificates / result["seconds"],
            requests=result["requests"] / result["seconds"],
            cpu=tuple(1e6 * item / certificates for item in used),
            p50=1e3 * latencies[len(latencies) // 2],
            p99=1e3 * latencies[int(len(latencies) * 0.99)],
        )


def rows(
    client: LoadClient,
    service: Running,
    signer: measures.Signer,
    commits: measures.Commits,
    raw: Callable[[float], float],
) -> dict[str, Callable[[float], Sample]]:
    """What is measured, in the order of a round."""
    return {
        report.RAW: lambda seconds: Sample(raw(seconds)),
        report.SIGNER: lambda seconds: Sample(signer.rate(seconds, BATCH)),
        report.BATCH: Enrolments(client, service, "device-identity", "batches"),
        report.BUNDLE: Enrolments(client, service, "device", "batches"),
        report.SINGLE: Enrolments(client, service, "device-identity", "singles"),
        report.COMMITS: lambda seconds: Sample(
            commits.rate(seconds, BATCH, int(8_000 * seconds) + BATCH)
        ),
        report.COMMITS_EACH: lambda seconds: Sample(
            commits.rate(seconds, 1, int(2_500 * seconds) + 1)
        ),
    }


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


def measure(directory: Path, raw_sign: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Everything; answers what goes into the JSON file."""
    note("setting up tokens, homes and a service")
    token = make_token(directory / "raw-token", RAW_LABEL)
    site, signing = make_site(directory / "service"), make_site(directory / "signer")
    commits = measures.Commits(directory / "commits")
    quiet = Quiet()
    with ExitStack() as stack:
        stack.callback(commits.close)
        service = stack.enter_context(running(site, serve_command()))
        people = signing.people
        signer = stack.enter_context(measures.signer(signing, people, _STATEMENTS))
        client = stack.enter_context(LoadClient(site))
        check(site)
        raw = partial(measures.raw_rate, raw_sign, token, RAW_LABEL)
        wanted = rows(client, service, signer, commits, raw)
        samples = _rounds(wanted, rounds, seconds)
    stages = _stages(site, seconds)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rounds": rounds,
        "seconds": seconds,
        "machine": machine() | quiet.shares(),
        "rows": {name: report.summary(name, samples) for name in wanted},
        "samples": [{name: asdict(one) for name, one in each.items()} for each in samples],
        "stages": stages,
    }


def _rounds(
    wanted: dict[str, Callable[[float], Sample]], rounds: int, seconds: float
) -> list[dict[str, Sample]]:
    for name in (report.BATCH, report.BUNDLE, report.SINGLE):
        wanted[name](min(seconds, 0.5))  # caches filled, rates known
    samples = []
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        samples.append({name: run(seconds) for name, run in wanted.items()})
    return samples


def _stages(site: Site, seconds: float) -> dict[str, Any]:
    """A second pass with a clock on the worker's stages."""
    note("stages of the worker")
    command: list[str | Path] = [sys.executable, Path(__file__).with_name("stages.py"), "serve"]
    with running(site, command) as service, LoadClient(site) as client:
        enrol = Enrolments(client, service, "device-identity", "batches")
        enrol(min(seconds, 0.5))
        before = service.stages()
        sample = enrol(seconds)
        after = service.stages()
    return report.stages(before, after, sample.rate)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    softhsm = subprocess.run(
        ["softhsm2-util", "--version"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models),
        "system": _pretty_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "softhsm": softhsm.stdout.strip(),
        "module": str(MODULE),
        "packages": {
            name: version(name)
            for name in ("cryptography", "python-pkcs11", "sqlalchemy", "uvicorn", "msgspec")
        },
    }


def _pretty_name() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")


class Quiet:
    """How much of the machine others took while the benchmark ran."""

    def __init__(self) -> None:
        self._began = self._look()

    def shares(self) -> dict[str, float]:
        """Shares of all CPU time since: of other processes, and what the host withheld."""
        total, busy, stolen, own = (
            now - then for now, then in zip(self._look(), self._began, strict=True)
        )
        return {"others": max(0.0, busy - own) / total, "stolen": stolen / total}

    @staticmethod
    def _look() -> tuple[float, float, float, float]:
        """Seconds in all, busy and stolen (proc(5): stat), and of this process and its children.

        Children count once they have ended, with all of theirs.
        """
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, waiting, irq, softirq, stolen = map(int, fields)
        busy = user + nice + system + irq + softirq
        tick = os.sysconf("SC_CLK_TCK")
        own = sum(os.times()[:4])
        total = busy + idle + waiting + stolen
        return total / tick, busy / tick, stolen / tick, own


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


def main() -> int:
    """Run the benchmark; 0 done, 2 when something is missing for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row of a round")
    parser.add_argument("--output", type=Path, default=ROOT / "var" / "bench.json")
    parser.add_argument("--raw-sign", type=Path, default=ROOT / "var" / "build" / "raw_sign")
    parser.add_argument("--scratch", type=Path, default=ROOT / "var")
    parser.add_argument("--keep", action="store_true", help="leave the scratch directory")
    arguments = parser.parse_args()
    try:
        with scratch(arguments.scratch, keep=arguments.keep) as directory:
            found = measure(directory, arguments.raw_sign, arguments.rounds, arguments.seconds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report.table(found))
    note(f"all of it: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
