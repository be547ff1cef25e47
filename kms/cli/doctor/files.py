"""Who may read and write what belongs to the service."""

import stat
from collections.abc import Iterator
from pathlib import Path

from kms.cli.doctor.findings import Finding, Patient, failed, ok, warning
from kms.settings import Settings

CHECK = "files"
OTHERS = 0o077
"""Any right of group and others."""
WRITING = 0o022
"""The right of group and others to write."""


def files(patient: Patient) -> list[Finding]:
    """Secrets are their owner's alone; nothing that is trusted can be written by others."""
    found: list[Finding] = []
    for path, forbidden in _rules(patient.settings):
        finding = _look(path, forbidden)
        if finding is not None:
            found.append(finding)
    return found or [ok(CHECK, "secrets are readable, and settings writable, by their owners only")]


def _rules(settings: Settings) -> Iterator[tuple[Path, int]]:
    """Path and the rights that group and others must not have."""
    yield settings.home, WRITING
    yield settings.path, WRITING
    yield settings.trust_path, WRITING
    for token in settings.estate.values():
        for secret in (token.pin_file, token.directory):
            if secret is not None:
                yield secret, OTHERS
    for directory in (settings.data_dir, settings.tls_dir, settings.signer_state):
        yield directory, OTHERS
        for name in _names(directory):
            yield directory / name, WRITING if name.endswith(".pem") else OTHERS
    for name in _names(settings.clients_dir):
        yield settings.clients_dir / name, OTHERS if name.endswith(".key") else WRITING


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []  # absent, or not for this user: said of the directory itself


def _look(path: Path, forbidden: int) -> Finding | None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except OSError:
        return warning(
            CHECK, f"{path} cannot be looked at by this user", "run as root or its owner"
        )
    if not mode & forbidden:
        return None
    rights = "read" if mode & forbidden & 0o044 else "write"
    said = f"others may {rights} {path} (mode {mode:04o})"
    return failed(CHECK, said, f"chmod {mode & ~forbidden:04o} {path}")
