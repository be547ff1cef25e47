"""The software twin's KEMs: what a sender encapsulates comes out, and nothing else does."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hsm_drivers.errors import BadCiphertextError, TokenUnavailableError, UnsupportedError
from hsm_drivers.ports import KeyLabel
from hsm_drivers.software import SoftwareDriver
from policies.algorithms import algorithm

KEM = KeyLabel("kem")
NAMES = ["ML-KEM-768", "ML-KEM-1024", "X25519", "ECDH-P256", "ECDH-P384"]


def encapsulate(spki: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and shared secret."""
    public = load_der_public_key(spki)
    if isinstance(public, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
        secret, ciphertext = public.encapsulate()
        return ciphertext, secret
    if isinstance(public, x25519.X25519PublicKey):
        ephemeral = x25519.X25519PrivateKey.generate()
        return ephemeral.public_key().public_bytes_raw(), ephemeral.exchange(public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    sender = ec.generate_private_key(public.curve)
    point = sender.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point, sender.exchange(ec.ECDH(), public)


@pytest.fixture
def driver() -> SoftwareDriver:
    return SoftwareDriver("twin")


@pytest.mark.parametrize("name", NAMES)
def test_secrets_agree(driver: SoftwareDriver, name: str) -> None:
    _, spki, attributes = driver.generate(KEM, name)
    ciphertext, secret = encapsulate(spki)
    assert len(ciphertext) == algorithm(name).ciphertext_size
    assert driver.decapsulate(KEM, ciphertext) == secret
    assert not attributes.sign
    with pytest.raises(UnsupportedError):
        driver.sign(KEM, b"")


@pytest.mark.parametrize("name", NAMES)
def test_ciphertexts_of_a_wrong_size_are_refused(driver: SoftwareDriver, name: str) -> None:
    driver.generate(KEM, name)
    size = algorithm(name).ciphertext_size or 0
    for wrong in (b"", bytes(size - 1), bytes(size + 1)):
        with pytest.raises(BadCiphertextError, match="ciphertext"):
            driver.decapsulate(KEM, wrong)


@pytest.mark.parametrize(
    ("name", "sent"), [("X25519", bytes(32)), ("ECDH-P256", b"\x04" + bytes(64))]
)
def test_points_that_give_the_key_away_are_refused(
    driver: SoftwareDriver, name: str, sent: bytes
) -> None:
    driver.generate(KEM, name)
    with pytest.raises(BadCiphertextError):
        driver.decapsulate(KEM, sent)


def test_an_outage_is_everywhere(driver: SoftwareDriver) -> None:
    driver.generate(KEM, "X25519")
    driver.outage = TokenUnavailableError("the token is away")
    calls: list[Callable[[], object]] = [
        lambda: driver.generate(KeyLabel("new"), "X25519"),
        driver.labels,
        lambda: driver.attributes(KEM),
        lambda: driver.public_key(KEM),
        lambda: driver.sign(KEM, b""),
        lambda: driver.random(1),
        lambda: driver.wrap(KEM, bytes(8)),
        lambda: driver.unwrap(KEM, bytes(24)),
        lambda: driver.decapsulate(KEM, bytes(32)),
    ]
    for call in calls:
        with pytest.raises(TokenUnavailableError, match="away"):
            call()
