"""Transferable keys move between two SoftHSM2 tokens under a trusted key, and in no other way."""

import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    TokenFailureError,
    UnsupportedError,
)
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import KeyLabel
from tests.support.judging import encapsulate, verify
from tests.support.softhsm import SoftHsm, beside, make_token, make_trusted

KEY, OTHER = KeyLabel("key"), KeyLabel("other")
TRUSTED, STRANGE = KeyLabel("trusted"), KeyLabel("strange")


@dataclass(frozen=True, slots=True)
class Exported:
    """A key as it left its token."""

    wrapped: bytes
    public_key: bytes


@pytest.fixture
def tokens(softhsm: SoftHsm, tmp_path: Path) -> tuple[SoftHsm, SoftHsm]:
    """Two that hold the same trusted key, and each another one of its own."""
    second = beside(softhsm, make_token(tmp_path / "second", "second"))
    shared = secrets.token_bytes(32)
    for token in (softhsm, second):
        make_trusted(token, TRUSTED, shared)
        make_trusted(token, STRANGE, secrets.token_bytes(32))
    return softhsm, second


def opened(token: SoftHsm) -> Pkcs11Driver:
    return Pkcs11Driver(token.module, token.label, token.pin)


def exported(token: SoftHsm, *names: str, under: KeyLabel = TRUSTED) -> dict[str, Exported]:
    """A transferable key of each algorithm, made on the token."""
    made = {}
    with contextlib.closing(opened(token)) as driver:
        for name in names:
            _, spki, attributes = driver.generate(KeyLabel(name.lower()), name, transferable=True)
            assert attributes.transferable()
            made[name] = Exported(driver.export_key(KeyLabel(name.lower()), under), spki)
    return made


def test_a_key_that_arrives_is_the_key_that_left(tokens: tuple[SoftHsm, SoftHsm]) -> None:
    names = ("ECDSA-P256", "ECDSA-P384", "ECDSA-P521", "ECDH-P256", "ECDH-P384")
    keys = exported(tokens[0], *names)
    driver = opened(tokens[1])
    for name, key in keys.items():
        label = KeyLabel(name.lower())
        key_id, attributes = driver.import_key(label, name, TRUSTED, key.wrapped, key.public_key)
        assert attributes.transferable()
        assert driver.attributes(label) == attributes
        assert driver.public_key(label) == key.public_key
        assert len(bytes.fromhex(key_id)) == 16
        if name.startswith("ECDSA"):
            verify(key.public_key, name, driver.sign(label, b"message"), b"message")
        else:
            sent, secret = encapsulate(key.public_key)
            assert driver.decapsulate(label, sent) == secret
    again = driver.export_key(KeyLabel("ecdsa-p256"), TRUSTED)
    driver.close()
    assert again == keys["ECDSA-P256"].wrapped


def test_secret_keys_arrive_too(tokens: tuple[SoftHsm, SoftHsm]) -> None:
    driver = opened(tokens[0])
    driver.generate(KEY, "AES-256-GCM", transferable=True)
    sealed = driver.encrypt(KEY, bytes(12), b"text", b"")
    wrapped = driver.export_key(KEY, TRUSTED)
    driver.close()
    driver = opened(tokens[1])
    driver.import_key(KEY, "AES-256-GCM", TRUSTED, wrapped, b"")
    assert driver.decrypt(KEY, bytes(12), sealed, b"") == b"text"
    driver.close()


def test_what_this_token_does_not_move_is_said(tokens: tuple[SoftHsm, SoftHsm]) -> None:
    """SoftHSM2 wraps no Ed25519 keys, and forgets the size of the secrets that it unwraps."""
    with pytest.raises(UnsupportedError, match="does not wrap"):
        exported(tokens[0], "Ed25519")
    keys = exported(tokens[1], "HMAC-SHA-256")
    driver = opened(tokens[0])
    with pytest.raises(TokenFailureError, match="destroyed"):
        driver.import_key(KEY, "HMAC-SHA-256", TRUSTED, keys["HMAC-SHA-256"].wrapped, b"")
    driver.close()


def test_keys_leave_under_trusted_keys_alone(tokens: tuple[SoftHsm, SoftHsm]) -> None:
    driver = opened(tokens[0])
    driver.generate(KeyLabel("kek"), "AES-256-KWP")
    driver.generate(KEY, "ECDSA-P256", transferable=True)
    driver.generate(OTHER, "ECDSA-P256")
    for key, under, said in (
        (KEY, KeyLabel("kek"), "trusted wrapping key only"),
        (KEY, OTHER, "trusted wrapping key only"),
        (OTHER, TRUSTED, "made to stay"),
        (TRUSTED, TRUSTED, "made to stay"),
    ):
        with pytest.raises(UnsupportedError, match=said):
            driver.export_key(key, under)
    with pytest.raises(UnsupportedError, match="trusted wrapping key only"):
        driver.import_key(KeyLabel("new"), "AES-256-GCM", KeyLabel("kek"), bytes(40), b"")
    for key, under in ((KeyLabel("none"), TRUSTED), (KEY, KeyLabel("none"))):
        with pytest.raises(KeyNotFoundError, match="none"):
            driver.export_key(key, under)
    driver.close()


def test_what_is_not_the_key_does_not_stay(tokens: tuple[SoftHsm, SoftHsm]) -> None:
    names = ("ECDSA-P256", "ECDH-P256", "AES-256-GCM")
    keys = exported(tokens[0], *names)
    good, other, secret = (keys[name] for name in names)
    driver = opened(tokens[1])
    driver.generate(OTHER, "Ed25519")
    before = len(driver._session.calls.find({}))
    flipped = good.wrapped[:-1] + bytes([good.wrapped[-1] ^ 1])
    wrong: list[tuple[type[HsmError], str, KeyLabel, bytes, bytes]] = [
        (BadCiphertextError, "ECDSA-P256", TRUSTED, flipped, good.public_key),
        (BadCiphertextError, "ECDSA-P256", TRUSTED, good.wrapped[:-8], good.public_key),
        (BadCiphertextError, "ECDSA-P256", STRANGE, good.wrapped, good.public_key),
        (TokenFailureError, "ECDSA-P256", TRUSTED, good.wrapped, other.public_key),
        (TokenFailureError, "ECDH-P256", TRUSTED, good.wrapped, other.public_key),
        (TokenFailureError, "ECDSA-P384", TRUSTED, good.wrapped, good.public_key),
        (TokenFailureError, "ECDSA-P256", TRUSTED, good.wrapped, b""),
        (TokenFailureError, "AES-256-GCM", TRUSTED, good.wrapped, b""),
        (HsmError, "ECDSA-P256", TRUSTED, secret.wrapped, good.public_key),
        (UnsupportedError, "ECDSA-P256", OTHER, good.wrapped, good.public_key),
        (UnsupportedError, "RSA-2048", TRUSTED, good.wrapped, good.public_key),
    ]
    for kind, name, under, wrapped, public_key in wrong:
        with pytest.raises(kind):
            driver.import_key(KEY, name, under, wrapped, public_key)
        assert len(driver._session.calls.find({})) == before
    with pytest.raises(TokenFailureError, match="already"):
        driver.import_key(OTHER, "ECDSA-P256", TRUSTED, good.wrapped, good.public_key)
    driver.import_key(KEY, "ECDSA-P256", TRUSTED, good.wrapped, good.public_key)
    driver.close()
