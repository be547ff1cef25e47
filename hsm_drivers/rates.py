"""How much each key signs: a token bucket for each key and purpose. The caller tells the time.

A worker that has been taken over may ask for any statement that the checkers accept. What bounds
the number of them stands here, out of its reach: an hour's worth at once, and the same again spread
over every hour. Certificates, lists and heads have buckets of their own, so that no flood of
certificates keeps a revocation's list or the log's head from being signed.

A restart fills no bucket: what the journal has of the last hour is taken out of a new one, which
then holds what the old one held, or less.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from hsm_drivers.errors import RateExceededError
from hsm_drivers.ports import KeyLabel, KeyRate, Purpose, Statement

HOUR: Final = 3600

Account = tuple[KeyLabel, Purpose]
"""What a bucket is for."""

_account: Callable[[Statement], Account] = attrgetter("key", "purpose")


@dataclass(slots=True)
class Bucket:
    """What may be asked for now, as of `filled` on the caller's clock."""

    limit: int
    left: float
    filled: float
    refused: int = 0

    def refill(self, now: float) -> None:
        """Let in what has come since, up to an hour's worth."""
        self.left = min(self.limit, self.left + (now - self.filled) * self.limit / HOUR)
        self.filled = now

    def take(self, asked: int) -> int:
        """Take as many as there are, up to `asked`; answers how many were not there."""
        granted = min(asked, int(self.left))
        self.left -= granted
        self.refused += asked - granted
        return asked - granted

    def wait(self) -> float:
        """Seconds until one more is there."""
        return max(0.0, (1 - self.left) * HOUR / self.limit)


class Rates:
    """The buckets of one signer."""

    def __init__(
        self, per_hour: Mapping[Purpose, int], signed: Mapping[Account, int] | None = None
    ) -> None:
        """Begin with what the last hour left.

        Args:
            per_hour: Statements of a purpose that one key signs in an hour; a purpose that is not
                named has no limit.
            signed: Statements signed within the last hour, as `Journal.signed_since` counts them.
        """
        self._per_hour = per_hour
        self._signed = dict(signed or {})
        self._buckets: dict[Account, Bucket] = {}

    def refusals(
        self, statements: Sequence[Statement], now: float, known: Callable[[KeyLabel], bool]
    ) -> dict[int, RateExceededError]:
        """Take a batch out of its buckets; the last of it are refused where they do not suffice.

        A statement counts when it is asked for, whatever its checker says of it afterwards.

        Args:
            statements: The batch.
            now: Seconds, monotonic.
            known: Whether there is a key of that name; for others no bucket is kept.

        Returns:
            Place in the batch to error; empty as long as nobody exceeds anything.
        """
        short: dict[Account, int] = {}
        for account, asked in Counter(map(_account, statements)).items():
            bucket = self._bucket(account, now, known)
            if bucket is not None and (missing := bucket.take(asked)):
                short[account] = missing
        return self._refuse_last(statements, short) if short else {}

    def now(self, now: float) -> tuple[KeyRate, ...]:
        """How the buckets stand that were used since the start."""
        for bucket in self._buckets.values():
            bucket.refill(now)
        return tuple(
            KeyRate(key, purpose, bucket.limit, int(bucket.left), bucket.refused)
            for (key, purpose), bucket in self._buckets.items()
        )

    def _bucket(
        self, account: Account, now: float, known: Callable[[KeyLabel], bool]
    ) -> Bucket | None:
        bucket = self._buckets.get(account)
        if bucket is None:
            limit = self._per_hour.get(account[1])
            if limit is None or not known(account[0]):
                return None
            left = max(0, limit - self._signed.get(account, 0))
            bucket = self._buckets[account] = Bucket(limit, left, now)
        bucket.refill(now)
        return bucket

    def _refuse_last(
        self, statements: Sequence[Statement], short: dict[Account, int]
    ) -> dict[int, RateExceededError]:
        refused: dict[int, RateExceededError] = {}
        errors = {account: self._error(account) for account in short}
        for place in range(len(statements) - 1, -1, -1):
            account = _account(statements[place])
            if short.get(account):
                short[account] -= 1
                refused[place] = errors[account]
        return refused

    def _error(self, account: Account) -> RateExceededError:
        key, purpose = account
        bucket = self._buckets[account]
        return RateExceededError(
            f"key {key!r} has signed all {purpose} statements that it may: {bucket.limit} an hour."
            f" The next in {bucket.wait():.1f} s; find out who asks for so many, and only then set"
            f" signer.{purpose}s_per_hour higher"
        )
