"""The machine: clock, disk space, addresses it listens on, lists of compromised keys."""

import shutil
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from kms.cli.doctor.findings import Finding, Patient, failed, ok, warning

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)
"""This program is younger than that, so a clock that shows less is wrong."""
SKEW = timedelta(seconds=5)
LEAST_BYTES = 64 << 20
"""Below this, commits will soon fail."""
COMFORTABLE_BYTES = 1 << 30


def clock(patient: Patient, newest_event: datetime | None) -> Finding:
    """The clock is plausible and does not lag behind what was logged."""
    if patient.now < WRITTEN:
        return failed(
            "clock", f"it shows {patient.now:%Y-%m-%d}, which is past", "set the clock; use NTP"
        )
    if newest_event is not None and patient.now + SKEW < newest_event:
        return failed(
            "clock",
            f"it shows {patient.now:%Y-%m-%d %H:%M:%S}Z, but the newest event is of"
            f" {newest_event:%Y-%m-%d %H:%M:%S}Z",
            "set the clock; use NTP. Until then certificates are made with wrong times",
        )
    return ok("clock", f"{patient.now:%Y-%m-%d %H:%M:%S}Z, not behind the log")


def disk(patient: Patient) -> list[Finding]:
    """Room for ledger and journal."""
    places = {patient.settings.data_dir, patient.settings.signer_state}
    return [_room(path) for path in sorted(places)]


def _room(path: Path) -> Finding:
    there = next((item for item in (path, *path.parents) if item.is_dir()), Path("/"))
    free = shutil.disk_usage(there).free
    megabytes = f"{free >> 20} MiB are free for {path}"
    if free < LEAST_BYTES:
        return failed("disk", megabytes, "make space now: without it nothing can be logged")
    if free < COMFORTABLE_BYTES:
        return warning("disk", megabytes, "make space, or move it to a larger disk")
    return ok("disk", megabytes)


def listeners(patient: Patient) -> list[Finding]:
    """What is open to others on purpose, and what hardly is."""
    operator = patient.settings.listeners.operator
    if not ip_address(operator.host).is_loopback:
        return [
            warning(
                "listeners",
                f"metrics and health are open on {operator}, without authentication",
                "keep listeners.operator on loopback or in the operators' network",
            )
        ]
    return [ok("listeners", f"metrics and health stay on {operator}")]


def weak_keys(patient: Patient) -> Finding:
    """Known-compromised keys can be recognised."""
    from kms.bootstrap import blocklists  # noqa: PLC0415 - remote commands start faster
    from kms.config import ConfigError  # noqa: PLC0415 - beside the above

    directory = patient.settings.weak_keys.blocklist
    if directory is None:
        return warning(
            "weak-keys",
            "no list of compromised keys is configured: keys that are public knowledge pass",
            "fetch the badkeys blocklist elsewhere and name its directory in weak_keys.blocklist",
        )
    try:
        blocklists(patient.settings)
    except ConfigError as error:
        return failed("weak-keys", str(error), "put the list there, or leave the key away")
    return ok("weak-keys", f"compromised keys are looked up in {directory}")
