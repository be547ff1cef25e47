"""Points of P-256 and P-384 are told from other bytes as `cryptography` tells them."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers.curves import CURVES, Curve

KINDS: dict[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
}
ALL = pytest.mark.parametrize("oid", sorted(CURVES))


def point_of(oid: str, private: int) -> bytes:
    public = ec.derive_private_key(private, KINDS[oid]).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def believed(oid: str, point: bytes) -> bool:
    """By the library, which also takes forms of points that the service does not."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(KINDS[oid], point)
    except ValueError:
        return False
    return point[0] == 4


def encoded(curve: Curve, x: int, y: int) -> bytes:
    return b"\x04" + x.to_bytes(curve.size, "big") + y.to_bytes(curve.size, "big")


def test_the_curves_are_those_with_keys() -> None:
    assert CURVES.keys() == KINDS.keys()


@ALL
@given(private=st.integers(1, 2**255), at=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_changed_point_is_none(oid: str, private: int, at: int, change: int) -> None:
    point = point_of(oid, private)
    assert CURVES[oid].holds(point)
    place = at % len(point)
    changed = point[:place] + bytes([point[place] ^ change]) + point[place + 1 :]
    assert CURVES[oid].holds(changed) == believed(oid, changed)
    assert not CURVES[oid].holds(changed)


@ALL
@given(private=st.integers(1, 2**255))
def test_a_point_has_its_negative_and_one_length(oid: str, private: int) -> None:
    curve, point = CURVES[oid], point_of(oid, private)
    x = int.from_bytes(point[1 : curve.size + 1], "big")
    y = int.from_bytes(point[curve.size + 1 :], "big")
    assert curve.holds(encoded(curve, x, curve.p - y))
    for wrong in (b"", point[:-1], point + b"\0", b"\0" + point, point[1:]):
        assert not curve.holds(wrong)


@ALL
def test_coordinates_are_reduced(oid: str) -> None:
    """x = 0 is on P-256 and P-384; x = p is the same x, and no encoding of it."""
    curve = CURVES[oid]
    y = pow(curve.b, (curve.p + 1) // 4, curve.p)
    assert y * y % curve.p == curve.b
    assert curve.holds(encoded(curve, 0, y))
    assert not curve.holds(encoded(curve, curve.p, y))
    assert not curve.holds(encoded(curve, 0, 0))


@ALL
@given(noise=st.binary(min_size=64, max_size=97))
def test_any_bytes_are_judged_as_the_library_does(oid: str, noise: bytes) -> None:
    point = b"\x04" + noise
    assert CURVES[oid].holds(point) == believed(oid, point)
