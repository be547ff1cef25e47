"""Tenants and principals: who is known to the service at all."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from kms.domain.authorisation import Caller
from kms.domain.records import (
    SYSTEM_TENANT,
    EventId,
    Principal,
    Role,
    Standing,
    Tenant,
    TenantId,
)
from kms.services.answers import Answer, AnswerSpec, receipt_slot, render
from kms.services.core import Core, covered
from kms.services.errors import InputError, NotFoundError, StateError
from kms.services.idempotency import Call
from kms.services.ports import Change, Conflict, EventDraft, Insert, Replace, Unit
from kms.wire import Committed, EventType, is_device
from pki.errors import ProfileError
from pki.names import is_domain, principal_uri
from pki.profiles import bundle_profile


class Principals:
    """Registers and disables tenants and principals.

    Args:
        core: Ports and policy.
        changed: Called after each change, so that what is cached of callers is forgotten.
    """

    def __init__(self, core: Core, changed: Callable[[], None]) -> None:
        self._core = core
        self._changed = changed

    async def add_tenant(self, request: Call, tenant: str, identity_domain: str) -> Answer:
        """Register a tenant under its identity domain.

        Raises:
            InputError: A malformed id or domain.
            StateError: Id or domain is taken.
        """
        if not is_device(tenant):
            raise InputError("a tenant id is 1 to 64 of A-Z a-z 0-9 . _ -", field="tenant")
        if not is_domain(identity_domain):
            raise InputError("not a fully qualified domain name", field="identity_domain")
        event = self._draft(
            EventType.TENANT_REGISTERED,
            request.caller,
            TenantId(tenant),
            tenant,
            {"identity_domain": identity_domain},
        )
        record = Tenant(TenantId(tenant), identity_domain, Standing.ACTIVE, event.event)
        document = {
            "tenant": tenant,
            "identity_domain": identity_domain,
            "receipt": receipt_slot(0),
        }
        return await self._commit(request, [Insert(record)], event, AnswerSpec.of(201, document))

    async def add_principal(
        self, request: Call, tenant: TenantId, name: str, role: Role, bundles: Sequence[str]
    ) -> Answer:
        """Register a principal of a tenant.

        Raises:
            InputError: A malformed name, an unknown bundle profile.
            NotFoundError: No such tenant.
            StateError: The name is taken.
        """
        owner = self._core.ledger.get(Tenant, tenant)
        if owner is None:
            raise NotFoundError("there is no such tenant", field="tenant")
        record = self._principal(owner, name, role, bundles)
        event = self._draft(
            EventType.PRINCIPAL_REGISTERED, request.caller, tenant, name, {"role": role.value}
        )
        record = replace(record, event=event.event)
        document = {
            "tenant": tenant,
            "name": name,
            "role": role.value,
            "bundles": list(record.bundles),
            "uri": record.uri,
            "receipt": receipt_slot(0),
        }
        return await self._commit(request, [Insert(record)], event, AnswerSpec.of(201, document))

    async def disable(self, request: Call, tenant: TenantId, name: str) -> Answer:
        """Take all rights from a principal at once; its certificates stop working.

        Raises:
            NotFoundError: No such principal.
        """
        stored = self._core.ledger.get(Principal, tenant, name)
        if stored is None:
            raise NotFoundError("there is no such principal", field="name")
        event = self._draft(
            EventType.PRINCIPAL_DISABLED,
            request.caller,
            tenant,
            name,
            {"role": stored.role.value},
        )
        changed = replace(stored, standing=Standing.REVOKED)
        document = {
            "tenant": tenant,
            "name": name,
            "standing": Standing.REVOKED.value,
            "receipt": receipt_slot(0),
        }
        return await self._commit(
            request,
            [Replace(changed, expected=stored)],
            event,
            AnswerSpec.of(200, document),
            fail_safe=True,
        )

    def list_tenants(self) -> list[Tenant]:
        """All tenants, the authority's own included."""
        return self._core.ledger.find(Tenant)

    def list_principals(self, tenant: TenantId | None) -> list[Principal]:
        """Principals of one tenant, or all."""
        if tenant is None:
            return self._core.ledger.find(Principal)
        return self._core.ledger.find(Principal, tenant=tenant)

    def _principal(self, owner: Tenant, name: str, role: Role, bundles: Sequence[str]) -> Principal:
        if not is_device(name):
            raise InputError("a principal's name is 1 to 64 of A-Z a-z 0-9 . _ -", field="name")
        if bundles and role is not Role.MESSAGING_SERVER:
            raise InputError("only messaging servers enrol bundles", field="bundles")
        if role is Role.MESSAGING_SERVER and owner.tenant == SYSTEM_TENANT:
            raise InputError("a messaging server belongs to a ministry's tenant", field="tenant")
        for bundle in bundles:
            try:
                bundle_profile(bundle)
            except ProfileError as error:
                raise InputError(str(error), field="bundles") from error
        return Principal(
            tenant=owner.tenant,
            name=name,
            uri=principal_uri(owner.identity_domain, name),
            role=role,
            bundles=tuple(bundles),
            standing=Standing.ACTIVE,
            event=EventId(""),
        )

    def _draft(
        self,
        kind: EventType,
        caller: Caller,
        tenant: TenantId,
        subject: str,
        detail: dict[str, str],
    ) -> EventDraft:
        return self._core.events.draft(
            kind,
            self._core.clock.now(),
            tenant,
            {Committed.ACTOR: caller.name, Committed.USER: subject},
            detail=detail,
        )

    async def _commit(
        self,
        request: Call,
        changes: list[Change],
        event: EventDraft,
        spec: AnswerSpec,
        *,
        fail_safe: bool = False,
    ) -> Answer:
        unit = Unit(tuple(changes), (event,), request.record(self._core.clock, spec.encode()))
        outcome = await self._core.sequencer.commit(unit, fail_safe=fail_safe)
        if isinstance(outcome, Conflict):
            raise StateError("that name is taken, or was changed meanwhile")
        self._changed()
        return render(spec, covered(self._core, outcome))
