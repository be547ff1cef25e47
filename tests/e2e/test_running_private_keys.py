"""P1 over the wire: private keys in any form, in any place, are refused and leave no trace."""

import base64
import json
from collections.abc import Callable, Iterator
from functools import cache
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from tests.support.calling import JSON, Answer, Client
from tests.support.hostile import tlv
from tests.support.running import MESSENGER, OFFICER, Service
from tests.support.watching import check_refusal, refusing

PROBLEM = "private-key-material"
ORDERS, PROOFS = "/v1/enrolments", f"/v1/enrolments/{'0' * 32}/proofs"
Send = Callable[[Client, str], Answer]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@cache
def structures() -> dict[str, bytes]:
    """Every structure that P1 names, in DER."""
    plain, secret = NoEncryption(), BestAvailableEncryption(b"password")
    p256 = ec.generate_private_key(ec.SECP256R1())
    rsa2048 = rsa.generate_private_key(65537, 2048)
    pkcs8 = {
        "P-256": p256,
        "RSA": rsa2048,
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "X25519": x25519.X25519PrivateKey.generate(),
        "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate(),
        "ML-KEM-768": mlkem.MLKEM768PrivateKey.generate(),
    }
    made = {
        f"PKCS#8 {name}": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, plain)
        for name, key in pkcs8.items()
    }
    traditional = PrivateFormat.TraditionalOpenSSL
    made["encrypted PKCS#8"] = p256.private_bytes(Encoding.DER, PrivateFormat.PKCS8, secret)
    made["SEC1"] = p256.private_bytes(Encoding.DER, traditional, plain)
    made["PKCS#1"] = rsa2048.private_bytes(Encoding.DER, traditional, plain)
    made["PKCS#12"] = pkcs12.serialize_key_and_certificates(b"x", p256, None, None, secret)
    openssh = p256.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, plain)
    made["OpenSSH"] = base64.b64decode(b"".join(openssh.splitlines()[1:-1]))
    seed = bytes(range(17, 81))
    made["ML-DSA seed"] = b"\x80\x20" + seed[:32]
    made["ML-KEM seed"] = b"\x80\x40" + seed
    made["ML-KEM both"] = tlv(0x30, tlv(0x04, seed), tlv(0x04, bytes(seed * 38)[:2400]))
    return made


@cache
def texts() -> dict[str, str]:
    """The structures as they are written down, and keys that are texts from the start."""
    made = {}
    for name, data in structures().items():
        made[f"{name}, base64"] = _base64(data)
        made[f"{name}, base64url"] = _base64url(data)
        made[f"{name}, hex"] = data.hex()
    plain = NoEncryption()
    key = ec.generate_private_key(ec.SECP256R1())
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH):
        made[f"PEM {form}"] = key.private_bytes(Encoding.PEM, form, plain).decode()
    d = _base64url(bytes(range(100, 132)))
    jwk = {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "d": d}
    made["JWK"] = json.dumps(jwk)
    made["JWK set"] = json.dumps({"keys": [{"kty": "AKP", "alg": "ML-DSA-65", "priv": d}]})
    return made


def one_line(text: str) -> bool:
    return "\n" not in text and '"' not in text


def _slot(text: str) -> dict[str, object]:
    slot = {"name": "identity", "algorithm": "Ed25519", "public_key": text}
    return {"user": "ada", "device": "phone", "bundle": "device-identity", "slots": [slot]}


IN_BODIES: dict[str, Send] = {
    "public key": lambda client, text: client.post(ORDERS, _slot(text)),
    "batch item": lambda client, text: client.post(
        f"{ORDERS}:batch", {"items": [_slot("AAAA"), _slot(text)]}
    ),
    "proof": lambda client, text: client.post(PROOFS, {"proofs": {"identity": text}}),
    "CSR": lambda client, text: client.post("/v1/certificates", {"name": "x", "csr": text}),
    "user": lambda client, text: client.post(ORDERS, {**_slot("AAAA"), "user": text}),
    "unknown member": lambda client, text: client.post(
        "/v1/users/ada/revoke", {"x": [{"y": text}]}
    ),
    "member's name": lambda client, text: client.post(ORDERS, {text: 1}),
    "no such path": lambda client, text: client.post("/v1/anything", {"key": text}),
    "bare body": lambda client, text: client.post(ORDERS, text.encode()),
    "JSON string": lambda client, text: client.post(ORDERS, json.dumps(text).encode()),
    "JSON in JSON": lambda client, text: client.post(ORDERS, {"x": json.dumps({"k": text})}),
}
ON_ONE_LINE: dict[str, Send] = {
    "Idempotency-Key": lambda client, text: client.post(ORDERS, {}, text),
    "a header": lambda client, text: client.post(ORDERS, {}, X_Private_Key=text),
    "Authorization": lambda client, text: client.post(ORDERS, {}, Authorization=f"Bearer {text}"),
    "Cookie": lambda client, text: client.post(ORDERS, {}, Cookie=f"a=b; key={text}"),
    "query": lambda client, text: client.send("GET", f"/v1/log?key={quote(text, safe='')}"),
    "path": lambda client, text: client.send("GET", f"/v1/users/{quote(text, safe='')}/devices"),
    "raw path": lambda client, text: client.send("GET", f"/v1/devices/{text}"),
}


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


def check(name: str, answer: Answer, text: str) -> None:
    assert answer.problem == PROBLEM, f"{name}: {answer.body!r}"
    check_refusal(answer, PROBLEM)
    shown = answer.body.decode() + repr(sorted(answer.headers.items()))
    assert not [part for part in pieces(text) if part in shown], f"{name} is echoed"


def pieces(text: str) -> list[str]:
    """Parts of a text that do not stand in anything else."""
    line = max(text.split(), key=len)
    return [line[at : at + 24] for at in range(0, max(1, len(line) - 24), 24)][-6:]


@pytest.mark.parametrize("place", IN_BODIES)
def test_in_bodies(service: Service, client: Client, place: str):
    with refusing(service, PROBLEM, len(texts())):
        for name, text in texts().items():
            check(f"{name} as {place}", IN_BODIES[place](client, text), text)


@pytest.mark.parametrize("place", ON_ONE_LINE)
def test_in_headers_paths_and_queries(service: Service, client: Client, place: str):
    wanted = {name: text for name, text in texts().items() if one_line(text)}
    if place == "raw path":
        wanted = {name: text for name, text in wanted.items() if "+" not in text}
    with refusing(service, PROBLEM, len(wanted)):
        for name, text in wanted.items():
            check(f"{name} in {place}", ON_ONE_LINE[place](client, text), text)


def test_as_raw_bytes(service: Service, client: Client):
    with refusing(service, PROBLEM, len(structures())):
        for name, data in structures().items():
            check(name, client.post(ORDERS, data), data.hex())


def test_a_key_object_and_its_escapes(service: Service, client: Client):
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": _base64url(bytes(range(32)))}
    escaped = json.dumps({"key": jwk}).replace('"d"', '"\\u0064"')
    with refusing(service, PROBLEM, 3):
        for body in (jwk, {"key": jwk}, escaped.encode()):
            check("JWK", client.post(ORDERS, body), str(jwk["d"]))


def test_from_every_role_and_on_every_listener(service: Service):
    text = texts()["PKCS#8 P-256, base64"]
    with Client(service.home, OFFICER) as officer, refusing(service, PROBLEM):
        body = json.dumps({"tenant": "ministry", "name": "messenger", "csr": text}).encode()
        headers = {"Content-Type": JSON, "Idempotency-Key": "k"}
        check("officer", officer.send("POST", "/v1/certificates", body, headers), text)


def test_public_keys_are_still_welcome(service: Service, client: Client):
    device = service.home.device("ada", "ada-phone", identity="ML-DSA-65", kem="MLKEM1024-P384")
    assert client.post(ORDERS, device.request("device")).status == 201


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left(service: Service) -> Iterator[None]:
    """After all of the above: no file of the service holds any part of any of it."""
    yield
    marks = {piece.encode() for text in texts().values() for piece in pieces(text)}
    marks |= {data[-24:] for data in structures().values()}
    own = {*service.home.path.glob("clients/*"), *service.home.path.glob("tls/*")}
    searched = 0
    for path in service.home.root.rglob("*"):
        if path.is_file() and path not in own:
            content = path.read_bytes()
            assert not [mark for mark in marks if mark in content], path
            searched += len(content)
    assert searched > 100_000
