"""One suite for every driver: a token behind PKCS#11, its twin in memory, and one behind a pool."""

import secrets
import subprocess
from collections.abc import Callable

import pytest

from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    TokenFailureError,
    UnsupportedError,
)
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import Driver, KeyLabel
from hsm_drivers.wrapping import MAX_WRAPPED
from policies.algorithms import Kind, Scheme, algorithms
from tests.support.judging import verify
from tests.support.softhsm import SoftHsm

CA = KeyLabel("ca")
KEK = KeyLabel("kek")


def test_many_signatures_are_all_der(driver: Driver) -> None:
    """Short r and s come up once in 256 signatures each."""
    _, spki, _ = driver.generate(CA, "ECDSA-P256")
    for number in range(1000):
        verify(spki, "ECDSA-P256", driver.sign(CA, b"%d" % number), b"%d" % number)


def test_ids_and_keys_are_fresh(driver: Driver) -> None:
    made = [driver.generate(KeyLabel(f"k{number}"), "Ed25519") for number in range(3)]
    assert len({key_id for key_id, _, _ in made}) == 3
    assert len({spki for _, spki, _ in made}) == 3
    assert list(driver.labels()) == ["k0", "k1", "k2"]


def test_a_label_is_taken_once(driver: Driver) -> None:
    _, spki, _ = driver.generate(CA, "ECDSA-P256")
    for name in ("ECDSA-P256", "Ed25519", "AES-256-KWP"):
        with pytest.raises(TokenFailureError, match="'ca' already"):
            driver.generate(CA, name)
    assert driver.public_key(CA) == spki
    assert list(driver.labels()) == [CA]


def test_what_is_not_there_is_said_not_to_be(driver: Driver) -> None:
    calls: list[Callable[[], object]] = [
        lambda: driver.sign(CA, b""),
        lambda: driver.attributes(CA),
        lambda: driver.public_key(CA),
        lambda: driver.wrap(CA, b"8 bytes."),
        lambda: driver.unwrap(CA, bytes(24)),
    ]
    for call in calls:
        with pytest.raises(KeyNotFoundError, match="'ca'"):
            call()
    assert list(driver.labels()) == []


def test_unknown_algorithms_are_unsupported(driver: Driver) -> None:
    for name in ("", "DES", "SHA-256", "RSA-2048", "MLKEM768-X25519"):
        with pytest.raises(UnsupportedError):
            driver.generate(CA, name)
    assert list(driver.labels()) == []


def test_random_bytes(driver: Driver) -> None:
    assert len(driver.random(16)) == 16
    assert len({driver.random(32) for _ in range(100)}) == 100


def test_wrapping_is_undone(driver: Driver) -> None:
    driver.generate(KEK, "AES-256-KWP")
    for size in (8, 16, 32, 64, 2400, MAX_WRAPPED):
        plaintext = secrets.token_bytes(size)
        wrapped = driver.wrap(KEK, plaintext)
        assert len(wrapped) == size + 8
        assert plaintext not in wrapped
        assert driver.unwrap(KEK, wrapped) == plaintext


def test_sizes_that_a_token_would_pad_are_refused(driver: Driver) -> None:
    driver.generate(KEK, "AES-256-KWP")
    for size in (0, 1, 7, 9, 31, 65_544):
        with pytest.raises(UnsupportedError, match=f"{size} bytes"):
            driver.wrap(KEK, bytes(size))


def test_what_was_not_wrapped_here_is_refused(driver: Driver) -> None:
    driver.generate(KEK, "AES-256-KWP")
    driver.generate(KeyLabel("other"), "AES-256-KWP")
    wrapped = driver.wrap(KEK, bytes(32))
    changed = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    bad = [b"", b"x", bytes(24), wrapped[:-8], changed, wrapped + bytes(8)]
    for ciphertext in bad:
        with pytest.raises(BadCiphertextError):
            driver.unwrap(KEK, ciphertext)
    with pytest.raises(BadCiphertextError):
        driver.unwrap(KeyLabel("other"), wrapped)
    assert driver.unwrap(KEK, wrapped) == bytes(32)


def test_every_registry_row_is_made_or_refused(driver: Driver) -> None:
    """Nothing but HsmError comes out, whatever the registry grows."""
    for row in algorithms():
        label = KeyLabel(row.name.lower())
        try:
            driver.generate(label, row.name)
        except HsmError as error:
            assert isinstance(error, UnsupportedError)  # noqa: PT017 - the class is the point
        else:
            assert row.scheme not in (Scheme.RSA_PSS, Scheme.COMPOSITE_KEM, Scheme.AES_KW)
            assert row.kind is not Kind.HASH


def test_pkcs11_tool_agrees_on_the_attributes(softhsm: SoftHsm) -> None:
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    key_id, _, _ = driver.generate(CA, "ECDSA-P256")
    driver.close()
    seen = subprocess.run(
        [
            *("pkcs11-tool", "--module", softhsm.module, "--token-label", softhsm.label),
            *("--login", "--pin", "env:USER_PIN", "--list-objects", "--type", "privkey"),
        ],
        env={"SOFTHSM2_CONF": str(softhsm.conf), "USER_PIN": softhsm.pin.reveal()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "label:      ca" in seen
    assert key_id in seen
    access = next(line for line in seen.splitlines() if "Access:" in line)
    assert set(access.split(":")[1].replace(",", "").split()) == {
        "sensitive",
        "always",
        "never",
        "extractable",
        "local",
    }
    usage = next(line for line in seen.splitlines() if "Usage:" in line)
    assert usage.split(":")[1].split() == ["sign"]
