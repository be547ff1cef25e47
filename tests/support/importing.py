"""Known keys as session objects, so that a token's operations can be held against vectors.

The product never brings a private key in; this is for tests alone.
"""

from typing import Any

from pkcs11 import Attribute, ObjectClass

from hsm_drivers import der
from hsm_drivers.pkcs11 import Pkcs11Driver, objects
from hsm_drivers.pkcs11.operations import KeyOperations, prepared
from hsm_drivers.vendor import PointForm, Spelling, spelling_of
from policies.algorithms import Algorithm, Kind, Scheme, algorithm

_HIDDEN = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}


class Imported:
    """A key with a known value on a token, for as long as the context lasts."""

    def __init__(self, driver: Pkcs11Driver, name: str, value: bytes) -> None:
        """Bring a key in.

        Args:
            driver: Of the token.
            name: Of the algorithm.
            value: Of a secret key its bytes, of an EC key the scalar, of ML-KEM and ML-DSA the
                seed.
        """
        self._token = driver._session.calls
        self.row, self.spelling = _spelled(driver, name)
        kind = ObjectClass.SECRET_KEY if objects.is_secret(self.row) else ObjectClass.PRIVATE_KEY
        template: dict[int, Any] = {
            **_HIDDEN,
            **objects.usable(self.row, self.spelling, kind),
            **_value(self.row, self.spelling, value),
        }
        self.handle = self._token.create(template)

    def __enter__(self) -> KeyOperations:
        return prepared(self._token, self.handle, self.row, self.spelling)

    def __exit__(self, *_: object) -> None:
        self._token.destroy(self.handle)


def public_key(driver: Pkcs11Driver, name: str, raw: bytes) -> int:
    """A public key as a session object; its handle."""
    row, spelling = _spelled(driver, name)
    template = {
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        **objects.usable(row, spelling, ObjectClass.PUBLIC_KEY),
    }
    if Attribute.EC_PARAMS not in template:
        return driver._session.calls.create({**template, Attribute.VALUE: raw})
    point = raw if spelling.point is PointForm.RAW else der.tlv(0x04, raw)
    return driver._session.calls.create({**template, Attribute.EC_POINT: point})


def _spelled(driver: Pkcs11Driver, name: str) -> tuple[Algorithm, Spelling]:
    row = algorithm(name)
    spelling = spelling_of(driver.profile, row)
    assert spelling is not None
    return row, spelling


def _value(row: Algorithm, spelling: Spelling, value: bytes) -> dict[int, Any]:
    if row.kind in (Kind.WRAP, Kind.CIPHER, Kind.MAC):
        return {Attribute.VALUE: value}
    named = objects.usable(row, spelling, ObjectClass.PUBLIC_KEY)
    where = Attribute.SEED if row.scheme in (Scheme.ML_KEM, Scheme.ML_DSA) else Attribute.VALUE
    kinds = (Attribute.EC_PARAMS, Attribute.PARAMETER_SET)
    return {where: value, **{kind: named[kind] for kind in kinds if kind in named}}
