"""What a command shows: one JSON document for scripts, readable text for people."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from kms.cli.errors import ExitCode, printable

_UNBOUNDED = 10_000
"""Columns of what is not a terminal: nothing is wrapped or cut for a pipe."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The outcome of a command.

    Attributes:
        document: For `--json`.
        view: For people.
        status: How the command ends.
    """

    document: Mapping[str, Any]
    view: RenderableType
    status: int = ExitCode.DONE


def show(shown: Shown, *, as_json: bool) -> None:
    """Print an outcome to standard output."""
    if as_json:
        print_json(shown.document)
    else:
        _console().print(shown.view)


def print_json(document: Mapping[str, Any]) -> None:
    """The one JSON document of a command."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """Rows under headings; values are never cut."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    return grid if grid.row_count else Text("none")


def sheet(values: Mapping[str, object]) -> RenderableType:
    """Names and values, one a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(_cell(name), _cell(value))
    return grid


def lines(*parts: RenderableType | str) -> RenderableType:
    """Parts below each other; strings are taken literally."""
    return Group(*(Text(printable(part)) if isinstance(part, str) else part for part in parts))


def note(message: str) -> None:
    """A remark beside the outcome, to standard error."""
    sys.stderr.write(printable(message) + "\n")


def progress() -> Progress:
    """A progress bar on standard error; silent where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _console() -> Console:
    width = None if sys.stdout.isatty() else _UNBOUNDED
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def _cell(value: object) -> Text:
    if value is None or value == "":
        return Text("-")
    if isinstance(value, list | tuple):
        value = ", ".join(str(item) for item in value) or "-"
    return Text(printable(str(value)))
