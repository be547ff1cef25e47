"""What service keys do, over the software twin: round trips, and whatever is changed is refused."""

import hashlib
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers import kem
from hsm_drivers.core import SignerCore
from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.operations import (
    Decapsulate,
    Decrypt,
    Encrypt,
    MakeMac,
    NewDataKey,
    OpenHpke,
    Rewrap,
    SignDigest,
    SignMessage,
    UnwrapContentKey,
    UnwrapKey,
    VerifyMac,
    WrapKey,
)
from hsm_drivers.ports import KeyRecord, KeySpec, Operation
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.wrapping import MAX_FRAMED, framed, unframed
from policies.algorithms import algorithm
from policies.decisions import Protection
from tests.support.service_keys import (
    a_core,
    answers,
    diffie_hellman,
    encapsulated,
    label,
    spec,
    use,
)

TOKEN, WRAPPED = Protection.TOKEN, Protection.WRAPPED
HYBRIDS = ("MLKEM768-X25519", "MLKEM768-P256", "MLKEM1024-P384")
KEYS: dict[str, KeySpec] = {
    "gcm": spec(1, "AES-256-GCM"),
    "gcm2": spec(2, "AES-256-GCM"),
    "mac": spec(3, "HMAC-SHA-256"),
    "kwp": spec(4, "AES-256-KWP"),
    "p256": spec(5, "ECDSA-P256"),
    "ed": spec(6, "Ed25519"),
    "mldsa": spec(7, "ML-DSA-65", WRAPPED),
    "mldsa-token": spec(8, "ML-DSA-87"),
    "mlkem": spec(9, "ML-KEM-768"),
    "mlkem-wrapped": spec(10, "ML-KEM-1024", WRAPPED),
    "x25519": spec(11, "X25519"),
    "ecdh": spec(12, "ECDH-P384"),
    **{
        f"{name} {held}": spec(20 + 2 * at + (held is WRAPPED), name, held, TOKEN)
        for at, name in enumerate(HYBRIDS)
        for held in (TOKEN, WRAPPED)
    },
    "all wrapped": spec(30, "MLKEM768-X25519", WRAPPED, WRAPPED),
}
ENCAPSULATED_TO = [name for name in KEYS if "KEM" in name.upper() or name == "all wrapped"]


class Kept:
    """Keys of every kind, made once for the module."""

    def __init__(self, core: SignerCore, driver: SoftwareDriver) -> None:
        self.core = core
        self.driver = driver
        self.records = {name: core.generate(wanted) for name, wanted in KEYS.items()}

    def __getitem__(self, name: str) -> KeyRecord:
        return self.records[name]

    def does(self, *calls: object) -> list[tuple[bytes, ...]]:
        return answers(use(self.core, *calls))

    def fails(self, call: object) -> HsmError:
        (outcome,) = use(self.core, call)
        assert isinstance(outcome, HsmError)
        return outcome


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    driver = SoftwareDriver()
    context = a_core(tmp_path_factory.mktemp("signer") / "state", driver)
    return Kept(context.__enter__(), driver)


def changed(data: bytes, at: int) -> bytes:
    """One bit of it flipped."""
    place = at % (len(data) * 8)
    flipped = bytearray(data)
    flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)


def spoilt(data: bytes, at: int) -> list[bytes]:
    return [changed(data, at), data[:-1], data + b"\0", data[: at % len(data)], b""]


@given(st.binary(max_size=300), st.binary(max_size=100), st.integers(0, 10**6))
def test_what_is_encrypted_comes_back_and_nothing_else(
    kept: Kept, plaintext: bytes, associated: bytes, at: int
) -> None:
    gcm = kept["gcm"].label
    (sealed,) = kept.does(Encrypt(gcm, plaintext, associated))[0]
    assert len(sealed) == 12 + len(plaintext) + 16
    assert kept.does(Decrypt(gcm, sealed, associated)) == [(plaintext,)]
    for wrong in spoilt(sealed, at):
        assert type(kept.fails(Decrypt(gcm, wrong, associated))) is BadCiphertextError
    assert type(kept.fails(Decrypt(gcm, sealed, associated + b"x"))) is BadCiphertextError
    assert type(kept.fails(Decrypt(kept["gcm2"].label, sealed, associated))) is BadCiphertextError


def test_rewrapping_moves_a_ciphertext_to_another_key(kept: Kept) -> None:
    old, new = kept["gcm"].label, kept["gcm2"].label
    (sealed,) = kept.does(Encrypt(old, b"text", b"old"))[0]
    (moved,) = kept.does(Rewrap(old, sealed, b"old", new, b"new"))[0]
    assert kept.does(Decrypt(new, moved, b"new")) == [(b"text",)]
    assert type(kept.fails(Rewrap(old, sealed, b"else", new, b"new"))) is BadCiphertextError
    refused = kept.fails(Rewrap(old, sealed, b"old", kept["mac"].label, b"new"))
    assert type(refused) is StatementRefusedError


def test_a_data_key_comes_sealed_and_plain_only_where_wanted(kept: Kept) -> None:
    gcm = kept["gcm"].label
    both, sealed_only = kept.does(NewDataKey(gcm, 32, b"a", True), NewDataKey(gcm, 16, b"a", False))
    assert len(both[1]) == 32
    assert kept.does(Decrypt(gcm, both[0], b"a")) == [(both[1],)]
    assert len(sealed_only) == 1
    assert len(kept.does(Decrypt(gcm, sealed_only[0], b"a"))[0][0]) == 16
    for size in (0, 15, 65, -1, 10**9):
        assert type(kept.fails(NewDataKey(gcm, size, b"", True))) is UnsupportedError


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=40))
def test_a_mac_is_right_or_not(kept: Kept, message: bytes, other: bytes) -> None:
    mac = kept["mac"].label
    (made,) = kept.does(MakeMac(mac, message))[0]
    assert len(made) == 32
    assert kept.does(VerifyMac(mac, message, made)) == [(b"\x01",)]
    for wrong in (changed(made, 5), made[:31], made + b"\0", b"", other):
        assert kept.does(VerifyMac(mac, message, wrong)) == [(b"",)]
    assert kept.does(VerifyMac(mac, message + b"x", made)) == [(b"",)]


@given(st.binary(min_size=1, max_size=200), st.integers(0, 10**6))
def test_bytes_of_any_length_are_wrapped(kept: Kept, plaintext: bytes, at: int) -> None:
    kwp = kept["kwp"].label
    (wrapped,) = kept.does(WrapKey(kwp, plaintext))[0]
    assert kept.does(UnwrapKey(kwp, wrapped)) == [(plaintext,)]
    for wrong in spoilt(wrapped, at):
        assert type(kept.fails(UnwrapKey(kwp, wrong))) is BadCiphertextError


def test_what_is_not_wrapped_is_said(kept: Kept) -> None:
    for wrong in (b"", bytes(MAX_FRAMED + 1)):
        assert type(kept.fails(WrapKey(kept["kwp"].label, wrong))) is UnsupportedError
    kept.does(WrapKey(kept["kwp"].label, bytes(MAX_FRAMED)))


@given(st.binary(max_size=64))
def test_only_blocks_of_ours_are_taken_apart(block: bytes) -> None:
    try:
        plaintext = unframed(block)
    except BadCiphertextError:
        return
    assert framed(plaintext) == block


@pytest.mark.parametrize("name", ["p256", "ed", "mldsa", "mldsa-token"])
def test_signatures_verify(kept: Kept, name: str) -> None:
    (signature,) = kept.does(SignMessage(kept[name].label, b"message"))[0]
    public = load_der_public_key(kept[name].public_key)
    extra = (ec.ECDSA(hashes.SHA256()),) if name == "p256" else ()
    public.verify(signature, b"message", *extra)
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"massage", *extra)


def test_digests_are_signed_where_the_scheme_does(kept: Kept) -> None:
    digest = hashlib.sha256(b"large").digest()
    (signature,) = kept.does(SignDigest(kept["p256"].label, digest))[0]
    public = load_der_public_key(kept["p256"].public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"large", ec.ECDSA(hashes.SHA256()))
    for name in ("ed", "mldsa", "mldsa-token"):
        assert type(kept.fails(SignDigest(kept[name].label, digest))) is UnsupportedError
    assert type(kept.fails(SignDigest(kept["p256"].label, digest[:-1]))) is UnsupportedError


@pytest.mark.parametrize("name", ENCAPSULATED_TO)
def test_a_senders_secret_comes_out(kept: Kept, name: str) -> None:
    ciphertext, secret = encapsulated(kept[name])
    key = kept[name].label
    assert kept.does(Decapsulate(key, ciphertext)) == [(secret,)]
    for wrong in (ciphertext[:-1], ciphertext + b"\0", b""):
        assert type(kept.fails(Decapsulate(key, wrong))) is BadCiphertextError
    for at in (0, 8 * len(ciphertext) // 2, 8 * len(ciphertext) - 1):
        (outcome,) = use(kept.core, Decapsulate(key, changed(ciphertext, at)))
        assert type(outcome) is BadCiphertextError or outcome != (secret,)


@pytest.mark.parametrize("name", ["x25519", "ecdh"])
def test_diffie_hellman_gives_what_hpke_wants(kept: Kept, name: str) -> None:
    sent = diffie_hellman(kept[name])
    ((secret,),) = kept.does(Decapsulate(kept[name].label, sent))
    row = algorithm(kept[name].algorithm)
    result = kept.driver.decapsulate(kept[name].label, sent)
    own = kept[name].public_key[-(row.public_key_size or 0) :]
    assert secret == kem.shared_secret(row, [result], [sent], [own])
    assert secret != result


def public_of(record: KeyRecord) -> object:
    """As `cryptography` has it; hybrids are two keys there."""
    row = algorithm(record.algorithm)
    raw = record.public_key[-(row.public_key_size or 0) :]
    if record.algorithm == "MLKEM768-X25519":
        return hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(raw[:1184]),
            x25519.X25519PublicKey.from_public_bytes(raw[1184:]),
        )
    if record.algorithm == "MLKEM1024-P384":
        return hpke.MLKEM1024P384PublicKey(
            mlkem.MLKEM1024PublicKey.from_public_bytes(raw[:1568]),
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), raw[1568:]),
        )
    return load_der_public_key(record.public_key)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("MLKEM768-X25519 wrapped", hpke.KEM.MLKEM768_X25519),
        ("MLKEM1024-P384 token", hpke.KEM.MLKEM1024_P384),
        ("mlkem", hpke.KEM.MLKEM768),
        ("mlkem-wrapped", hpke.KEM.MLKEM1024),
        ("x25519", hpke.KEM.X25519),
        ("ecdh", hpke.KEM.P384),
    ],
)
def test_hpke_messages_of_another_implementation_are_opened(
    kept: Kept, name: str, number: hpke.KEM
) -> None:
    suite = hpke.Suite(number, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    message = suite.encrypt(b"text", public_of(kept[name]), b"info")
    size = algorithm(kept[name].algorithm).ciphertext_size or 0
    sent, ciphertext = message[:size], message[size:]
    key = kept[name].label
    assert kept.does(OpenHpke(key, sent, ciphertext, b"info", b"")) == [(b"text",)]
    for call in (
        OpenHpke(key, sent, ciphertext, b"else", b""),
        OpenHpke(key, sent, ciphertext, b"info", b"x"),
        OpenHpke(key, sent[:-1], ciphertext, b"info", b""),
        OpenHpke(key, changed(sent, 77), ciphertext, b"info", b""),
        OpenHpke(key, changed(sent, len(sent) * 8 - 9), ciphertext, b"info", b""),
        *(OpenHpke(key, sent, wrong, b"info", b"") for wrong in spoilt(ciphertext, 3)),
    ):
        assert type(kept.fails(call)) is BadCiphertextError


@pytest.mark.parametrize("name", ["MLKEM768-P256 token", "MLKEM768-P256 wrapped"])
def test_hpke_with_associated_data(kept: Kept, name: str) -> None:
    sent, secret = encapsulated(kept[name])
    key, nonce = kem.hpke_key(algorithm(kept[name].algorithm), secret, b"info")
    sealed = AESGCM(key).encrypt(nonce, b"text", b"aad")
    opened = kept.does(OpenHpke(kept[name].label, sent, sealed, b"info", b"aad"))
    assert opened == [(b"text",)]


@pytest.mark.parametrize("name", ["mlkem", "MLKEM1024-P384 wrapped"])
def test_a_content_key_of_cms_is_unwrapped(kept: Kept, name: str) -> None:
    sent, secret = encapsulated(kept[name])
    key = HKDF(hashes.SHA256(), 32, None, b"other info").derive(secret)
    wrapped = aes_key_wrap(key, bytes(range(32)))
    label = kept[name].label
    assert kept.does(UnwrapContentKey(label, sent, b"other info", wrapped)) == [(bytes(range(32)),)]
    largest = aes_key_wrap(key, bytes(64))
    assert kept.does(UnwrapContentKey(label, sent, b"other info", largest)) == [(bytes(64),)]
    for call in (
        UnwrapContentKey(label, sent, b"else", wrapped),
        UnwrapContentKey(label, changed(sent, 9), b"other info", wrapped),
        *(UnwrapContentKey(label, sent, b"other info", wrong) for wrong in spoilt(wrapped, 9)),
        UnwrapContentKey(label, sent, b"other info", aes_key_wrap(key, bytes(72))),
    ):
        assert type(kept.fails(call)) is BadCiphertextError


def test_one_bad_call_never_sinks_the_rest(kept: Kept) -> None:
    gcm, mac = kept["gcm"].label, kept["mac"].label
    (sealed,) = kept.does(Encrypt(gcm, b"text", b""))[0]
    outcomes = use(
        kept.core,
        Decrypt(gcm, sealed, b""),
        Decrypt(gcm, sealed, b"else"),
        Decrypt(label(999), sealed, b""),
        MakeMac(mac, b"m"),
        MakeMac(gcm, b"m"),
        Decrypt(gcm, sealed, b""),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [
        tuple,
        BadCiphertextError,
        KeyNotFoundError,
        tuple,
        StatementRefusedError,
        tuple,
    ]


def test_a_token_that_is_away_is_said_of_each_call(kept: Kept) -> None:
    away = TokenUnavailableError("unplugged")
    kept.driver.outage = away
    try:
        for call in (
            Encrypt(kept["gcm"].label, b"", b""),
            SignMessage(kept["mldsa"].label, b""),
            Decapsulate(kept["all wrapped"].label, bytes(1120)),
            VerifyMac(kept["mac"].label, b"", b""),
            NewDataKey(kept["gcm"].label, 32, b"", True),
        ):
            assert kept.fails(call) is away
    finally:
        kept.driver.outage = None
    kept.does(Encrypt(kept["gcm"].label, b"", b""))


def test_a_call_that_makes_the_code_fail_harms_nobody_else(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def choke(*_: object) -> bytes:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(kem, "split", choke)
    outcomes = use(
        kept.core, Decapsulate(kept["mlkem"].label, b"x"), MakeMac(kept["mac"].label, b"m")
    )
    assert isinstance(outcomes[0], TokenFailureError)
    assert isinstance(outcomes[1], tuple)
    assert "ZeroDivisionError" in caplog.text
    assert "a secret" not in caplog.text + str(outcomes[0])


def test_calls_show_none_of_their_bytes() -> None:
    for call in (Encrypt(label(1), b"plain", b"data"), OpenHpke(label(1), b"e", b"c", b"i", b"a")):
        assert repr(call) == f"{type(call).__name__}('{label(1)}')"


def test_calls_are_counted(tmp_path: Path) -> None:
    with a_core(tmp_path / "state", SoftwareDriver()) as core:
        record = core.generate(spec(1, "HMAC-SHA-256"))
        use(core, MakeMac(record.label, b""), MakeMac(label(9), b""))
        assert core.health().service.calls == ((Operation.MAC, 2, 1),)


@pytest.mark.parametrize("name", ["ML-KEM-768", "X25519", "ECDH-P256", "ECDH-P384"])
def test_a_tokens_secret_of_another_size_is_none(name: str) -> None:
    row = algorithm(name)
    right = 48 if name == "ECDH-P384" else 32
    for size in (0, right - 1, right + 1, 80 - right):
        with pytest.raises(TokenFailureError, match="wrong size"):
            kem.shared_secret(row, [b"x" * size], [b"ct"], [b"pk"])
    assert kem.shared_secret(row, [b"x" * right], [b"ct"], [b"pk"])


def test_no_part_of_a_hybrid_is_left_out() -> None:
    row = algorithm("MLKEM768-X25519")
    with pytest.raises(ValueError, match="shorter"):
        kem.shared_secret(row, [b"x" * 32], [b"a", b"b"], [b"a", b"b"])
