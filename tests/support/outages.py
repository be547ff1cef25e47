"""What tests of a running service in bad surroundings have in common."""

import json
import os
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
    before, hard = _prlimit(
        pid, f"--{resource}", "--noheadings", "--raw", "--output", "SOFT,HARD"
    ).split()
    _prlimit(pid, f"--{resource}={soft}:{hard}")
    try:
        yield
    finally:
        _prlimit(pid, f"--{resource}={before}:{hard}")


def _prlimit(pid: int, *arguments: str) -> str:
    """As the user that the process runs as: not every root may set limits of others."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    user, group = (
        int(line.split()[1]) for name in ("Uid:", "Gid:") for line in lines if line.startswith(name)
    )
    return subprocess.run(
        ["prlimit", "--pid", str(pid), *arguments],
        capture_output=True,
        text=True,
        check=True,
        user=user if user != os.geteuid() else None,
        group=group if user != os.geteuid() else None,
        extra_groups=[] if user != os.geteuid() else None,
    ).stdout


def no_descriptors_left(pid: int) -> Any:
    """No file or socket can be opened while the context lasts."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    return limited(pid, "nofile", free)


def no_room_left(pid: int) -> Any:
    """Nothing can be written to a file while the context lasts: a full disk, for one process."""
    return limited(pid, "fsize", 0)
