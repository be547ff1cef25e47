"""Ceremony builders: what a root and its authorities may be."""

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from hsm_drivers.ports import KeyLabel, Purpose
from pki.authorities import (
    NamePermissions,
    authority_constraints,
    prepare_root,
    prepare_subordinate,
)
from pki.certificates import MAX_SERIAL
from pki.errors import LintError, ProfileError
from pki.profiles import certificate_profiles
from tests.support import pki

START = pki.NOW - timedelta(minutes=5)


def root(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "serial": 1 << 100,
        "not_before": START,
        "not_after": START + timedelta(days=7305),
    }
    key = changes.pop("key", pki.public("ECDSA-P384"))
    return prepare_root(KeyLabel("root-1"), pki.NAMES["root"], key, **(values | changes))


def below(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "authority": "people",
        "subject": pki.NAMES["people"],
        "key": pki.public("ECDSA-P256"),
        "serial": 1 << 100,
        "not_before": START,
        "not_after": START + timedelta(days=3653),
        "base_url": pki.BASE_URL,
    }
    return prepare_subordinate(pki.world().root.issuer, **(values | changes))


def test_the_root_is_a_self_signed_authority_without_end_of_path():
    certificate = x509.load_der_x509_certificate(pki.world().root.issuer.certificate)
    certificate.verify_directly_issued_by(certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert constraints.value.path_length is None
    assert len(certificate.extensions) == 3


def test_subordinates_end_the_path_and_say_where_the_root_is():
    for name in ("people", "infrastructure"):
        data = pki.world().of(name).issuer.certificate
        certificate = x509.load_der_x509_certificate(data)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (constraints.ca, constraints.path_length) == (True, 0)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.key_cert_sign, usage.crl_sign) == (True, True)
        assert not any((usage.digital_signature, usage.key_encipherment, usage.key_agreement))
        point = certificate.extensions.get_extension_for_oid(
            ExtensionOID.CRL_DISTRIBUTION_POINTS
        ).value
        assert point[0].full_name[0].value == f"{pki.BASE_URL}/pki/root.crl"


def test_name_constraints_are_written_when_wanted():
    permitted = NamePermissions(uri_hosts=(".interior.example",), dns=("interior.example",))
    issued = pki.world().root.finish(below(permitted=permitted))
    certificate = x509.load_der_x509_certificate(issued.der)
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert found.value.permitted_subtrees == [
        x509.UniformResourceIdentifier(".interior.example"),
        x509.DNSName("interior.example"),
    ]
    assert found.value.excluded_subtrees is None


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"serial": MAX_SERIAL + 1},
        {"not_after": START},
        {"not_after": START + timedelta(days=7306)},
        {"key": pki.public("ML-KEM-768")},
    ],
)
def test_roots_out_of_bounds_are_not_prepared(changes: dict[str, Any]):
    with pytest.raises(LintError):
        root(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"not_after": START + timedelta(days=3654)},
        {"subject": pki.NAMES["root"]},
        {"key": pki.public("X25519")},
        {"not_before": START - timedelta(days=2)},
    ],
)
def test_subordinates_out_of_bounds_are_not_prepared(changes: dict[str, Any]):
    with pytest.raises(LintError):
        below(**changes)


@pytest.mark.parametrize("changes", [{"authority": "shadow"}, {"base_url": "nowhere"}])
def test_unknown_authorities_and_urls_are_refused(changes: dict[str, Any]):
    with pytest.raises(ProfileError):
        below(**changes)


def test_constraints_are_json_and_name_what_is_known_before_the_key():
    people = authority_constraints("people", pki.NAMES["people"])
    again = json.loads(json.dumps(people))
    assert again == {purpose.value: values for purpose, values in people.items()}
    certificate = people[Purpose.CERTIFICATE]
    assert certificate["ca"] is False
    assert certificate["issuer"] == pki.NAMES["people"].encode().hex()
    shapes = {shape["profile"] for shape in certificate["shapes"]}
    assert shapes == {
        name for name, row in certificate_profiles().items() if "people" in row.authorities
    }
    assert people[Purpose.CRL]["max_interval"] == 7 * 86400
    root_limits = authority_constraints("root", pki.NAMES["root"])[Purpose.CERTIFICATE]
    assert (root_limits["ca"], root_limits["subordinates"]) == (True, [])
