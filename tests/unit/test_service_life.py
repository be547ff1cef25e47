"""Service keys come to be, lose rights, and go: in the signer, over the software twin."""

import json
import logging
import time
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

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
from hsm_drivers.operations import Decapsulate, Decrypt, Encrypt, NewDataKey, SignMessage
from hsm_drivers.ports import (
    Component,
    HeldComponent,
    KeyLabel,
    KeySpec,
    Operation,
    Purpose,
    Replica,
    Replication,
    Statement,
)
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.service.store import ServiceStore
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from policies.algorithms import Kind, algorithms
from policies.decisions import Protection
from tests.support.service_keys import (
    DELAY,
    START,
    Clock,
    SeveralTokens,
    a_core,
    answers,
    encapsulated,
    label,
    spec,
    use,
)
from tests.support.signer import CA, CA_SPEC, CHECKERS

TOKEN, WRAPPED = Protection.TOKEN, Protection.WRAPPED
HYBRID = spec(3, "MLKEM768-X25519", WRAPPED, TOKEN)
GCM = spec(1, "AES-256-GCM")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def with_ceremony(state: Path, driver: SoftwareDriver) -> None:
    with SignerState(state) as opened:
        SignerCore(SeveralTokens({"": driver}), CHECKERS, opened, ceremony=True).generate(CA_SPEC)


def refusal_of(core: SignerCore, wanted: KeySpec) -> HsmError:
    with pytest.raises(HsmError) as caught:
        core.generate(wanted)
    return caught.value


@pytest.mark.parametrize(
    "wanted",
    [
        spec(1, "AES-256-GCM", operations=(Operation.SIGN,)),
        spec(1, "ECDSA-P256", operations=(Operation.SIGN, Operation.DECRYPT)),
        spec(1, "HMAC-SHA-256", operations=(Operation.MAC, Operation.MAC)),
        spec(1, "SHA-256", operations=(Operation.MAC,)),
        KeySpec(label(1), "ECDSA-P256", (Purpose.CERTIFICATE,), {}, operations=(Operation.SIGN,)),
        KeySpec(label(1), "ECDSA-P256", (), {}, (Purpose.CRL,), operations=(Operation.SIGN,)),
        KeySpec(CA, "ECDSA-P256", (), {}, operations=(Operation.SIGN,)),
        KeySpec(KeyLabel("kek-1"), "AES-256-KWP", (), {}, operations=(Operation.UNWRAP,)),
        KeySpec(KeyLabel("s-1-1"), "ECDSA-P256", (), {}, operations=(Operation.SIGN,)),
        KeySpec(KeyLabel(f"{label(1)}/../x"), "ECDSA-P256", (), {}, operations=(Operation.SIGN,)),
        KeySpec(label(1), "MLKEM768-X25519", (), {}, operations=(Operation.DECAPSULATE,)),
        KeySpec(
            label(1),
            "MLKEM768-X25519",
            (),
            {},
            operations=(Operation.DECAPSULATE,),
            components=(Component("X25519", TOKEN), Component("ML-KEM-768", TOKEN)),
        ),
        spec(1, "MLKEM768-X25519", TOKEN, Protection.SOFTWARE),
    ],
    ids=str,
)
def test_what_is_no_service_key_is_not_made(state: Path, wanted: KeySpec) -> None:
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        refused = refusal_of(core, wanted)
        assert isinstance(refused, StatementRefusedError | UnsupportedError)
        assert not driver.labels()
        assert core.keys() == []


def test_unknown_algorithms_and_tokens_are_refused(state: Path) -> None:
    driver = SoftwareDriver()
    unknown = KeySpec(label(1), "ROT13", (), {}, operations=(Operation.SIGN,))
    with a_core(state, driver) as core:
        for wanted in (unknown, spec(1, "ECDSA-P256", token="else"), spec(1, "ECDH-P256", WRAPPED)):
            assert isinstance(refusal_of(core, wanted), UnsupportedError)
        assert not driver.labels()


def test_no_authority_takes_a_service_keys_label(state: Path) -> None:
    with SignerState(state) as opened:
        core = SignerCore(SeveralTokens({"": SoftwareDriver()}), {}, opened, ceremony=True)
        for name in (label(1), "s-", "kek-ca"):
            with pytest.raises(StatementRefusedError, match="signer's own"):
                core.generate(KeySpec(KeyLabel(name), "AES-256-KWP", (), {}))


def test_records_say_how_each_part_is_held_and_show_no_wrapped_bytes(state: Path) -> None:
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        made = core.generate(HYBRID)
        assert core.keys() == [made]
    assert made.protection is WRAPPED
    module, curve = made.components
    assert (module.protection, module.label, module.attributes) == (
        WRAPPED,
        f"kek-{HYBRID.label}-0",
        None,
    )
    assert curve.protection is TOKEN
    assert curve.attributes is not None
    assert curve.attributes.held()
    assert (module.wrapped, curve.wrapped) == (b"", b"")
    assert made.public_key.endswith(module.public_key + curve.public_key)
    assert set(driver.labels()) == {module.label, curve.label}
    with SignerState(state) as opened:
        kept = opened.service.held(HYBRID.label).record
        assert len(kept.components[0].wrapped) == 72
        assert repr(kept.components[0].wrapped) not in repr(kept)


def test_keys_live_on_in_the_next_process(state: Path) -> None:
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        made = core.generate(HYBRID)
        ciphertext, secret = encapsulated(made)
    with a_core(state, driver) as core:
        assert core.keys() == [made]
        assert answers(use(core, Decapsulate(made.label, ciphertext))) == [(secret,)]


def test_asking_again_answers_the_same_key_and_another_spec_is_refused(state: Path) -> None:
    with a_core(state, SoftwareDriver()) as core:
        made = core.generate(HYBRID)
        assert core.generate(HYBRID) == made
        for other in (
            spec(3, "MLKEM768-X25519", TOKEN, TOKEN),
            spec(3, "MLKEM768-P256", WRAPPED, TOKEN),
        ):
            assert "never used again" in str(refusal_of(core, other))


@given(kind=st.sampled_from([row.name for row in algorithms(Kind.SIGNATURE)[:4]]))
def test_authorities_are_out_of_reach(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    state, driver = tmp_path_factory.mktemp("signer") / "state", SoftwareDriver()
    with_ceremony(state, driver)
    with a_core(state, driver, limits=ServiceLimits(timedelta(0))) as core:
        core.generate(spec(1, kind))
        (outcome,) = use(core, SignMessage(CA, b"x"))
        assert type(outcome) is KeyNotFoundError
        with pytest.raises(KeyNotFoundError):
            core.service.narrow(CA, ())
        with pytest.raises(KeyNotFoundError):
            core.service.schedule_destruction(CA, START)
        with pytest.raises(KeyNotFoundError):
            core.service.destroy(CA)
        assert CA in driver.labels()
        (signed,) = core.sign([Statement(label(1), Purpose.CERTIFICATE, b"x")])
        assert type(signed) is KeyNotFoundError


def test_rights_only_go(state: Path) -> None:
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        core.generate(GCM)
        (sealed,) = answers(use(core, Encrypt(GCM.label, b"x", b"")))[0]
        core.service.narrow(GCM.label, (Operation.DECRYPT,))
        with pytest.raises(StatementRefusedError, match="never grows"):
            core.service.narrow(GCM.label, (Operation.DECRYPT, Operation.ENCRYPT))
    with a_core(state, driver) as core:
        (record,) = core.keys()
        assert record.operations == (Operation.DECRYPT,)
        assert answers(use(core, Decrypt(GCM.label, sealed, b""))) == [(b"x",)]
        for call in (Encrypt(GCM.label, b"x", b""), NewDataKey(GCM.label, 32, b"", True)):
            assert isinstance(use(core, call)[0], StatementRefusedError)


@pytest.mark.parametrize("name", ["HMAC-SHA-256", "AES-256-GCM", "AES-256-KWP", "MLKEM768-X25519"])
@pytest.mark.parametrize("kept", [(), (Operation.MAC, Operation.ENCRYPT, Operation.WRAP)])
def test_what_opens_and_checks_is_not_taken_from_a_key(
    state: Path, name: str, kept: tuple[Operation, ...]
) -> None:
    """Else whoever speaks for the service for a second ends every archive."""
    wanted = spec(1, name)
    with a_core(state, SoftwareDriver()) as core:
        core.generate(wanted)
        left = tuple(item for item in kept if item in wanted.operations)
        with pytest.raises(StatementRefusedError, match="what opens and checks"):
            core.service.narrow(wanted.label, left)
        assert core.keys()[0].operations == wanted.operations


def test_a_signature_key_can_lose_all_it_does(state: Path) -> None:
    wanted = spec(1, "ECDSA-P256")
    with a_core(state, SoftwareDriver()) as core:
        core.generate(wanted)
        core.service.narrow(wanted.label, ())
        assert isinstance(use(core, SignMessage(wanted.label, b"x"))[0], StatementRefusedError)


def test_a_destruction_waits_for_the_signers_clock(state: Path) -> None:
    clock, driver = Clock(), SoftwareDriver()
    with a_core(state, driver, now=clock) as core:
        made = core.generate(HYBRID)
        with pytest.raises(StatementRefusedError, match="not scheduled"):
            core.service.destroy(made.label)
        for early in (START, START + DELAY - timedelta(minutes=6), START.replace(tzinfo=None)):
            with pytest.raises(StatementRefusedError, match="destruction_days"):
                core.service.schedule_destruction(made.label, early)
        core.service.schedule_destruction(made.label, START + DELAY - timedelta(minutes=5))
        core.service.schedule_destruction(made.label, START + DELAY)
        clock.now = START + DELAY - timedelta(seconds=1)
        with pytest.raises(StatementRefusedError, match="not due: 2026-11-29T12:00:00Z"):
            core.service.destroy(made.label)
    with a_core(state, driver, now=clock) as core:
        clock.now = START + DELAY
        assert core.service.destroy(made.label) == ("",)
        assert not driver.labels()


def test_a_destruction_can_be_cancelled(state: Path) -> None:
    clock = Clock()
    with a_core(state, SoftwareDriver(), now=clock) as core:
        made = core.generate(GCM)
        core.service.cancel_destruction(made.label)
        core.service.schedule_destruction(made.label, START + DELAY)
        core.service.cancel_destruction(made.label)
        clock.now = START + 2 * DELAY
        with pytest.raises(StatementRefusedError, match="not scheduled"):
            core.service.destroy(made.label)
        answers(use(core, Encrypt(made.label, b"", b"")))


def test_a_destroyed_key_leaves_its_label_and_nothing_else(state: Path) -> None:
    driver, clock = SoftwareDriver(), Clock()
    with a_core(state, driver, now=clock) as core:
        made = core.generate(HYBRID)
        ciphertext, _ = encapsulated(made)
        core.service.schedule_destruction(made.label, START + DELAY)
        wrapped = json.loads((state / "keys" / f"{made.label}.json").read_text())
        secret = wrapped["record"]["components"][0]["wrapped"]
        clock.now = START + DELAY
        core.service.destroy(made.label)
        assert core.service.destroy(made.label) == ("",)
        assert isinstance(use(core, Decapsulate(made.label, ciphertext))[0], KeyNotFoundError)
        assert core.keys() == []
        assert "never used again" in str(refusal_of(core, HYBRID))
        for change in (
            lambda: core.service.narrow(made.label, ()),
            lambda: core.service.schedule_destruction(made.label, clock.now + DELAY),
        ):
            with pytest.raises(KeyNotFoundError, match="destroyed"):
                change()
    assert len(secret) > 90
    left = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert secret.encode() not in left
    with a_core(state, driver, now=clock) as core:
        assert core.service.destroy(made.label) == ("",)


def test_keys_are_made_only_so_often_and_a_restart_fills_nothing(state: Path) -> None:
    driver, limits = SoftwareDriver(), ServiceLimits(DELAY, keys_per_hour=3)
    with a_core(state, driver, limits=limits) as core:
        for number in (1, 2):
            core.generate(spec(number, "HMAC-SHA-256"))
    with a_core(state, driver, limits=limits) as core:
        core.generate(spec(3, "HMAC-SHA-256"))
        assert core.health().service.keys_left == 0
        assert isinstance(refusal_of(core, spec(4, "HMAC-SHA-256")), RateExceededError)
        assert len(driver.labels()) == 3
    with a_core(state, driver, limits=ServiceLimits(DELAY, keys_per_hour=2)) as core:
        assert isinstance(refusal_of(core, spec(4, "HMAC-SHA-256")), RateExceededError)
    hour = START + timedelta(hours=1)
    with a_core(state, driver, limits=limits, now=lambda: hour) as core:
        assert core.health().service.keys_left == 0, "the hour is over a moment later"
    later = hour + timedelta(seconds=1)
    with a_core(state, driver, limits=limits, now=lambda: later) as core:
        core.generate(spec(4, "HMAC-SHA-256"))


def test_keys_are_made_again_as_time_goes_by(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began)
    with a_core(state, SoftwareDriver(), limits=ServiceLimits(DELAY, keys_per_hour=1)) as core:
        core.generate(spec(1, "HMAC-SHA-256"))
        assert "in 3600 s" in str(refusal_of(core, spec(2, "HMAC-SHA-256")))
        monkeypatch.setattr(time, "monotonic", lambda: began + 3601)
        core.generate(spec(2, "HMAC-SHA-256"))


def test_a_life_is_told_in_the_log(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hsm_drivers.service.keyring")
    clock = Clock()
    with a_core(state, SoftwareDriver(), now=clock) as core:
        core.generate(GCM)
        core.service.narrow(GCM.label, (Operation.DECRYPT,))
        core.service.schedule_destruction(GCM.label, START + DELAY)
        core.service.cancel_destruction(GCM.label)
        core.service.schedule_destruction(GCM.label, START + DELAY)
        clock.now = START + DELAY
        core.service.destroy(GCM.label)
    key = f"service key {GCM.label}"
    assert caplog.messages == [
        f"{key} made: AES-256-GCM, token, on token 'software', for encrypt, decrypt, data-key",
        f"{key} narrowed to: decrypt",
        f"{key} is to be destroyed at 2026-11-29T12:00:00Z",
        f"{key} is not to be destroyed any more",
        f"{key} is to be destroyed at 2026-11-29T12:00:00Z",
        f"{key} is destroyed on 1 tokens",
    ]


def test_a_destroyed_key_has_no_nonces(state: Path) -> None:
    clock = Clock()
    with a_core(state, SoftwareDriver(), now=clock) as core:
        core.generate(GCM)
        answers(use(core, Encrypt(GCM.label, b"", b"")))
        nonces = core.service._use._nonces
        assert not nonces.wants_prefix(GCM.label)
        core.service.schedule_destruction(GCM.label, START + DELAY)
        clock.now = START + DELAY
        core.service.destroy(GCM.label)
        assert nonces.wants_prefix(GCM.label)


class Breaking(SoftwareDriver):
    """Fails at the n-th wish of a kind, and goes away with it if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.generated = 0
        self.fails_at = 0
        self.dies = False

    def generate(self, *args: object, **kwargs: object) -> object:
        made = super().generate(*args, **kwargs)
        self.generated += 1
        if self.generated == self.fails_at:
            error = TokenUnavailableError("the link is down")
            if self.dies:
                self.outage = error
            raise error  # made all the same: the answer was lost
        return made


@pytest.mark.parametrize("at", [1, 2])
def test_a_key_that_is_not_made_whole_is_not_made_at_all(state: Path, at: int) -> None:
    driver = Breaking()
    driver.fails_at = at
    with a_core(state, driver) as core:
        assert isinstance(refusal_of(core, HYBRID), TokenUnavailableError)
        assert not driver.labels()
        assert list(core.keys()) == []
        core.generate(HYBRID)


@pytest.mark.parametrize("at", [1, 2])
def test_what_a_token_that_went_away_has_left_is_removed_later(state: Path, at: int) -> None:
    driver = Breaking()
    driver.fails_at, driver.dies = at, True
    with a_core(state, driver) as core:
        assert isinstance(refusal_of(core, HYBRID), TokenUnavailableError)
        assert core.service.status().unfinished == (HYBRID.label,)
    with a_core(state, driver) as core:
        assert core.service.status().unfinished == (HYBRID.label,), "the token is still away"
    driver.outage = None
    assert driver.labels()
    with a_core(state, driver) as core:
        assert core.service.status().unfinished == ()
        assert not driver.labels()
        core.generate(HYBRID)


def test_asking_again_undoes_what_is_left_first(state: Path) -> None:
    driver = Breaking()
    driver.fails_at, driver.dies = 2, True
    with a_core(state, driver) as core:
        refusal_of(core, HYBRID)
        driver.outage = None
        made = core.generate(HYBRID)
        ciphertext, secret = encapsulated(made)
        assert answers(use(core, Decapsulate(made.label, ciphertext))) == [(secret,)]


def test_a_key_without_a_record_is_left_alone_and_said(state: Path, tmp_path: Path) -> None:
    """A signer's directory put back to an older state: the token's key may be worth something."""
    driver = SoftwareDriver()
    with a_core(tmp_path / "lost", driver) as core:
        core.generate(GCM)
    with a_core(state, driver) as core:
        refused = refusal_of(core, GCM)
        assert isinstance(refused, TokenFailureError)
        assert "older state" in str(refused)
        assert driver.labels() == [GCM.label]
        assert core.service.status().unfinished == ()


def unplugged(_label: KeyLabel) -> None:
    raise TokenUnavailableError("unplugged")


def test_a_destruction_that_was_begun_is_finished_and_the_key_serves_no_more(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, other, clock = SoftwareDriver(), SoftwareDriver("other"), Clock()
    tokens = SeveralTokens({"": main, "b": other})
    with a_core(state, tokens, now=clock) as core:
        made = core.generate(spec(5, "AES-256-GCM", token="b"))
        core.service.schedule_destruction(made.label, START + DELAY)
        clock.now = START + DELAY
        with monkeypatch.context() as patch:
            patch.setattr(other, "destroy", unplugged)
            with pytest.raises(TokenUnavailableError):
                core.service.destroy(made.label)
        assert isinstance(use(core, Encrypt(made.label, b"", b""))[0], KeyNotFoundError)
    with a_core(state, tokens, now=clock) as core:
        assert core.service.destroy(made.label) == ("b",)
        assert not other.labels()


def test_keys_are_made_where_it_was_asked_for(state: Path) -> None:
    main, other = SoftwareDriver(), SoftwareDriver("other")
    with a_core(state, SeveralTokens({"": main, "b": other})) as core:
        made = core.generate(spec(3, "MLKEM768-X25519", WRAPPED, TOKEN, token="b"))
        assert (made.home, made.token, main.labels()) == ("b", "other", [])
        ciphertext, secret = encapsulated(made)
        assert answers(use(core, Decapsulate(made.label, ciphertext))) == [(secret,)]


def test_what_is_wrapped_must_be_the_recorded_key(state: Path) -> None:
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        made = core.generate(spec(1, "ML-KEM-768", WRAPPED))
        other = core.generate(spec(2, "ML-KEM-768", WRAPPED))
    path = state / "keys" / f"{made.label}.json"
    content = json.loads(path.read_text())
    stranger = json.loads((state / "keys" / f"{other.label}.json").read_text())
    foreign = driver.wrap(KeyLabel(f"kek-{made.label}"), bytes(64))
    for wrapped, says in (
        (stranger["record"]["components"][0]["wrapped"], "was not wrapped by"),
        (_base64(foreign), "not the ML-KEM-768 key of its record"),
    ):
        content["record"]["components"][0]["wrapped"] = wrapped
        path.write_text(json.dumps(content))
        with a_core(state, driver) as core:
            (outcome,) = use(core, Decapsulate(made.label, bytes(1088)))
            assert isinstance(outcome, TokenFailureError)
            assert says in str(outcome)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"type":"held"}'])
def test_a_damaged_record_stops_the_signer(state: Path, content: bytes) -> None:
    with a_core(state, SoftwareDriver()) as core:
        core.generate(GCM)
    path = state / "keys" / f"{GCM.label}.json"
    path.write_bytes(content)
    with pytest.raises(TokenFailureError, match=r"restore it"):
        SignerState(state)
    path.unlink()
    (state / "keys" / "else.json").write_bytes(content)
    with pytest.raises(TokenFailureError):
        SignerState(state)


def test_a_record_under_another_name_stops_the_signer(state: Path) -> None:
    with a_core(state, SoftwareDriver()) as core:
        core.generate(GCM)
    (state / "keys" / f"{GCM.label}.json").rename(state / "keys" / f"{label(2)}.json")
    with pytest.raises(TokenFailureError, match="is the record of"):
        ServiceStore(state / "keys")


def test_pages_hold_every_record_once(state: Path) -> None:
    driver = SoftwareDriver()
    with_ceremony(state, driver)
    with a_core(state, driver) as core:
        for number in range(7):
            core.generate(spec(number, "HMAC-SHA-256"))
        for size in (1, 3, 8, 100):
            found, more, last = [], True, KeyLabel("")
            while more:
                page, more = core.keys_after(last, size)
                found += page
                last = page[-1].label
            assert found == core.keys()
        assert core.keys_after(KeyLabel(""), 0) == ([], True)


def test_parts_show_no_wrapped_bytes() -> None:
    part = HeldComponent("ML-KEM-768", WRAPPED, KeyLabel("kek-x"), b"public", b"wrapped")
    assert "b'wrapped'" not in repr(part)


@pytest.mark.parametrize("away", ["", "b"])
def test_a_key_is_destroyed_wherever_it_is(
    state: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    main, other, clock = SoftwareDriver(), SoftwareDriver("other"), Clock()
    tokens = SeveralTokens({"": main, "b": other})
    with SignerState(state) as opened:
        core = SignerCore(tokens, CHECKERS, opened, now=clock)
        made = core.generate(spec(1, "ECDSA-P256"))
        other._keys[made.label] = main._keys[made.label]
        replica = Replica("b", "00", Replication.MAKER, made.attributes, made.created)
        opened.service.put(
            structs.replace(
                opened.service.held(made.label), record=replace(made, replicas=(replica,))
            )
        )
        core.service.schedule_destruction(made.label, START + DELAY)
        clock.now = START + DELAY
        missing, there = (main, other) if away == "" else (other, main)
        missing.outage = TokenUnavailableError("unplugged")
        with pytest.raises(TokenUnavailableError):
            core.service.destroy(made.label)
        assert there.labels() == [made.label], "nothing begins before all have answered"
        missing.outage = None
        with monkeypatch.context() as patch:
            patch.setattr(missing, "destroy", unplugged)
            with pytest.raises(TokenUnavailableError):
                core.service.destroy(made.label)
        assert not there.labels(), "where it can be reached it is gone"
        assert core.keys() == []
        assert missing.labels() == [made.label]
        assert core.service.destroy(made.label) == ("", "b")
        assert not other.labels()
