"""Which index answers a question: decided here, once, and the database is left no other choice.

A database without statistics guesses. It likes an index that sorts, and then reads a whole tenant
to find three certificates.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Table, UniqueConstraint


class Access(NamedTuple):
    """How rows are come by.

    Attributes:
        finds: Columns whose values the index is entered with; it is used for no others.
        sorts: Whether it gives the rows in the wanted order, or all rows are wanted anyway.
    """

    finds: tuple[str, ...]
    sorts: bool


def access(
    table: Table, one: Collection[str], several: Collection[str], order: Sequence[str]
) -> Access:
    """The best access to rows.

    The index all of whose columns are known is best, then the one of which most are known, then
    the one that sorts.

    Args:
        table: Has the indices.
        one: Columns of which one value is wanted.
        several: Columns of which any of several values will do.
        order: Columns to sort by.
    """
    rest = [name for name in order if name not in one]

    def rank(index: tuple[str, ...]) -> tuple[bool, int, bool]:
        entered = _entered(index, {*one, *several})
        following = index[len(entered) :]
        single = not set(entered) & set(several)
        return not following, len(entered), single and following[:1] == tuple(rest[:1])

    best = max(_indices(table), key=rank)
    finds = _entered(best, {*one, *several})
    return Access(finds, not finds or not rest or rank(best)[-1])


def _entered(index: tuple[str, ...], known: Collection[str]) -> tuple[str, ...]:
    at = next((at for at, name in enumerate(index) if name not in known), len(index))
    return index[:at]


def _indices(table: Table) -> list[tuple[str, ...]]:
    """Columns of every index, the primary key's first, in a fixed order."""
    others = [index.columns for index in table.indexes]
    others += [item.columns for item in table.constraints if isinstance(item, UniqueConstraint)]
    first = tuple(table.primary_key.columns.keys())
    return [first, *sorted(tuple(columns.keys()) for columns in others)]
