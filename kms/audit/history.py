"""What the log says has happened, as values: the result of replaying it."""

from dataclasses import dataclass, field
from datetime import datetime

from kms import wire

CertificateKey = tuple[str, str]
"""Authority and serial: what names a certificate (RFC 5280 4.1.2.2)."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that an event says was released."""

    index: int
    leaf: wire.Leaf
    certificate: wire.LeafCertificate


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that an event says is revoked; an orphan is revoked by being found."""

    index: int
    time: datetime
    reason: str
    orphan: bool = False


@dataclass(frozen=True, slots=True)
class ListIssued:
    """A CRL that an event says was issued; `sha256` is over its DER."""

    index: int
    authority: str
    number: int
    sha256: str
    entries: int
    this_update: str
    next_update: str


@dataclass(frozen=True, slots=True)
class TenantRegistered:
    """A tenant and its identity domain; `tenant` is None where no opening tells."""

    index: int
    tenant: str | None
    domain: str


@dataclass(slots=True)
class History:
    """State of the world after the last event.

    Attributes:
        issued: Every released certificate.
        revoked: Every revoked or orphaned one.
        authorities: Name to the certificates of its generations, oldest first.
        lists: Authority to its CRLs, oldest first.
        keys: SHA-256 (hex) of the SPKI of every key that was generated.
        policies: Policy hash in force, by index of the event that activated it.
        revoked_people: (tenant, user) to index, where openings tell.
        revoked_devices: (tenant, device) to index, where openings tell.
        tenants: All that were registered, in order.
        last: Time of the last event.
    """

    issued: dict[CertificateKey, Issued] = field(default_factory=dict)
    revoked: dict[CertificateKey, Revoked] = field(default_factory=dict)
    authorities: dict[str, list[Issued]] = field(default_factory=dict)
    lists: dict[str, list[ListIssued]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    policies: dict[int, str] = field(default_factory=dict)
    revoked_people: dict[tuple[str, str], int] = field(default_factory=dict)
    revoked_devices: dict[tuple[str, str], int] = field(default_factory=dict)
    tenants: list[TenantRegistered] = field(default_factory=list)
    last: datetime | None = None

    def status(self, key: CertificateKey) -> str:
        """`revoked` or `good`."""
        return "revoked" if key in self.revoked else "good"

    def domains(self, index: int, tenant: str | None) -> set[str]:
        """Identity domains that certificates of a tenant may name in event `index`.

        One, where openings tell whose event it is and who was registered; else all that can be.
        """
        return {
            item.domain
            for item in self.tenants
            if item.index < index and (None in (tenant, item.tenant) or item.tenant == tenant)
        }

    def policy_at(self, index: int) -> str | None:
        """Hash of the policy in force when event `index` happened."""
        before = [at for at in self.policies if at < index]
        return self.policies[max(before)] if before else None
