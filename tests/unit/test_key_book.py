"""A key with its versions through any steps: what never may be, never is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kms.domain.key_book import KeyBook, Task, life
from kms.domain.key_records import NEVER, Key, KeyId, KeyVersion, LogUses
from kms.domain.records import EventId, TenantId
from policies.key_life import IllegalStepError, KeyState, Operation, Step

START = datetime(2030, 1, 1, tzinfo=UTC)


def key(**settings: int) -> Key:
    return Key(
        tenant=TenantId("ministry"),
        key="k",
        key_id=KeyId("00" * 16),
        purpose="encryption",
        slot="",
        algorithm="",
        protection="",
        token="",
        rotation_days=settings.get("rotation", 0),
        originator_days=settings.get("originator", 730),
        recipient_days=settings.get("recipient", 1825),
        overlap_days=settings.get("overlap", 0),
        retention_days=settings.get("retention", 0),
        log_uses=LogUses.NONE,
        hold="",
        due=NEVER,
        created=START,
        event=EventId("e"),
    )


def version(number: int, now: datetime, activates: datetime | None) -> KeyVersion:
    return KeyVersion(
        tenant=TenantId("ministry"),
        key="k",
        version=number,
        label=f"s-{'00' * 16}-{number}",
        algorithm="AES-256-GCM",
        protection="token",
        components=(),
        public_key=b"",
        state=KeyState.PRE_ACTIVATION,
        created=now,
        activates=activates,
        originator_end=None,
        recipient_end=None,
        deactivates=None,
        compromised=None,
        recover_until=None,
        destroys=None,
        destroyed=None,
        certificate=None,
        policy="",
        rule="",
        event=EventId("e"),
    )


class Lives(RuleBasedStateMachine):
    """Any steps in any order, as managers and upkeep take them."""

    @initialize(
        rotation=st.sampled_from([0, 30]),
        overlap=st.sampled_from([0, 10]),
        retention=st.sampled_from([0, 20]),
    )
    def begin(self, rotation: int, overlap: int, retention: int):
        self.now = START
        made = key(rotation=rotation, overlap=overlap, retention=retention)
        self.book = KeyBook(made, ()).put(version(1, START, None)).settled()
        self.ended: set[int] = set()

    @rule(days=st.integers(1, 60))
    def wait(self, days: int):
        self.now += timedelta(days=days)

    @precondition(lambda self: self.book.newest.state is not KeyState.PRE_ACTIVATION)
    @rule(later=st.booleans())
    def rotate(self, later: bool):
        at = self.now + timedelta(days=5) if later else None
        number = len(self.book.versions) + 1
        self.book = self.book.put(version(number, self.now, at)).settled()

    @rule(number=st.integers(1, 5), step=st.sampled_from(list(Step)))
    def step(self, number: int, step: Step):
        item = self.book.version(number)
        if item is None:
            return
        try:
            if step is Step.ACTIVATE:
                self.book, happened = self.book.activate(number, self.now)
            elif step is Step.COMPROMISE:
                self.book, happened = self.book.compromise(number, self.now, None)
            else:
                self.book, happened = self.book.take(number, step, self.now)
        except IllegalStepError:
            return
        assert [one.version for one in happened if one.version.version == number]

    @rule(number=st.integers(1, 5), days=st.sampled_from([None, 7]))
    def schedule(self, number: int, days: int | None):
        if self.book.version(number) is not None:
            at = None if days is None else self.now + timedelta(days=days)
            self.book = self.book.schedule(number, at)

    @rule(held=st.booleans())
    def hold(self, held: bool):
        held_key = replace(self.book.key, hold="case 1" if held else "")
        self.book = replace(self.book, key=held_key).settled()

    @invariant()
    def the_next_task_is_known(self):
        tasks = list(self.book.tasks())
        assert self.book.key.due == min((task.at for task in tasks), default=NEVER)
        assert all(task.at <= self.now for task in self.book.due(self.now))

    @invariant()
    def nothing_protects_but_what_is_active(self):
        for item in self.book.versions:
            allowed = life(item).refusal(Operation.ENCRYPT, self.now) is None
            assert not allowed or item.state is KeyState.ACTIVE
            if item.version in self.ended:
                assert not allowed
            if item.state not in {KeyState.PRE_ACTIVATION, KeyState.ACTIVE, KeyState.SUSPENDED}:
                self.ended.add(item.version)

    @invariant()
    def the_current_version_is_the_newest_active_one(self):
        active = [item for item in self.book.versions if item.state is KeyState.ACTIVE]
        assert self.book.current is (active[-1] if active else self.book.newest)

    @invariant()
    def a_hold_blocks_destruction(self):
        if self.book.key.hold:
            tasks = {task.task for task in self.book.tasks()}
            assert tasks.isdisjoint({Task.DESTROY, Task.SCHEDULE})

    @invariant()
    def destroyed_versions_have_no_tasks(self):
        gone = {item.version for item in self.book.versions if item.state.gone}
        assert gone.isdisjoint(
            task.version for task in self.book.tasks() if task.task is not Task.ROTATE
        )


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_version_takes_over_at_once_or_after_its_overlap():
    for overlap in (0, 10):
        book = KeyBook(key(overlap=overlap), ()).put(version(1, START, None))
        book, _ = book.activate(1, START)
        book = book.put(version(2, START, None))
        book, happened = book.activate(2, START)
        first, second = book.versions
        assert second.state is KeyState.ACTIVE
        assert book.current is second
        if overlap:
            assert first.state is KeyState.ACTIVE
            assert first.deactivates == START + timedelta(days=overlap)
            assert book.due(START + timedelta(days=overlap))[0].task is Task.DEACTIVATE
        else:
            assert first.state is KeyState.DEACTIVATED
        steps = [item.step for item in happened]
        assert steps == [Step.ACTIVATE] + ([] if overlap else [Step.DEACTIVATE])


def test_what_stays_active_past_its_usage_period_is_deactivated():
    book, _ = KeyBook(key(), ()).put(version(1, START, None)).activate(1, START)
    end = START + timedelta(days=730)
    assert book.key.due == end
    assert [task.task for task in book.due(end)] == [Task.DEACTIVATE]


def test_rotation_waits_for_the_version_that_waits():
    book, _ = KeyBook(key(rotation=30), ()).put(version(1, START, None)).activate(1, START)
    assert book.key.due == START + timedelta(days=30)
    waiting = book.put(version(2, START, START + timedelta(days=40))).settled()
    tasks = {task.task for task in waiting.tasks()}
    assert Task.ROTATE not in tasks
    assert Task.ACTIVATE in tasks
