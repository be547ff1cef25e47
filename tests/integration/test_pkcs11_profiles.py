"""What the profiles of tested tokens claim, held against these tokens."""

import secrets
from collections.abc import Iterator
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives import keywrap
from pkcs11 import Attribute, ObjectClass

from hsm_drivers import der
from hsm_drivers.pkcs11 import Pkcs11Driver, objects
from hsm_drivers.pkcs11.cryptoki import mechanism
from hsm_drivers.ports import Capability, KeyLabel
from hsm_drivers.vendor import PointForm, Spelling, TrustedBy, spelling_of
from policies.algorithms import Scheme, algorithm, algorithms
from tests.support.importing import Imported
from tests.support.softhsm import SoftHsm, make_trusted

KEY = KeyLabel("key")


@pytest.fixture(params=["softhsm", "nss"])
def driver(request: pytest.FixtureRequest) -> Iterator[Pkcs11Driver]:
    token = request.getfixturevalue(request.param)
    opened = Pkcs11Driver(token.module, token.label, token.pin)
    yield opened
    opened.close()


def spelled(driver: Pkcs11Driver, name: str) -> Spelling:
    spelling = spelling_of(driver.profile, algorithm(name))
    assert spelling is not None
    return spelling


def test_the_tokens_are_recognised(driver: Pkcs11Driver) -> None:
    assert driver.profile.tested
    assert driver.profile.name in {"softhsm2", "nss-softoken"}


def test_points_read_as_claimed(driver: Pkcs11Driver) -> None:
    schemes = (Scheme.ECDSA, Scheme.EDDSA, Scheme.DHKEM_EC, Scheme.DHKEM_X)
    for row in algorithms():
        if row.scheme not in schemes:
            continue
        _, spki, _ = driver.generate(KEY, row.name)
        raw = spki[-(row.public_key_size or 0) :]
        wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: KEY}
        (public,) = driver._session.calls.find(wanted)
        told = driver._session.calls.read(public, (Attribute.EC_POINT,))[Attribute.EC_POINT]
        claimed = spelled(driver, row.name).point
        assert told == (raw if claimed is PointForm.RAW else der.tlv(0x04, raw)), row.name
        driver.destroy(KEY)


def test_the_default_of_extractable_is_as_claimed(driver: Pkcs11Driver) -> None:
    """Which is why the driver never leaves it to the token."""
    row = algorithm("ECDSA-P256")
    spelling = spelled(driver, row.name)
    token = driver._session.calls
    template: dict[int, Any] = {Attribute.TOKEN: False, Attribute.PRIVATE: True}
    public, private = token.generate_pair(
        mechanism(spelling.generate),
        {Attribute.TOKEN: False, **objects.usable(row, spelling, ObjectClass.PUBLIC_KEY)},
        {**template, **objects.usable(row, spelling, ObjectClass.PRIVATE_KEY)},
    )
    made = objects.attributes_of(token, private, driver.profile)
    assert made.extractable == driver.profile.attributes.extractable_default
    token.destroy(public)
    token.destroy(private)


def test_local_is_told_as_claimed_and_imported_keys_are_never_held(driver: Pkcs11Driver) -> None:
    driver.generate(KEY, "AES-256-GCM")
    token = driver._session.calls
    (handle,) = objects.secrets_labelled(token, KEY)
    told = token.read(handle, (Attribute.LOCAL,))[Attribute.LOCAL]
    assert (told == b"\x01") == driver.profile.attributes.tells_local
    assert driver.attributes(KEY).local
    stored = token.create(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: spelled(driver, "AES-256-GCM").key_type,
            Attribute.LABEL: "brought",
            Attribute.VALUE: bytes(32),
            **objects.held(transferable=False),
        }
    )
    brought = objects.attributes_of(token, stored, driver.profile)
    assert not brought.local
    assert not brought.held()


def test_the_wrap_mechanism_is_rfc_5649(driver: Pkcs11Driver) -> None:
    kek = secrets.token_bytes(32)
    with Imported(driver, "AES-256-KWP", kek) as key:
        assert key.wrap is not None
        wrapped = key.wrap(b"8 bytes." * 3)
    assert keywrap.aes_key_unwrap_with_padding(kek, wrapped) == b"8 bytes." * 3


def test_who_makes_trusted_keys_is_as_claimed(driver: Pkcs11Driver) -> None:
    """A token that wraps such a key under any other is not one to move keys with."""
    row = algorithm("AES-256-KWP")
    token, spelling = driver._session.calls, spelled(driver, row.name)
    driver.generate(KeyLabel("kek"), row.name)
    (kek,) = objects.secrets_labelled(token, KeyLabel("kek"))
    key, _ = objects.make(token, KEY, row, spelling, transferable=True)
    claims = driver.profile.attributes.trusted_by
    if claims is TrustedBy.NOBODY:
        assert token.wrap(mechanism(spelling.use), kek, key)
        assert Capability.TRANSFER not in driver.capabilities
    else:
        with pytest.raises(pkcs11.PKCS11Error):
            token.wrap(mechanism(spelling.use), kek, key)
        assert Capability.TRANSFER in driver.capabilities


def test_a_wrapped_private_key_is_padded_as_claimed(softhsm: SoftHsm) -> None:
    kek = secrets.token_bytes(32)
    make_trusted(softhsm, "trusted", kek)
    driver = Pkcs11Driver(softhsm.module, softhsm.label, softhsm.pin)
    driver.generate(KEY, "ECDSA-P256", transferable=True)
    plain = keywrap.aes_key_unwrap_with_padding(kek, driver.export_key(KEY, KeyLabel("trusted")))
    size = plain[1] + 2  # DER of less than 128 bytes
    assert driver.profile.attributes.wraps_zero_padded == (len(plain) > size)
    assert not any(plain[size:])
    driver.close()
