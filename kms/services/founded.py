"""What a home has since its first ceremony: what a later one builds on."""

from dataclasses import dataclass

from kms.domain.key_records import Key
from kms.domain.records import SYSTEM_TENANT, Authority, Epoch, Tenant
from kms.services.core import ROOT
from kms.services.cosigner import COSIGNER_PURPOSE
from kms.services.errors import StateError
from kms.services.ports import Ledger
from pki.names import organization
from pki.structure import read_certificate


@dataclass(frozen=True, slots=True)
class Founded:
    """A home after its first ceremony.

    Attributes:
        organization: The root's.
        identity_domain: Of the authority's own principals.
        log_label: The log key's name.
        authorities: Names of those that there are.
        cosigned: Whether the log has its cosigner.
    """

    organization: str
    identity_domain: str
    log_label: str
    authorities: frozenset[str]
    cosigned: bool


def read_founded(ledger: Ledger) -> Founded:
    """What the ledger has.

    Raises:
        StateError: The first ceremony was not held, or not to its end.
    """
    head = ledger.head()
    epoch = None if head is None else ledger.get(Epoch, head.log)
    tenant = ledger.get(Tenant, SYSTEM_TENANT)
    authorities = {item.name: item for item in ledger.find(Authority, tenant=SYSTEM_TENANT)}
    root = authorities.get(ROOT)
    if epoch is None or tenant is None or root is None:
        raise StateError("this home has no root yet: hold its ceremony, or end it")
    tbs, _ = read_certificate(root.certificate)
    name = organization(tbs.subject)
    if name is None:
        raise StateError("the root's name has no organisation, which new authorities would share")
    return Founded(
        organization=name,
        identity_domain=tenant.identity_domain,
        log_label=epoch.key,
        authorities=frozenset(authorities),
        cosigned=ledger.count(Key, tenant=SYSTEM_TENANT, purpose=COSIGNER_PURPOSE) > 0,
    )
