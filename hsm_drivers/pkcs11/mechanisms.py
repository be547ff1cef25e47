"""Which mechanisms keys of an algorithm need, and which of them a token lacks."""

from collections.abc import Collection, Mapping

from pkcs11 import Mechanism

from hsm_drivers.pkcs11.objects import MADE
from hsm_drivers.ports import Capability
from hsm_drivers.vendor import Profile, spelling_of
from policies.algorithms import Kind, UnknownAlgorithmError, algorithm

CAPABILITIES: Mapping[Kind, Capability] = {
    Kind.SIGNATURE: Capability.SIGN,
    Kind.KEM: Capability.KEM,
    Kind.WRAP: Capability.WRAP,
    Kind.MAC: Capability.MAC,
    Kind.CIPHER: Capability.CIPHER,
}
"""What keys of a kind let a token do."""


def lacking(name: str, profile: Profile, offered: Collection[int]) -> tuple[str, ...]:
    """Names of the mechanisms that a key of this algorithm needs and the token does not offer.

    Args:
        name: Of the algorithm.
        profile: How the token spells it.
        offered: Numbers of the token's mechanisms.
    """
    try:
        row = algorithm(name)
    except UnknownAlgorithmError:
        return ("a driver that knows it",)
    spelling = spelling_of(profile, row)
    if row.scheme not in MADE or spelling is None:
        return ("a driver that knows it",)
    needed = (spelling.generate, spelling.use)
    return tuple(mechanism_name(item) for item in needed if item not in offered)


def mechanism_name(number: int) -> str:
    """CKM_… without its prefix; `0x…` for one of a maker's own."""
    try:
        return str(Mechanism(number).name)
    except ValueError:
        return f"{number:#x}"
