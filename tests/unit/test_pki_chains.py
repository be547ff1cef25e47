"""Finished certificates: who issued them, whom they name."""

import time
from datetime import timedelta

import pytest

from pki import der
from pki.certificates import Issuer
from pki.chains import certificate_info, verify_chain, verify_issued
from pki.errors import PkiError
from pki.keys import key_id
from pki.names import Subject, principal_uri
from pki.structure import read_certificate, split
from policies.algorithms import algorithm
from tests.support import pki

CA_ALGORITHMS = ["ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-3072", "ML-DSA-65"]


@pytest.mark.parametrize("ca", CA_ALGORITHMS)
def test_what_an_authority_signed_verifies_and_nothing_else(ca: str):
    world = pki.world(ca)
    request = pki.request("device-identity", pki.public("ECDSA-P256"))
    leaf = world.people.finish(world.people.factory.prepare(request)).der
    verify_issued(leaf, world.people.issuer)
    verify_issued(world.people.issuer.certificate, world.root.issuer)
    verify_issued(world.root.issuer.certificate, world.root.issuer)
    verify_chain(leaf, [world.people.issuer, world.root.issuer], pki.NOW)
    for issuer in (world.root.issuer, world.infrastructure.issuer):
        with pytest.raises(PkiError):
            verify_issued(leaf, issuer)


def test_a_wrong_signature_is_found():
    world = pki.world()
    leaf = pki.issue("device-identity", "ECDSA-P256").der
    forged = leaf[:-1] + bytes((leaf[-1] ^ 1,))
    with pytest.raises(PkiError):
        verify_issued(forged, world.people.issuer)
    parts = split(leaf)
    twisted = der.sequence(
        parts.content, der.sequence(der.oid("1.2.840.10045.4.3.3")), der.bit_string(parts.signature)
    )
    with pytest.raises(PkiError, match="two different"):
        verify_issued(twisted, world.people.issuer)


def test_an_impostor_with_the_same_name_is_found():
    impostor = pki._root(algorithm("ECDSA-P256"))
    genuine = pki.world().root
    with pytest.raises(PkiError):
        verify_issued(pki.world().people.issuer.certificate, impostor.issuer)
    assert impostor.issuer.subject == genuine.issuer.subject


def test_a_chain_is_valid_at_a_moment():
    world = pki.world()
    leaf = pki.issue("device-identity", "ECDSA-P256").der
    chain = [world.people.issuer, world.root.issuer]
    for at in (pki.NOW - timedelta(hours=1), pki.NOW + timedelta(days=91)):
        with pytest.raises(PkiError, match="not valid"):
            verify_chain(leaf, chain, at)
    with pytest.raises(PkiError):
        verify_chain(leaf, [], pki.NOW)
    with pytest.raises(PkiError):
        verify_chain(leaf, [world.people.issuer], pki.NOW)


@pytest.mark.parametrize(("profile", "key"), pki.certifiable())
def test_a_certificate_tells_whom_it_names(profile: str, key: str):
    issued = pki.issue(profile, key)
    request = pki.request(profile, pki.public(key))
    issuer = pki.world().of(pki.issuer_of(request.profile)).issuer
    info = certificate_info(issued.der)
    assert info.serial == f"{issued.serial:032x}"
    assert info.subject == "alice"
    assert (info.uris, info.dns) == (request.uris, request.dns)
    assert (info.not_before, info.not_after) == (request.not_before, request.not_after)
    assert (info.issuer, info.issuer_key_id) == (issuer.subject, issuer.key_id)
    assert info.extended_key_usages == request.profile.extended_key_usages
    assert info.spki == request.key.spki
    assert info.sha256 == issued.sha256


def test_an_authority_tells_its_own_name_and_key():
    issuer = pki.world().people.issuer
    info = certificate_info(issuer.certificate)
    assert info.subject == "Example People"
    assert info.issuer == pki.NAMES["root"].encode()
    assert issuer.subject == pki.NAMES["people"].encode()
    assert issuer.key_id == key_id(pki.parse_public_key(issuer.spki, issuer.algorithm).raw)
    assert certificate_info(pki.world().root.issuer.certificate).issuer_key_id == b""
    assert len(issuer.authority_id) == 64


def test_who_a_client_is_takes_little_time():
    data = pki.issue(
        "messaging-server",
        "ECDSA-P256",
        subject=Subject("matrix"),
        uris=(principal_uri(pki.DOMAIN, "matrix"),),
    ).der
    certificate_info(data)
    start = time.process_time()
    for _ in range(200):
        certificate_info(data)
    assert time.process_time() - start < 0.2  # 1 ms each would already be far too slow


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x30\x03\x02\x01\x01", bytes(70_000)])
def test_what_is_no_certificate_is_refused(data: bytes):
    with pytest.raises(PkiError):
        certificate_info(data)


def test_an_issuer_of_another_generation_is_another_value():
    issuer = pki.world().people.issuer
    other = Issuer("people", 2, issuer.key, issuer.algorithm, issuer.certificate)
    assert other != issuer
    assert read_certificate(other.certificate)[0].subject == other.subject
