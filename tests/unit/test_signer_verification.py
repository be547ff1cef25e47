"""A wrong signature does not leave the signer."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_drivers.core import SignerCore
from hsm_drivers.errors import HsmError, TokenFailureError, UnsupportedError
from hsm_drivers.ports import KeyLabel, Purpose, Statement
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from tests.support.signer import (
    CA,
    CA_SPEC,
    CHECKERS,
    LOG,
    LOG_SPEC,
    certificate,
    checkpoint,
    crl,
)

ROOT = KeyLabel("root")
ROOT_SPEC = replace(CA_SPEC, label=ROOT, ceremony_only=(Purpose.CERTIFICATE,))


class FlippingDriver(SoftwareDriver):
    """Flips a bit of the signatures of messages that say so, or of all."""

    always = False

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        signature = super().sign(label, message)
        if not (self.always or b"flip" in message):
            return signature
        middle = len(signature) - 8
        return signature[:middle] + bytes([signature[middle] ^ 1]) + signature[middle + 1 :]


@pytest.fixture
def driver() -> FlippingDriver:
    return FlippingDriver()


@pytest.fixture
def core(driver: FlippingDriver, tmp_path: Path) -> Iterator[SignerCore]:
    with SignerState(tmp_path / "state") as state:
        made = SignerCore(SingleToken(driver), CHECKERS, state, ceremony=True)
        for spec in (CA_SPEC, LOG_SPEC, ROOT_SPEC):
            made.generate(spec)
        yield made


def kinds(outcomes: list[bytes | HsmError]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def many(flipped: int, count: int = 50) -> list[Statement]:
    return [certificate(b"flip %d" % n if n == flipped else b"%d" % n) for n in range(count)]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda text: checkpoint(5, text), LOG),
        (lambda text: crl(b"5 " + text), CA),
        (lambda text: Statement(ROOT, Purpose.CERTIFICATE, text), ROOT),
    ],
    ids=["head", "crl", "ceremony"],
)
def test_what_many_rely_on_is_verified_one_by_one(
    core: SignerCore,
    make: Callable[[bytes], Statement],
    key: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        outcomes = core.sign([make(b"flip"), *many(-1)])
    assert kinds(outcomes) == [TokenFailureError] + [bytes] * 50
    assert f"wrong signature with key '{key}'" in str(outcomes[0])
    assert len(caplog.records) == 1
    assert f"1 of key '{key}'" in core.health().detail


def test_one_certificate_alone_is_verified(core: SignerCore) -> None:
    assert kinds(core.sign([certificate(b"flip")])) == [TokenFailureError]


def test_a_token_that_is_broken_releases_nothing(core: SignerCore, driver: FlippingDriver) -> None:
    driver.always = True
    assert kinds(core.sign(many(-1))) == [TokenFailureError] * 50
    driver.always = False
    assert kinds(core.sign(many(-1))) == [bytes] * 50, "it mends by itself"


def test_of_many_certificates_any_may_be_the_one(
    core: SignerCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Counter[int]()

    def choose(places: list[int]) -> int:
        chosen[len(places)] += 1
        return places[7]

    monkeypatch.setattr("secrets.choice", choose)
    assert kinds(core.sign(many(8))) == [bytes] * 50, "the sample was another"
    assert kinds(core.sign(many(7))) == [bytes] * 7 + [TokenFailureError] + [bytes] * 42
    assert chosen == {50: 2}


def test_a_key_that_was_wrong_once_is_verified_for_good(
    core: SignerCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.choice", lambda places: places[0])
    assert kinds(core.sign([certificate(b"flip")])) == [TokenFailureError]
    for flipped in (3, 30):
        assert kinds(core.sign(many(flipped)))[flipped] is TokenFailureError
    assert f"3 of key '{CA}'" in core.health().detail
    assert core.health().ready


def test_the_same_head_may_be_signed_again(core: SignerCore, driver: FlippingDriver) -> None:
    """What was remembered before a signature that came out wrong does not stand in its way."""
    driver.always = True
    assert kinds(core.sign([checkpoint(5), crl(b"5")])) == [TokenFailureError] * 2
    driver.always = False
    assert kinds(core.sign([checkpoint(5), crl(b"5")])) == [bytes] * 2


@pytest.mark.parametrize("name", ["RSA-3072", "no such thing"])
def test_no_key_is_made_whose_signatures_nobody_here_verifies(core: SignerCore, name: str) -> None:
    with pytest.raises(UnsupportedError, match="not verified"):
        core.generate(replace(CA_SPEC, label=KeyLabel("new"), algorithm=name))
