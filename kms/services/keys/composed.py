"""The use cases of clients' keys, wired together."""

from dataclasses import dataclass

from kms.services.claims import Claims
from kms.services.core import Core
from kms.services.keys.destruction import KeyDestruction
from kms.services.keys.lookup import KeyLookup
from kms.services.keys.orders import KeyOrders
from kms.services.keys.reach import CLIENTS_KEYS, KeyReach
from kms.services.keys.steps import KeySteps
from kms.services.keys.upkeep import KeyUpkeep
from kms.services.keys.use import KeyUse


@dataclass(frozen=True, slots=True)
class Keys:
    """One attribute each."""

    orders: KeyOrders
    steps: KeySteps
    destruction: KeyDestruction
    use: KeyUse
    lookup: KeyLookup
    upkeep: KeyUpkeep


def compose_keys(core: Core, claims: Claims) -> Keys:
    """Wire them over one core."""
    reach = KeyReach(core, CLIENTS_KEYS)
    orders, destruction = KeyOrders(core, reach, claims), KeyDestruction(core, reach)
    return Keys(
        orders=orders,
        steps=KeySteps(core, reach),
        destruction=destruction,
        use=KeyUse(core, reach),
        lookup=KeyLookup(core, reach),
        upkeep=KeyUpkeep(core, reach, orders, destruction),
    )
