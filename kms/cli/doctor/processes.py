"""Who runs as whom, and what is loaded where (promise P6)."""

import json
import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kms.cli.doctor.findings import Finding, Patient, failed, ok, warning
from kms.processes.accounts import DEFAULT_SIGNER, DEFAULT_WORKER
from kms.settings import Settings

CHECK = "processes"
AS_ROOT = "run as root"


def processes(patient: Patient, proc: Path = Path("/proc")) -> list[Finding]:
    """Worker and signer of a running service; the users they would get where none runs."""
    settings = patient.settings
    if not patient.running:
        return [ok(CHECK, "no service is running"), *users(settings, root=os.geteuid() == 0)]
    worker, signer = (_pid(settings.run_dir / f"{name}.pid") for name in ("worker", "signer"))
    state = _state(settings.run_dir / "state.json")
    if worker is None or signer is None:
        if state:
            return children(state)
        remedy = "see its log lines; if another command is at work, wait for its end"
        return [warning(CHECK, "the home is in use, but worker or signer is not there", remedy)]
    return [
        *children(state),
        mapped(proc / str(worker) / "maps", *(token.module for token in settings.estate.values())),
        separated(proc / str(worker), proc / str(signer), state),
    ]


def users(settings: Settings, *, root: bool) -> list[Finding]:
    """Whether a service that is started as root can give its processes users of their own."""
    if not root:
        return []
    names = (settings.users.worker or DEFAULT_WORKER, settings.users.signer or DEFAULT_SIGNER)
    missing = [name for name in names if not _known(name)]
    if missing:
        remedy = "make them: scripts/users.sh; or name others in [users]"
        return [warning(CHECK, f"there is no user {' and no user '.join(missing)}", remedy)]
    return [ok(CHECK, f"worker and signer get users of their own: {', '.join(names)}")]


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def children(state: Mapping[str, Any]) -> list[Finding]:
    """What the supervisor says of its children."""
    found = []
    for name in ("signer", "worker"):
        child = state.get(name)
        now = child.get("state") if isinstance(child, dict) else "unknown"
        restarts = child.get("restarts", 0) if isinstance(child, dict) else 0
        if now != "running":
            found.append(failed(CHECK, f"the {name} is {now}", "see the service's log lines"))
        elif restarts:
            remedy = "see the service's log lines for why"
            found.append(warning(CHECK, f"the {name} was started again {restarts} times", remedy))
    return found + _tokens(state) or [ok(CHECK, "signer and worker run, neither was started again")]


def _tokens(state: Mapping[str, Any]) -> list[Finding]:
    """What the supervisor says of token processes, where there are any."""
    tokens = state.get("tokens")
    found = []
    for name, said in tokens.items() if isinstance(tokens, dict) else ():
        now, restarts = said.get("state"), said.get("restarts", 0)
        if now != "running":
            remedy = "see the service's log lines; docs/runbooks/token-away.md, pin-refused.md"
            found.append(failed(CHECK, f"the processes of token {name} are {now}", remedy))
        elif restarts:
            remedy = "see the service's log lines for why"
            said_so = f"processes of token {name} were started again {restarts} times"
            found.append(warning(CHECK, said_so, remedy))
    return found


def mapped(maps: Path, *modules: Path) -> Finding:
    """No PKCS#11 module in the worker's memory."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return warning(CHECK, "the worker's memory map cannot be read by this user", AS_ROOT)
    names = {*(module.name for module in modules), "pkcs11", "softhsm"}
    bad = sorted({line.split()[-1] for line in lines if any(name in line for name in names)})
    if bad:
        return failed(
            CHECK,
            f"the worker, which parses requests, has loaded {', '.join(bad)}",
            "stop the service: this is no build of this project, or a defect to report",
        )
    return ok(CHECK, "the worker has loaded no PKCS#11 module")


def separated(worker: Path, signer: Path, state: Mapping[str, Any]) -> Finding:
    """Worker and signer run under users of their own."""
    try:
        uids = _uid(worker), _uid(signer)
    except (OSError, LookupError):
        return warning(CHECK, "worker or signer has just ended", "run `kms doctor` again")
    if uids[0] != uids[1]:
        return ok(CHECK, f"worker and signer run as different users ({uids[0]}, {uids[1]})")
    reason = state.get("not_separated_because") or "the reason is unknown"
    return warning(
        CHECK,
        f"worker and signer run as one user: {reason}",
        "start the service as root with the users that scripts/users.sh makes, so that an"
        " intruder in the worker cannot read the signer's memory",
    )


def _uid(process: Path) -> int:
    """Its user: the owner of the directory is root's where the process is closed to inspection.

    Raises:
        OSError: It has ended.
        LookupError: The kernel says no user.
    """
    for line in (process / "status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise LookupError(f"{process}/status names no user")


def _pid(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def _state(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
