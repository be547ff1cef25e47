"""The use cases of clients' keys, wired together."""

from dataclasses import dataclass

from kms.services.claims import Claims
from kms.services.core import Core
from kms.services.key_destruction import KeyDestruction
from kms.services.key_lookup import KeyLookup
from kms.services.key_orders import KeyOrders
from kms.services.key_reach import CLIENTS_KEYS, KeyReach
from kms.services.key_steps import KeySteps
from kms.services.key_upkeep import KeyUpkeep
from kms.services.key_use import KeyUse


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
