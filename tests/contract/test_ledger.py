"""What every ledger must do: one suite, run against each of them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Checkpoint,
    Enrolment,
    EnrolmentStatus,
    Epoch,
    Event,
    EventOpenings,
    Fingerprint,
    Idempotent,
    LogId,
    Principal,
    Reason,
    Record,
    Serial,
    SignerMark,
    TenantId,
    UserId,
)
from kms.services.ports import Conflict, Delete, Insert, Ledger, Placed, Replace, TreeHead, Unit
from kms.storage.faulty import FaultyLedger
from kms.storage.memory import MemoryLedger
from kms.storage.sql import SqlLedger
from tests.support.ledgers import (
    EPOCH,
    LOG,
    NOW,
    TENANT,
    certificate,
    database,
    digest,
    draft,
    enrolment,
    fingerprint,
    idempotent,
    principal,
    unit,
)
from tests.support.naive_log import leaf_hash, tree_hash

MARK = SignerMark("token", 1)


@pytest.fixture(params=["sql", "memory", "faulty"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger without a log."""
    made: Ledger
    if request.param == "sql":
        made = SqlLedger(database(tmp_path))
    else:
        made = MemoryLedger() if request.param == "memory" else FaultyLedger(MemoryLedger())
    yield made
    made.close()


@pytest.fixture
def ledger(empty: Ledger) -> Ledger:
    """A ledger whose first epoch has begun."""
    empty.open_log(*EPOCH)
    return empty


def test_before_the_first_epoch_there_is_no_head_and_nothing_commits(empty: Ledger):
    assert empty.head() is None
    assert empty.get(Epoch, LOG) is None
    with pytest.raises(ValueError, match="open a log"):
        empty.commit([unit("a")])
    assert empty.find(Fingerprint) == []


def test_reserving_needs_no_epoch(empty: Ledger):
    assert empty.reserve([Insert(MARK)]) is None
    assert empty.get(SignerMark, "token") == MARK


def test_an_epoch_begins_empty_and_only_once(ledger: Ledger):
    assert ledger.head() == TreeHead(LOG, EPOCH[1], 0, tree_hash([]))
    ledger.commit([unit("a")])
    ledger.open_log(*EPOCH)
    head = ledger.head()
    assert head is not None
    assert head.size == 1
    with pytest.raises(ValueError, match="other values"):
        ledger.open_log(LOG, EPOCH[1], EPOCH[2], "another vkey")
    assert ledger.get(Epoch, LOG) == Epoch(*EPOCH)


def test_a_new_epoch_takes_over_and_an_older_one_cannot_begin(ledger: Ledger):
    ledger.commit([unit("a")])
    ledger.open_log(LogId(3), "log.example/3", "k3", "v3")
    (placed,) = ledger.commit([unit("b")])
    assert placed == Placed(LogId(3), 0, 1)
    with pytest.raises(ValueError, match="cannot begin"):
        ledger.open_log(LogId(2), "log.example/2", "k2", "v2")
    assert ledger.head() == TreeHead(LogId(3), "log.example/3", 1, leaf_hash(draft("b/0").leaf))
    ledger.open_log(*EPOCH)
    assert ledger.commit([unit("c")]) == [Placed(LogId(3), 1, 2)]


def test_a_commit_writes_state_events_openings_tree_checkpoint_and_answer(ledger: Ledger):
    reserved = enrolment("e")
    assert ledger.reserve([Insert(reserved)]) is None
    done = replace(reserved, status=EnrolmentStatus.COMPLETED)
    first = unit("a", Insert(certificate("a")), Replace(done, reserved), events=2)
    second = unit("b", Insert(certificate("b")), events=3)
    assert ledger.commit([first, second]) == [Placed(LOG, 0, 5), Placed(LOG, 2, 5)]

    drafts = [*first.events, *second.events]
    leaves = [leaf_hash(item.leaf) for item in drafts]
    assert ledger.head() == TreeHead(LOG, EPOCH[1], 5, tree_hash(leaves))
    assert ledger.tile(LOG, 0, 0) == b"".join(leaves)
    assert ledger.get(Checkpoint, LOG, 5) == Checkpoint(LOG, 5, tree_hash(leaves), b"")
    assert [event.leaf for event in ledger.find(Event)] == [item.leaf for item in drafts]
    assert ledger.get(Event, LOG, 3) == Event(
        LOG, 3, TENANT, drafts[3].event, drafts[3].type, NOW, drafts[3].leaf
    )
    documents = tuple(item.document() for item in drafts[0].openings)
    assert ledger.get(EventOpenings, TENANT, drafts[0].event) == EventOpenings(
        TENANT, drafts[0].event, documents
    )
    assert ledger.count(EventOpenings) == 5
    assert ledger.get(Enrolment, TENANT, reserved.enrolment) == done
    assert ledger.find(Certificate, sha256=digest("b")) == [certificate("b")]
    assert ledger.find(Idempotent, idempotency_key="b") == [
        replace(idempotent("b"), log=LOG, first_index=2, events=3, size=5)
    ]


def test_units_without_events_are_placed_and_make_no_checkpoint(ledger: Ledger):
    quiet = Unit((Insert(MARK),), (), idempotent("quiet"))
    assert ledger.commit([quiet]) == [Placed(LOG, 0, 0)]
    assert ledger.find(Checkpoint) == []
    assert ledger.commit([]) == []
    (answer,) = ledger.find(Idempotent)
    assert (answer.log, answer.events, answer.size) == (LOG, 0, 0)


@pytest.mark.parametrize("batch", [1, 100, 256, 300])
def test_the_tree_is_that_of_rfc_6962_whatever_the_batches(ledger: Ledger, batch: int):
    hashes: list[bytes] = []
    for start in range(0, 600, batch):
        drafts = [draft(f"{start}/{at}", openings=0) for at in range(batch)]
        hashes += [leaf_hash(item.leaf) for item in drafts]
        ledger.commit([Unit((), (item,)) for item in drafts])
        head = ledger.head()
        assert head is not None
        assert (head.size, head.root) == (len(hashes), tree_hash(hashes))
    assert ledger.tile(LOG, 0, 0) == b"".join(hashes[:256])
    assert ledger.tile(LOG, 0, 1) == b"".join(hashes[256:512])
    assert ledger.tile(LOG, 0, 2) == b"".join(hashes[512:])
    full = [tree_hash(hashes[at : at + 256]) for at in range(0, len(hashes) // 256 * 256, 256)]
    assert ledger.tile(LOG, 1, 0) == b"".join(full)
    assert ledger.tile(LOG, 0, 9) is None
    assert ledger.tile(LOG, 2, 0) is None
    assert ledger.tile(LogId(9), 0, 0) is None


def test_only_the_unit_in_conflict_fails(ledger: Ledger):
    ledger.commit([unit("taken")])
    units = [
        unit("a"),
        unit("b", Insert(certificate("b")), Insert(fingerprint("taken"))),
        unit("c"),
    ]
    outcomes = ledger.commit(units)
    conflict = Conflict("Fingerprint", (TENANT, digest("taken")))
    assert outcomes == [Placed(LOG, 1, 3), conflict, Placed(LOG, 2, 3)]
    assert [event.event for event in ledger.find(Event, after=(LOG, 0))] == [
        draft("a/0").event,
        draft("c/0").event,
    ]
    assert ledger.find(Certificate) == []
    assert ledger.count(EventOpenings) == 3
    assert {item.idempotency_key: item.size for item in ledger.find(Idempotent)} == {
        "taken": 1,
        "a": 3,
        "c": 3,
    }


def test_units_that_only_conflict_leave_no_trace(ledger: Ledger):
    ledger.commit([unit("a")])
    before = ledger.head()
    (outcome,) = ledger.commit([unit("b", Insert(fingerprint("a")))])
    assert isinstance(outcome, Conflict)
    assert ledger.head() == before
    assert ledger.count(Checkpoint) == 1
    assert ledger.count(Event) == 1


def test_of_two_units_that_want_the_same_the_first_wins(ledger: Ledger):
    same = Insert(certificate("same"))
    first, second = unit("a", same), unit("b", same)
    assert ledger.commit([first, second]) == [
        Placed(LOG, 0, 1),
        Conflict("Certificate", (TENANT, "people", certificate("same").serial)),
    ]


def test_a_unit_can_be_in_conflict_with_itself(ledger: Ledger):
    double = unit("a", Insert(fingerprint("x")), Insert(fingerprint("x")))
    assert ledger.commit([double]) == [Conflict("Fingerprint", (TENANT, digest("x")))]
    assert ledger.find(Fingerprint) == []


def test_an_idempotency_key_counts_once_and_is_told_of_first(ledger: Ledger):
    ledger.commit([unit("a", key="k")])
    (again,) = ledger.commit([unit("a", key="k")])
    assert again == Conflict("Idempotent", (TENANT, "server", "POST /v1/x", "k"))
    first, second = ledger.commit([unit("b", key="n"), unit("c", key="n")])
    assert isinstance(first, Placed)
    assert second == Conflict("Idempotent", (TENANT, "server", "POST /v1/x", "n"))


def test_an_event_id_counts_once_in_a_tenant_across_epochs(ledger: Ledger):
    ledger.commit([Unit((), (draft("a"),))])
    ledger.open_log(LogId(2), "log.example/2", "k", "v")
    other = replace(draft("a"), tenant=TenantId("other"), openings=())
    outcomes = ledger.commit([Unit((), (draft("a"),)), Unit((), (other,))])
    assert outcomes == [Conflict("Event", (TENANT, draft("a").event)), Placed(LogId(2), 0, 1)]


def test_unique_keys_are_kept(ledger: Ledger):
    ledger.reserve([Insert(principal("a", "uri:1")), Insert(principal("b", "uri:2"))])
    taken = Conflict("Principal", (TENANT, "uri:1"))
    assert ledger.reserve([Insert(principal("c", "uri:1"))]) == taken
    assert ledger.reserve([Replace(principal("b", "uri:1"))]) == taken
    assert ledger.reserve([Insert(principal("a", "uri:3"))]) == Conflict("Principal", (TENANT, "a"))
    assert ledger.reserve([Insert(principal("c", "uri:1", TenantId("other")))]) is None


def test_changes_apply_in_order_within_and_between_units(ledger: Ledger):
    ledger.reserve([Insert(principal("a", "uri:1"))])
    swap = [
        Delete(principal("a", "uri:1")),
        Insert(principal("b", "uri:1")),
        Replace(principal("b", "uri:2")),
        Insert(principal("c", "uri:1")),
    ]
    assert ledger.commit([Unit((change,), ()) for change in swap]) == [Placed(LOG, 0, 0)] * 4
    assert ledger.find(Principal, order=("uri",)) == [
        principal("c", "uri:1"),
        principal("b", "uri:2"),
    ]
    # What a later unit takes away makes no room for an earlier one.
    early = ledger.commit(
        [
            Unit((Insert(principal("d", "uri:2")),)),
            Unit((Delete(principal("b", "uri:2")),)),
        ]
    )
    assert early == [Conflict("Principal", (TENANT, "uri:2")), Placed(LOG, 0, 0)]


def test_what_is_deleted_cannot_be_replaced_and_can_be_inserted(ledger: Ledger):
    missing = Conflict("SignerMark", ("token",))
    here = Placed(LOG, 0, 0)
    gone, back, new = Unit((Delete(MARK),)), Unit((Insert(MARK),)), Unit((Replace(MARK),))
    assert ledger.commit([new, back]) == [missing, here]
    assert ledger.commit([gone, new]) == [here, missing]
    assert ledger.commit([gone, back]) == [here, here]
    assert ledger.get(SignerMark, "token") == MARK
    assert ledger.commit([new, gone]) == [here, here]
    assert ledger.get(SignerMark, "token") is None


@pytest.mark.parametrize("expecting", [(True, False), (False, True), (True, True)])
def test_a_unique_value_freed_later_is_not_free_now(ledger: Ledger, expecting: tuple[bool, bool]):
    a, b = principal("a", "uri:1"), principal("b", "uri:2")
    ledger.reserve([Insert(a), Insert(b)])
    takes = Replace(principal("a", "uri:2"), a if expecting[0] else None)
    frees = Replace(principal("b", "uri:3"), b if expecting[1] else None)
    assert ledger.commit([Unit((takes,)), Unit((frees,))]) == [
        Conflict("Principal", (TENANT, "uri:2")),
        Placed(LOG, 0, 0),
    ]


def test_the_second_change_of_a_record_sees_the_first(ledger: Ledger):
    pending = enrolment("e")
    done, refused = (
        replace(pending, status=status)
        for status in (EnrolmentStatus.COMPLETED, EnrolmentStatus.REFUSED)
    )
    outcomes = ledger.commit(
        [
            Unit((Insert(pending),)),
            Unit((Replace(done, pending),)),
            Unit((Replace(refused, pending),)),
        ]
    )
    key = (TENANT, pending.enrolment)
    assert outcomes == [Placed(LOG, 0, 0), Placed(LOG, 0, 0), Conflict("Enrolment", key)]
    assert ledger.get(Enrolment, *key) == done


def test_an_answer_deleted_in_its_own_commit_stays_deleted(ledger: Ledger):
    erased = Unit((Delete(idempotent("a")),), (draft("erase"),))
    outcomes = ledger.commit([unit("a"), unit("b"), unit("b"), erased])
    assert [type(item) for item in outcomes] == [Placed, Placed, Conflict, Placed]
    assert [item.size for item in ledger.find(Idempotent)] == [3]


@pytest.mark.parametrize(
    "other",
    [
        {"status": CertificateStatus.REVOKED},
        {"user": None},
        {"principal": "server"},
        {"not_after": NOW + timedelta(days=366)},
        {"der": b"other"},
    ],
)
def test_replacing_what_is_not_as_expected_is_a_conflict(ledger: Ledger, other: dict[str, object]):
    stored = certificate("a")
    ledger.reserve([Insert(stored)])
    new = replace(stored, status=CertificateStatus.REVOKED, revoked_at=NOW)
    key = (TENANT, "people", stored.serial)
    unexpected = replace(stored, **other)  # type: ignore[arg-type]
    assert ledger.reserve([Replace(new, unexpected)]) == Conflict("Certificate", key)
    assert ledger.get(Certificate, *key) == stored
    assert ledger.reserve([Replace(new, stored)]) is None
    assert ledger.get(Certificate, *key) == new


def test_replacing_what_is_absent_or_another_is_a_conflict(ledger: Ledger):
    missing = Conflict("SignerMark", ("token",))
    assert ledger.reserve([Replace(MARK)]) == missing
    assert ledger.reserve([Replace(MARK, MARK)]) == missing
    ledger.reserve([Insert(SignerMark("other", 1))])
    assert ledger.reserve([Replace(MARK, SignerMark("other", 1))]) == missing
    ledger.reserve([Insert(MARK)])
    assert ledger.reserve([Replace(MARK, SignerMark("other", 1))]) == missing


def test_of_an_enrolment_only_the_status_is_compared_and_changes(ledger: Ledger):
    pending = enrolment("e")
    ledger.reserve([Insert(pending)])
    done = replace(pending, status=EnrolmentStatus.COMPLETED)
    forged = replace(done, transcript=b"another", expires=NOW + timedelta(days=9))
    key = (TENANT, pending.enrolment)
    assert ledger.reserve([Replace(forged, replace(pending, transcript=b"another"))]) is None
    assert ledger.get(Enrolment, *key) == done
    assert ledger.reserve([Replace(done, pending)]) == Conflict("Enrolment", key)
    assert ledger.reserve([Replace(replace(forged, status=EnrolmentStatus.REFUSED))]) is None
    assert ledger.get(Enrolment, *key) == replace(pending, status=EnrolmentStatus.REFUSED)


def test_structured_values_and_times_compare_by_meaning(ledger: Ledger):
    pending = enrolment("e")
    ledger.reserve([Insert(pending)])
    east = timezone(timedelta(hours=2))
    same = enrolment(
        "e",
        slots=tuple(dict(reversed(list(slot.items()))) for slot in pending.slots),
        expires=pending.expires.astimezone(east),
    )
    assert ledger.find(Enrolment, expires=same.expires) == [pending]
    done = replace(pending, status=EnrolmentStatus.COMPLETED)
    assert ledger.reserve([Replace(done, same)]) is None


def test_a_reservation_is_all_or_nothing(ledger: Ledger):
    ledger.reserve([Insert(MARK)])
    changes = [Insert(fingerprint("a")), Insert(MARK), Insert(fingerprint("b"))]
    assert ledger.reserve(changes) == Conflict("SignerMark", ("token",))
    assert ledger.find(Fingerprint) == []
    assert ledger.reserve([]) is None


def test_deleting_what_is_absent_is_fine(ledger: Ledger):
    assert ledger.reserve([Delete(MARK)]) is None
    ledger.reserve([Insert(MARK)])
    assert ledger.reserve([Delete(replace(MARK, counter=7))]) is None
    assert ledger.find(SignerMark) == []


@pytest.mark.parametrize(
    "change",
    [
        Insert(Event(LOG, 0, TENANT, draft("x").event, "t", NOW, b"leaf")),
        Delete(Event(LOG, 0, TENANT, draft("x").event, "t", NOW, b"leaf")),
        Replace(Checkpoint(LOG, 1, b"", b"forged")),
        Insert(Epoch(LogId(2), "o", "k", "v")),
    ],
)
def test_nobody_but_the_ledger_writes_the_log(ledger: Ledger, change: Insert | Delete | Replace):
    with pytest.raises(ValueError, match="ledger alone"):
        ledger.reserve([change])
    with pytest.raises(ValueError, match="ledger alone"):
        ledger.commit([unit("a"), Unit((change,))])
    assert ledger.find(Event) == []


@pytest.mark.parametrize(
    "record",
    [
        enrolment("e", expires=NOW.replace(microsecond=1)),
        enrolment("e", expires=NOW.replace(tzinfo=None)),
        certificate("c", serial=None),
    ],
)
def test_a_record_that_cannot_be_stored_sinks_the_whole_call(
    ledger: Ledger, record: Enrolment | Certificate
):
    with pytest.raises(ValueError, match=r"aware time|without serial"):
        ledger.commit([unit("a"), unit("b", Insert(record))])
    assert ledger.find(Fingerprint) == []
    assert ledger.commit([unit("a")]) == [Placed(LOG, 0, 1)]


def test_finding_by_value_none_any_and_several(ledger: Ledger):
    anna = certificate("1")
    bert = certificate("2", user=UserId("bert"))
    server = certificate("3", user=None, device=None, principal="server")
    ledger.reserve([Insert(item) for item in (anna, bert, server)])

    def serials(**equals: object) -> set[Serial]:
        return {item.serial for item in ledger.find(Certificate, **equals)}

    assert serials(user="anna", tenant=TENANT) == {anna.serial}
    assert serials(user=None) == {server.serial}
    assert serials(user=("anna", "bert", "carl")) == {anna.serial, bert.serial}
    assert serials(user=("anna", None)) == {anna.serial, server.serial}
    assert serials(user=(None,)) == {server.serial}
    assert serials(user=()) == set()
    assert serials(status=CertificateStatus.GOOD, device="phone") == {anna.serial, bert.serial}
    assert serials(status=(CertificateStatus.REVOKED, CertificateStatus.ORPHANED)) == set()
    assert serials(tenant="other") == set()
    assert ledger.count(Certificate) == 3
    assert ledger.count(Certificate, user=("anna", None)) == 2
    assert ledger.count(Certificate, user=()) == 0


def test_some_fields_of_what_is_found(ledger: Ledger):
    revoked = {"status": CertificateStatus.REVOKED, "reason": Reason.SUPERSEDED}
    anna, bert = certificate("1", **revoked), certificate("2", user=None)
    ledger.reserve([Insert(anna), Insert(bert)])
    names = ("not_after", "reason", "serial", "user")
    both = {(anna.not_after, anna.reason, anna.serial, anna.user)}
    both |= {(bert.not_after, None, bert.serial, None)}
    assert set(ledger.values(Certificate, names)) == both
    (found,) = ledger.values(Certificate, ("reason",), status=CertificateStatus.REVOKED)
    assert found == (Reason.SUPERSEDED,)
    assert type(found[0]) is Reason
    assert ledger.values(Certificate, ("serial",), tenant="other") == []
    with pytest.raises(ValueError, match="no field 'colour'"):
        ledger.values(Certificate, ("colour",))


def test_many_values_at_once(ledger: Ledger):
    names = [str(number) for number in range(5000)]
    ledger.reserve([Insert(fingerprint(name)) for name in names[::2]])
    wanted = tuple(digest(name) for name in names)
    assert ledger.count(Fingerprint, tenant=TENANT, fingerprint=wanted) == 2500


def test_pages_cover_everything_once_in_either_direction(ledger: Ledger):
    ledger.reserve(
        [
            Insert(enrolment(str(number), expires=NOW + timedelta(minutes=number // 3)))
            for number in range(20)
        ]
    )
    for descending in (False, True):
        for order in (("expires", "enrolment"), ("enrolment",), ()):
            names = order or Enrolment.KEY
            seen: list[tuple[object, ...]] = []
            after = None
            while page := ledger.find(
                Enrolment, order=order, descending=descending, limit=7, after=after
            ):
                assert len(page) <= 7
                seen += [tuple(getattr(item, name) for name in names) for item in page]
                after = seen[-1]
            assert len(set(seen)) == 20
            assert seen == sorted(seen, reverse=descending)  # type: ignore[type-var]


def test_a_range_lies_strictly_between_two_places(ledger: Ledger):
    minutes = [NOW + timedelta(minutes=number // 2) for number in range(12)]
    ledger.reserve(
        [Insert(enrolment(str(number), expires=at)) for number, at in enumerate(minutes)]
    )

    def found(**options: Any) -> list[datetime]:
        return [item.expires for item in ledger.find(Enrolment, order=("expires",), **options)]

    at = minutes[::2]
    assert found(before=(at[2],)) == minutes[:4]
    assert found(before=(at[2],), limit=3) == minutes[:3]
    assert found(before=(at[0],)) == []
    assert found(after=(at[1],), before=(at[4],)) == minutes[4:8]
    assert found(after=(at[4],), before=(at[1],)) == []
    # Downwards, what is later comes before.
    assert found(before=(at[3],), descending=True) == minutes[:7:-1]
    assert found(after=(at[4],), before=(at[1],), descending=True) == minutes[7:3:-1]
    assert found(before=(at[2],), status=EnrolmentStatus.REFUSED) == []
    assert found(before=(at[2],), tenant=TENANT) == minutes[:4]


def test_a_range_of_a_log(ledger: Ledger):
    """The log is asked for and stands in the place, too, alike or not."""
    ledger.commit([unit(str(number)) for number in range(6)])

    def found(**options: Any) -> list[int]:
        return [item.index for item in ledger.find(Event, log=LOG, **options)]

    assert found(after=(LOG, 1), before=(LOG, 4)) == [2, 3]
    assert found(after=(LOG, 4), before=(LOG, 1), descending=True) == [3, 2]
    assert found(after=(LOG - 1, 4)) == found(before=(LOG + 1, 0)) == list(range(6))
    assert found(after=(LOG + 1, 0)) == found(before=(LOG - 1, 9)) == []
    assert found(tenant=TENANT, after=(LOG, 3)) == [4, 5]
    assert found(order=("log",), after=(LOG,)) == found(order=("log",), before=(LOG,)) == []
    assert len(ledger.find(Event, log=(LOG, LOG + 1), after=(LOG, 3))) == 2


def test_ties_are_broken_by_the_primary_key(ledger: Ledger):
    ledger.reserve([Insert(enrolment(str(number))) for number in range(9)])
    up = [item.enrolment for item in ledger.find(Enrolment, order=("expires",))]
    down = [item.enrolment for item in ledger.find(Enrolment, order=("expires",), descending=True)]
    assert up == sorted(up)
    assert down == up[::-1]
    assert ledger.find(Enrolment, order=("expires",), after=(NOW + timedelta(minutes=10),)) == []
    assert ledger.find(Enrolment, limit=0) == []


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Certificate, {"colour": "red"}, "no field 'colour'"),
        (Certificate, {"order": ("colour",)}, "no field 'colour'"),
        (Certificate, {"order": ("user",)}, "cannot be sorted"),
        (Enrolment, {"order": ("slots",)}, "cannot be sorted"),
        (Principal, {"bundles": ("device",)}, "cannot be found"),
        (Certificate, {"after": (TENANT,)}, "`after` needs a value for each"),
        (Certificate, {"before": (TENANT,)}, "`before` needs a value for each"),
        (Certificate, {"limit": -1}, "a limit of -1"),
        (Enrolment, {"expires": NOW.replace(tzinfo=None)}, "aware time"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    ledger: Ledger, kind: type[Record], options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        ledger.find(kind, **options)


def test_a_key_of_the_wrong_length_is_refused(ledger: Ledger):
    with pytest.raises(ValueError, match="has the key"):
        ledger.get(Certificate, TENANT, "people")


def test_numbers_too_large_to_be_stored(ledger: Ledger):
    """A page or an index that a caller makes up is not there; such a record cannot be made."""
    ledger.commit([unit("a")])
    for beyond in (2**63, 2**80):
        assert ledger.get(Event, LOG, beyond) is None
        assert ledger.find(Event, index=-beyond) == []
        assert ledger.find(Event, after=(LOG, beyond)) == []
        assert len(ledger.find(Event, after=(LOG, -beyond))) == 1
        with pytest.raises(ValueError, match="64 bits"):
            ledger.reserve([Insert(SignerMark("token", beyond))])


def test_the_first_note_of_a_committed_size_stays(ledger: Ledger):
    ledger.commit([unit("a")])
    ledger.store_note(LOG, 1, b"first")
    ledger.store_note(LOG, 1, b"second")
    checkpoint = ledger.get(Checkpoint, LOG, 1)
    assert checkpoint is not None
    assert checkpoint.note == b"first"
    with pytest.raises(ValueError, match="no checkpoint of size 2"):
        ledger.store_note(LOG, 2, b"note")


def test_every_byte_of_text_and_binary_comes_back(ledger: Ledger):
    odd = certificate("x", user=UserId("Zoë 🜁 '; --\n\\"), der=bytes(range(256)), policy="")
    ledger.reserve([Insert(odd)])
    assert ledger.find(Certificate, user=odd.user) == [odd]
