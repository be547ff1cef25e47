"""Which heads of the log are signed. Those between them stay unsigned for good."""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from hsm_drivers.ports import Head
from kms.domain.records import Checkpoint, LogId
from kms.services.ports import Ledger

_PAGES = (2, 32, 500)
"""Rows read at a time, the last again and again: almost always the first row is what is wanted."""


def newest_signed(ledger: Ledger, log: LogId) -> Checkpoint | None:
    """The newest signed checkpoint of an epoch; None before the first."""
    return next(_signed(ledger, log, None, descending=True), None)


def first_signed_after(ledger: Ledger, log: LogId, size: int) -> Checkpoint | None:
    """The smallest signed checkpoint beyond `size`; once there is one, always the same."""
    return next(_signed(ledger, log, size, descending=False), None)


def epoch_number(origin: str) -> int:
    """Number of the epoch that an origin names: `<name>/<epoch>`."""
    return int(origin.rpartition("/")[2])


def newest_epoch(heads: Iterable[Head], origin: str) -> Head | None:
    """Of the heads that the signer remembers, that of the newest epoch of this origin's log."""
    name = origin.rpartition("/")[0]
    own = [head for head in heads if head.origin.rpartition("/")[0] == name]
    return max(own, key=lambda head: epoch_number(head.origin), default=None)


def _signed(
    ledger: Ledger, log: LogId, start: int | None, *, descending: bool
) -> Iterator[Checkpoint]:
    """Signed checkpoints from `start` on.

    While the signer is away every revocation leaves an unsigned head, so any number of them can
    stand in a row.
    """
    for limit in chain(_PAGES, repeat(_PAGES[-1])):
        page = ledger.find(
            Checkpoint,
            log=log,
            order=("size",),
            descending=descending,
            after=None if start is None else (start,),
            limit=limit,
        )
        yield from (record for record in page if record.note)
        if len(page) < limit:
            return
        start = page[-1].size
