"""Which mechanisms the driver needs for keys of an algorithm, and which of them a token lacks."""

from collections.abc import Collection, Mapping

from pkcs11 import Mechanism

from policies.algorithms import Scheme, UnknownAlgorithmError, algorithm

NEEDED: Mapping[Scheme, tuple[Mechanism, ...]] = {
    Scheme.ECDSA: (Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA),
    Scheme.EDDSA: (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
    Scheme.AES_KWP: (Mechanism.AES_KEY_GEN,),
}
"""What the driver uses for keys of a scheme (PKCS#11 3.0, section 2)."""


def lacking(name: str, offered: Collection[Mechanism]) -> tuple[str, ...]:
    """Names of the mechanisms that a key of this algorithm needs and the token does not offer."""
    try:
        needed = NEEDED.get(algorithm(name).scheme)
    except UnknownAlgorithmError:
        needed = None
    if needed is None:
        return ("a driver that knows it",)
    return tuple(item.name for item in needed if item not in offered)
