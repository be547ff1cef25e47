"""Creating keys, rotating them, and who may use them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kms.domain.authorisation import Caller, reaches
from kms.domain.key_book import Happened, KeyBook
from kms.domain.key_records import NEVER, Key, KeyPermission, LogUses
from kms.domain.records import EventId, Principal, Standing, Tenant, TenantId
from kms.services.answers import Answer
from kms.services.claims import Claims
from kms.services.core import Core
from kms.services.errors import InputError, NotFoundError, RevokedError, StateError
from kms.services.idempotency import Call
from kms.services.keys.commits import KeyCommits, changes_of
from kms.services.keys.documents import key_document, settings_document
from kms.services.keys.making import KeyMaker, Made, birth_detail, born
from kms.services.keys.narrowing import Narrowing
from kms.services.keys.reach import MANAGE, KeyReach, offered
from kms.services.ports import Change, Delete, EventDraft, Insert, Replace
from kms.wire import EventType, is_device
from policies.key_life import (
    CRYPTOPERIODS,
    MAX_DAYS,
    MAX_ORIGINATOR_DAYS,
    Cryptoperiods,
    KeyPurpose,
    KeyState,
)

_LATEST_ACTIVATION = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class KeySettings:
    """How a key is to live; None takes the purpose's own period. See `Key`."""

    rotation_days: int = 0
    originator_days: int | None = None
    recipient_days: int | None = None
    overlap_days: int = 0
    retention_days: int = 0
    log_uses: LogUses = LogUses.NONE


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """What is asked for.

    Attributes:
        name: Unique in the tenant, for good.
        purpose: What it is for.
        slot: Of a KEM slot, what it is for; else empty.
        algorithm: None for the first that the policy allows.
        protection: None for the strongest that the token offers.
        token: Name in the configuration; empty for the service's own.
        activates: When; None for at once.
        settings: How it is to live.
    """

    name: str
    purpose: KeyPurpose
    slot: str = ""
    algorithm: str | None = None
    protection: str | None = None
    token: str = ""
    activates: datetime | None = None
    settings: KeySettings = KeySettings()


@dataclass(frozen=True, slots=True)
class _New:
    """What a new version brings; the first change is the key's own."""

    changes: list[Change]
    events: list[EventDraft]
    after: KeyBook
    happened: list[Happened]


class KeyOrders:
    """Makes keys and their versions."""

    def __init__(self, core: Core, reach: KeyReach, claims: Claims) -> None:
        self._core = core
        self._reach = reach
        self._claims = claims
        self._maker = KeyMaker(core)
        self._commits = KeyCommits(core)
        self._narrowing = Narrowing(core)

    async def create(self, request: Call, tenant: TenantId, order: KeyOrder) -> Answer:
        """Make a key and its first version; who creates it may do everything with it.

        Raises:
            InputError: The order is wrong, or the policy refuses it.
            StateError: The name is taken.
            SignerUnavailableError: The signer is away.
        """
        self._check_tenant(request.caller, tenant)
        if self._core.ledger.get(Key, tenant, order.name) is not None:
            raise StateError("there is a key of that name already", field="name")
        with self._claims.hold([f"key/{tenant}/{order.name}"]):
            work = _work(request)
            now = self._core.clock.now()
            key = self._key(tenant, order, self._maker.key_id_of(tenant, order.name, work), now)
            plan = await self._maker.plan(key, order.activates or now)
            made = await self._maker.make(key, 1, plan, work)
            return await self._commit_new(request, made, order)

    async def rotate(
        self, request: Call, tenant: TenantId, name: str, activates: datetime | None
    ) -> Answer:
        """Make the next version; from its activation on the one before only undoes and checks.

        Raises:
            StateError: A version is waiting for its activation already.
        """
        book = self._reach.managed(request.caller, tenant, name)
        with self._claims.hold([f"key/{tenant}/{name}"]):
            made = await self._next(book, activates)
            new = self._born(request.caller.name, book, made, activates)
            document = key_document(new.after)
            answer = await self._commits.answer(
                request, new.changes, new.events, document, status=201
            )
            await self._narrowing.tell_of(new.after, new.happened)
            return answer

    async def rotate_due(self, book: KeyBook, actor: str) -> None:
        """Rotate on schedule.

        Raises:
            KmsError: Not now; upkeep tries again.
        """
        with self._claims.hold([f"key/{book.key.tenant}/{book.key.key}"]):
            made = await self._next(book, None)
            new = self._born(actor, book, made, None)
            await self._commits.log(new.changes, new.events)
            await self._narrowing.tell_of(new.after, new.happened)

    async def permit(
        self, request: Call, tenant: TenantId, name: str, principal: str, wanted: Sequence[str]
    ) -> Answer:
        """Say what a principal of the key's tenant may do with it; nothing takes all away.

        Raises:
            InputError: Keys of this purpose do not do that.
            NotFoundError: No such principal in the key's tenant.
        """
        book = self._reach.managed(request.caller, tenant, name)
        allowed = {MANAGE, *offered(book.key.purpose)}
        if not set(wanted) <= allowed:
            raise InputError(f"the operations are {', '.join(sorted(allowed))}", field="operations")
        if self._core.ledger.get(Principal, book.key.tenant, principal) is None:
            raise NotFoundError("the key's tenant has no such principal", field="principal")
        operations = tuple(sorted(set(wanted)))
        event = self._permitted(request.caller.name, book.key, principal, operations)
        stored = self._core.ledger.get(KeyPermission, book.key.tenant, name, principal)
        change = _permission_change(stored, book.key, principal, operations, event)
        document = {"key": name, "principal": principal, "operations": list(operations)}
        return await self._commits.answer(request, change, [event], document)

    def _check_tenant(self, caller: Caller, tenant: TenantId) -> None:
        owner = self._core.ledger.get(Tenant, tenant) if reaches(caller, tenant) else None
        if owner is None:
            raise NotFoundError("there is no such tenant", field="tenant")
        if owner.standing is not Standing.ACTIVE:
            raise RevokedError("the tenant is not active", field="tenant")

    def _key(self, tenant: TenantId, order: KeyOrder, key_id: Any, now: datetime) -> Key:
        """The record to be, its settings checked."""
        if not is_device(order.name):
            raise InputError("a key's name is 1 to 64 of A-Z a-z 0-9 . _ -", field="name")
        _check_activation(order.activates, now)
        settings = order.settings
        periods = _periods(order.purpose, settings)
        for name in ("rotation_days", "overlap_days", "retention_days"):
            if not 0 <= getattr(settings, name) <= MAX_DAYS:
                raise InputError(f"0 to {MAX_DAYS} days", field=f"settings.{name}")
        return Key(
            tenant=tenant,
            key=order.name,
            key_id=key_id,
            purpose=order.purpose.value,
            slot=order.slot,
            algorithm=order.algorithm or "",
            protection=order.protection or "",
            token=order.token,
            rotation_days=settings.rotation_days,
            originator_days=periods.originator_days,
            recipient_days=periods.recipient_days,
            overlap_days=settings.overlap_days,
            retention_days=settings.retention_days,
            log_uses=settings.log_uses,
            hold="",
            due=NEVER,
            created=now,
            event=EventId(""),
        )

    async def _commit_new(self, request: Call, made: Made, order: KeyOrder) -> Answer:
        caller = request.caller
        detail = {
            "purpose": made.key.purpose,
            "slot": made.key.slot,
            "settings": settings_document(made.key),
        }
        created = self._commits.draft(EventType.KEY_CREATED, caller.name, made.key, detail)
        key = replace(made.key, created=created.time, event=created.event)
        made = replace(made, key=key)
        new = self._born(caller.name, KeyBook(key, ()), made, order.activates, at=created.time)
        changes: list[Change] = [Insert(new.after.key), *new.changes[1:]]
        events = [created, *new.events]
        if caller.tenant == key.tenant:
            everything = tuple(sorted({MANAGE, *offered(key.purpose)}))
            event = self._permitted(caller.name, key, caller.name, everything)
            changes += _permission_change(None, key, caller.name, everything, event)
            events.append(event)
        document = key_document(new.after)
        return await self._commits.answer(request, changes, events, document, status=201)

    async def _next(self, book: KeyBook, activates: datetime | None) -> Made:
        now = self._core.clock.now()
        if book.newest.state is KeyState.PRE_ACTIVATION:
            raise StateError(
                f"version {book.newest.version} waits for its activation: activate it, or destroy"
                " it first"
            )
        _check_activation(activates, now)
        plan = await self._maker.plan(book.key, activates or now)
        number = len(book.versions) + 1
        return await self._maker.make(
            book.key, number, plan, f"rotation|{book.key.key_id}|{number}"
        )

    def _born(
        self,
        actor: str,
        book: KeyBook,
        made: Made,
        activates: datetime | None,
        at: datetime | None = None,
    ) -> "_New":
        generated = self._commits.draft(
            EventType.KEY_GENERATED,
            actor,
            book.key,
            birth_detail(made, activates),
            policy=made.plan.policy,
            time=at,
            certificates=[] if made.certificate is None else [made.certificate.leaf],
        )
        version, replica = born(made, generated, activates)
        after, happened = book.put(version).settled(), list[Happened]()
        if activates is None:
            after, happened = after.activate(version.version, generated.time)
        changes = [*changes_of(book, after), Insert(replica), Delete(made.reservation)]
        if made.certificate is not None:
            changes += made.certificate.changes(generated)
        events = [generated, *self._commits.steps(actor, book.key, happened)]
        return _New(changes, events, after, happened)

    def _permitted(
        self, actor: str, key: Key, principal: str, operations: Sequence[str]
    ) -> EventDraft:
        detail = {"operations": list(operations)}
        return self._commits.draft(EventType.KEY_PERMITTED, actor, key, detail, user=principal)


def _work(request: Call) -> str:
    """Names one attempt of one caller: another body is another attempt."""
    return f"{request.caller.tenant}/{request.caller.name}|{request.route}|{request.key} " + (
        request.body_sha256
    )


def _check_activation(at: datetime | None, now: datetime) -> None:
    """Refuse an activation in the past, or so late that nobody can have meant it.

    Raises:
        InputError: It is.
    """
    if at is not None and not now <= at <= now + _LATEST_ACTIVATION:
        raise InputError(
            "activates is a time from now to ten years from now; leave it out for now",
            field="activates",
        )


def _periods(purpose: KeyPurpose, settings: KeySettings) -> Cryptoperiods:
    """What was asked for, or the purpose's own.

    Raises:
        InputError: No originator's end, one that is too late, or a recipient's before it.
    """
    usual = CRYPTOPERIODS[purpose]
    originator = settings.originator_days or usual.originator_days
    recipient = settings.recipient_days
    if recipient is None:
        recipient = max(usual.recipient_days, originator)
    if originator > MAX_ORIGINATOR_DAYS:
        raise InputError(
            f"a key protects for at most {MAX_ORIGINATOR_DAYS} days (SP 800-57 part 1, 5.3)",
            field="settings.originator_days",
        )
    try:
        return Cryptoperiods(originator, recipient)
    except ValueError as error:
        raise InputError(str(error), field="settings.recipient_days") from error


def _permission_change(
    stored: KeyPermission | None,
    key: Key,
    principal: str,
    operations: tuple[str, ...],
    event: EventDraft,
) -> list[Change]:
    if not operations:
        return [] if stored is None else [Delete(stored)]
    record = KeyPermission(key.tenant, key.key, principal, operations, event.event)
    return [Insert(record) if stored is None else Replace(record, expected=stored)]
