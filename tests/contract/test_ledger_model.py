"""The SQL ledger against its twin in memory: whatever is done to both, they stay the same."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kms.domain.records import (
    Checkpoint,
    Enrolment,
    EnrolmentStatus,
    Event,
    Fingerprint,
    Idempotent,
    LogId,
    Principal,
    Record,
    SignerMark,
)
from kms.services.ports import Change, Delete, Insert, Replace, Unit
from kms.storage.integrity import integrity
from kms.storage.memory import MemoryLedger
from kms.storage.sql import SqlLedger
from tests.support.ledgers import (
    EPOCH,
    NOW,
    database,
    draft,
    enrolment,
    fingerprint,
    idempotent,
    principal,
)

KINDS: tuple[type[Record], ...] = (
    Principal,
    Fingerprint,
    Enrolment,
    SignerMark,
    Idempotent,
    Event,
    Checkpoint,
)
NAMES = st.sampled_from("abc")
MINUTES = st.integers(0, 2).map(lambda minutes: NOW + timedelta(minutes=minutes))
MARKS: st.SearchStrategy[Record] = st.builds(SignerMark, st.just("a"), st.integers(0, 1))
PRINCIPALS: st.SearchStrategy[Record] = st.builds(
    principal, st.sampled_from("ab"), st.sampled_from(["uri:1", "uri:2", "uri:3"])
)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    MARKS,
    PRINCIPALS,
    st.builds(
        lambda name, modulus: replace(fingerprint(name), modulus=modulus),
        NAMES,
        st.sampled_from([None, "c5", "d7"]),
    ),
    st.builds(
        lambda name, status, expires: enrolment(name, status, expires=expires),
        NAMES,
        st.sampled_from(EnrolmentStatus),
        MINUTES,
    ),
    st.builds(idempotent, NAMES, st.sampled_from([b"", b"{}"])),
)


@st.composite
def changes(draw: st.DrawFn, records: st.SearchStrategy[Record] = RECORDS) -> Change:
    """Any change of a few records that often meet."""
    record = draw(records)
    how = draw(st.sampled_from(["insert", "insert", "replace", "expect", "expect other", "delete"]))
    if how == "insert":
        return Insert(record)
    if how == "delete":
        return Delete(record)
    if how == "replace":
        return Replace(record)
    expected = draw(records.filter(lambda other: type(other) is type(record)))
    return Replace(record, record if how == "expect" else expected)


UNITS = st.builds(
    Unit,
    st.lists(changes(), max_size=3).map(tuple),
    st.lists(
        st.builds(draft, st.text("xyz", max_size=3), openings=st.integers(0, 2)), max_size=2
    ).map(tuple),
    st.none() | st.builds(idempotent, NAMES),
)


class Twins(RuleBasedStateMachine):
    """Does everything twice."""

    @initialize()
    def open(self) -> None:
        self.folder = TemporaryDirectory()
        self.url = database(Path(self.folder.name))
        self.sql, self.memory = SqlLedger(self.url), MemoryLedger()
        self.both("open_log", *EPOCH)

    def both(self, method: str, *arguments: Any, **options: Any) -> Any:
        results = [
            getattr(ledger, method)(*arguments, **options) for ledger in (self.sql, self.memory)
        ]
        assert results[0] == results[1]
        return results[0]

    @rule(units=st.lists(UNITS, max_size=5))
    def commit(self, units: list[Unit]) -> None:
        self.both("commit", units)

    @rule(
        wanted=st.lists(changes(MARKS), min_size=2, max_size=3)
        | st.lists(changes(PRINCIPALS), min_size=2, max_size=3)
    )
    def commit_what_meets(self, wanted: list[Change]) -> None:
        """Units that touch the same few records, whose order matters."""
        self.both("commit", [Unit((change,)) for change in wanted])

    @rule(wanted=st.lists(changes(), max_size=4))
    def reserve(self, wanted: list[Change]) -> None:
        self.both("reserve", wanted)

    @rule(note=st.sampled_from([b"one", b"two"]), data=st.data())
    def store_note(self, note: bytes, data: st.DataObject) -> None:
        checkpoints = self.both("find", Checkpoint)
        if checkpoints:
            stored = data.draw(st.sampled_from(checkpoints))
            self.both("store_note", stored.log, stored.size, note)

    @rule()
    def begin_the_next_epoch(self) -> None:
        log = self.both("head").log + 1
        self.both("open_log", LogId(log), f"log.example/{log}", "key", "vkey")

    @rule()
    def reopen(self) -> None:
        self.sql.close()
        self.sql = SqlLedger(self.url)

    @rule(
        descending=st.booleans(),
        limit=st.none() | st.integers(0, 3),
        equals=st.fixed_dictionaries(
            {},
            optional={
                "status": st.sampled_from([*EnrolmentStatus, tuple(EnrolmentStatus)[1:]]),
                "expires": MINUTES,
                "user": st.sampled_from([None, "anna", ("anna", None), ()]),
            },
        ),
        order=st.sampled_from([(), ("expires",), ("status", "enrolment"), ("expires", "status")]),
        data=st.data(),
    )
    def find(self, order: tuple[str, ...], data: st.DataObject, **options: Any) -> None:
        equals = options.pop("equals")
        values = {"expires": MINUTES, "status": st.sampled_from(EnrolmentStatus)}
        values["enrolment"] = NAMES.map(lambda name: enrolment(name).enrolment)
        for bound in ("after", "before"):
            if order and data.draw(st.booleans()):
                options[bound] = tuple(data.draw(values[name]) for name in order)
        self.both("find", Enrolment, order=order, **options, **equals)
        self.both("count", Enrolment, **equals)

    @invariant()
    def hold_the_same(self) -> None:
        for kind in KINDS:
            self.both("find", kind)
        head = self.both("head")
        for number in range(2):
            self.both("tile", head.log, 0, number)

    def teardown(self) -> None:
        self.sql.close()
        assert integrity(self.url) == []
        self.folder.cleanup()


TestTwins = Twins.TestCase
TestTwins.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
