"""Who may do what: one table of actions, decided from role and tenant alone (promise P7).

A certificate names a principal; what it may do is what this table says of the principal's role at
that moment. Members of `SYSTEM_TENANT` act across tenants, all others within their own.
"""

from dataclasses import dataclass
from enum import StrEnum

from kms.domain.records import SYSTEM_TENANT, Role, TenantId


class Action(StrEnum):
    """What a caller may ask for."""

    ENROL = "enrol"
    READ_PEOPLE = "read-people"
    REVOKE_PEOPLE = "revoke-people"
    ISSUE_INFRASTRUCTURE = "issue-infrastructure"
    REVOKE_INFRASTRUCTURE = "revoke-infrastructure"
    MANAGE_PRINCIPALS = "manage-principals"
    PUBLISH_CRL = "publish-crl"
    READ_EVENTS = "read-events"
    READ_OPENINGS = "read-openings"
    READ_KEYS = "read-keys"
    CREATE_KEYS = "create-keys"
    MANAGE_KEYS = "manage-keys"
    """Any key in reach; a single one may be managed by permission, too."""
    USE_KEYS = "use-keys"
    """Those that there is permission for, whatever the role."""


_ALLOWED: dict[Role, frozenset[Action]] = {
    Role.OFFICER: frozenset(
        {
            Action.READ_PEOPLE,
            Action.REVOKE_PEOPLE,
            Action.ISSUE_INFRASTRUCTURE,
            Action.REVOKE_INFRASTRUCTURE,
            Action.MANAGE_PRINCIPALS,
            Action.PUBLISH_CRL,
            Action.READ_EVENTS,
            Action.READ_OPENINGS,
            Action.READ_KEYS,
            Action.CREATE_KEYS,
            Action.MANAGE_KEYS,
            Action.USE_KEYS,
        }
    ),
    Role.MESSAGING_SERVER: frozenset(
        {
            Action.ENROL,
            Action.READ_PEOPLE,
            Action.REVOKE_PEOPLE,
            Action.READ_EVENTS,
            Action.READ_OPENINGS,
            Action.READ_KEYS,
            Action.CREATE_KEYS,
            Action.USE_KEYS,
        }
    ),
    Role.AUDITOR: frozenset({Action.READ_EVENTS}),
}
"""Auditors see what happened and that nothing is missing; who it happened to is not theirs (N5)."""

_SYSTEM_ONLY = frozenset(
    {
        Action.ISSUE_INFRASTRUCTURE,
        Action.REVOKE_INFRASTRUCTURE,
        Action.MANAGE_PRINCIPALS,
        Action.PUBLISH_CRL,
    }
)
"""Actions on what the authority itself owns: an officer of a ministry may not."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated principal; `bundles` are the bundle profiles it may enrol."""

    tenant: TenantId
    name: str
    role: Role
    bundles: tuple[str, ...]

    @property
    def across_tenants(self) -> bool:
        """Whether it may look beyond its own tenant."""
        return self.tenant == SYSTEM_TENANT


def may(caller: Caller, action: Action) -> bool:
    """Whether the caller may do this at all."""
    if action not in _ALLOWED[caller.role]:
        return False
    return action not in _SYSTEM_ONLY or caller.across_tenants


def reaches(caller: Caller, tenant: TenantId) -> bool:
    """Whether the caller may see what belongs to this tenant."""
    return caller.across_tenants or caller.tenant == tenant
