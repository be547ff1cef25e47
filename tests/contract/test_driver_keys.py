"""Every algorithm that a driver names: keys are made, held, and do the one thing they are for."""

import secrets
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature

from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    UnsupportedError,
)
from hsm_drivers.pkcs11 import Pkcs11Driver
from hsm_drivers.ports import Capability, Driver, KeyLabel
from policies.algorithms import Kind, Scheme, algorithm, algorithms
from tests.support.judging import can_encapsulate, encapsulate, verify, verify_digest

KEY = KeyLabel("key")
NONCE = bytes(range(12))
CLASSICAL = {
    *("ECDSA-P256", "ECDSA-P384", "ECDSA-P521", "Ed25519", "X25519", "ECDH-P256", "ECDH-P384"),
    *("AES-256-KWP", "AES-256-GCM", "HMAC-SHA-256", "HMAC-SHA-512"),
}
POST_QUANTUM = {"ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "ML-KEM-768", "ML-KEM-1024"}
EXPECTED = {
    "softhsm2": CLASSICAL,
    "nss-softoken": CLASSICAL | POST_QUANTUM | {"ML-KEM-512"},
    "software": CLASSICAL | POST_QUANTUM,
}
OPERATIONS: dict[Kind, set[str]] = {
    Kind.SIGNATURE: {"sign", "sign_digest"},
    Kind.KEM: {"decapsulate"},
    Kind.MAC: {"mac"},
    Kind.CIPHER: {"encrypt", "decrypt"},
    Kind.WRAP: {"wrap", "unwrap"},
}


def label_of(name: str) -> KeyLabel:
    return KeyLabel(name.lower())


def kind_of(driver: Driver) -> str:
    return driver.profile.name if isinstance(driver, Pkcs11Driver) else "software"


def calls_of(driver: Driver, label: KeyLabel) -> dict[str, Callable[[], bytes]]:
    """Every operation, with arguments that any key that has it takes, or refuses as foreign."""
    return {
        "sign": lambda: driver.sign(label, b"message"),
        "sign_digest": lambda: driver.sign_digest(label, bytes(32)),
        "decapsulate": lambda: driver.decapsulate(label, bytes(32)),
        "mac": lambda: driver.mac(label, b"message"),
        "encrypt": lambda: driver.encrypt(label, NONCE, b"text", b""),
        "decrypt": lambda: driver.decrypt(label, NONCE, bytes(32), b""),
        "wrap": lambda: driver.wrap(label, bytes(32)),
        "unwrap": lambda: driver.unwrap(label, bytes(40)),
    }


def made_all(driver: Driver, kind: Kind) -> list[tuple[str, KeyLabel, bytes]]:
    """A key of each algorithm of a kind: name, label, SPKI."""
    names = [row.name for row in algorithms(kind) if row.name in driver.algorithms]
    assert names
    return [(name, label_of(name), driver.generate(label_of(name), name)[1]) for name in names]


def test_what_a_driver_names_is_what_it_has(driver: Driver) -> None:
    names = set(driver.algorithms)
    assert names == EXPECTED[kind_of(driver)]
    kinds = {algorithm(name).kind for name in names}
    assert kinds == set(OPERATIONS)
    wanted = {Capability.SIGN, Capability.KEM, Capability.MAC, Capability.CIPHER, Capability.WRAP}
    assert wanted | {Capability.GENERATE, Capability.RANDOM} <= driver.capabilities
    assert all(driver.lacking(name) == () for name in names)


def test_every_key_is_held_and_read_back(driver: Driver) -> None:
    ids = set()
    for name in driver.algorithms:
        row = algorithm(name)
        key_id, spki, attributes = driver.generate(label_of(name), name)
        ids.add(key_id)
        assert len(bytes.fromhex(key_id)) == 16
        assert attributes.held()
        assert not attributes.transferable()
        assert attributes.sign == (row.kind in (Kind.SIGNATURE, Kind.MAC))
        assert driver.attributes(label_of(name)) == attributes
        assert driver.public_key(label_of(name)) == spki
        assert bool(spki) == (row.kind in (Kind.SIGNATURE, Kind.KEM))
        assert spki[-(row.public_key_size or 1) :] or not spki
    assert len(ids) == len(driver.algorithms)
    assert list(driver.labels()) == sorted(label_of(name) for name in driver.algorithms)


def test_keys_do_only_what_they_are_for(driver: Driver) -> None:
    for name in driver.algorithms:
        driver.generate(label_of(name), name)
        kind = algorithm(name).kind
        for operation, call in calls_of(driver, label_of(name)).items():
            if operation not in OPERATIONS[kind]:
                with pytest.raises(UnsupportedError, match="kind"):
                    call()


def test_everything_is_signed_and_nothing_else_verifies(driver: Driver) -> None:
    for name, label, spki in made_all(driver, Kind.SIGNATURE):
        for message in (b"", b"short", secrets.token_bytes(100_000)):
            signature = driver.sign(label, message)
            assert len(signature) <= (algorithm(name).signature_size or 0)
            verify(spki, name, signature, message)
            with pytest.raises(InvalidSignature):
                verify(spki, name, signature, message + b"x")


def test_digests_are_signed_where_the_scheme_signs_digests(driver: Driver) -> None:
    sizes = {"sha256": 32, "sha384": 48, "sha512": 64}
    for name, label, spki in made_all(driver, Kind.SIGNATURE):
        row = algorithm(name)
        size = sizes.get(row.digest or "", 32)
        if row.scheme is Scheme.ECDSA:
            digest = secrets.token_bytes(size)
            verify_digest(spki, name, driver.sign_digest(label, digest), digest)
            for wrong in (b"", bytes(size - 1), bytes(size + 1)):
                with pytest.raises(UnsupportedError, match=f"{size} bytes"):
                    driver.sign_digest(label, wrong)
        else:
            with pytest.raises(UnsupportedError, match="kind"):
                driver.sign_digest(label, bytes(size))


def test_what_a_sender_encapsulates_comes_out(driver: Driver) -> None:
    for name, label, spki in made_all(driver, Kind.KEM):
        if not can_encapsulate(name):
            continue
        for _ in range(4):
            ciphertext, secret = encapsulate(spki)
            assert len(ciphertext) == algorithm(name).ciphertext_size
            assert driver.decapsulate(label, ciphertext) == secret
        size = len(ciphertext)
        for wrong in (b"", bytes(size - 1), ciphertext[:-1], ciphertext + b"\0"):
            with pytest.raises(BadCiphertextError):
                driver.decapsulate(label, wrong)
        assert driver.decapsulate(label, ciphertext) == secret


def test_a_changed_ciphertext_of_ml_kem_gives_another_secret(driver: Driver) -> None:
    """FIPS 203, 6.3: implicit rejection; the same answer each time, and never the right one."""
    for name, label, spki in made_all(driver, Kind.KEM):
        if algorithm(name).scheme is not Scheme.ML_KEM or not can_encapsulate(name):
            continue
        ciphertext, secret = encapsulate(spki)
        changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
        answers = {driver.decapsulate(label, changed) for _ in range(3)}
        assert len(answers) == 1
        assert secret not in answers
        assert len(answers.pop()) == 32


P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
NO_POINTS = {
    "off the curve": b"\x04" + (1).to_bytes(32, "big") + (1).to_bytes(32, "big"),
    "zeros": b"\x04" + bytes(64),
    "not reduced": b"\x04" + (P256 + 5).to_bytes(32, "big") + bytes(32),
    "hybrid form": b"\x06" + bytes(64),
    "compressed": b"\x02" + bytes(32),
    "infinity": b"\x00",
}
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (325606250916557431795983626356110631294008115727848805560023387167927233504).to_bytes(
        32, "little"
    ),
    (39382357235489614581723060781553021112529911719440698176882885853963445705823).to_bytes(
        32, "little"
    ),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]
"""u-coordinates of X25519's points of small order (RFC 7748, section 6.1 and 7)."""


def test_points_that_give_a_key_away_are_refused(driver: Driver) -> None:
    driver.generate(KEY, "ECDH-P256")
    for point in NO_POINTS.values():
        with pytest.raises(BadCiphertextError):
            driver.decapsulate(KEY, point)
    _, spki, _ = driver.generate(KeyLabel("x"), "X25519")
    for point in SMALL_ORDER:
        with pytest.raises(BadCiphertextError):
            driver.decapsulate(KeyLabel("x"), point)
    ciphertext, secret = encapsulate(spki)
    assert driver.decapsulate(KeyLabel("x"), ciphertext) == secret


def test_macs_are_of_the_key_and_the_message(driver: Driver) -> None:
    sizes = {"sha256": 32, "sha512": 64}
    for name, label, _ in made_all(driver, Kind.MAC):
        driver.generate(KeyLabel("other"), name)
        for message in (b"", b"message", secrets.token_bytes(200_000)):
            mac = driver.mac(label, message)
            assert len(mac) == sizes[algorithm(name).digest or ""]
            assert driver.mac(label, message) == mac
            assert driver.mac(label, message + b"\0") != mac
            assert driver.mac(KeyLabel("other"), message) != mac
        driver.destroy(KeyLabel("other"))


def test_encryption_is_undone(driver: Driver) -> None:
    """Sizes around a block, and around the buffer that is kept."""
    driver.generate(KEY, "AES-256-GCM")
    for size in (0, 1, 15, 16, 17, 4096, 65_536, 69_615, 69_616, 69_617, 69_632, 1_000_000):
        plaintext = secrets.token_bytes(size)
        for associated in (b"", b"tenant", bytes(5000)):
            ciphertext = driver.encrypt(KEY, NONCE, plaintext, associated)
            assert len(ciphertext) == size + 16
            assert size < 16 or plaintext not in ciphertext
            assert driver.decrypt(KEY, NONCE, ciphertext, associated) == plaintext


def test_what_was_not_encrypted_so_is_refused(driver: Driver) -> None:
    driver.generate(KEY, "AES-256-GCM")
    driver.generate(KeyLabel("other"), "AES-256-GCM")
    good = driver.encrypt(KEY, NONCE, b"plaintext" * 4, b"tenant")
    flipped = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in (0, 20, -17, -16, -1)]
    bad = [*flipped, good[:-1], good[1:], good + b"\0", good[:16], good[:15], b""]
    for ciphertext in bad:
        with pytest.raises(BadCiphertextError):
            driver.decrypt(KEY, NONCE, ciphertext, b"tenant")
    for nonce, associated in ((bytes(12), b"tenant"), (NONCE, b""), (NONCE, b"tenants")):
        with pytest.raises(BadCiphertextError):
            driver.decrypt(KEY, nonce, good, associated)
    with pytest.raises(BadCiphertextError):
        driver.decrypt(KeyLabel("other"), NONCE, good, b"tenant")
    assert driver.decrypt(KEY, NONCE, good, b"tenant") == b"plaintext" * 4


def test_nonces_have_twelve_bytes(driver: Driver) -> None:
    driver.generate(KEY, "AES-256-GCM")
    for nonce in (b"", bytes(8), bytes(11), bytes(13), bytes(16)):
        with pytest.raises(UnsupportedError, match="12 bytes"):
            driver.encrypt(KEY, nonce, b"text", b"")
        with pytest.raises(HsmError):
            driver.decrypt(KEY, nonce, bytes(32), b"")


def test_keys_in_turn_do_not_mix(driver: Driver) -> None:
    """Buffers and parameters that are kept between calls belong to one key, one call."""
    for name in ("AES-256-GCM", "HMAC-SHA-512", "ECDSA-P384", "X25519", "AES-256-KWP"):
        driver.generate(label_of(name), name)
    driver.generate(KEY, "AES-256-GCM")
    spkis = {name: driver.public_key(label_of(name)) for name in ("ECDSA-P384", "X25519")}
    for turn in range(30):
        text, nonce = secrets.token_bytes(turn * 40), turn.to_bytes(12, "big")
        sealed = driver.encrypt(label_of("AES-256-GCM"), nonce, text, b"a")
        other = driver.encrypt(KEY, nonce, text, b"b" * turn)
        mac = driver.mac(label_of("HMAC-SHA-512"), text)
        sent, secret = encapsulate(spkis["X25519"])
        assert driver.decapsulate(label_of("X25519"), sent) == secret
        verify(spkis["ECDSA-P384"], "ECDSA-P384", driver.sign(label_of("ECDSA-P384"), text), text)
        wrapped = driver.wrap(label_of("AES-256-KWP"), secret)
        assert driver.decrypt(KEY, nonce, other, b"b" * turn) == text
        assert driver.decrypt(label_of("AES-256-GCM"), nonce, sealed, b"a") == text
        assert driver.unwrap(label_of("AES-256-KWP"), wrapped) == secret
        assert driver.mac(label_of("HMAC-SHA-512"), text) == mac


def test_a_destroyed_key_is_gone_and_its_label_free(driver: Driver) -> None:
    for name in driver.algorithms:
        driver.generate(label_of(name), name)
    left = set(driver.labels())
    for name in driver.algorithms:
        label = label_of(name)
        spki = driver.public_key(label)
        driver.destroy(label)
        left.remove(label)
        assert set(driver.labels()) == left
        with pytest.raises(KeyNotFoundError, match=label):
            driver.destroy(label)
        assert not spki or driver.generate(label, name)[1] != spki
        left |= {label} if spki else set()
    for call in (
        *calls_of(driver, label_of("AES-256-GCM")).values(),
        lambda: driver.attributes(label_of("AES-256-KWP")),
        lambda: driver.public_key(label_of("HMAC-SHA-256")),
    ):
        with pytest.raises(KeyNotFoundError):
            call()


def test_transferable_keys_are_named_so_or_refused(driver: Driver) -> None:
    if Capability.TRANSFER not in driver.capabilities and kind_of(driver) != "software":
        with pytest.raises(UnsupportedError, match="transferable"):
            driver.generate(KEY, "ECDSA-P256", transferable=True)
        assert list(driver.labels()) == []
        return
    _, spki, attributes = driver.generate(KEY, "ECDSA-P256", transferable=True)
    assert attributes.transferable()
    assert not attributes.held()
    assert driver.attributes(KEY) == attributes
    verify(spki, "ECDSA-P256", driver.sign(KEY, b"message"), b"message")
    driver.generate(KeyLabel("kek"), "AES-256-KWP")
    with pytest.raises(UnsupportedError, match=r"transfer|trusted"):
        driver.export_key(KEY, KeyLabel("kek"))
