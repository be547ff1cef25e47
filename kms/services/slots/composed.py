"""KEM slots of the organisation: keys with a life, which others seal to.

Everything that keys do in their lives, slots do the same way (`kms.services.keys`); what is their
own is that they are certified, served to senders, and open what was sealed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kms.services.claims import Claims
from kms.services.core import Core
from kms.services.keys.destruction import KeyDestruction
from kms.services.keys.holds import KeyHolds
from kms.services.keys.lookup import KeyLookup
from kms.services.keys.orders import KeyOrders
from kms.services.keys.reach import KEM_SLOTS, KeyReach
from kms.services.keys.steps import KeySteps
from kms.services.keys.use import KeyUse
from kms.services.slots.documents import SlotDocuments

ARCHIVE = "archive"
"""What a slot is for where nobody says otherwise; every opening is logged."""


@dataclass(frozen=True, slots=True)
class KemSlots:
    """The use cases, one attribute each."""

    orders: KeyOrders
    steps: KeySteps
    destruction: KeyDestruction
    holds: KeyHolds
    use: KeyUse
    lookup: KeyLookup
    documents: SlotDocuments


def compose_slots(core: Core, claims: Claims, revoked: Callable[[set[str]], None]) -> KemSlots:
    """Wire them over one core; `revoked` is told of authorities whose CRL became stale."""
    reach = KeyReach(core, KEM_SLOTS)
    return KemSlots(
        orders=KeyOrders(core, reach, claims),
        steps=KeySteps(core, reach, revoked),
        destruction=KeyDestruction(core, reach),
        holds=KeyHolds(core, reach),
        use=KeyUse(core, reach),
        lookup=KeyLookup(core, reach),
        documents=SlotDocuments(core, reach),
    )
