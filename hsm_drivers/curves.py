"""Whether bytes are a point of a NIST curve (SP 800-56A rev. 3, 5.6.2.3.4), without a library.

Token processes look at every point before the token does: a token that does not would give away its
key to points of other curves. They stand on few dependencies, since some run inside a chroot.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """y² = x³ − 3x + b modulo p; its order is prime, so that every point is of full order.

    Attributes:
        p: Prime of the field.
        b: Coefficient.
        size: Bytes of a coordinate.
    """

    p: int
    b: int
    size: int

    def holds(self, point: bytes) -> bool:
        """Whether these bytes are an uncompressed point (SEC 1, 2.3.4) other than infinity."""
        if len(point) != 2 * self.size + 1 or point[0] != 4:
            return False
        x = int.from_bytes(point[1 : self.size + 1], "big")
        y = int.from_bytes(point[self.size + 1 :], "big")
        if x >= self.p or y >= self.p:
            return False
        return (y * y - (x * x - 3) * x - self.b) % self.p == 0


CURVES: Mapping[str, Curve] = {
    "1.2.840.10045.3.1.7": Curve(
        p=2**256 - 2**224 + 2**192 + 2**96 - 1,
        b=0x5AC635D8_AA3A93E7_B3EBBD55_769886BC_651D06B0_CC53B0F6_3BCE3C3E_27D2604B,
        size=32,
    ),
    "1.3.132.0.34": Curve(
        p=2**384 - 2**128 - 2**96 + 2**32 - 1,
        b=0xB3312FA7_E23EE7E4_988E056B_E3F82D19_181D9C6E_FE814112_0314088F_5013875A_C656398D_8A2ED19D_2A85C8ED_D3EC2AEF,
        size=48,
    ),
}
"""P-256 and P-384 (SP 800-186, 3.2.1) by the OID of RFC 5480."""
