"""Profiles as data: what the promises rest on."""

from datetime import timedelta

import pytest

from pki.errors import ProfileError
from pki.profiles import (
    SCHEME_USAGES,
    KeyUsage,
    authority_profile,
    bundle_profile,
    bundle_profiles,
    certificate_profile,
    certificate_profiles,
)
from policies.algorithms import Kind, Scheme, algorithm, algorithms

CA_USAGES = {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}
CLIENT_AUTH, SERVER_AUTH = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"


def test_unknown_profiles_are_named_with_what_there_is():
    for lookup in (certificate_profile, bundle_profile, authority_profile):
        with pytest.raises(ProfileError, match="there are"):
            lookup("no-such")


@pytest.mark.parametrize(
    ("name", "days", "authority"),
    [
        ("device-identity", 90, "people"),
        ("device-kem", 90, "people"),
        ("user-identity", 90, "people"),
        ("messaging-server", 365, "infrastructure"),
        ("officer", 365, "infrastructure"),
        ("auditor", 365, "infrastructure"),
        ("tls-server", 7, "infrastructure"),
        ("kem-slot", 1096, "infrastructure"),
    ],
)
def test_shipped_profiles(name: str, days: int, authority: str):
    profile = certificate_profile(name)
    assert profile.validity == timedelta(days=days)
    assert authority in profile.authorities
    assert profile.version >= 1


def test_no_profile_makes_an_authority():
    for profile in certificate_profiles().values():
        assert not profile.key_usages & CA_USAGES


def test_devices_cannot_speak_for_infrastructure():
    """A people's certificate never carries a TLS usage; an API client certificate always does."""
    for profile in certificate_profiles().values():
        tls = {CLIENT_AUTH, SERVER_AUTH} & set(profile.extended_key_usages)
        signs_in = profile.authorities == {"infrastructure"} and Kind.SIGNATURE in profile.kinds
        assert bool(tls) == signs_in


def test_slots_of_the_organisation_are_sealed_to_and_nothing_else():
    """Their certificates are of the authority that certifies API clients, and open no door."""
    slot = certificate_profile("kem-slot")
    assert slot.key_usages == {KeyUsage.KEY_ENCIPHERMENT}
    assert slot.kinds == {Kind.KEM}
    for name in ("X25519", "ECDH-P256"):  # which would agree, and not encipher
        with pytest.raises(ProfileError):
            slot.key_usage(algorithm(name))


def test_kem_keys_get_no_signing_usage_and_post_quantum_ones_only_encipherment():
    kem = certificate_profile("device-kem")
    for row in algorithms(Kind.KEM):
        usages = kem.key_usage(row)
        assert not usages & SCHEME_USAGES[Scheme.ECDSA]
        if row.quantum_category:
            assert usages == {KeyUsage.KEY_ENCIPHERMENT}
    with pytest.raises(ProfileError):
        kem.key_usage(algorithm("Ed25519"))


def test_shipped_bundles():
    device = bundle_profile("device")
    assert [(slot.name, slot.kind) for slot in device.slots] == [
        ("identity", Kind.SIGNATURE),
        ("kem", Kind.KEM),
    ]
    assert [slot.name for slot in bundle_profile("device-identity").slots] == ["identity"]
    for bundle in bundle_profiles().values():
        for slot in bundle.slots:
            assert certificate_profile(slot.profile).kinds == {slot.kind}


def test_the_root_alone_certifies_authorities():
    assert authority_profile("root").path_length is None
    for name in ("people", "infrastructure"):
        profile = authority_profile(name)
        assert profile.path_length == 0
        assert profile.crl_validity == timedelta(days=7)
        assert profile.validity < authority_profile("root").validity
