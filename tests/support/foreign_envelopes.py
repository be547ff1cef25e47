"""OpenSSL and BouncyCastle of today, unpacked beside the system's (scripts/tools/envelopes.sh)."""

import fcntl
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.documents import ROOT

DIRECTORY = ROOT / "var" / "tools" / "envelopes"
_PROGRAM = ROOT / "tests" / "support" / "java" / "Envelopes.java"
_SECONDS = 100


@dataclass(frozen=True, slots=True)
class ForeignSoftware:
    """Both; each opens and seals files."""

    openssl: Path
    jars: tuple[Path, ...]

    def openssl_opens(self, private: Path, certificate: Path, sealed: Path, out: Path) -> None:
        """Keys and certificate in PEM."""
        to = ("-recip", certificate, "-inkey", private)
        self._openssl("-decrypt", "-inform", "DER", "-in", sealed, "-out", out, *to)

    def openssl_seals(self, certificate: Path, plaintext: Path, out: Path) -> None:
        """The certificate in PEM."""
        arguments = ("-encrypt", "-aes-256-gcm", "-in", plaintext, "-outform", "DER", "-out", out)
        self._openssl(*arguments, certificate)

    def java(self, *jobs: tuple[str, Path, Path, Path]) -> None:
        """Jobs of `Envelopes.java`, all in one process, for it takes seconds to start."""
        java = shutil.which("java")
        if java is None:
            pytest.skip("there is no Java to run BouncyCastle with")
        path = ":".join(map(str, self.jars))
        done = [",".join(map(str, job)) for job in jobs]
        _run([java, "-cp", path, str(_PROGRAM), *done])

    def _openssl(self, *arguments: str | Path) -> None:
        _run([str(self.openssl), "cms", "-binary", *map(str, arguments)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr


def unpacked() -> ForeignSoftware:
    """The software, fetched once; a test is skipped where its packages cannot be had."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script = ROOT / "scripts" / "tools" / "envelopes.sh"
        done = subprocess.run(
            [script, DIRECTORY], check=False, capture_output=True, text=True, timeout=_SECONDS
        )
    if done.returncode:
        pytest.skip(f"no foreign software to open envelopes with: {done.stderr.strip()}")
    return ForeignSoftware(DIRECTORY / "openssl", tuple(sorted(DIRECTORY.glob("java/*.jar"))))
