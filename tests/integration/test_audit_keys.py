"""What the log tells of keys' lives: honest ones are believed, impossible ones found."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kms.audit.key_lives import rules_of
from kms.audit.names import Names
from kms.audit.replay import check_events, replay
from kms.domain.key_records import LogUses
from kms.domain.records import Event
from kms.services.keys.orders import KeyOrder, KeySettings
from kms.services.keys.verbs import VERBS, Item
from kms.wire import EventType, timestamp
from policies.key_life import CRYPTOPERIODS, KeyPurpose, Step
from policies.policy import shipped
from tests.support.auditing import verify
from tests.support.ministry import HELD, TENANT, Ministry, busy_ministry
from tests.support.services import OFFICER, SERVER, World, world
from tests.support.services import TENANT as WORLD_TENANT

KEY = "0123456789abcdef0123456789abcdef"
DAY = timedelta(days=1)
SETTINGS = {
    "rotation_days": 0,
    "originator_days": 730,
    "recipient_days": 1825,
    "overlap_days": 0,
    "retention_days": 0,
    "log_uses": "every",
}


class Told:
    """A key's life as somebody tells it."""

    def __init__(self, ministry: Ministry) -> None:
        self.ministry = ministry

    def tell(self, kind: EventType, key: str = KEY, **detail: Any) -> int:
        policy = detail.pop("policy", None)
        document = {"key": key, **detail}
        return self.ministry.event(kind, TENANT, {}, policy=policy, detail=document)

    def create(self, key: str = KEY, **change: Any) -> None:
        detail = {"purpose": "encryption", "slot": "", "settings": SETTINGS}
        self.tell(EventType.KEY_CREATED, key, **(detail | change))

    def bear(self, version: int = 1, key: str = KEY, **change: Any) -> None:
        detail = {
            "version": version,
            "label": f"s-{key}-{version}",
            "algorithm": "AES-256-GCM",
            "purposes": ["encryption"],
            "protection": "token",
            "components": [],
            "public_key_sha256": "",
            "attributes": HELD,
            "tokens": ["main"],
            "activates": None,
            "policy": {"hash": self.ministry.policy, "rules": {"AES-256-GCM": "key-encryption"}},
        }
        self.tell(EventType.KEY_GENERATED, key, **(detail | change))

    def activate(self, version: int = 1, **change: Any) -> None:
        at = self.ministry.now + timedelta(seconds=7)
        periods = CRYPTOPERIODS[KeyPurpose.ENCRYPTION]
        detail = {
            "originator_end": _told(periods.originator_end(at)),
            "recipient_end": _told(periods.recipient_end(at)),
        }
        self.tell(EventType.KEY_ACTIVATED, version=version, **(detail | change))

    def step(self, kind: EventType, version: int = 1, **detail: Any) -> None:
        self.tell(kind, version=version, **detail)

    def use(self, operation: str = "encrypt", **uses: int) -> None:
        counts = {name.removeprefix("v"): count for name, count in uses.items()} or {"1": 1}
        self.tell(EventType.KEY_USED, operation=operation, uses=counts, sha256="00" * 32)

    def schedule(self, version: int = 1, days: float = 7, **change: Any) -> None:
        at = timestamp(self.ministry.now + days * DAY)
        detail = {"at": at, "delay_seconds": 7 * 86_400}
        self.step(EventType.KEY_DESTRUCTION_SCHEDULED, version, **(detail | change))

    def allow(self, version: int = 1, days: float = 30) -> None:
        until = timestamp(self.ministry.now + days * DAY)
        self.step(EventType.KEY_RECOVERY_ALLOWED, version, until=until)

    def destroy(self, version: int = 1, tokens: tuple[str, ...] = ("main",)) -> None:
        self.step(EventType.KEY_DESTROYED, version, tokens=list(tokens))

    def wait(self, **time: float) -> None:
        self.ministry.now += timedelta(**time)

    def live(self) -> None:
        """Created, born, active."""
        self.create()
        self.bear()
        self.activate()


def _told(moment: Any) -> str | None:
    return None if moment is None else timestamp(moment)


def whole_life(told: Told) -> None:
    told.live()
    told.tell(EventType.KEY_PERMITTED, operations=["decrypt", "manage"])
    told.use("encrypt", v1=3)
    told.bear(2)
    told.activate(2)
    told.step(EventType.KEY_DEACTIVATED)
    told.use("decrypt", v1=1, v2=1)
    told.use("rewrap")
    told.step(EventType.KEY_SUSPENDED, 2)
    told.step(EventType.KEY_RESUMED, 2)
    told.tell(EventType.KEY_HELD)
    told.tell(EventType.KEY_RELEASED)
    told.schedule()
    told.step(EventType.KEY_DESTRUCTION_CANCELLED)
    told.schedule()
    told.wait(days=8)
    told.destroy()
    told.step(EventType.KEY_COMPROMISED, since=timestamp(told.ministry.now))
    told.step(EventType.KEY_COMPROMISED, 2, since=timestamp(told.ministry.now))
    told.allow(2)
    told.wait(days=20)
    told.allow(2)
    told.wait(days=29)
    told.use("decrypt", v2=1)


def found_in(
    life: Callable[[Told], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    ministry = busy_ministry()
    life(Told(ministry))
    status, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    return status, found


def test_a_whole_life_is_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert found_in(whole_life, tmp_path, capsys) == (0, [])


def after_live(*steps: Callable[[Told], object]) -> Callable[[Told], None]:
    def life(told: Told) -> None:
        told.live()
        for step in steps:
            step(told)

    return life


def deactivate(told: Told) -> None:
    told.step(EventType.KEY_DEACTIVATED)


def destroyed(told: Told) -> None:
    deactivate(told)
    told.schedule()
    told.wait(days=8)
    told.destroy()


def destroy_early(told: Told) -> None:
    deactivate(told)
    told.schedule()
    told.wait(days=6)
    told.destroy()


def destroy_unscheduled(told: Told) -> None:
    deactivate(told)
    told.destroy()


def destroy_cancelled(told: Told) -> None:
    deactivate(told)
    told.schedule()
    told.step(EventType.KEY_DESTRUCTION_CANCELLED)
    told.wait(days=8)
    told.destroy()


def destroy_held(told: Told) -> None:
    deactivate(told)
    told.schedule()
    told.tell(EventType.KEY_HELD)
    told.wait(days=8)
    told.destroy()


def destroy_elsewhere(told: Told) -> None:
    told.create()
    told.bear(tokens=["main", "spare"])
    told.schedule()
    told.wait(days=8)
    told.destroy()


def create_only(**change: Any) -> Callable[[Told], None]:
    return lambda told: told.create(**change)


def bear_as(**change: Any) -> Callable[[Told], None]:
    def life(told: Told) -> None:
        told.create()
        told.bear(**change)

    return life


def wrong_rule(rule: str) -> Callable[[Told], None]:
    def life(told: Told) -> None:
        told.create()
        told.bear(policy={"hash": told.ministry.policy, "rules": {"AES-256-GCM": rule}})

    return life


def activate_doomed(told: Told) -> None:
    told.create()
    told.bear()
    told.schedule()
    told.activate()


def used_after_recovery(told: Told) -> None:
    told.step(EventType.KEY_COMPROMISED, since=timestamp(told.ministry.now))
    told.allow()
    told.wait(days=31)
    told.use("decrypt")


def destroy_at_once(told: Told) -> None:
    deactivate(told)
    told.schedule(days=0)
    told.destroy()


def used_early(told: Told) -> None:
    told.create()
    told.bear()
    told.use()


def longer_life(told: Told) -> None:
    told.create()
    told.bear()
    told.activate(originator_end=None)


LIES: dict[str, tuple[Callable[[Told], None], str]] = {
    "a resumed key that was not suspended": (
        after_live(lambda told: told.step(EventType.KEY_RESUMED)),
        "that is active cannot take the step 'resume'",
    ),
    "a key that came back": (
        after_live(deactivate, lambda told: told.activate()),
        "that is deactivated cannot take the step 'activate'",
    ),
    "an active key destroyed": (
        after_live(lambda told: told.destroy()),
        "that is active cannot take the step 'destroy'",
    ),
    "a destroyed version used": (
        after_live(destroyed, lambda told: told.use("decrypt")),
        "decrypt with version 1, which is destroyed",
    ),
    "a deactivated version that protects": (
        after_live(deactivate, lambda told: told.wait(minutes=5), lambda told: told.use()),
        "encrypt with version 1, which is deactivated",
    ),
    "a suspended key used": (
        after_live(
            lambda told: told.step(EventType.KEY_SUSPENDED),
            lambda told: told.wait(minutes=5),
            lambda told: told.use("decrypt"),
        ),
        "decrypt with version 1, which is suspended",
    ),
    "a key used after its time": (
        after_live(lambda told: told.wait(days=731), lambda told: told.use()),
        "encrypt with version 1, which is expired",
    ),
    "a key used before its time": (
        used_early,
        "encrypt with version 1, which is not-yet-active",
    ),
    "a version that is not": (
        after_live(lambda told: told.use(v7=1)),
        "uses a version whose birth the log does not tell",
    ),
    "an encryption key that signs": (
        after_live(lambda told: told.use("sign")),
        "keys for encryption do not do this",
    ),
    "a destruction before its time": (after_live(destroy_early), "destroys before its time"),
    "a destruction out of the blue": (
        after_live(destroy_unscheduled),
        "destroys what was not scheduled",
    ),
    "a destruction that was cancelled": (
        after_live(destroy_cancelled),
        "destroys what was not scheduled",
    ),
    "a destruction under a legal hold": (after_live(destroy_held), "a legal hold keeps"),
    "a replica forgotten": (destroy_elsewhere, "is not destroyed on spare"),
    "an active key scheduled": (
        after_live(lambda told: told.schedule()),
        "schedules the destruction of what is active",
    ),
    "a destruction in the past": (
        after_live(deactivate, lambda told: told.schedule(days=-1)),
        "leaves less than its delay of 604800 seconds",
    ),
    "a destruction at once": (after_live(destroy_at_once), "leaves less than its delay"),
    "a delay that is none": (
        after_live(deactivate, lambda told: told.schedule(delay_seconds=-1)),
        "-1 seconds are no delay",
    ),
    "a delay of ages": (
        after_live(deactivate, lambda told: told.schedule(delay_seconds=2**50)),
        "seconds are no delay",
    ),
    "a doomed version activated": (activate_doomed, "activates what is scheduled for destruction"),
    "recovery with a good key": (
        after_live(lambda told: told.allow()),
        "allows recovery with what is active",
    ),
    "recovery that is over": (
        after_live(
            lambda told: told.step(EventType.KEY_COMPROMISED, since=timestamp(told.ministry.now)),
            lambda told: told.allow(days=-1),
        ),
        "until a time that is over",
    ),
    "a use after recovery": (
        after_live(used_after_recovery),
        "decrypt with version 1, which is compromised",
    ),
    "a version of no key": (bear_as(key=None), "is labelled as a version, but of no key"),
    "a cancellation of nothing": (
        after_live(lambda told: told.step(EventType.KEY_DESTRUCTION_CANCELLED)),
        "cancels a destruction that was not scheduled",
    ),
    "a key out of nowhere": (
        lambda told: told.bear(),
        "is of a key whose creation the log does not tell",
    ),
    "a key created twice": (after_live(create_only()), "was created before"),
    "a key for nothing": (create_only(purpose="fun"), "creates no key"),
    "periods that are none": (
        create_only(settings={**SETTINGS, "recipient_days": 1}),
        "these are no usage periods",
    ),
    "a version left out": (bear_as(version=2), "version 1 of the key was to follow"),
    "another key's label": (bear_as(label="s-other-1"), "is not labelled"),
    "a version for something else": (bear_as(purposes=["signing"]), "is not for encryption"),
    "a longer life than its key's": (
        longer_life,
        "its usage periods are not those of its key",
    ),
    "an orphan with a birth": (
        after_live(
            lambda told: told.tell(EventType.KEY_ORPHANED, label=f"s-{KEY}-1", public_key_sha256="")
        ),
        "whose birth the log tells",
    ),
    "a permission for what it does not do": (
        after_live(lambda told: told.tell(EventType.KEY_PERMITTED, operations=["sign"])),
        "permits what keys for encryption do not do",
    ),
    "a hold on what is held": (
        after_live(
            lambda told: told.tell(EventType.KEY_HELD), lambda told: told.tell(EventType.KEY_HELD)
        ),
        "holds what is held",
    ),
    "a compromise to come": (
        after_live(
            lambda told: told.step(
                EventType.KEY_COMPROMISED, since=timestamp(told.ministry.now + DAY)
            )
        ),
        "was not compromised in the future",
    ),
    "a time that is none": (
        after_live(lambda told: told.step(EventType.KEY_COMPROMISED, since="yesterday")),
        "not a time",
    ),
    "a decision that the policy does not take": (
        wrong_rule("key-mac"),
        "is not what the policy says of such a key",
    ),
    "no decision": (bear_as(policy=None), "issues without a policy decision"),
    "a policy that was not in force": (
        bear_as(policy={"hash": "00" * 32, "rules": {"AES-256-GCM": "key-encryption"}}),
        "was not in force",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_life_that_cannot_be_is_found(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    life, message = LIES[name]
    status, found = found_in(life, tmp_path, capsys)
    assert status == 1
    assert any(message in item for item in found), found


def test_what_was_under_way_when_a_key_was_suspended_is_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    life = after_live(
        lambda told: told.step(EventType.KEY_SUSPENDED), lambda told: told.use("decrypt")
    )
    assert found_in(life, tmp_path, capsys) == (0, [])


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as service:
        yield service


@pytest.mark.anyio
async def test_the_auditor_believes_what_the_service_does(made: World):
    """A whole life by the real use cases, replayed; and every decision comes out the same."""
    keys = made.services.keys
    settings = KeySettings(rotation_days=30, retention_days=10, log_uses=LogUses.EVERY)
    for name, purpose in [("k", KeyPurpose.ENCRYPTION), ("s", KeyPurpose.SIGNING)]:
        order = KeyOrder(name, purpose, settings=settings)
        await keys.orders.create(made.call("keys", name), WORLD_TENANT, order)
    await keys.use.run(SERVER, WORLD_TENANT, "k", VERBS["encrypt"], [Item(plaintext=b"x")] * 3)
    made.clock.advance(days=30)
    await keys.upkeep.carry_out_due()
    request = made.call("suspend", "k", who=OFFICER)
    await keys.steps.step(request, WORLD_TENANT, "k", Step.SUSPEND, None)
    request = made.call("compromise", "s", who=OFFICER)
    await keys.steps.compromise(request, WORLD_TENANT, "s", 2, None, None)
    made.clock.advance(days=10)
    await keys.upkeep.carry_out_due()
    made.clock.advance(days=7)
    await keys.upkeep.carry_out_due()
    leaves = [item.leaf for item in made.ledger.find(Event)]
    check, events = check_events(leaves, made.report.origin)
    assert check.failures == []
    check, _ = replay(events, Names({}), {})
    assert check.failures == []
    assert EventType.KEY_DESTROYED in {leaf.type for leaf in events.values()}
    created = {
        leaf.detail["key"]: leaf.detail
        for leaf in events.values()
        if leaf.type is EventType.KEY_CREATED and leaf.detail
    }
    for leaf in events.values():
        detail = leaf.detail or {}
        if leaf.type is EventType.KEY_GENERATED and detail.get("key") in created:
            rules = rules_of(leaf, created[detail["key"]], shipped())
            told = (leaf.policy or {})["rules"]
            assert all(told[name] in allowed for name, allowed in rules.items())
