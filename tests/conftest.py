"""Fixtures for every suite."""

from pathlib import Path

import pytest

from tests.support.softhsm import SoftHsm, make_token


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """A fresh token, and SOFTHSM2_CONF pointing to it for this process and its children.

    SoftHSM2 reads SOFTHSM2_CONF when it is initialised, once for the whole process: a driver opened
    here must be closed here, which finalises the module for the next test.
    """
    token = make_token(tmp_path / "token")
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.conf))
    return token
