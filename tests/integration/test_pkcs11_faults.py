"""Tokens that are not the one meant, are full, or fail half-way: typed errors, and no lost key."""

import contextlib
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pkcs11
import pytest

from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.pkcs11.cryptoki import Cryptoki
from hsm_drivers.ports import KeyLabel
from hsm_drivers.vendor import Remedy, load, remedy_of, shipped
from tests.support.faulty_token import FaultyModule, build
from tests.support.judging import verify
from tests.support.softhsm import SoftHsm, beside, make_token

CA, OTHER = KeyLabel("ca"), KeyLabel("other")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def module(
    compiled: Path, softhsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FaultyModule:
    made = FaultyModule(compiled, tmp_path / "orders")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def driver(module: FaultyModule, softhsm: SoftHsm) -> Iterator[Pkcs11Driver]:
    opened = Pkcs11Driver(str(module.path), softhsm.label, softhsm.pin)
    yield opened
    opened.close()


def serial_of(token: SoftHsm) -> str:
    driver = Pkcs11Driver(token.module, token.label, token.pin)
    driver.close()
    return driver.serial


def test_the_serial_number_is_read_and_can_be_pinned(softhsm: SoftHsm) -> None:
    serial = serial_of(softhsm)
    assert len(serial) == 16
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin, serial=serial)
    driver.generate(CA, "ECDSA-P256")
    driver.close()


def test_another_token_behind_the_right_label_is_refused(softhsm: SoftHsm) -> None:
    """And the PIN is not shown to it."""
    found = serial_of(softhsm)
    with pytest.raises(TokenUnavailableError, match=f"{found}, not 0123456789abcdef"):
        Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin, serial="0123456789abcdef")


def test_a_token_that_was_exchanged_while_open_is_refused(softhsm: SoftHsm, tmp_path: Path) -> None:
    serial = serial_of(softhsm)
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin, serial=serial)
    spki = driver.generate(CA, "ECDSA-P256")[1]
    other = make_token(tmp_path / "other", softhsm.label)
    tokens, away = softhsm.directory / "tokens", softhsm.directory / "away"
    tokens.rename(away)
    shutil.copytree(other.directory / "tokens", tokens)
    with pytest.raises(TokenUnavailableError, match=f"not {serial}"):
        driver.sign(CA, b"")
    shutil.rmtree(tokens)
    away.rename(tokens)
    verify(spki, "ECDSA-P256", driver.sign(CA, b"message"), b"message")
    driver.close()


def test_the_serial_number_tells_duplicated_labels_apart(softhsm: SoftHsm, tmp_path: Path) -> None:
    serial = serial_of(softhsm)
    beside(softhsm, make_token(tmp_path / "second", softhsm.label))
    with pytest.raises(TokenUnavailableError, match="2 tokens are labelled"):
        Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin, serial=serial)
    assert driver.serial == serial
    driver.close()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow: the system's answer is EFBIG, as ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_token_keeps_what_it_has(softhsm: SoftHsm) -> None:
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    spki = driver.generate(CA, "ECDSA-P256")[1]
    for name in ("ECDSA-P256", "X25519", "AES-256-GCM"):
        with full_disk(), pytest.raises(HsmError):
            driver.generate(OTHER, name)
        assert list(driver.labels()) == [CA]
    verify(spki, "ECDSA-P256", driver.sign(CA, b"message"), b"message")
    driver.generate(OTHER, "ECDSA-P256")
    driver.close()


def test_a_token_that_says_it_is_full_is_told_so(
    driver: Pkcs11Driver, module: FaultyModule
) -> None:
    driver.generate(CA, "ECDSA-P256")
    with module.failing("C_GenerateKeyPair fail 31"):
        with pytest.raises(TokenFailureError, match=r"full.*\[CKR_DEVICE_MEMORY\]$") as caught:
            driver.generate(OTHER, "ECDSA-P256")
        assert driver.sign(CA, b"")
    assert remedy_of(driver.profile, caught.value) is Remedy.NONE


def test_what_a_failed_attempt_left_is_removed(
    driver: Pkcs11Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that stores a pair and then answers an error leaves no second key behind."""
    generate_pair = Cryptoki.generate_pair

    def half_done(*given: object) -> tuple[int, int]:
        generate_pair(*given)
        raise pkcs11.FunctionFailed

    driver.generate(CA, "ECDSA-P256")
    before = len(driver._session.calls.find({}))
    monkeypatch.setattr(Cryptoki, "generate_pair", half_done)
    with pytest.raises(TokenFailureError):
        driver.generate(OTHER, "ECDSA-P256")
    assert len(driver._session.calls.find({})) == before
    assert list(driver.labels()) == [CA]


def test_undocumented_codes_are_told_and_leave_the_session(
    driver: Pkcs11Driver, module: FaultyModule
) -> None:
    driver.generate(CA, "ECDSA-P256")
    raw = driver._session.raw
    with (
        module.failing("C_SignInit fail 80001234"),
        pytest.raises(TokenFailureError, match=r"\[0x80001234\]$") as caught,
    ):
        driver.sign(CA, b"")
    assert remedy_of(driver.profile, caught.value) is Remedy.RETRY
    assert driver._session.raw is raw
    assert driver.sign(CA, b"")


WATCHED = (
    *("C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login", "C_GetAttributeValue"),
    *("C_FindObjectsInit", "C_SignInit", "C_Sign", "C_GenerateKeyPair", "C_GenerateRandom"),
)


@pytest.mark.parametrize("code", ["5", "30", "12", "80001234"])
def test_nothing_but_our_errors_comes_out_and_the_key_is_well_after(
    driver: Pkcs11Driver, module: FaultyModule, code: str
) -> None:
    """Whatever function of the module answers whatever code, once, to whatever call."""
    spki = driver.generate(CA, "ECDSA-P256")[1]
    calls: tuple[Callable[[], object], ...] = (
        lambda: driver.sign(CA, b"message"),
        lambda: driver.attributes(CA),
        lambda: driver.public_key(CA),
        driver.labels,
        lambda: driver.random(32),
        lambda: driver.generate(OTHER, "ECDSA-P256"),
        lambda: driver.destroy(OTHER),
    )
    for function in WATCHED:
        for call in calls:
            with module.failing(f"{function} fail {code} 1"), contextlib.suppress(HsmError):
                call()
    if OTHER in driver.labels():
        driver.destroy(OTHER)
    assert driver.public_key(CA) == spki
    verify(spki, "ECDSA-P256", driver.sign(CA, b"message"), b"message")
    assert len(driver._session.calls.find({})) == 2


def test_a_profile_says_which_codes_reopen(module: FaultyModule, softhsm: SoftHsm) -> None:
    """The same code, with and without the profile that knows it."""
    text = (
        'name = "own"\ntitle = "SoftHSM2 that answers in a code of its own"\ntested = false\n'
        '[remedies]\nsource = "this test"\nreopen = ["0x80001234"]\n'
    )
    driver = Pkcs11Driver(str(module.path), softhsm.label, softhsm.pin, profile=load(text.encode()))
    driver.generate(CA, "ECDSA-P256")
    raw = driver._session.raw
    with module.failing("C_SignInit fail 80001234 1"):
        assert driver.sign(CA, b"")
    assert driver._session.raw is not raw
    driver.close()


def test_a_key_is_destroyed_though_the_session_breaks(
    driver: Pkcs11Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step fails once: asked again by the driver itself or by its caller, the key goes."""
    destroy = Cryptoki.destroy
    for step in range(2):
        driver.generate(CA, "ECDSA-P256")
        before = driver.generate(OTHER, "ECDSA-P256")[1]
        calls = iter(range(100))

        def failing(token: Cryptoki, handle: int, at: int = step, count: object = calls) -> None:
            if next(count) == at:  # type: ignore[call-overload] # an iterator of int
                raise pkcs11.DeviceError
            destroy(token, handle)

        monkeypatch.setattr(Cryptoki, "destroy", failing)
        driver.destroy(CA)
        monkeypatch.setattr(Cryptoki, "destroy", destroy)
        with pytest.raises(KeyNotFoundError):
            driver.destroy(CA)
        assert driver.public_key(OTHER) == before
        assert len(driver._session.calls.find({})) == 2
        driver.destroy(OTHER)


def test_a_token_that_keeps_what_it_destroyed_is_found_out(
    driver: Pkcs11Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.generate(CA, "ECDSA-P256")
    monkeypatch.setattr(Cryptoki, "destroy", lambda *_: None)
    with pytest.raises(TokenFailureError, match="keeps"):
        driver.destroy(CA)


def test_a_profile_for_another_token_makes_no_wrong_keys(softhsm: SoftHsm) -> None:
    """Spelled as NSS wants it SoftHSM2 wraps nothing; what it does not offer is refused unasked."""
    profile = shipped("nss-softoken")
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin, profile=profile)
    makes: Callable[[str], object] = lambda name: driver.generate(CA, name)  # noqa: E731 - short
    for name in ("AES-256-KWP", "X25519"):
        assert driver.lacking(name)
        with pytest.raises(UnsupportedError, match="it lacks"):
            makes(name)
    driver.close()
