"""P1 at the door: a private key in any place of a request is refused, and nothing of it is told."""

import base64
import json
import textwrap
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)

from kms.api import screening, strict_json
from kms.api.errors import MalformedJsonError
from kms.api.problems import problem
from kms.services.errors import PrivateKeyMaterialError
from pki.private_material import find_private_key

_EC = ec.generate_private_key(ec.SECP256R1())
_RSA = rsa.generate_private_key(65537, 2048)


def _der(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.DER, form, NoEncryption())
    return encoded


def _number(value: int) -> str:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": _number(_EC.public_key().public_numbers().x),
    "y": _number(_EC.public_key().public_numbers().y),
    "d": _number(_EC.private_numbers().private_value),
}

STRUCTURES: dict[str, bytes] = {
    "PKCS#8 EC": _der(_EC),
    "PKCS#8 Ed25519": _der(ed25519.Ed25519PrivateKey.generate()),
    "PKCS#8 X25519": _der(x25519.X25519PrivateKey.generate()),
    "PKCS#8 RSA": _der(_RSA),
    "PKCS#8 ML-KEM": _der(mlkem.MLKEM768PrivateKey.generate()),
    "SEC1": _der(_EC, PrivateFormat.TraditionalOpenSSL),
    "PKCS#1": _der(_RSA, PrivateFormat.TraditionalOpenSSL),
    "encrypted PKCS#8": _EC.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"made-up")
    ),
    "PKCS#12": pkcs12.serialize_key_and_certificates(
        b"x", _EC, None, None, BestAvailableEncryption(b"made-up")
    ),
}
ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "base64": lambda data: base64.b64encode(data).decode(),
    "base64url": lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode(),
    "hex": bytes.hex,
    "HEX": lambda data: data.hex().upper(),
}
TEXTS: dict[str, str] = {
    "PEM": _EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    "OpenSSH": _EC.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
    "JWK": json.dumps(JWK),
} | {
    f"{kind} in {how}": encode(data)
    for kind, data in STRUCTURES.items()
    for how, encode in ENCODINGS.items()
}


def refused(body: bytes) -> PrivateKeyMaterialError:
    with pytest.raises(PrivateKeyMaterialError) as caught:
        screening.screen_body(body)
    return caught.value


def scope(path: str = "/v1/log", query: str = "", header: str = "") -> dict[str, Any]:
    headers = [(b"user-agent", b"test"), (b"x-note", header.encode("latin-1"))]
    return {"type": "http", "path": path, "query_string": query.encode(), "headers": headers}


@pytest.mark.parametrize("name", TEXTS)
def test_in_any_member_at_any_depth(name: str):
    text = TEXTS[name]
    for body in (
        {"public_key": text},
        {"items": [{"slots": [{"name": "identity"}, {"extra": ["x", text]}]}]},
        {text: 1},
        [text],
        text,
    ):
        error = refused(json.dumps(body).encode())
        assert text[-40:] not in json.dumps(problem(error).body.decode())


@pytest.mark.parametrize("name", TEXTS)
def test_in_path_query_and_headers(name: str):
    text = TEXTS[name]
    flat = text.replace("\n", "")  # a header is one line
    for where in (
        scope(path=f"/v1/users/{text}/devices"),
        scope(query="user=" + quote(text)),
        scope(query=quote(text)),
        scope(header=flat),
    ):
        with pytest.raises(PrivateKeyMaterialError):
            screening.screen_target(where)


@pytest.mark.parametrize("name", TEXTS)
def test_in_a_body_that_is_not_json(name: str):
    refused(TEXTS[name].encode())


PIECES: dict[str, Callable[[bytes], Any]] = {
    "numbers": list,
    "signed numbers": lambda data: [(octet ^ 0x80) - 0x80 for octet in data],
    "numbered": lambda data: {str(place): octet for place, octet in enumerate(data)},
    "a buffer": lambda data: {"type": "Buffer", "data": list(data)},
    "chunks": lambda data: textwrap.wrap(base64.b64encode(data).decode(), 16),
    "hex chunks": lambda data: textwrap.wrap(data.hex(), 2),
    "a name in front": lambda data: "key=" + base64.b64encode(data).decode(),
    "characters": lambda data: data.decode("latin-1"),
}


@pytest.mark.parametrize("how", PIECES)
@pytest.mark.parametrize("name", STRUCTURES)
def test_in_pieces(name: str, how: str):
    value = PIECES[how](STRUCTURES[name])
    for body in (value, {"items": [{"public_key": value}]}, [[value]]):
        refused(json.dumps(body).encode())


@pytest.mark.parametrize("how", PIECES)
def test_public_things_in_pieces_pass(how: str):
    spki = _RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for data in (spki, bytes(range(256)), b"\xff" * 100):
        screening.screen_body(json.dumps({"items": [PIECES[how](data)]}).encode())


@pytest.mark.parametrize("items", [[1] * 99 + [value] for value in (256, -129, 10**30, 0.5, "x")])
def test_numbers_that_are_no_bytes_pass(items: list[Any]):
    assert screening.screen_body(json.dumps(items).encode()) == items


@pytest.mark.parametrize("name", STRUCTURES)
def test_percent_encoded_bytes(name: str):
    """DER is no UTF-8: what a server makes of the path has lost it."""
    encoded = quote(STRUCTURES[name])
    for where in (
        scope(query=encoded),
        scope(query="key=" + encoded),
        scope(header=encoded),
        scope(path="/v1/users/\ufffd/devices") | {"raw_path": f"/v1/users/{encoded}/x".encode()},
    ):
        with pytest.raises(PrivateKeyMaterialError):
            screening.screen_target(where)


def test_a_private_jwk_as_an_object():
    refused(json.dumps({"items": [{"public_key": JWK}]}).encode())
    public = {name: value for name, value in JWK.items() if name != "d"}
    assert screening.screen_body(json.dumps({"public_key": public}).encode())


@pytest.mark.parametrize("member", ["d", "k", "priv", "p", "q", "dp", "dq", "qi", "oth"])
def test_every_private_member_tells_whatever_its_value(member: str):
    for value in ("x", 5, None, [], {"r": "x"}):
        key = {"kty": "RSA", "n": "AQAB", member: value}
        assert "(JWK)" in str(refused(json.dumps({"a": [[{"b": key}]]}).encode()))


def nested(size: int) -> bytes:
    """A body of about that many bytes where every object calls itself a key."""
    value: dict[str, Any] = {"kty": "x", "a": "x" * 1000, "b": [1, 2, {"kty": "y"}]}
    for _ in range(8):
        value = {"kty": "x", "a": value}
    return json.dumps([value] * (size // len(json.dumps(value)))).encode()


def test_nothing_is_searched_twice(monkeypatch: pytest.MonkeyPatch):
    searched = 0

    def count(text: str | bytes) -> str | None:
        nonlocal searched
        searched += len(text)
        return find_private_key(text)

    monkeypatch.setattr(screening, "find_private_key", count)
    body = nested(1 << 20)
    screening.screen_body(body)
    assert searched <= 2 * len(body)


def seconds(body: bytes) -> float:
    """Processor time of screening it, the best of a few."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        screening.screen_body(body)
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize(
    "body",
    [
        nested,
        lambda size: json.dumps(["some words, " * 20] * (size // 240)).encode(),
        lambda size: json.dumps([["AgEA" * 300]] * (size // 1200)).encode(),
        lambda size: json.dumps([48, 130, 300] * (size // 20)).encode(),
    ],
    ids=["keys in keys", "words", "digits", "numbers"],
)
def test_twice_the_body_takes_twice_the_time(body: Callable[[int], bytes]):
    small, large = body(1 << 18), body(1 << 19)
    screening.screen_body(small)
    assert seconds(large) <= 2.5 * seconds(small)


def test_escapes_do_not_hide_it():
    text = "".join(f"\\u{ord(letter):04x}" for letter in TEXTS["PEM"])
    refused(f'{{"note": "{text}"}}'.encode())


def test_a_malformed_body_with_a_key_is_first_of_all_a_body_with_a_key():
    refused(b'{"a": 1, "a": "' + TEXTS["PKCS#8 EC in base64"].encode() + b'"')


def test_what_is_refused_anyway_costs_little_and_its_beginning_is_searched():
    key = TEXTS["PKCS#8 EC in base64"]
    refused(json.dumps([key + "A" * strict_json.MAX_STRING]).encode())
    refused(key.encode() + b" " * (1 << 20))
    for body in (b"-----BEGIN " * 700_000, b"[" * (4 << 20), b"[" + b"[]," * (2 << 20) + b"0]"):
        before = time.thread_time()
        with pytest.raises(MalformedJsonError):
            screening.screen_body(body)
        assert time.thread_time() - before < 0.5  # a fraction of what searching all of it takes


def test_public_things_pass():
    spki = _EC.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = json.dumps({"public_key": base64.b64encode(spki).decode(), "tenant": "x" * 100}).encode()
    assert screening.screen_body(body) == json.loads(body)
    screening.screen_target(scope(query="user=a&after=" + "ab" * 16, header="Mozilla/5.0 " * 20))
    assert screening.screen_body(b"") is None
    with pytest.raises(MalformedJsonError):
        screening.screen_body(b"hello")
