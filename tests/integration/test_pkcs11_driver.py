"""What only a real token can show: PINs, labels, lost sessions, a lying token."""

import os
import pickle
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Mechanism

from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    PinRefusedError,
    TokenFailureError,
    TokenUnavailableError,
)
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11 import Pkcs11Driver, objects, session
from hsm_drivers.pkcs11.mechanisms import lacking
from hsm_drivers.ports import KeyLabel
from hsm_drivers.vendor import spelling_of, standard
from policies.algorithms import algorithm
from tests.support.softhsm import SoftHsm, make_token

CA = KeyLabel("ca")


@pytest.fixture
def driver(softhsm: SoftHsm) -> Iterator[Pkcs11Driver]:
    opened = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    opened.generate(CA, "ECDSA-P256")
    yield opened
    opened.close()


class CountingToken:
    """Stands before a python-pkcs11 token and counts logins."""

    logins = 0

    def __init__(self, token: object) -> None:
        self._token = token

    def __getattr__(self, name: str) -> object:
        if name == "open":
            CountingToken.logins += 1
        return getattr(self._token, name)


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> type[CountingToken]:
    only = session._only
    monkeypatch.setattr(session, "_only", lambda *given: CountingToken(only(*given)))
    CountingToken.logins = 0
    return CountingToken


def token_files(token: SoftHsm) -> Path:
    return token.directory / "tokens"


def test_a_wrong_pin_is_tried_once(softhsm: SoftHsm, logins: type[CountingToken]) -> None:
    with pytest.raises(PinRefusedError, match=r"tried once \[CKR_PIN_INCORRECT\]$") as caught:
        Pkcs11Driver(softhsm.module, softhsm.label, Pin("not-the-pin"))
    assert logins.logins == 1
    assert "not-the-pin" not in f"{caught.value!r} {caught.value.__cause__!r}"
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    driver.close()


def test_a_pin_that_stops_working_is_not_tried_again(
    driver: Pkcs11Driver, softhsm: SoftHsm, logins: type[CountingToken]
) -> None:
    driver._session.raw.set_pin(softhsm.pin.reveal(), "another-pin-now")
    driver._session.raw.close()
    for _ in range(3):
        with pytest.raises(PinRefusedError):
            driver.sign(CA, b"")
    assert logins.logins == 1


def test_a_short_pin_is_refused_with_a_sentence(softhsm: SoftHsm) -> None:
    with pytest.raises(PinRefusedError, match="PIN"):
        Pkcs11Driver(softhsm.module, softhsm.label, Pin("1"))


def test_a_missing_label_names_what_is_there(softhsm: SoftHsm) -> None:
    with pytest.raises(TokenUnavailableError, match=r"no token is labelled 'other'.*'test'"):
        Pkcs11Driver(softhsm.module, "other", softhsm.pin)


def test_two_tokens_of_one_label_are_not_guessed_between(softhsm: SoftHsm, tmp_path: Path) -> None:
    second = make_token(tmp_path / "second")
    for token in token_files(second).iterdir():
        shutil.move(token, token_files(softhsm))
    with pytest.raises(TokenUnavailableError, match="2 tokens are labelled 'test'"):
        Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)


def test_a_module_that_is_none(softhsm: SoftHsm, tmp_path: Path) -> None:
    text = tmp_path / "module.so"
    text.write_text("not a library")
    for module in (tmp_path / "missing.so", text):
        with pytest.raises(TokenFailureError, match="cannot use the PKCS#11 module"):
            Pkcs11Driver(str(module), softhsm.label, softhsm.pin)


def test_one_session_per_module(driver: Pkcs11Driver, softhsm: SoftHsm) -> None:
    with pytest.raises(TokenFailureError, match="already"):
        Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    assert driver.sign(CA, b"")


def test_another_thread_is_kept_out(driver: Pkcs11Driver) -> None:
    caught: list[HsmError] = []

    def intrude() -> None:
        try:
            driver.sign(CA, b"")
        except HsmError as error:
            caught.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert "another thread" in str(caught[0])


def test_a_lost_session_is_reopened(driver: Pkcs11Driver, logins: type[CountingToken]) -> None:
    spki = driver.public_key(CA)
    driver.sign(CA, b"")
    driver._session.raw.close()
    assert driver.sign(CA, b"")
    assert driver.public_key(CA) == spki
    assert logins.logins == 1


def test_a_reset_module_is_reopened(driver: Pkcs11Driver) -> None:
    driver._session._library.reinitialize()
    assert driver.attributes(CA).held()


def test_generation_is_not_repeated_by_itself(driver: Pkcs11Driver) -> None:
    driver._session.raw.close()
    with pytest.raises(TokenUnavailableError):
        driver.generate(KeyLabel("other"), "Ed25519")
    assert list(driver.labels()) == [CA]
    driver.generate(KeyLabel("other"), "Ed25519")


def test_a_token_away_is_unavailable_until_it_is_back(
    driver: Pkcs11Driver, softhsm: SoftHsm
) -> None:
    driver.sign(CA, b"")
    away = softhsm.directory / "away"
    token_files(softhsm).rename(away)
    for _ in range(2):
        with pytest.raises(TokenUnavailableError):
            driver.sign(CA, b"")
        with pytest.raises(TokenUnavailableError):
            driver.generate(KeyLabel("other"), "Ed25519")
        with pytest.raises(TokenUnavailableError):
            driver.random(16)
    away.rename(token_files(softhsm))
    assert driver.sign(CA, b"")


def test_an_emptied_slot_is_unavailable(driver: Pkcs11Driver, softhsm: SoftHsm) -> None:
    away = softhsm.directory / "away"
    token_files(softhsm).rename(away)
    token_files(softhsm).mkdir()
    with pytest.raises(TokenUnavailableError, match="no token is labelled"):
        driver.sign(KeyLabel("never-used"), b"")


def test_a_key_deleted_behind_the_driver_is_not_found(
    driver: Pkcs11Driver, softhsm: SoftHsm
) -> None:
    driver.sign(CA, b"")
    calls = driver._session.calls
    for key in objects.secrets_labelled(calls, CA):
        calls.destroy(key)
    with pytest.raises(KeyNotFoundError, match="'ca'"):
        driver.sign(CA, b"")


def test_two_keys_of_one_label_are_not_guessed_between(driver: Pkcs11Driver) -> None:
    row = algorithm("ECDSA-P256")
    spelling = spelling_of(driver.profile, row)
    assert spelling is not None
    objects.make(driver._session.calls, CA, row, spelling, transferable=False)
    for call in (lambda: driver.sign(CA, b""), lambda: driver.destroy(CA)):
        with pytest.raises(TokenFailureError, match=r"several keys of one label.*'ca'"):
            call()


def test_a_lying_token_keeps_no_key(driver: Pkcs11Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    held = objects.held
    leaky = {pkcs11.Attribute.EXTRACTABLE: True}
    monkeypatch.setattr(objects, "held", lambda **given: {**held(**given), **leaky})
    for name in ("Ed25519", "ECDSA-P256", "X25519", "AES-256-KWP", "AES-256-GCM", "HMAC-SHA-256"):
        with pytest.raises(TokenFailureError, match=r"would let it leave.*destroyed"):
            driver.generate(KeyLabel("leaky"), name)
    assert list(driver.labels()) == [CA]
    everything = list(driver._session.raw.get_objects({pkcs11.Attribute.LABEL: "leaky"}))
    assert everything == []


def test_the_private_key_does_not_come_out(driver: Pkcs11Driver) -> None:
    (private,) = list(
        driver._session.raw.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
    )
    with pytest.raises(pkcs11.AttributeSensitive):
        private[pkcs11.Attribute.VALUE]
    with pytest.raises(pkcs11.AttributeReadOnly):
        private[pkcs11.Attribute.EXTRACTABLE] = True


def test_no_object_stays_behind_a_wrap(driver: Pkcs11Driver) -> None:
    driver.generate(KeyLabel("kek"), "AES-256-KWP")
    before = len(list(driver._session.raw.get_objects({})))
    wrapped = driver.wrap(KeyLabel("kek"), bytes(32))
    driver.unwrap(KeyLabel("kek"), wrapped)
    with pytest.raises(BadCiphertextError):
        driver.unwrap(KeyLabel("kek"), bytes(40))
    assert len(list(driver._session.raw.get_objects({}))) == before


def test_closing_twice_is_fine_and_closed_is_closed(softhsm: SoftHsm) -> None:
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    driver.close()
    driver.close()
    Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin).close()


def test_a_pin_does_not_leak() -> None:
    pin = Pin("very-secret")
    assert "secret" not in f"{pin} {pin!r} {[pin]}"
    with pytest.raises(TypeError):
        pickle.dumps(pin)


def test_the_mechanism_matrix_is_true(softhsm: SoftHsm) -> None:
    listed = subprocess.run(
        ["pkcs11-tool", "--module", softhsm.module, "--list-mechanisms"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    offered = {line.split(",")[0].strip() for line in listed.splitlines()}
    matrix = (Path(__file__).parents[2] / "softhsm" / "MECHANISMS.md").read_text()
    used = matrix.split("## What the driver uses")[1].split("##")[0]
    named = re.findall(r"^\| [^|]+ \| `([^`]+)` \|", used, re.MULTILINE)
    assert len(named) == 12
    assert set(named) <= offered
    assert not [name for name in offered if re.search("ML-|HKDF|SHA3-|mechtype-0x210B", name)]


def test_the_token_script_is_idempotent_and_private(softhsm: SoftHsm) -> None:
    before = softhsm.pin.reveal()
    assert make_token(softhsm.directory).pin.reveal() == before
    passable = {softhsm.directory: 0o011, softhsm.conf: 0o044}
    for path in [softhsm.directory, *softhsm.directory.rglob("*")]:
        assert path.stat().st_mode & 0o077 == passable.get(path, 0), path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["{dir}/new"], 2),
        (["{dir}/new", "bad label"], 2),
        (["{dir}/new", "x" * 33], 2),
        (["{dir}/new", "ok", "/no/such/module.so"], 2),
        (["{dir}/a b", "ok"], 2),
        (["{dir}/full", "ok"], 1),
    ],
)
def test_the_token_script_says_what_is_wrong(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    script = Path(__file__).parents[2] / "softhsm" / "init-token.sh"
    done = subprocess.run(
        [script, *(argument.format(dir=tmp_path) for argument in arguments)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith("init-token: ")


def test_what_a_token_lacks_is_named():
    offered = {Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA, Mechanism.EDDSA}

    def missing(name: str) -> tuple[str, ...]:
        return lacking(name, standard(), offered)

    assert missing("ECDSA-P256") == ()
    assert missing("Ed25519") == ("EC_EDWARDS_KEY_PAIR_GEN",)
    assert missing("X25519") == ("0x1056", "ECDH1_DERIVE")
    assert missing("ML-DSA-65") == ("ML_DSA_KEY_PAIR_GEN", "ML_DSA")
    assert missing("RSA-2048") == ("a driver that knows it",)
    assert missing("Rot13") == ("a driver that knows it",)
