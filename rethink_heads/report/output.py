"""What a command has found: a screen to read, or JSON with all of it.

The screen is short: the answer in words first, then tables by size, differences last, then where everything else
lies; ``--full`` adds the rest. ``--json`` has one shape for all commands::

    {"command": NAME, "tables": {NAME: [ROW, ...]}, "files": [PATH, ...], "provenance": {...}}

A row has the columns of the CSV file of that table; what is not a finite number is null.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rethink_heads.distributed import is_first_process
from rethink_heads.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    Cells = pd.DataFrame | Mapping[str, Sequence[str] | pd.Series]

WIDEST = 1000
MEANINGS = {
    "[-]": "no interval: too few images bear on the value, they do not differ, or none was asked for",
    "-": "undefined, since nothing bears on it",
}


class Report:
    """The lines, tables and files of a command, printed at its end.

    Args:
        command: its name.
        provenance: what the results depend on.
    """

    def __init__(self, command: str, provenance: Mapping[str, Any] | None = None) -> None:
        self.command = command
        self.provenance = dict(provenance or {})
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.files: list[Path] = []
        self._parts: list[tuple[bool, Callable[[], None]]] = []
        self._marks: set[tuple[bool, str]] = set()
        self._failure: UserError | None = None

    def data(self, **tables: pd.DataFrame | Iterable[Mapping[str, Any]]) -> None:
        """Add tables to the JSON: frames, or rows."""
        for name, table in tables.items():
            rows = table.to_dict("records") if hasattr(table, "to_dict") else table
            self.tables[name] = [{str(key): value for key, value in row.items()} for row in rows]

    def lines(self, *lines: str, full: bool = False) -> None:
        """Add lines to the screen, or to what ``--full`` adds."""
        self._parts.append((full, partial(print_lines, *lines)))

    def table(self, title: str, cells: Cells, *legend: str, full: bool = False) -> None:
        """Add a table of cells, by column, and lines that explain it, to the screen or to what ``--full`` adds."""
        columns = _columns(cells)
        texts = [cell for column in columns.values() for cell in column]
        if not texts:
            return
        self._marks |= {
            (full, mark)
            for mark in MEANINGS
            for text in texts
            if text == mark or (mark != "-" and mark in text)
        }
        self._parts.append((full, partial(print_table, title, columns)))
        if legend:
            self.lines(*legend, full=full)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep a UserError of writing files until what was found is printed; :meth:`end` raises it."""
        try:
            yield
        except UserError as error:
            self._failure = error

    def end(self, as_json: bool = False, full: bool = False, more: str = "") -> None:
        """Print it.

        Args:
            more: where everything else lies.

        Raises:
            UserError: an :meth:`attempt` failed.
        """
        if as_json:
            shape = {"tables": self.tables, "files": self.files}
            print_json({"command": self.command, **shape, "provenance": self.provenance})
        else:
            self._show(full, more)
        if self._failure is not None:
            raise self._failure

    def _show(self, full: bool, more: str) -> None:
        shown = [part for only_full, part in self._parts if full or not only_full]
        for part in shown:
            part()
        there = {mark for only_full, mark in self._marks if full or not only_full}
        marks = [f"{mark}: {said}" for mark, said in MEANINGS.items() if mark in there]
        print_lines(*(["; ".join(marks) + "."] if marks else []))
        hints = ["--full prints more tables"] if len(shown) < len(self._parts) else []
        if hints or more:
            print_lines("; ".join([*hints, *filter(None, [more]), "--json has all numbers"]) + ".")


def print_json(result: Any) -> None:
    """Print a result as strict JSON: what is not a finite number becomes null."""
    if is_first_process():
        print(json.dumps(_strict(result), indent=2, allow_nan=False))


def print_lines(*lines: str) -> None:
    """Print lines of a readable result."""
    if lines and is_first_process():
        print("\n".join(lines))


def print_table(title: str, cells: Cells) -> None:
    """Print cells, by column, under a title; columns of numbers are flush right."""
    if not is_first_process():
        return
    from rethink_heads.report.cells import LABELS

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns = _columns(cells)
    for name, column in columns.items():
        numeric = len(column) and all(map(_looks_numeric, column))
        table.add_column(
            LABELS.get(name, name),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=not terminal,
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    # A narrow terminal breaks cells into lines; files and pipes get whole lines.
    console = Console()
    if not terminal:
        needed = Console(width=WIDEST).measure(table).maximum
        console = Console(width=max(needed, len(title)))
    # Not the table's own title, which would be broken to its width.
    console.print(Text(title, style="bold"))
    console.print(table)


def _columns(cells: Cells) -> dict[str, list[str]]:
    return {str(name): [str(cell) for cell in column] for name, column in cells.items()}


def _looks_numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "-+" or not cell


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_strict(inner) for inner in value]
    # numpy's scalars become Python's.
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
