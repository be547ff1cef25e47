"""The signer's word for its journal: exact, of a log's key, and no statement."""

import hashlib
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.core import SignerCore
from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    RateExceededError,
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.journal import Intent, Journal
from hsm_drivers.ports import KeyLabel, Purpose, Statement
from hsm_drivers.rates import Rates
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from kms.services.checkpoint_checker import check_checkpoint
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.errors import FormatError
from tests.support.signer import CA, CA_SPEC, CHECKERS, LOG, LOG_SPEC, certificate, checkpoint

NOW = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)


def made(state: SignerState, driver: SoftwareDriver, rates: Rates | None = None) -> SignerCore:
    core = SignerCore(
        SingleToken(driver), CHECKERS, state, ceremony=True, now=lambda: NOW, rates=rates
    )
    core.generate(CA_SPEC)
    core.generate(LOG_SPEC)
    return core


def test_a_seal_is_of_what_the_file_holds(tmp_path: Path) -> None:
    with SignerState(tmp_path / "state") as state:
        core = made(state, SoftwareDriver())
        public = load_der_public_key(state.record(LOG).public_key)
        assert isinstance(public, Ed25519PublicKey)
        for more in range(3):
            core.sign([certificate(b"%d" % more), checkpoint(more + 1)])
            seal = core.seal_journal(LOG)
            held = (tmp_path / "state" / "journal").read_bytes()
            digest = hashlib.sha256(held).digest()
            assert (seal.key, seal.entries, seal.sha256) == (LOG, len(held) // 192, digest)
            assert seal.text == (
                b"sovereign-kms/journal/v1\nentries %d\nsha256 %s\ntime 2026-11-22T01:02:03Z\n"
                % (seal.entries, b64encode(digest))
            )
            public.verify(seal.signature, seal.text)
            with pytest.raises(InvalidSignature):
                public.verify(seal.signature, seal.text.replace(b"03Z", b"04Z"))
        assert state.journal.counter == 6, "a seal is no entry"


def test_after_a_restart_it_is_the_same(tmp_path: Path) -> None:
    driver = SoftwareDriver()
    with SignerState(tmp_path / "state") as state:
        core = made(state, driver)
        core.sign([certificate(b"%d" % number) for number in range(10)])
        before = core.seal_journal(LOG)
    with SignerState(tmp_path / "state") as state:
        again = SignerCore(SingleToken(driver), CHECKERS, state, now=lambda: NOW).seal_journal(LOG)
    assert again == before


def test_a_seal_is_no_checkpoint(tmp_path: Path) -> None:
    """The same key signs both; neither may pass for the other."""
    with SignerState(tmp_path / "state") as state:
        core = made(state, SoftwareDriver())
        text = core.seal_journal(LOG).text
        with pytest.raises(FormatError):
            parse_checkpoint(text)
        core = SignerCore(
            SingleToken(SoftwareDriver()),
            {Purpose.CHECKPOINT: check_checkpoint},
            state,
            ceremony=True,
        )
        outcomes = core.sign([Statement(LOG, Purpose.CHECKPOINT, text)])
        assert isinstance(outcomes[0], StatementRefusedError), "no worker has its own seal signed"


@pytest.mark.parametrize(
    ("label", "error"), [(CA, UnsupportedError), (KeyLabel("stranger"), KeyNotFoundError)]
)
def test_other_keys_seal_nothing(tmp_path: Path, label: KeyLabel, error: type[HsmError]) -> None:
    with SignerState(tmp_path / "state") as state:
        core = made(state, SoftwareDriver())
        with pytest.raises(error):
            core.seal_journal(label)


def test_seals_are_counted_like_heads(tmp_path: Path) -> None:
    with SignerState(tmp_path / "state") as state:
        core = made(state, SoftwareDriver(), Rates({Purpose.CHECKPOINT: 2}))
        core.seal_journal(LOG)
        core.seal_journal(LOG)
        with pytest.raises(RateExceededError):
            core.seal_journal(LOG)


def test_a_token_that_is_away_seals_nothing(tmp_path: Path) -> None:
    driver = SoftwareDriver()
    with SignerState(tmp_path / "state") as state:
        core = made(state, driver)
        driver.outage = TokenUnavailableError("the token is away")
        with pytest.raises(TokenUnavailableError):
            core.seal_journal(LOG)


def test_a_journal_cut_under_the_signer_is_noticed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append([Intent(CA, Purpose.CERTIFICATE, bytes(32), "01")] * 4, 1)
    (tmp_path / "journal").write_bytes(bytes(192))
    with pytest.raises(TokenFailureError, match="damaged"):
        journal.digest()
    journal.close()
