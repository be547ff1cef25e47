"""Fixtures for every suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import nss as nss_softoken
from tests.support import signer
from tests.support.nss import Nss
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


@pytest.fixture(scope="session")
def empty_nss(tmp_path_factory: pytest.TempPathFactory) -> Nss:
    """A token that `nss` copies."""
    if why := nss_softoken.missing():
        pytest.skip(why)
    return nss_softoken.make_nss(tmp_path_factory.mktemp("nss") / "token")


@pytest.fixture
def nss(empty_nss: Nss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nss:
    """A fresh post-quantum token, and NSS_LIB_PARAMS pointing to it, as with `softhsm`."""
    token = nss_softoken.copied(empty_nss, tmp_path / "nss-token")
    nss_softoken.preload()
    monkeypatch.setenv("NSS_LIB_PARAMS", token.environment["NSS_LIB_PARAMS"])
    return token


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A post-quantum token that was not there must not pass unnoticed."""
    why = nss_softoken.missing()
    if not why:
        return
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if why in str(getattr(report, "longrepr", ""))
    ]
    if skipped:
        terminalreporter.section("no post-quantum token", yellow=True)
        terminalreporter.write_line(f"{why}: {len(skipped)} tests of it were skipped")


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
