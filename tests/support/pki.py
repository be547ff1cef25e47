"""A small PKI in memory for tests: authorities and keys of every algorithm, signed in process."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    x25519,
)

from hsm_drivers.ports import KeyAttributes, KeyLabel, KeyRecord, Purpose
from pki.authorities import authority_constraints, prepare_root, prepare_subordinate
from pki.certificates import CertificateFactory, CertificateRequest, Issued, Issuer, Prepared
from pki.crl import PreparedCrl
from pki.keys import PublicKey, encode_spki, parse_public_key
from pki.names import Subject, device_uri, principal_uri
from pki.profiles import (
    SCHEME_USAGES,
    CertificateProfile,
    certificate_profile,
    certificate_profiles,
)
from pki.structure import split
from policies.algorithms import Algorithm, Kind, Scheme, algorithm, algorithms
from policies.decisions import Protection

NOW = datetime.now(UTC).replace(microsecond=0)  # certtool can verify at no other time
BASE_URL = "http://pki.example.org"
DOMAIN = "chat.interior.example"
NAMES = {
    "root": Subject("Example Root", "Example State"),
    "people": Subject("Example People", "Example State"),
    "infrastructure": Subject("Example Infrastructure", "Example State"),
}
_CURVES = {"ECDSA-P256": ec.SECP256R1, "ECDSA-P384": ec.SECP384R1, "ECDSA-P521": ec.SECP521R1}
_ML_DSA = {
    "ML-DSA-44": mldsa.MLDSA44PrivateKey,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey,
}


def spki_of(private: Any) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def new_private(name: str) -> Any:
    """A private key of an algorithm that is no hybrid; ML-KEM-512 is beyond the library."""
    if name in _CURVES:
        return ec.generate_private_key(_CURVES[name]())
    if name in _ML_DSA:
        return _ML_DSA[name].generate()
    match name:
        case "ECDH-P256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ECDH-P384":
            return ec.generate_private_key(ec.SECP384R1())
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "X25519":
            return x25519.X25519PrivateKey.generate()
        case "ML-KEM-768":
            return mlkem.MLKEM768PrivateKey.generate()
        case "ML-KEM-1024":
            return mlkem.MLKEM1024PrivateKey.generate()
    return rsa.generate_private_key(65537, algorithm(name).modulus_bits or 0)


@cache
def private(name: str) -> Any:
    """One private key per algorithm and test run."""
    return new_private(name)


def new_spki(name: str) -> bytes:
    """A fresh public key of any algorithm of the registry."""
    row = algorithm(name)
    if row.hybrid:
        return encode_spki(row, b"".join(raw_of(part, new_spki(part)) for part in row.components))
    if name == "ML-KEM-512":  # all coefficients zero: reduced, and public keys need no more
        return encode_spki(row, bytes(800))
    return spki_of(new_private(name))


def raw_of(name: str, spki: bytes) -> bytes:
    return parse_public_key(spki, algorithm(name)).raw


@cache
def public(name: str) -> PublicKey:
    """One public key per algorithm and test run."""
    return parse_public_key(new_spki(name), algorithm(name))


def sign(key: Any, row: Algorithm, message: bytes) -> bytes:
    """What a token answers to a statement."""
    if row.scheme is Scheme.ECDSA:
        digest = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
        return key.sign(message, ec.ECDSA(digest[row.digest or ""]))
    if row.scheme is Scheme.RSA_PSS:
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        return key.sign(message, pss, hashes.SHA256())
    return key.sign(message)


@dataclass(frozen=True)
class Authority:
    """An issuer, its private key and the record a signer would hold of it."""

    issuer: Issuer
    private: Any
    record: KeyRecord

    def finish(self, prepared: Prepared) -> Issued:
        return prepared.complete(self.sign(prepared.statement.message))

    def finish_crl(self, prepared: PreparedCrl) -> bytes:
        return prepared.complete(self.sign(prepared.statement.message))

    def sign(self, message: bytes) -> bytes:
        return sign(self.private, self.issuer.algorithm, message)

    @property
    def factory(self) -> CertificateFactory:
        return CertificateFactory(self.issuer, BASE_URL)


@dataclass(frozen=True)
class World:
    root: Authority
    people: Authority
    infrastructure: Authority

    def of(self, name: str) -> Authority:
        return {
            "root": self.root,
            "people": self.people,
            "infrastructure": self.infrastructure,
        }[name]


def record_of(name: str, row: Algorithm, spki: bytes, **options: Any) -> KeyRecord:
    return KeyRecord(
        label=KeyLabel(f"{name}-1"),
        key_id="00" * 16,
        algorithm=row.name,
        purposes=(Purpose.CERTIFICATE, Purpose.CRL),
        constraints=authority_constraints(name, NAMES[name], **options),
        protection=Protection.TOKEN,
        public_key=spki,
        attributes=KeyAttributes(True, True, True, False, True, True, True, True),
        token="test",
        created="2026-11-22T12:00:00Z",
    )


def _root(row: Algorithm) -> Authority:
    key = new_private(row.name)
    spki = spki_of(key)
    below = (NAMES["people"], NAMES["infrastructure"])
    record = record_of("root", row, spki, subordinates=below)
    prepared = prepare_root(
        record.label,
        NAMES["root"],
        parse_public_key(spki, row),
        serial=(1 << 127) + 1,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=7000),
    )
    data = prepared.complete(sign(key, row, prepared.statement.message)).der
    return Authority(Issuer("root", 1, record.label, row, data), key, record)


def _below(root: Authority, name: str, row: Algorithm, serial: int) -> Authority:
    key = new_private(row.name)
    spki = spki_of(key)
    record = record_of(name, row, spki)
    prepared = prepare_subordinate(
        root.issuer,
        name,
        NAMES[name],
        parse_public_key(spki, row),
        serial=serial,
        not_before=NOW - timedelta(hours=23),
        not_after=NOW + timedelta(days=3600),
        base_url=BASE_URL,
    )
    data = root.finish(prepared).der
    return Authority(Issuer(name, 1, record.label, row, data), key, record)


@cache
def world(ca_algorithm: str = "ECDSA-P256") -> World:
    """Root, people and infrastructure with keys of one algorithm."""
    row = algorithm(ca_algorithm)
    root = _root(row)
    return World(
        root,
        _below(root, "people", row, (1 << 127) + 2),
        _below(root, "infrastructure", row, (1 << 127) + 3),
    )


def request(profile: str, key: PublicKey, serial: int = 1 << 126, **changes: Any) -> Any:
    """An ordinary request under a profile."""
    row = certificate_profile(profile)
    values: dict[str, Any] = {
        "profile": row,
        "serial": serial,
        "not_before": NOW - timedelta(minutes=5),
        "not_after": NOW - timedelta(minutes=5) + row.validity,
        "subject": Subject("alice", "Interior"),
        "key": key,
    }
    if "people" in row.authorities:
        values["uris"] = (device_uri(DOMAIN, "alice", "phone-1"),)
    elif profile == "tls-server":
        values["dns"], values["ips"] = (
            ("kms.example.org", "kms.internal.example"),
            ("127.0.0.1", "::1"),
        )
    else:
        values["uris"] = (principal_uri(DOMAIN, "matrix"),)
    return CertificateRequest(**(values | changes))


def certifiable() -> list[tuple[str, str]]:
    """Every profile with every algorithm of the registry that it certifies."""
    return [
        (profile.name, row.name)
        for profile in certificate_profiles().values()
        for row in algorithms()
        if row.kind in profile.kinds & {Kind.SIGNATURE, Kind.KEM}
        and profile.key_usages & SCHEME_USAGES[row.scheme]
    ]


def issuer_of(profile: CertificateProfile) -> str:
    """The one authority of the default world that issues such certificates."""
    return "people" if "people" in profile.authorities else "infrastructure"


def issue(profile: str, algorithm_name: str, serial: int = 1 << 126, **changes: Any) -> Issued:
    """A certificate of the default world."""
    authority = world().of(issuer_of(certificate_profile(profile)))
    prepared = authority.factory.prepare(
        request(profile, public(algorithm_name), serial, **changes)
    )
    return authority.finish(prepared)


def tbs_of(certificate: bytes) -> bytes:
    """The TBSCertificate of a certificate."""
    return split(certificate).content
