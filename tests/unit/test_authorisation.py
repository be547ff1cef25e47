"""Who may do what, written out: a right that is added or lost anywhere is noticed here (P7)."""

from itertools import product

import pytest

from kms.domain.authorisation import Action, Caller, may, reaches
from kms.domain.records import SYSTEM_TENANT, Role, TenantId

MINISTRY, OTHER = TenantId("ministry"), TenantId("other")
READING = {"read-people", "revoke-people", "read-events", "read-openings"}
KEYS = {"read-keys", "create-keys", "use-keys"}
MANAGING = KEYS | {"manage-keys"}
RIGHTS: dict[tuple[Role, TenantId], set[str]] = {
    (Role.OFFICER, SYSTEM_TENANT): READING
    | MANAGING
    | {"issue-infrastructure", "revoke-infrastructure", "manage-principals", "publish-crl"},
    (Role.OFFICER, MINISTRY): READING | MANAGING,
    (Role.MESSAGING_SERVER, SYSTEM_TENANT): READING | KEYS | {"enrol"},
    (Role.MESSAGING_SERVER, MINISTRY): READING | KEYS | {"enrol"},
    (Role.AUDITOR, SYSTEM_TENANT): {"read-events"},
    (Role.AUDITOR, MINISTRY): {"read-events"},
}


def caller(role: Role, tenant: TenantId) -> Caller:
    return Caller(tenant, "somebody", role, ())


@pytest.mark.parametrize(("role", "tenant"), list(product(Role, (SYSTEM_TENANT, MINISTRY))))
def test_the_rights_of_every_role_are_these(role: Role, tenant: TenantId):
    who = caller(role, tenant)
    assert {action.value for action in Action if may(who, action)} == RIGHTS[role, tenant]


@pytest.mark.parametrize("role", Role)
def test_only_members_of_the_authority_reach_beyond_their_tenant(role: Role):
    for own, wanted in product((SYSTEM_TENANT, MINISTRY, OTHER), repeat=2):
        who = caller(role, own)
        assert reaches(who, wanted) is (own in {wanted, "authority"})
        assert who.across_tenants is (own == "authority")
