"""Replicas of keys: what is taken for one, what is not, and who signs."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.calls import SignCall
from hsm_drivers.core import SignerCore
from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.ports import (
    Component,
    KeyLabel,
    KeySpec,
    Purpose,
    Replication,
)
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import Job
from policies.decisions import Protection
from tests.support.estate import call, eventually, running
from tests.support.signer import CA, CA_SPEC, CHECKERS, LOG, LOG_SPEC, certificate, checkpoint
from tests.support.softhsm import make_token, make_trusted
from tests.support.software_pool import Erring, Pooled, pooled, twin

MAKER = Replication.MAKER


class Liar(SoftwareDriver):
    """Has the public halves of another token's keys, and private halves of its own."""

    def __init__(self, honest: SoftwareDriver) -> None:
        super().__init__("liar")
        self._honest = honest

    def public_key(self, label: KeyLabel) -> bytes:
        return self._honest.public_key(label)


@pytest.fixture
def tokens() -> dict[str, Erring]:
    return {"": Erring("first"), "b": Erring("second")}


@pytest.fixture
def estate(tmp_path: Path, tokens: dict[str, Erring]) -> Iterator[Pooled]:
    with pooled(tmp_path, {name: [driver] for name, driver in tokens.items()}) as it:
        eventually(it.pool, lambda: all(status.healthy for status in it.pool.statuses()))
        yield it


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SignerState]:
    with SignerState(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def core(estate: Pooled, state: SignerState) -> SignerCore:
    made = SignerCore(estate.pool, CHECKERS, state, ceremony=True)
    made.generate(CA_SPEC)
    made.generate(LOG_SPEC)
    return made


def test_a_replica_is_recorded_once_it_has_shown_the_key(
    core: SignerCore, tokens: dict[str, Erring], state: SignerState, estate: Pooled
) -> None:
    with pytest.raises(KeyNotFoundError):
        core.replicas.add(CA, "b", MAKER, None)
    tokens["b"]._keys = tokens[""]._keys
    record = core.replicas.add(CA, "b", MAKER, None)
    assert record.places == ("", "b")
    assert core.replicas.add(CA, "b", MAKER, None) == record, "asked again it is the same"
    assert state.record(CA).replicas[0].how is MAKER
    before = tokens[""].made, tokens["b"].made
    outcomes = core.sign([certificate(b"%d" % at) for at in range(8)])
    assert all(isinstance(outcome, bytes) for outcome in outcomes)
    assert tokens[""].made > before[0]
    assert tokens["b"].made > before[1], "certificates spread"


def test_another_key_under_the_label_is_no_replica(
    core: SignerCore, tokens: dict[str, Erring], state: SignerState
) -> None:
    tokens["b"].generate(CA, "ECDSA-P256")
    with pytest.raises(TokenFailureError, match="another key"):
        core.replicas.add(CA, "b", MAKER, None)
    assert state.record(CA).places == ("",)


def test_a_public_half_alone_convinces_nobody(tmp_path: Path, state: SignerState) -> None:
    honest = SoftwareDriver("honest")
    liar = Liar(honest)
    with pooled(tmp_path, {"": [honest], "b": [liar]}) as it:
        eventually(it.pool, lambda: all(status.healthy for status in it.pool.statuses()))
        core = SignerCore(it.pool, CHECKERS, state, ceremony=True)
        core.generate(CA_SPEC)
        liar.generate(CA, "ECDSA-P256")
        with pytest.raises(TokenFailureError, match="another key"):
            core.replicas.add(CA, "b", MAKER, None)


def test_logs_have_one_signer_whoever_holds_their_key(
    core: SignerCore, tokens: dict[str, Erring], state: SignerState, estate: Pooled
) -> None:
    tokens["b"]._keys = tokens[""]._keys
    core.replicas.add(LOG, "b", MAKER, None)
    before = tokens["b"].made
    for size in range(1, 6):
        assert isinstance(core.sign([checkpoint(size)])[0], bytes)
    assert tokens["b"].made == before, "a log's key is never pooled"
    record = core.replicas.move(LOG, "b")
    assert record.places == ("b", "")
    first = tokens[""].made
    assert isinstance(core.sign([checkpoint(6)])[0], bytes)
    assert (tokens[""].made, tokens["b"].made) == (first, before + 1)
    (refused,) = core.sign([checkpoint(5)])
    assert isinstance(refused, StatementRefusedError), "the memory of heads went with it"
    assert core.replicas.move(LOG, "b") == record
    assert core.replicas.move(LOG, "").places == ("", "b")
    estate.served[""][0].end()
    (away,) = core.sign([checkpoint(7)])
    assert isinstance(away, TokenUnavailableError), "nor does it spread by itself"


def test_what_is_not_there_does_not_move(core: SignerCore) -> None:
    with pytest.raises(StatementRefusedError, match="no replica"):
        core.replicas.move(LOG, "b")
    with pytest.raises(UnsupportedError, match="no log's"):
        core.replicas.move(CA, "b")
    with pytest.raises(UnsupportedError, match="'nowhere'"):
        core.replicas.add(CA, "nowhere", MAKER, None)


def test_a_signer_in_service_makes_no_replicas(estate: Pooled, state: SignerState) -> None:
    service = SignerCore(estate.pool, CHECKERS, state)
    for attempt in (
        lambda: service.replicas.add(CA, "b", MAKER, None),
        lambda: service.replicas.move(LOG, "b"),
    ):
        with pytest.raises(UnsupportedError, match="ceremony"):
            attempt()


def test_a_held_key_is_never_transferred(core: SignerCore) -> None:
    with pytest.raises(UnsupportedError, match="never leaves"):
        core.replicas.add(CA, "b", Replication.TRANSFER, KeyLabel("trusted"))
    with pytest.raises(StatementRefusedError, match="trusted"):
        core.replicas.add(CA, "b", Replication.TRANSFER, None)


def test_wrapped_keys_have_no_replicas(core: SignerCore) -> None:
    label = KeyLabel("pq")
    core.generate(
        KeySpec(
            label,
            "ML-DSA-65",
            (Purpose.CERTIFICATE,),
            {Purpose.CERTIFICATE: {}},
            components=(Component("ML-DSA-65", Protection.WRAPPED),),
        )
    )
    with pytest.raises(StatementRefusedError, match="wrapped"):
        core.replicas.add(label, "b", MAKER, None)


def test_health_names_the_token_that_is_away(
    core: SignerCore, tokens: dict[str, Erring], estate: Pooled
) -> None:
    tokens["b"]._keys = tokens[""]._keys
    core.replicas.add(CA, "b", MAKER, None)
    estate.served["b"][0].end()
    eventually(estate.pool, lambda: not core.health().tokens[1].healthy)
    health = core.health()
    assert health.ready, "every key is still to be had"
    assert "token b (second): " in health.detail
    estate.served[""][0].end()
    eventually(estate.pool, lambda: not core.health().ready)
    assert "token main (first): " in core.health().detail


def test_a_key_whose_only_token_is_away_is_not_ready(core: SignerCore, estate: Pooled) -> None:
    estate.served[""][0].end()
    eventually(estate.pool, lambda: not core.health().ready)
    assert core.health().tokens[1].healthy


def outcomes_are_bytes(outcomes: list[bytes | HsmError]) -> bool:
    return all(isinstance(outcome, bytes) for outcome in outcomes)


def test_a_twin_takes_over(core: SignerCore, tokens: dict[str, Erring], estate: Pooled) -> None:
    tokens["b"]._keys = twin(tokens[""], "x")._keys
    core.replicas.add(CA, "b", MAKER, None)
    estate.served[""][0].end()
    eventually(estate.pool, lambda: not core.health().tokens[0].healthy)
    core.replicas.add(LOG, "b", MAKER, None)
    core.replicas.move(LOG, "b")
    assert core.health().ready, "the replica has all keys"
    assert outcomes_are_bytes(core.sign([certificate(b"%d" % at) for at in range(30)]))


def test_a_transferable_key_moves_under_a_trusted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two SoftHSM2 tokens whose security officers put the same wrapping key there."""
    shared = secrets.token_bytes(32)
    tokens = {}
    for name in ("", "b"):
        tokens[name] = make_token(tmp_path / f"token-{name}", f"token{name}")
        monkeypatch.setenv("SOFTHSM2_CONF", str(tokens[name].conf))
        make_trusted(tokens[name], "trusted", shared)
    with (
        running(tmp_path / "home", tokens) as it,
        SignerState(tmp_path / "state") as state,
    ):
        pool = it.pool()
        eventually(pool, lambda: all(status.healthy for status in pool.statuses()))
        core = SignerCore(pool, CHECKERS, state, ceremony=True)
        wish = replace(CA_SPEC, components=(Component("ECDSA-P256", Protection.TRANSFERABLE),))
        assert core.generate(wish).protection is Protection.TRANSFERABLE
        with pytest.raises(HsmError):
            core.replicas.add(CA, "b", Replication.TRANSFER, KeyLabel("no-such-key"))
        assert state.record(CA).places == ("",)
        record = core.replicas.add(CA, "b", Replication.TRANSFER, KeyLabel("trusted"))
        (replica,) = record.replicas
        assert replica.how is Replication.TRANSFER
        assert replica.key_id
        it.records.append(record)
        jobs = [Job(("b",), SignCall(CA, b"there"))]
        (made,) = call(pool, jobs)
        assert isinstance(made, bytes)
        key = load_der_public_key(record.public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(made, b"there", ec.ECDSA(hashes.SHA256()))
        pool.close()
