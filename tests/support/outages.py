"""What tests of a running service in bad surroundings have in common."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.calling import Answer, Client
from tests.support.running import Home, Service


def check_retryable(answer: Answer) -> None:
    """Success, or an honest `try the same again`."""
    if answer.status not in (200, 201):
        assert answer.status == 503, answer.body
        assert answer.problem in {"signer-unavailable", "log-unavailable"}, answer.body
        assert answer.retry == "same"
        assert int(answer.headers["retry-after"]) >= 1


def begin(home: Home, client: Client) -> tuple[str, dict[str, Any]]:
    """An enrolment that only waits for its proofs: path and body of the second call."""
    name = secrets.token_hex(6)
    device = home.device(f"user-{name}", name)
    answer = client.post("/v1/enrolments", device.request("device-identity")).document
    return f"/v1/enrolments/{answer['enrolment']}/proofs", device.prove(answer)


def checks(service: Service) -> dict[str, Any]:
    """What `/readyz` says, by the name of the check; nothing while nobody listens."""
    try:
        page = service.operator("/readyz")[1]
    except OSError:
        return {}
    return {check["name"]: check for check in json.loads(page)["checks"]}


@contextmanager
def limited(pid: int, resource: str, soft: int) -> Iterator[None]:
    """Set a soft limit of a running process (prlimit(1)) while the context lasts."""
    target = ["prlimit", "--pid", str(pid)]
    shown = subprocess.run(
        [*target, f"--{resource}", "--noheadings", "--raw", "--output", "SOFT,HARD"],
        capture_output=True,
        text=True,
        check=True,
    )
    before, hard = shown.stdout.split()
    subprocess.run([*target, f"--{resource}={soft}:{hard}"], check=True)
    try:
        yield
    finally:
        subprocess.run([*target, f"--{resource}={before}:{hard}"], check=True)


def no_descriptors_left(pid: int) -> Any:
    """No file or socket can be opened while the context lasts."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    return limited(pid, "nofile", free)


def no_room_left(pid: int) -> Any:
    """Nothing can be written to a file while the context lasts: a full disk, for one process."""
    return limited(pid, "fsize", 0)
