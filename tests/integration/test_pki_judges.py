"""Strangers judge what the PKI makes: OpenSSL, GnuTLS, pkilint and cryptography's parser.

A tool that is missing fails the run.
"""

import subprocess
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader, pkix, report, validation
from pkilint.pkix import certificate, crl, extension, name

from pki.authorities import NamePermissions, prepare_subordinate
from pki.certificates import CertificateFactory, Issuer
from pki.crl import CrlFactory, RevokedEntry
from policies.algorithms import Scheme, algorithm
from tests.support import pki
from tests.support.foreign_envelopes import unpacked

CASES = pki.certifiable()
# OpenSSL 3.0 stops at leaf keys it does not know: "unable to get certs public key".
OPENSSL_KNOWS = {Scheme.ECDSA, Scheme.EDDSA, Scheme.RSA_PSS, Scheme.DHKEM_EC, Scheme.DHKEM_X}
CA_ALGORITHMS = ("ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-3072")
POST_QUANTUM = {"ML-DSA-65": "ML-KEM-768", "ML-DSA-87": "ML-KEM-1024"}
"""Keys of authorities and what they certify beside their like; OpenSSL 3.0 does not know them."""
AT = str(int(pki.NOW.timestamp()))


@cache
def certificate_linter() -> Any:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(
            name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
        ),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@cache
def crl_linter() -> Any:
    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


def findings(linter: Any, document: Any) -> list[str]:
    """What pkilint says at WARNING and above."""
    least = validation.ValidationFindingSeverity.WARNING
    results = linter.validate(document.root)
    return [
        f"{finding.finding.code}: {finding.message}"
        for result in results
        for finding in result.finding_descriptions
        if finding.finding.severity <= least
    ]


def lint(data: bytes) -> list[str]:
    return findings(certificate_linter(), loader.load_der_certificate(data, "certificate"))


def lint_crl(data: bytes) -> list[str]:
    return findings(crl_linter(), loader.load_der_crl(data, "crl"))


def pem(data: bytes) -> bytes:
    return x509.load_der_x509_certificate(data).public_bytes(Encoding.PEM)


def crl_of(authority: pki.Authority, *revoked: int) -> bytes:
    factory = CrlFactory(authority.issuer)
    entries = [RevokedEntry(serial, pki.NOW, "key-compromise") for serial in revoked]
    update = pki.NOW - timedelta(minutes=5)
    return authority.finish_crl(factory.prepare(1, update, update + timedelta(days=7), entries))


def chain_files(world: pki.World, authority: str, folder: Path) -> list[str]:
    (folder / "root.pem").write_bytes(pem(world.root.issuer.certificate))
    (folder / "ca.pem").write_bytes(pem(world.of(authority).issuer.certificate))
    return ["-CAfile", str(folder / "root.pem"), "-untrusted", str(folder / "ca.pem")]


def openssl(
    leaf: bytes,
    world: pki.World,
    authority: str,
    folder: Path,
    program: str = "openssl",
    lists: list[bytes] | None = None,
) -> str:
    (folder / "leaf.pem").write_bytes(pem(leaf))
    chain = chain_files(world, authority, folder)
    if lists is not None:
        crls = (x509.load_der_x509_crl(item).public_bytes(Encoding.PEM) for item in lists)
        (folder / "crls.pem").write_bytes(b"".join(crls))
        chain += ["-crl_check_all", "-CRLfile", str(folder / "crls.pem")]
    done = subprocess.run(
        [program, "verify", "-x509_strict", "-attime", AT, *chain, str(folder / "leaf.pem")],
        capture_output=True,
        check=False,
        timeout=30,
    )
    return (done.stdout + done.stderr).decode()


def certtool(
    leaf: bytes, world: pki.World, authority: str, folder: Path, lists: list[bytes]
) -> str:
    """GnuTLS's verdict on the chain, with the CRLs of every authority in it."""
    chain_files(world, authority, folder)
    crls = b"".join(x509.load_der_x509_crl(data).public_bytes(Encoding.PEM) for data in lists)
    (folder / "crls.pem").write_bytes(crls)
    done = subprocess.run(
        [
            "certtool",
            "--verify",
            "--load-ca-certificate",
            str(folder / "root.pem"),
            "--load-crl",
            str(folder / "crls.pem"),
        ],
        input=pem(leaf) + (folder / "ca.pem").read_bytes(),
        capture_output=True,
        check=False,
        timeout=30,
    )
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize(("profile", "key"), CASES)
def test_pkilint_has_no_finding_on_any_profile_and_key(profile: str, key: str):
    assert lint(pki.issue(profile, key).der) == []


@pytest.mark.parametrize("ca", [*CA_ALGORITHMS, *POST_QUANTUM])
def test_pkilint_has_no_finding_on_authorities_and_crls(ca: str):
    world = pki.world(ca)
    for authority in (world.root, world.people, world.infrastructure):
        assert lint(authority.issuer.certificate) == []
        assert lint_crl(crl_of(authority)) == []
        assert lint_crl(crl_of(authority, 5, 1 << 126)) == []


def test_pkilint_does_find_faults():
    """Otherwise the tests above would prove nothing."""
    good = pki.issue("device-identity", "ECDSA-P256").der
    usage, wrong = bytes.fromhex("03020780"), bytes.fromhex("03020520")  # keyEncipherment
    assert good.count(usage) == 1
    assert lint(good.replace(usage, wrong)) != []


@pytest.mark.parametrize(
    ("profile", "key"), [case for case in CASES if algorithm(case[1]).scheme in OPENSSL_KNOWS]
)
def test_openssl_verifies_strictly(profile: str, key: str, tmp_path: Path):
    issued = pki.issue(profile, key)
    authority = pki.issuer_of(pki.certificate_profile(profile))
    assert "leaf.pem: OK" in openssl(issued.der, pki.world(), authority, tmp_path)


@pytest.mark.parametrize("ca", CA_ALGORITHMS)
def test_openssl_verifies_under_every_authority_key(ca: str, tmp_path: Path):
    world = pki.world(ca)
    request = pki.request("device-identity", pki.public("ECDSA-P256"))
    leaf = world.people.finish(world.people.factory.prepare(request)).der
    assert "leaf.pem: OK" in openssl(leaf, world, "people", tmp_path)


@pytest.mark.parametrize(("profile", "key"), CASES)
def test_certtool_calls_good_good_and_revoked_revoked(profile: str, key: str, tmp_path: Path):
    issued = pki.issue(profile, key)
    world, authority = pki.world(), pki.issuer_of(pki.certificate_profile(profile))
    root_list = crl_of(world.root)
    good = [root_list, crl_of(world.of(authority), issued.serial + 1)]
    assert "Chain verification output: Verified" in certtool(
        issued.der, world, authority, tmp_path, good
    )
    revoked = [root_list, crl_of(world.of(authority), issued.serial)]
    answer = certtool(issued.der, world, authority, tmp_path, revoked)
    assert "Not verified" in answer
    assert "revoked" in answer


@pytest.mark.parametrize(("ca", "kem"), POST_QUANTUM.items())
def test_the_openssl_of_today_verifies_what_post_quantum_authorities_sign(
    ca: str, kem: str, tmp_path: Path
):
    """Certificates of signature and KEM keys, and the lists that revoke one of them."""
    program, world = str(unpacked().openssl), pki.world(ca)
    certify = world.people.factory.prepare
    good = world.people.finish(certify(pki.request("device-kem", pki.public(kem), 77)))
    gone = world.people.finish(certify(pki.request("device-identity", pki.public(ca), 78)))
    lists = [crl_of(world.root), crl_of(world.people, 78)]
    assert "leaf.pem: OK" in openssl(good.der, world, "people", tmp_path, program, lists)
    assert "leaf.pem: OK" in openssl(gone.der, world, "people", tmp_path, program)
    assert "revoked" in openssl(gone.der, world, "people", tmp_path, program, lists)
    wrong = gone.der[:-1] + bytes([gone.der[-1] ^ 1])
    assert "signature failure" in openssl(wrong, world, "people", tmp_path, program)


def test_openssl_reads_the_crl_and_calls_the_leaf_revoked(tmp_path: Path):
    issued, world = pki.issue("device-identity", "ECDSA-P256"), pki.world()
    (tmp_path / "leaf.pem").write_bytes(pem(issued.der))
    chain = chain_files(world, "people", tmp_path)
    lists = [crl_of(world.root), crl_of(world.people, issued.serial)]
    data = b"".join(x509.load_der_x509_crl(item).public_bytes(Encoding.PEM) for item in lists)
    (tmp_path / "crls.pem").write_bytes(data)
    command = ["openssl", "verify", "-x509_strict", "-crl_check_all", "-attime", AT, *chain]
    command += ["-CRLfile", str(tmp_path / "crls.pem"), str(tmp_path / "leaf.pem")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    assert b"certificate revoked" in done.stderr


def test_name_constraints_hold_for_openssl(tmp_path: Path):
    """Optional name constraints let the permitted host through and stop another."""
    world = pki.world()
    prepared = prepare_subordinate(
        world.root.issuer,
        "people",
        pki.NAMES["people"],
        pki.parse_public_key(world.people.record.public_key, algorithm("ECDSA-P256")),
        serial=(1 << 127) + 9,
        not_before=pki.NOW - timedelta(hours=20),
        not_after=pki.NOW + timedelta(days=3000),
        base_url=pki.BASE_URL,
        permitted=NamePermissions(uri_hosts=(pki.DOMAIN,)),
    )
    authority = world.root.finish(prepared).der
    assert lint(authority) == []
    issuer = Issuer("people", 2, world.people.issuer.key, algorithm("ECDSA-P256"), authority)
    people = pki.Authority(issuer, world.people.private, world.people.record)
    constrained = pki.World(world.root, people, world.infrastructure)
    for host, verdict in ((pki.DOMAIN, "leaf.pem: OK"), ("elsewhere.example", "permitted subtree")):
        request = pki.request(
            "device-identity",
            pki.public("ECDSA-P256"),
            uris=(pki.device_uri(host, "alice", "phone-1"),),
        )
        leaf = people.finish(CertificateFactory(issuer, pki.BASE_URL).prepare(request)).der
        assert verdict in openssl(leaf, constrained, "people", tmp_path)


def test_report_module_agrees_that_nothing_was_skipped():
    """The linters above run as many validations as the command-line tools do."""
    assert len(report.report_included_validations(certificate_linter())) > 1000
    assert len(report.report_included_validations(crl_linter())) > 500
