"""Fixtures for every suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import signer
from tests.support.softhsm import SoftHsm, make_token

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """A fresh token, and SOFTHSM2_CONF pointing to it for this process and its children.

    SoftHSM2 reads SOFTHSM2_CONF when it is initialised, once for the whole process: a driver opened
    here must be closed here, which finalises the module for the next test.
    """
    token = make_token(tmp_path / "token")
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.conf))
    return token


@pytest.fixture
def start_signer(softhsm: SoftHsm, tmp_path: Path) -> Iterator[signer.Start]:
    """Starts signers on one directory and token; none outlives the test."""
    started: list[signer.SignerProcess] = []

    def start(
        *,
        ceremony: bool = True,
        uids: tuple[int, ...] | None = None,
        pin: str | None = None,
        slow: float = 0,
    ) -> signer.SignerProcess:
        directory = tmp_path / "signer"
        process = signer.start(directory, softhsm, ceremony=ceremony, uids=uids, pin=pin, slow=slow)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()
