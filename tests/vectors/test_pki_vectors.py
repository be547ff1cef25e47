"""Public vectors through the PKI's own readers: requests, RFC keys, signatures, points."""

import base64
import binascii
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import CheckContext, Purpose, Statement
from pki import der
from pki.chains import certificate_info
from pki.checkers import check_certificate, check_crl
from pki.csr import parse_csr
from pki.errors import InvalidCsrError, InvalidKeyError, PkiError, ProofError, WeakKeyError
from pki.keys import encode_spki, infer_algorithm, parse_public_key
from pki.possession import verify_signature
from pki.private_material import find_private_key
from pki.structure import read_certificate, split
from pki.weak_keys import check
from policies.algorithms import Kind, Scheme, algorithm
from tests.support import pki, vectors

CSR = vectors.folder("csr")
PQC = vectors.folder("pqc")
WYCHEPROOF = vectors.folder("crypto") / "wycheproof"
EXPECTED = json.loads((CSR / "expected.json").read_text())
PRIVATE = sorted(PQC.glob("rfc-*/*.priv"))
PUBLIC = sorted(PQC.glob("rfc-*/*.pub"))


def unarmoured(path: Path) -> bytes:
    text = re.sub(r"-----.*?-----", "", path.read_text(), flags=re.DOTALL)
    return base64.b64decode(text)


@pytest.mark.parametrize("name", EXPECTED)
def test_requests_are_judged_as_expected(name: str):
    data, expect = (CSR / name).read_bytes(), EXPECTED[name]["expect"]
    try:
        csr = parse_csr(data)
    except InvalidCsrError:
        assert expect in {"refuse", "either"}
        return
    assert expect in {"accept-pop", "either"}
    assert "challenge" not in repr(csr).lower()


def test_no_request_of_the_vectors_is_forgotten():
    assert {path.name for path in CSR.iterdir()} - {"expected.json"} == set(EXPECTED)


@pytest.mark.parametrize("path", PRIVATE, ids=lambda path: path.name)
def test_rfc_private_keys_are_found(path: Path):
    data = unarmoured(path)
    assert find_private_key(path.read_text())
    assert find_private_key(data) == "PKCS#8"
    assert find_private_key(base64.b64encode(data).decode()) == "PKCS#8"
    content = der.Reader(der.parse(data).children[2].encode()).content(der.OCTET_STRING)
    assert find_private_key(content), "the CHOICE standing alone"
    assert find_private_key(base64.urlsafe_b64encode(content).decode())


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.name)
def test_rfc_public_keys_are_read_and_left_alone(path: Path):
    data, row = unarmoured(path), algorithm(path.stem)
    key = parse_public_key(data, row)
    assert infer_algorithm(data, row.kind) == row
    check(key)
    assert find_private_key(path.read_text()) is None
    assert find_private_key(data) is None


@pytest.mark.parametrize("path", sorted(PQC.glob("rfc-*/*.crt")), ids=lambda path: path.name)
def test_rfc_certificates_are_read_and_left_alone(path: Path):
    tbs, signed = read_certificate(unarmoured(path))
    row = algorithm(path.stem)
    key = parse_public_key(tbs.spki, row)
    assert find_private_key(path.read_text()) is None
    if row.scheme is Scheme.ML_DSA:  # self-signed
        verify_signature(key, signed.content, signed.signature)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ecdsa_secp256r1_sha256_test.json.gz", "ECDSA-P256"),
        ("ecdsa_secp384r1_sha384_test.json.gz", "ECDSA-P384"),
        ("ed25519_test.json.gz", "Ed25519"),
        ("mldsa_65_verify_test.json.gz", "ML-DSA-65"),
    ],
)
def test_wycheproof_signatures_prove_exactly_when_valid(file: str, name: str):
    groups = vectors.load_json(WYCHEPROOF / file)["testGroups"]
    judged = 0
    for group in groups:
        for case in group["tests"]:
            if case.get("ctx"):  # the protocol's signatures have an empty context
                continue
            judged += 1
            assert proves(group, case, name) == (case["result"] == "valid"), case
    assert judged > 40


def proves(group: dict[str, Any], case: dict[str, Any], name: str) -> bool:
    try:
        if "publicKeyDer" in group:
            key = parse_public_key(bytes.fromhex(group["publicKeyDer"]), algorithm(name))
        else:
            raw = bytes.fromhex(group["publicKey"])
            key = parse_public_key(encode_spki(algorithm(name), raw), algorithm(name))
        verify_signature(key, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
    except (ProofError, InvalidKeyError):
        return False
    return True


def test_wycheproof_points_of_low_order_and_odd_encodings_are_refused():
    refused = {"LowOrderPublic", "ZeroSharedSecret", "NonCanonicalPublic"}
    row = algorithm("X25519")
    seen: set[str] = set()
    for group in vectors.load_json(WYCHEPROOF / "x25519_test.json.gz")["testGroups"]:
        for case in group["tests"]:
            flags = refused & set(case["flags"])
            raw = bytes.fromhex(case["public"])
            key = parse_public_key(encode_spki(row, raw), row)
            if flags:
                with pytest.raises(WeakKeyError):
                    check(key)
                seen |= flags
            else:
                check(key)
    assert {"LowOrderPublic", "NonCanonicalPublic"} <= seen


def test_wycheproof_ml_kem_keys_are_reduced():
    row = algorithm("ML-KEM-768")
    judged = 0
    for group in vectors.load_json(WYCHEPROOF / "mlkem_768_encaps_test.json.gz")["testGroups"]:
        for case in group["tests"]:
            raw = bytes.fromhex(case["ek"])
            judged += 1
            try:
                parse_public_key(encode_spki(row, raw), row)
            except InvalidKeyError:
                assert case["result"] == "invalid", case["tcId"]
            else:
                assert case["result"] == "valid", case["tcId"]
    assert judged > 10


READERS: list[Callable[[bytes], object]] = [
    parse_csr,
    read_certificate,
    certificate_info,
    find_private_key,
    lambda data: infer_algorithm(data, Kind.SIGNATURE),
    lambda data: infer_algorithm(data, Kind.KEM),
]


def members(pattern: str) -> list[tuple[str, bytes]]:
    """Files inside the archives of that name; PEM blocks one by one, decoded."""
    found: list[tuple[str, bytes]] = []
    for archive in sorted(vectors.folder("x509").glob(pattern)):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                data = opened.read(name)
                found.append((name, data))
                for block in re.findall(rb"-----BEGIN [^-]+-----([^-]+)-----END", data):
                    try:
                        found.append((name, base64.b64decode(block)))
                    except binascii.Error:
                        continue
    assert found, pattern
    return found


@pytest.mark.parametrize("reader", READERS)
def test_strangers_bytes_only_ever_raise_our_errors(reader: Callable[[bytes], object]):
    """Readers meet what lies in the corpora and answer with a value or a PkiError."""
    for _, data in members("*.zip"):
        try:
            reader(data)
        except PkiError:
            continue


def test_no_public_file_of_pkits_is_taken_for_a_private_key():
    for name, data in members("pkits-*.zip"):
        assert find_private_key(data) is None, name
        assert find_private_key(base64.b64encode(data).decode()) is None, name


def test_the_signer_signs_no_strangers_statement():
    """Every certificate and CRL of the corpora is foreign, whatever its form."""
    people = pki.world().people.record
    judged = 0
    for name, data in members("*.zip"):
        try:
            content = split(data).content
        except PkiError:
            continue
        judged += 1
        for checker, purpose in (
            (check_certificate, Purpose.CERTIFICATE),
            (check_crl, Purpose.CRL),
        ):
            try:
                checker(people, Statement(people.label, purpose, content), CheckContext(pki.NOW))
            except StatementRefusedError:
                continue
            pytest.fail(f"{name} would be signed")
    assert judged > 500
