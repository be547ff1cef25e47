"""Calls past python-pkcs11: the same signatures, the same errors, the same session."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, Mechanism, ObjectClass

from hsm_drivers import der
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.pkcs11.cryptoki import Cryptoki, mechanism
from hsm_drivers.pkcs11.returns import ERRORS
from hsm_drivers.ports import KeyLabel
from tests.support.faulty_token import FaultyModule, build
from tests.support.softhsm import SoftHsm

CA = KeyLabel("ca")
DIGEST = hashlib.sha256(b"message").digest()


@pytest.fixture(scope="session")
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


def made(driver: Pkcs11Driver, name: str) -> tuple[Any, ec.EllipticCurvePublicKey]:
    """A new key: python-pkcs11's object of it, and its public half."""
    _, spki, _ = driver.generate(CA, name)
    public = load_der_public_key(spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    (key,) = driver._session.raw.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
    return key, public


def direct_signer(driver: Pkcs11Driver, key: Any, size: int = 64) -> Any:
    return driver._session.calls.signer(mechanism(Mechanism.ECDSA), key.handle, size)


@pytest.mark.parametrize("name", ["ECDSA-P256", "ECDSA-P384", "ECDSA-P521"])
def test_signatures_are_of_the_right_size_and_verify(driver: Pkcs11Driver, name: str) -> None:
    key, public = made(driver, name)
    size = 2 * ((public.curve.key_size + 7) // 8)
    sign = direct_signer(driver, key, size)
    for _ in range(20):
        raw = sign(DIGEST)
        assert len(raw) == size
        how = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        public.verify(der.ecdsa_signature(raw), DIGEST, how)


def test_both_ways_may_alternate(driver: Pkcs11Driver) -> None:
    key, _ = made(driver, "ECDSA-P256")
    sign = direct_signer(driver, key)
    for _ in range(5):
        assert len(sign(DIGEST)) == len(key.sign(DIGEST, mechanism=Mechanism.ECDSA)) == 64


def raised(operation: Any) -> pkcs11.PKCS11Error:
    with pytest.raises(pkcs11.PKCS11Error) as caught:
        operation()
    return caught.value


def test_errors_are_those_that_the_binding_raises(
    driver: Pkcs11Driver, module: FaultyModule
) -> None:
    key, _ = made(driver, "ECDSA-P256")
    sign = direct_signer(driver, key)
    for code in ERRORS:
        with module.failing(f"C_SignInit fail {code:x}"):
            expected = raised(lambda: key.sign(DIGEST, mechanism=Mechanism.ECDSA))
            assert type(raised(lambda: sign(DIGEST))) is type(expected), f"{code:#x}"
    assert sign(DIGEST)


def test_an_unknown_code_is_told_as_it_is(driver: Pkcs11Driver, module: FaultyModule) -> None:
    key, _ = made(driver, "ECDSA-P256")
    sign = direct_signer(driver, key)
    with module.failing("C_SignInit fail 80001234"):
        expected = raised(lambda: key.sign(DIGEST, mechanism=Mechanism.ECDSA))
        found = raised(lambda: sign(DIGEST))
    assert type(found) is type(expected) is pkcs11.PKCS11Error
    assert str(found) == str(expected)


def test_an_error_of_the_second_call_is_raised_too(
    driver: Pkcs11Driver, module: FaultyModule
) -> None:
    key, _ = made(driver, "ECDSA-P256")
    sign = direct_signer(driver, key)
    with module.failing("C_Sign fail 32"):
        assert type(raised(lambda: sign(DIGEST))) is pkcs11.DeviceRemoved


def test_a_module_that_is_none() -> None:
    with pytest.raises(OSError, match="missing"):
        Cryptoki("/missing.so", 1)
