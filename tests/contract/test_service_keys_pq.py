"""Service keys on a token that has ML-KEM and ML-DSA: both parts of a hybrid stay on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.core import SignerCore
from hsm_drivers.errors import BadCiphertextError
from hsm_drivers.operations import (
    Decapsulate,
    Decrypt,
    Encrypt,
    MakeMac,
    SignMessage,
    UnwrapKey,
    VerifyMac,
    WrapKey,
)
from hsm_drivers.pkcs11 import Pkcs11Driver
from policies.decisions import Protection
from tests.support.nss import Nss
from tests.support.service_keys import (
    DELAY,
    START,
    Clock,
    a_core,
    answers,
    encapsulated,
    spec,
    use,
)

TOKEN, WRAPPED = Protection.TOKEN, Protection.WRAPPED
CLOCK = Clock()


@pytest.fixture
def core(nss: Nss, tmp_path: Path) -> Iterator[SignerCore]:
    CLOCK.now = START
    driver = Pkcs11Driver(nss.module, nss.label, nss.pin)
    try:
        with a_core(tmp_path / "state", driver, now=CLOCK) as made:
            yield made
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("ML-KEM-768", ()),
        ("ML-KEM-1024", ()),
        ("MLKEM768-X25519", (TOKEN, TOKEN)),
        ("MLKEM768-P256", (TOKEN, TOKEN)),
        ("MLKEM1024-P384", (TOKEN, TOKEN)),
        ("MLKEM1024-P384", (WRAPPED, TOKEN)),
    ],
    ids=str,
)
def test_slots(core: SignerCore, name: str, held: tuple[Protection, ...]) -> None:
    record = core.generate(spec(1, name, *held))
    assert record.protection is (WRAPPED if WRAPPED in held else TOKEN)
    made = [encapsulated(record) for _ in range(3)]
    calls = [Decapsulate(record.label, ciphertext) for ciphertext, _ in made]
    assert answers(use(core, *calls)) == [(secret,) for _, secret in made]
    ciphertext, secret = made[0]
    for wrong in (ciphertext[:-1], ciphertext + b"\0", b""):
        assert type(use(core, Decapsulate(record.label, wrong))[0]) is BadCiphertextError
    (flipped,) = use(core, Decapsulate(record.label, bytes([ciphertext[0] ^ 1]) + ciphertext[1:]))
    assert flipped != (secret,), "implicit rejection: another secret"
    core.service.schedule_destruction(record.label, START + DELAY)
    CLOCK.now = START + DELAY
    assert core.service.destroy(record.label) == ("",)
    assert not core._tokens.driver("").labels()


@pytest.mark.parametrize("name", ["ML-DSA-65", "ML-DSA-87"])
def test_signatures(core: SignerCore, name: str) -> None:
    record = core.generate(spec(1, name))
    assert record.attributes.held()
    ((signature,),) = answers(use(core, SignMessage(record.label, b"message")))
    load_der_public_key(record.public_key).verify(signature, b"message")


def test_secret_keys(core: SignerCore) -> None:
    gcm, mac, kwp = (
        core.generate(spec(number, name)).label
        for number, name in enumerate(("AES-256-GCM", "HMAC-SHA-256", "AES-256-KWP"))
    )
    (sealed,), (made,), (wrapped,) = answers(
        use(
            core,
            Encrypt(gcm, b"text", b"data"),
            MakeMac(mac, b"m"),
            WrapKey(kwp, b"21 bytes of a key ..."),
        )
    )
    good = answers(
        use(
            core, Decrypt(gcm, sealed, b"data"), VerifyMac(mac, b"m", made), UnwrapKey(kwp, wrapped)
        )
    )
    assert good == [(b"text",), (b"\x01",), (b"21 bytes of a key ...",)]
    spoilt = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    bad = use(core, Decrypt(gcm, sealed, b"else"), UnwrapKey(kwp, spoilt))
    assert [type(outcome) for outcome in bad] == [BadCiphertextError] * 2
