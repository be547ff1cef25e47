"""A key with its versions, and what each step makes of it. Pure: the services log and store it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from kms.domain.key_records import NEVER, Key, KeyVersion
from policies.key_life import Cryptoperiods, IllegalStepError, KeyState, Life, Step, follow


class Task(StrEnum):
    """What upkeep does by itself once its time has come."""

    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    ROTATE = "rotate"
    SCHEDULE = "schedule-destruction"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class Due:
    """A task, of which version, and when."""

    at: datetime
    task: Task
    version: int


@dataclass(frozen=True, slots=True)
class Happened:
    """A step that a version took, and the version after it."""

    step: Step
    version: KeyVersion


@dataclass(frozen=True, slots=True)
class KeyBook:
    """A key and all its versions, the first one first."""

    key: Key
    versions: tuple[KeyVersion, ...]

    def version(self, number: int) -> KeyVersion | None:
        """The version of that number."""
        return self.versions[number - 1] if 0 < number <= len(self.versions) else None

    @property
    def newest(self) -> KeyVersion:
        """The version that was made last."""
        return self.versions[-1]

    @property
    def current(self) -> KeyVersion:
        """The version that protects: the newest active one; without any, the newest of all.

        What is active and overlaps is not current: its successor is.
        """
        active = [item for item in self.versions if item.state is KeyState.ACTIVE]
        return active[-1] if active else self.newest

    def tasks(self) -> Iterator[Due]:
        """What upkeep has to do for the key, now or later."""
        for item in self.versions:
            yield from self._tasks_of(item)
        current = self.current
        if not self.key.rotation_days or current.state is not KeyState.ACTIVE:
            return
        if current is self.newest and current.activates is not None:
            at = current.activates + timedelta(days=self.key.rotation_days)
            yield Due(at, Task.ROTATE, current.version)

    def _tasks_of(self, item: KeyVersion) -> Iterator[Due]:
        waits = item.state is KeyState.PRE_ACTIVATION and item.destroys is None
        if waits and item.activates is not None:
            yield Due(item.activates, Task.ACTIVATE, item.version)
        if item.state is KeyState.ACTIVE:
            ends = [end for end in (item.deactivates, item.originator_end) if end is not None]
            if ends:
                yield Due(min(ends), Task.DEACTIVATE, item.version)
        if self.key.hold or item.state.gone:
            return
        if item.destroys is not None:
            yield Due(item.destroys, Task.DESTROY, item.version)
        elif self.key.retention_days and item.state is KeyState.DEACTIVATED and item.deactivates:
            at = item.deactivates + timedelta(days=self.key.retention_days)
            yield Due(at, Task.SCHEDULE, item.version)

    def due(self, now: datetime) -> list[Due]:
        """The tasks whose time has come, the oldest first."""
        return sorted((task for task in self.tasks() if task.at <= now), key=lambda task: task.at)

    def settled(self) -> "KeyBook":
        """The same, its key telling when upkeep has something to do next."""
        at = min((task.at for task in self.tasks()), default=NEVER)
        return replace(self, key=replace(self.key, due=at))

    def put(self, version: KeyVersion) -> "KeyBook":
        """The same with that version, new or in place of the one of its number."""
        kept = [item for item in self.versions if item.version != version.version]
        return replace(self, versions=tuple(sorted([*kept, version], key=lambda v: v.version)))

    def activate(self, number: int, now: datetime) -> "tuple[KeyBook, list[Happened]]":
        """A version becomes active, and whatever was is succeeded by it.

        What it succeeds stays active for the days of overlap, if there are any.

        Raises:
            IllegalStepError: It is not in pre-activation, or to be destroyed.
        """
        item = self.versions[number - 1]
        if item.destroys is not None:
            raise IllegalStepError(
                f"the destruction of version {number} is scheduled; cancel it first"
            )
        periods = Cryptoperiods(self.key.originator_days, self.key.recipient_days)
        active = replace(
            item,
            state=follow(item.state, Step.ACTIVATE),
            activates=now,
            originator_end=periods.originator_end(now),
            recipient_end=periods.recipient_end(now),
        )
        book, happened = self.put(active), [Happened(Step.ACTIVATE, active)]
        overlap = now + timedelta(days=self.key.overlap_days)
        for older in self.versions[: number - 1]:
            if older.state is not KeyState.ACTIVE:
                continue
            if overlap > now:
                until = min(older.deactivates or overlap, overlap)
                book = book.put(replace(older, deactivates=until))
            else:
                book, more = book.take(older.version, Step.DEACTIVATE, now)
                happened += more
        return book.settled(), happened

    def take(self, number: int, step: Step, now: datetime) -> "tuple[KeyBook, list[Happened]]":
        """A version takes a step other than activation and compromise.

        Raises:
            IllegalStepError: Its state does not allow it, or what succeeded it.
        """
        item = self.versions[number - 1]
        if step is Step.RESUME:
            self._check_not_succeeded(item, now)
        after = replace(item, state=follow(item.state, step))
        if step is Step.DEACTIVATE:
            after = replace(after, deactivates=now)
        elif step is Step.DESTROY:
            after = replace(after, destroyed=now)
        return self.put(after).settled(), [Happened(step, after)]

    def _check_not_succeeded(self, item: KeyVersion, now: datetime) -> None:
        """Two versions are active at once only while they overlap."""
        if item.deactivates is not None and now < item.deactivates:
            return
        for newer in self.versions[item.version :]:
            if newer.state is KeyState.ACTIVE:
                raise IllegalStepError(
                    f"version {newer.version} has succeeded version {item.version}, which does not"
                    " protect again; deactivate it, and it undoes and checks"
                )

    def compromise(
        self, number: int, since: datetime, recover_until: datetime | None
    ) -> "tuple[KeyBook, list[Happened]]":
        """A version is held to be compromised since then.

        Raises:
            IllegalStepError: It is already.
        """
        item = self.versions[number - 1]
        after = replace(
            item,
            state=follow(item.state, Step.COMPROMISE),
            compromised=since,
            recover_until=recover_until,
        )
        return self.put(after).settled(), [Happened(Step.COMPROMISE, after)]

    def recover(self, number: int, until: datetime) -> "KeyBook":
        """A compromised version opens what was sealed for it until then.

        Raises:
            IllegalStepError: It is not compromised, or destroyed.
        """
        item = self.versions[number - 1]
        if item.state is not KeyState.COMPROMISED:
            raise IllegalStepError(
                f"recovery is for what is compromised; version {number} is {item.state}"
            )
        return self.put(replace(item, recover_until=until)).settled()

    def schedule(self, number: int, at: datetime | None) -> "KeyBook":
        """The version's destruction is due then; None for not at all."""
        return self.put(replace(self.versions[number - 1], destroys=at)).settled()


def life(version: KeyVersion) -> Life:
    """What decides on the version's use."""
    return Life(
        version.state,
        version.activates,
        version.originator_end,
        version.recipient_end,
        version.recover_until,
    )
