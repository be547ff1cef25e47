"""Private keys in any dress are found, public material never is."""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, mldsa, mlkem
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pki import der, private_material
from pki.crl import CrlFactory, RevokedEntry
from pki.possession import seal, sealable
from pki.private_material import find_private_key
from policies.algorithms import Kind, algorithms
from tests.support import pki

PRIVATE = [
    "ECDSA-P256",
    "ECDSA-P384",
    "ECDSA-P521",
    "Ed25519",
    "X25519",
    "RSA-2048",
    "RSA-4096",
    "ML-DSA-44",
    "ML-DSA-65",
    "ML-DSA-87",
    "ML-KEM-768",
    "ML-KEM-1024",
]
PUBLIC = [row.name for row in algorithms() if row.kind in {Kind.SIGNATURE, Kind.KEM}]


def wrapped(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return "\n".join(text[at : at + 64] for at in range(0, len(text), 64))


def pieces(text: str, size: int, between: str) -> str:
    return between.join(text[at : at + size] for at in range(0, len(text), size))


SPKI = pki.public("ECDSA-P256").spki

DRESSES: dict[str, Callable[[bytes], bytes | str]] = {
    "bytes": lambda data: data,
    "base64": lambda data: base64.b64encode(data).decode(),
    "base64 without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "base64url": lambda data: base64.urlsafe_b64encode(data).decode(),
    "base64url without padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "base64 as bytes": base64.b64encode,
    "wrapped base64": wrapped,
    "wrapped base64 with CRLF": lambda data: wrapped(data).replace("\n", "\r\n"),
    "wrapped base64 with escapes": lambda data: wrapped(data).replace("\n", "\\n"),
    "hex": lambda data: data.hex(),
    "upper hex": lambda data: data.hex().upper(),
    "hex with 0x": lambda data: "0x" + data.hex(),
    "hex with colons": lambda data: data.hex(":"),
    "hex with spaces": lambda data: data.hex(" "),
    "after a scheme": lambda data: "Bearer " + base64.b64encode(data).decode(),
    "in a query": lambda data: "https://a.example/?key=" + base64.urlsafe_b64encode(data).decode(),
    "in JSON": lambda data: json.dumps({"key": base64.b64encode(data).decode()}),
    "mislabelled": lambda data: (
        f"-----BEGIN CERTIFICATE-----\n{wrapped(data)}\n-----END CERTIFICATE-----\n"
    ),
    "base64 twice": lambda data: base64.b64encode(base64.b64encode(data)).decode(),
    "hex of base64": lambda data: base64.b64encode(data).hex(),
    "base64 of hex": lambda data: base64.b64encode(data.hex().encode()).decode(),
    "followed by more": lambda data: data + b"more",
    "base64 after a name": lambda data: "key=" + base64.b64encode(data).decode(),
    "base64url after a name": lambda data: (
        "x=" + base64.urlsafe_b64encode(data).decode().rstrip("=")
    ),
    "hex after a name": lambda data: "key=" + data.hex(),
    "base64 after a version": lambda data: "v1/" + base64.b64encode(data).decode(),
    "base64url after two labels": lambda data: (
        "device-7_" + base64.urlsafe_b64encode(data).decode()
    ),
    "hex after a label": lambda data: "device-" + data.hex(),
    "hex with 0X": lambda data: "0X" + data.hex().upper(),
    "hex in words": lambda data: pieces(data.hex(), 8, " "),
    "hex in pieces": lambda data: pieces(data.hex(), 16, ",\n  "),
    "list with 0x": lambda data: ", ".join(f"0x{octet:02x}" for octet in data),
    "list with 0X in braces": lambda data: "{" + ",".join(f"0X{octet:X}" for octet in data) + "}",
    "list with backslashes": lambda data: "".join(f"\\x{octet:02x}" for octet in data),
    "numbers": lambda data: " ".join(map(str, data)),
    "numbers in JSON": lambda data: json.dumps(list(data), indent=2),
    "signed numbers": lambda data: json.dumps([(octet ^ 0x80) - 0x80 for octet in data]),
    "characters": lambda data: data.decode("latin-1"),
    "percent-encoded": lambda data: "".join(f"%{octet:02X}" for octet in data),
    "percent-encoded base64": lambda data: quote(base64.b64encode(data), safe=""),
    "chunks with spaces": lambda data: pieces(base64.b64encode(data).decode(), 16, " "),
    "chunks with newlines": lambda data: pieces(base64.b64encode(data).decode(), 16, "\n"),
    "chunks with commas": lambda data: pieces(base64.b64encode(data).decode(), 16, ","),
    "chunks in JSON": lambda data: json.dumps(
        pieces(base64.b64encode(data).decode(), 16, " ").split()
    ),
    "chunks in JSON in JSON": lambda data: json.dumps(
        {"a": pieces(json.dumps(base64.b64encode(data).decode())[1:-1], 16, '", "')}
    ),
    "UTF-16 in base64": lambda data: base64.b64encode(
        base64.b64encode(data).decode().encode("utf-16-le")
    ).decode(),
    "behind a public key": lambda data: SPKI + data,
    "behind a public key in base64": lambda data: base64.b64encode(SPKI + data).decode(),
    "behind a public key in hex": lambda data: (SPKI + data).hex(),
    "behind a public key's base64": lambda data: (
        base64.b64encode(SPKI).decode() + base64.b64encode(data).decode()
    ),
}

INSIDE: dict[str, Callable[[bytes], bytes | str]] = {
    "behind a raw public key": lambda data: bytes(range(64, 129)) + data,
    "behind a raw public key in base64": lambda data: base64.b64encode(
        bytes(range(64, 129)) + data
    ).decode(),
    "between": lambda data: b"\x30\x82\xff" + data + bytes(9),
    "after letters": lambda data: "mykey" + base64.b64encode(data).decode(),
    "after letters, without padding": lambda data: (
        "thekey" + base64.urlsafe_b64encode(data).decode().rstrip("=") + "x"
    ),
    "after a long label": lambda data: "a-long/label-" * 9 + base64.b64encode(data).decode(),
    "chunks after words": lambda data: (
        "this is my key " + pieces(base64.b64encode(data).decode(), 16, " ") + " thank you"
    ),
    "base64 of two": lambda data: (
        (base64.b64encode(SPKI).decode().rstrip("=") * 2) + base64.b64encode(data).decode()
    ),
}
"""Dresses that nothing tells but the structure inside."""


def structures(name: str) -> dict[str, bytes]:
    """Every DER and OpenSSH form that the library writes of a private key."""
    private = pki.private(name)
    plain, secret = NoEncryption(), BestAvailableEncryption(b"password")
    found = {
        "PKCS#8": private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, plain),
        "encrypted PKCS#8": private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, secret),
    }
    if name.startswith(("ECDSA", "RSA")):
        traditional = private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, plain)
        found["SEC1" if name.startswith("ECDSA") else "PKCS#1"] = traditional
    return found


CASES = [(name, kind) for name in PRIVATE for kind in structures(name)]


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_private_keys_are_found_in_every_dress(name: str, kind: str, dress: str):
    assert find_private_key(DRESSES[dress](structures(name)[kind])) == kind


@pytest.mark.parametrize("dress", INSIDE)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_structures_are_found_behind_anything(name: str, kind: str, dress: str):
    data = structures(name)[kind]
    for before in ("", "a", "ab", "abc"):
        value = INSIDE[dress](data)
        value = before.encode() + value if isinstance(value, bytes) else before + value
        assert find_private_key(value) == kind


@pytest.mark.parametrize("password", [None, b"password"])
@pytest.mark.parametrize("name", PRIVATE)
def test_pem_is_found_alone_in_text_and_encoded(name: str, password: bytes | None):
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    pem = pki.private(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    text = pem.decode()
    for value in (
        pem,
        text,
        f"see below\n{text}",
        json.dumps({"a": {"b": text}}),
        text.replace("\n", " "),
        base64.b64encode(pem).decode(),
        pem.hex(),
        text.replace("\n", "\r\n"),
        quote(text),
        "key=" + base64.b64encode(pem).decode(),
        base64.b64encode(f"Schlüssel:\n{text}".encode()).decode(),
        base64.b64encode(text.encode("utf-16")).decode(),
        json.dumps(list(pem)),
        b"\xff" + pem,
    ):
        assert find_private_key(value) == "PEM"


@pytest.mark.parametrize("name", ["ECDSA-P256", "RSA-2048", "Ed25519"])
def test_openssh_is_found(name: str):
    pem = pki.private(name).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    body = b"".join(pem.splitlines()[1:-1])
    assert find_private_key(pem) == "PEM"
    assert find_private_key(body) == "OpenSSH"
    assert find_private_key(base64.b64decode(body)) == "OpenSSH"


@pytest.mark.parametrize("password", [None, b"password"])
def test_pkcs12_is_found(password: bytes | None):
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    data = pkcs12.serialize_key_and_certificates(
        b"name", pki.private("ECDSA-P256"), None, None, encryption
    )
    for dress in (DRESSES | INSIDE).values():
        assert find_private_key(dress(data)) == "PKCS#12"
    indefinite = b"\x30\x80" + data[4:] + b"\x00\x00"
    assert find_private_key(indefinite) == "PKCS#12"


def test_dsa_and_key_packages_are_found():
    key = dsa.generate_private_key(2048)
    traditional = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert find_private_key(traditional) == "PKCS#1"
    package = der.sequence(structures("Ed25519")["PKCS#8"])  # RFC 5958 AsymmetricKeyPackage
    assert find_private_key(package) == "PKCS#8"


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize(
    ("kind", "seed", "expanded"),
    [
        ("ML-DSA", 32, 2560),
        ("ML-DSA", 32, 4032),
        ("ML-DSA", 32, 4896),
        ("ML-KEM", 64, 1632),
        ("ML-KEM", 64, 2400),
        ("ML-KEM", 64, 3168),
    ],
)
def test_post_quantum_choices_are_found(kind: str, seed: int, expanded: int, dress: str):
    """RFC 9881 and RFC 9935 chapter 6, the CHOICE standing alone; secrets are made up."""
    secret = bytes(range(1, 252)) * 20
    alone = der.context(0, secret[:seed], constructed=False)
    bare = der.octet_string(secret[:expanded])
    both = der.sequence(der.octet_string(secret[:seed]), bare)
    wear = DRESSES[dress]
    assert find_private_key(wear(both)) == f"{kind} private key"
    if dress != "followed by more":  # their whole size is what tells them from random bytes
        assert find_private_key(wear(alone)) == f"{kind} seed"
        assert find_private_key(wear(bare)) == f"{kind} private key"


@pytest.mark.parametrize("cls", [mlkem.MLKEM768PrivateKey, mlkem.MLKEM1024PrivateKey])
def test_raw_decapsulation_keys_give_themselves_away(cls: Any):
    public = cls.generate().public_key().public_bytes_raw()
    rank = (len(public) - 32) // 384
    raw = bytes(384 * rank) + public + hashlib.sha3_256(public).digest() + bytes(32)
    assert find_private_key(raw) == "ML-KEM private key"
    assert find_private_key(base64.b64encode(raw).decode()) == "ML-KEM private key"


JWKS = [
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AQAB" * 10},
    {"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AQAB" * 10},
    {"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB" * 20, "p": "AQ", "q": "AQ"},
    {"kty": "AKP", "alg": "ML-DSA-65", "pub": "AQAB", "priv": "AQAB" * 10},
    {"kty": "oct", "k": "AQAB" * 12},
]


@pytest.mark.parametrize("jwk", JWKS)
def test_private_jwks_are_found(jwk: dict[str, str]):
    plain = json.dumps(jwk)
    escaped = plain.replace('"d"', '"\\u0064"').replace('"kty"', '"\\u006b\\u0074\\u0079"')
    for text in (
        plain,
        json.dumps(jwk, indent=2),
        json.dumps({"keys": [jwk]}),
        json.dumps({"note": plain}),
        json.dumps({"note": json.dumps({"note": plain})}),
        base64.b64encode(plain.encode()).decode(),
        base64.urlsafe_b64encode(plain.encode()).decode().rstrip("="),
        plain.encode().hex(),
        escaped,
    ):
        assert find_private_key(text) == "JWK", text
        assert find_private_key(text.encode()) == "JWK", text


@pytest.mark.parametrize("text", ["AGE-SECRET-KEY-1" + "Q" * 58, "v=AGE-SECRET-KEY-1" + "Q" * 58])
def test_age_is_found(text: str):
    assert find_private_key(text) == "PEM"


def test_putty_is_found():
    text = "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\nAAAA\n"
    assert find_private_key(text) == "PEM"


# --- what is public --------------------------------------------------------------------------


def public_material() -> dict[str, bytes]:
    found = {f"key {name}": pki.public(name).spki for name in PUBLIC}
    found |= {f"raw {name}": pki.public(name).raw for name in PUBLIC}
    for profile, name in pki.certifiable():
        if profile in {"device-identity", "device-kem"}:
            issued = pki.issue(profile, name)
            found[f"certificate {name}"] = issued.der
    for row in algorithms(Kind.SIGNATURE):
        found[f"signature {row.name}"] = pki.sign(pki.private(row.name), row, b"message")
    for row in algorithms(Kind.KEM):
        if sealable(row):
            found[f"sealed {row.name}"] = seal(pki.public(row.name), b"info", bytes(32))
    people = pki.world().people
    entries = [RevokedEntry(5, pki.NOW, "key-compromise")]
    update = pki.NOW + pki.timedelta(days=1)
    for revoked in ([], entries):
        prepared = CrlFactory(people.issuer).prepare(1, pki.NOW, update, revoked)
        found[f"crl {len(revoked)}"] = people.finish_crl(prepared)
        found[f"tbs crl {len(revoked)}"] = prepared.statement.message
    return found


@pytest.mark.parametrize("dress", DRESSES | INSIDE)
def test_public_material_is_left_alone(dress: str):
    for name, data in public_material().items():
        assert find_private_key((DRESSES | INSIDE)[dress](data)) is None, name


def names_a_key(text: str) -> bool:
    """Whether generated text is no accident: hypothesis tries the constants of the code too."""
    return any(name in text for name in private_material._NAMES)


@settings(deadline=None)
@given(st.binary(max_size=5000))
def test_random_bytes_are_left_alone(data: bytes):
    assume(not names_a_key(data.decode("latin-1")))
    for dress in (DRESSES | INSIDE).values():
        assert find_private_key(dress(data)) is None


@settings(deadline=None)
@given(st.text(max_size=300))
def test_ordinary_text_is_left_alone(text: str):
    assume(not names_a_key(text))
    assert find_private_key(text) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "alice@example.org",
        "a" * 128,
        "0123456789abcdef" * 8,
        json.dumps({"kty": "EC", "crv": "P-256", "x": "AA" * 22, "y": "AA" * 22}),
        "The private key stays on the device; a PRIVATE KEY never reaches this service at all.",
        "-----BEGIN PUBLIC KEY-----\n" + wrapped(pki.public("ECDSA-P256").spki) + "\n-----END",
    ],
)
def test_ordinary_values_are_left_alone(value: str):
    assert find_private_key(value) is None
    assert find_private_key(value.encode()) is None


@settings(deadline=None)
@given(st.binary(min_size=20, max_size=64))
def test_labelled_random_values_are_left_alone(data: bytes):
    for label in ("", "v1/", "device-", "a/b/c/d/e/", "x=", "id_"):
        for text in (
            base64.b64encode(data).decode(),
            base64.urlsafe_b64encode(data).decode().rstrip("="),
            data.hex(),
        ):
            assert find_private_key(label + text) is None


def test_ecdsa_signatures_with_small_numbers_are_left_alone():
    for r in (0, 1, 3):
        signature = der.sequence(der.integer(r), der.integer((1 << 520) + 1))
        assert find_private_key(signature) is None


def test_the_library_signs_what_is_tested():
    assert isinstance(pki.private("ML-DSA-65"), mldsa.MLDSA65PrivateKey)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a ",
        "aa:",
        "\\",
        '"d',
        '"d\\',
        "-----BEGIN A-----",
        "BEGIN ",
        "\n",
        "a" * 45 + ".",
        "é",
        "a/a-a_a/" + "a" * 45 + ".",
        "0x3,",
        "0X30",
        "\\x30",
        "30:",
        "30 ",
        "30" + " " * 40,
        "30 82 0 ",
        "48,",
        "1" + "\n" * 40 + "x",
        "-1, " * 33 + "256, ",
        "%30",
        "%",
        "=",
        "-",
        "/",
        ",",
        "AgEA",
        "AgEAMIGH",
        "MIGHAgEAMBMG",
        "\\n",
        "\0",
    ],
)
def test_long_values_take_time_in_proportion(piece: str):
    for text in (
        piece * (200_000 // len(piece)),
        '"kty" \\u0064' + piece * (200_000 // len(piece)),
    ):
        start = time.process_time()
        find_private_key(text)
        find_private_key(text.encode())
        assert time.process_time() - start < 1
