"""The reading half of a ledger over a list of records, for use cases that only look."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Rows:
    """Records found by any field; a tuple of values means any of them.

    Attributes:
        rows: What there is; tests add and remove.
        asked: Questions so far.
    """

    rows: list[Any] = field(default_factory=list)
    asked: int = 0

    def find(self, kind: type[Any], *, limit: int | None = None, **equals: Any) -> list[Any]:
        self.asked += 1
        return [row for row in self.rows if isinstance(row, kind) and _matches(row, equals)][:limit]

    def get(self, kind: type[Any], *key: Any) -> Any:
        equals = dict(zip(kind.KEY, key, strict=True))
        return next(iter(self.find(kind, limit=1, **equals)), None)


def _matches(row: Any, equals: dict[str, Any]) -> bool:
    return all(
        getattr(row, name) in value if isinstance(value, tuple) else getattr(row, name) == value
        for name, value in equals.items()
    )
