"""What the signer does with a batch: check, journal, remember, sign. No sockets, no processes.

The order is the promise: a signature exists only after its statement was accepted, its journal
entry is durable and the new head of a log or number of a CRL is remembered durably. A crash
anywhere leaves at most entries, heads and numbers of signatures that nobody got; asking again for
the same head or list is allowed. A signature that is found to be wrong is one that nobody gets.
"""

import hashlib
import logging
import re
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from hsm_drivers import making
from hsm_drivers.calls import SignCall
from hsm_drivers.errors import (
    HsmError,
    StatementRefusedError,
    TokenFailureError,
    UnsupportedError,
)
from hsm_drivers.journal import MAX_BATCH, Intent, acceptable
from hsm_drivers.memory import Draft
from hsm_drivers.opened import Opened, open_wrapped, opened
from hsm_drivers.ports import (
    CheckContext,
    Checked,
    JournalEntry,
    JournalSeal,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Purpose,
    SignerHealth,
    Statement,
    StatementChecker,
)
from hsm_drivers.rates import Rates
from hsm_drivers.reach import away, refuse_unreachable
from hsm_drivers.replicas import Replicas, signing_places
from hsm_drivers.service.keyring import RESERVED_PREFIXES, ServiceKeyring, ServiceLimits
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import Job, Tokens
from hsm_drivers.verification import Signed, Verification, verifiable
from policies.choices import KEY_ENCRYPTION

Signing = Generator[None, None, list[bytes | HsmError]]
"""A batch being signed, slice by slice."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_LABEL = re.compile(r"[a-z0-9-]{1,64}")


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


class SignerCore:
    """Sole user of tokens and of a state directory; one call at a time, from one thread."""

    def __init__(
        self,
        tokens: Tokens,
        checkers: Mapping[Purpose, StatementChecker],
        state: SignerState,
        *,
        ceremony: bool = False,
        now: Callable[[], datetime] = utc_now,
        rates: Rates | None = None,
        limits: ServiceLimits | None = None,
    ) -> None:
        """Take the parts.

        Args:
            tokens: What keys live on.
            checkers: What judges statements, per purpose; a purpose without one is refused.
            state: Records, memory, journal.
            ceremony: Whether keys may be made.
            now: Clock, aware: checkers, journal and the records of new keys go by it.
            rates: How much each key signs; without them, as much as is asked for.
            limits: On service keys.
        """
        self._tokens = tokens
        self._driver = tokens.driver("")
        self._checkers = checkers
        self._state = state
        self._ceremony = ceremony
        self._now = now
        self._rates = rates or Rates({})
        self._verification = Verification()
        self.replicas = Replicas(tokens, state, now, ceremony=ceremony)
        self.service = ServiceKeyring(tokens, state.service, now, limits or ServiceLimits())

    def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        """A signature or an error for each statement, in order; see `ports.StatementSigner`."""
        return whole(self.signing(statements))

    def signing(self, statements: Sequence[Statement]) -> Signing:
        """As `sign`, with a pause every `tokens.SLICE_SECONDS`; its value is the answer.

        In a pause the core may be asked for anything but to sign or to make a key.
        """
        outcomes: list[bytes | HsmError] = []
        for start in range(0, len(statements), MAX_BATCH):
            outcomes += yield from self._sign_batch(statements[start : start + MAX_BATCH])
        return outcomes

    def keys(self) -> list[KeyRecord]:
        """Records of all keys, without what is wrapped; those that sign statements first."""
        return [making.bare(record) for record in self._records()]

    def keys_after(self, label: KeyLabel, limit: int) -> tuple[list[KeyRecord], bool]:
        """At most so many of `keys` behind that of the label, and whether there are more."""
        records = self._records()
        places = (at for at, record in enumerate(records, 1) if record.label == label)
        start = next(places, 0) if label else 0
        page = records[start : start + limit]
        return [making.bare(record) for record in page], start + limit < len(records)

    def _records(self) -> list[KeyRecord]:
        return self._state.records() + self.service.records()

    def attributes(self, label: KeyLabel) -> KeyAttributes:
        """Attributes of a key that signs statements, read from its token now.

        What a wrapped one has is its record's, if the key that wraps it is there.
        """
        record = self._state.record(label)
        driver = self._tokens.driver(record.home)
        read = [driver.attributes(part.label) for part in making.held(record) if not part.wrapped]
        if read:
            return read[0]
        driver.attributes(making.held(record)[0].label)
        return record.attributes

    def journal(self, after: int, limit: int) -> list[JournalEntry]:
        """Journal entries with a counter above `after`, oldest first."""
        return self._state.journal.entries(after, limit)

    def seal_journal(self, label: KeyLabel) -> JournalSeal:
        """Sign, with a log's key, what the journal holds now; no entry tells of this signature.

        Nobody takes the text for a checkpoint: it does not parse as one.

        Raises:
            KeyNotFoundError: There is no such key.
            UnsupportedError: It signs no logs.
            RateExceededError: It has signed as much as it may for now.
            TokenUnavailableError: The token is away.
        """
        if Purpose.CHECKPOINT not in self._state.record(label).purposes:
            raise UnsupportedError(f"key {label!r} signs no logs, and so no journal")
        entries, digest = self._state.journal.counter, self._state.journal.digest()
        text = _seal_text(entries, digest, self._now())
        statement = Statement(label, Purpose.CHECKPOINT, text)
        for refused in self._rates.refusals(
            [statement], time.monotonic(), self._state.has
        ).values():
            raise refused
        outcomes = whole(self._signatures([statement]))
        self._withhold_wrong([statement], outcomes)
        if isinstance(outcomes[0], HsmError):
            raise outcomes[0]
        return JournalSeal(label, entries, digest, text, outcomes[0])

    def tend(self) -> float:
        """Look after the tokens without waiting; answers in how many seconds to do so again."""
        return self._tokens.tend()

    def health(self) -> SignerHealth:
        """How the tokens are, by a round trip to those that are opened here."""
        notices = [text for text in (self._state.notice, self._verification.notice) if text]
        tokens = self._tokens.statuses()
        notices += away(tokens)
        ready, detail = True, "; ".join(notices) or "the token answers"
        lacking: tuple[str, ...] = ()
        try:
            refuse_unreachable(self._state.records(), tokens)
            if tokens[0].healthy and not tokens[0].processes:  # processes prove what they have
                self._compare_keys()
            lacking = self._lacking({token.name for token in tokens if token.healthy})
        except HsmError as error:
            ready, detail = False, str(error)
        return SignerHealth(
            token=self._driver.name,
            ready=ready,
            detail=detail,
            counter=self._state.journal.counter,
            heads=self._state.heads(),
            lacking=lacking,
            crl_numbers=self._state.crl_numbers(),
            rates=self._rates.now(time.monotonic()),
            journal_writes=self._state.journal.writes,
            journal_seconds=self._state.journal.seconds,
            service=self.service.status(),
            tokens=tuple(tokens),
        )

    def _lacking(self, well: Collection[str]) -> tuple[str, ...]:
        wanted = {
            (record.home, KEY_ENCRYPTION if part.wrapped else part.algorithm)
            for record in self._state.records()
            for part in making.held(record)
            if record.home in well
        }
        needs = {name: self._tokens.driver(home).lacking(name) for home, name in sorted(wanted)}
        return tuple(f"{name} needs {', '.join(them)}" for name, them in needs.items() if them)

    def generate(self, spec: KeySpec) -> KeyRecord:
        """Make a key and keep its record for good.

        Raises:
            UnsupportedError: Not in ceremony mode, the token lacks the algorithm, or its signatures
                could not be verified.
            StatementRefusedError: The label is malformed or taken, a purpose has no checker, or
                `ceremony_only` names one that the key has not.
        """
        if spec.operations:
            return self.service.generate(spec)
        if not self._ceremony:
            raise UnsupportedError("keys are made in a ceremony only; this signer runs for service")
        self._refuse_bad(spec)
        making.refuse_taken(self._tokens.driver(spec.token), making.plan(spec))
        record = making.make(self._tokens, spec, self._now())
        self._state.add(record)
        return making.bare(record)

    def _refuse_bad(self, spec: KeySpec) -> None:
        if not _LABEL.fullmatch(spec.label):
            raise StatementRefusedError(
                f"{spec.label[:80]!r} is no key label: 1 to 64 of a-z, 0-9 and -"
            )
        if spec.label.startswith(RESERVED_PREFIXES):
            raise StatementRefusedError(
                f"{spec.label!r} is a label of the signer's own; begin it otherwise"
            )
        if self._state.has(spec.label):
            raise StatementRefusedError(
                f"a key called {spec.label!r} was made before; labels are never used again"
            )
        if spec.purposes and not verifiable(spec.algorithm):
            raise UnsupportedError(f"signatures of {spec.algorithm!r} keys are not verified here")
        if not set(spec.ceremony_only) <= set(spec.purposes):
            raise StatementRefusedError("a purpose is reserved to ceremonies that the key has not")
        unknown = set(spec.purposes) - set(self._checkers)
        if unknown:
            raise StatementRefusedError(
                f"this signer cannot check statements for {', '.join(sorted(unknown))}"
            )

    def _compare_keys(self) -> None:
        """A token swapped or restored under the signer shows as another key under a known label."""
        for record in self._state.records():
            if any(part.wrapped for part in record.components):
                self.attributes(record.label)
            elif self._tokens.driver(record.home).public_key(record.label) != record.public_key:
                raise TokenFailureError(
                    f"the token's key {record.label!r} is not the one that the ceremony made;"
                    " connect the right token"
                )

    def _sign_batch(self, statements: Sequence[Statement]) -> Signing:
        draft, now = self._state.draft(), self._now()
        context = CheckContext(now)
        refused = self._rates.refusals(statements, time.monotonic(), self._state.has)
        verdicts = [
            refused.get(place) or self._judge(statement, draft, context)
            for place, statement in enumerate(statements)
        ]
        intents = [
            Intent(
                statement.key,
                statement.purpose,
                hashlib.sha256(statement.message).digest(),
                verdict.reference,
            )
            for statement, verdict in zip(statements, verdicts, strict=True)
            if isinstance(verdict, Checked)
        ]
        try:
            if intents:
                self._state.journal.append(intents, int(now.timestamp()))
            if draft.heads:
                self._state.remember(draft.heads.values())
            if draft.crls:
                self._state.remember_crls(draft.crls.values())
        except HsmError as error:
            return [error if isinstance(verdict, Checked) else verdict for verdict in verdicts]
        outcomes = yield from self._release(statements, verdicts)
        self._withhold_wrong(statements, outcomes)
        return outcomes

    def _judge(
        self, statement: Statement, draft: Draft, context: CheckContext
    ) -> Checked | HsmError:
        """Refusals are values: one bad statement never sinks the batch."""
        try:
            return self._check(statement, draft, context)
        except HsmError as error:
            return error
        except Exception:  # noqa: BLE001 - see below; the error is logged whole
            # A checker that fails on foreign bytes must not stop the signer for everyone else.
            _log.exception("the checker for %s statements failed", statement.purpose)
            return StatementRefusedError("the statement could not be checked; see the signer's log")

    def _check(self, statement: Statement, draft: Draft, context: CheckContext) -> Checked:
        """Judge one statement, after those of its batch that stand in the draft already."""
        record = self._state.record(statement.key)
        if statement.purpose not in record.purposes:
            raise StatementRefusedError(
                f"key {statement.key!r} signs no {statement.purpose} statements"
            )
        if statement.purpose in record.ceremony_only and not self._ceremony:
            raise UnsupportedError(
                f"key {statement.key!r} signs {statement.purpose} statements in a ceremony only"
            )
        checker = self._checkers.get(statement.purpose)
        if checker is None:
            raise UnsupportedError(f"this signer cannot check {statement.purpose} statements")
        if statement.purpose is Purpose.CHECKPOINT:
            return self._check_checkpoint(checker, record, statement, draft, context.now)
        checked = _recordable(checker(record, statement, context))
        if statement.purpose is Purpose.CRL:
            digest = hashlib.sha256(statement.message).digest()
            draft.number(statement.key, checked.reference, digest)
        if statement.purpose is Purpose.COSIGNATURE:
            draft.confirm(checked.head)
        return checked

    def _check_checkpoint(
        self,
        checker: StatementChecker,
        record: KeyRecord,
        statement: Statement,
        draft: Draft,
        now: datetime,
    ) -> Checked:
        origin = _origin(statement)
        last = draft.head(origin)
        if last is None and not self._ceremony:
            raise UnsupportedError(f"log {origin!r} is new; an epoch begins in a ceremony only")
        checked = _recordable(checker(record, statement, CheckContext(now, last)))
        draft.advance(statement.key, origin, checked.head)
        return checked

    def _release(
        self, statements: Sequence[Statement], verdicts: Sequence[Checked | HsmError]
    ) -> Signing:
        """Sign what was accepted."""
        accepted = [place for place, verdict in enumerate(verdicts) if isinstance(verdict, Checked)]
        made = yield from self._signatures([statements[place] for place in accepted])
        outcomes: list[bytes | HsmError] = [
            verdict if isinstance(verdict, HsmError) else b"" for verdict in verdicts
        ]
        for place, outcome in zip(accepted, made, strict=True):
            outcomes[place] = outcome
        return outcomes

    def _signatures(self, statements: Sequence[Statement]) -> Signing:
        """By the tokens, or by keys that they open for this batch."""
        records = {item.key: self._state.record(item.key) for item in statements}
        keys = yield from open_wrapped(self._tokens, records.values())
        outcomes: list[bytes | HsmError] = [b""] * len(statements)
        places, jobs = [], []
        for place, statement in enumerate(statements):
            record = records[statement.key]
            if record.components:
                outcomes[place] = _sign_opened(keys, record, statement)
                yield
            else:
                places.append(place)
                job = Job(signing_places(record), SignCall(record.label, statement.message))
                jobs.append(job)
        made = yield from self._tokens.perform(jobs)
        for place, outcome in zip(places, made, strict=True):
            outcomes[place] = outcome
        return outcomes

    def _withhold_wrong(
        self, statements: Sequence[Statement], outcomes: list[bytes | HsmError]
    ) -> None:
        """Put an error in the place of each signature that is found to be wrong."""
        signed: dict[KeyLabel, dict[int, Signed]] = {}
        for at, (statement, outcome) in enumerate(zip(statements, outcomes, strict=True)):
            if isinstance(outcome, bytes):
                signed.setdefault(statement.key, {})[at] = (statement, outcome)
        for label, by_place in signed.items():
            for at in self._verification.find_wrong(self._state.record(label), by_place):
                outcomes[at] = TokenFailureError(
                    f"token {self._driver.name!r} made a wrong signature with key {label!r}; it was"
                    " withheld. See to the token, its module and the link to it"
                )
                _log.error("%s", outcomes[at])


def whole(work: Generator[None, None, _T]) -> _T:
    """All slices at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            value: _T = done.value
            return value


def _sign_opened(keys: Opened, record: KeyRecord, statement: Statement) -> bytes | HsmError:
    (part,) = record.components
    try:
        return opened(keys, part).operate(statement.message)
    except HsmError as error:
        return error


def _origin(statement: Statement) -> str:
    """First line of a checkpoint (C2SP tlog-checkpoint); the checker judges the whole."""
    try:
        return statement.message.split(b"\n", 1)[0].decode()
    except UnicodeDecodeError:
        raise StatementRefusedError("the checkpoint's origin is not UTF-8") from None


def _seal_text(entries: int, digest: bytes, now: datetime) -> bytes:
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sha256 = b64encode(digest).decode()
    text = f"sovereign-kms/journal/v1\nentries {entries}\nsha256 {sha256}\ntime {moment}\n"
    return text.encode()


def _recordable(checked: Checked) -> Checked:
    if not acceptable(checked.reference):
        raise StatementRefusedError(f"{checked.reference[:80]!r} does not fit the journal")
    return checked
