"""What the command line prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rethink_heads.distributed import is_first_process
from rethink_heads.errors import shorten

WIDEST = 1000
NO_INTERVAL = "[-]"
LONGEST_ERROR = 1000
LONGEST_WORD = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("±", "+-")
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("rethink_heads", _spell_out)


def prepare_streams() -> None:
    """Have standard output and error take every text: a closed one loses it, an encoding that lacks a character
    gets it spelled out.

    Hours of measuring must not end in an encoding, and no file that is opened later may become standard output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rethink_heads")


def print_error(message: str) -> None:
    """Print why a command ends on standard error: a line of bounded length, whatever names are in it.

    Long values are cut by themselves, so that what is said about them stays.
    """
    text = _CONTROL.sub(" ", message)
    text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: shorten(word[0], LONGEST_WORD), text)
    print(shorten(text, LONGEST_ERROR), file=sys.stderr, flush=True)


def say(message: str) -> None:
    """Print one line on standard error, from the first process only."""
    if is_first_process():
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def work() -> Iterator[None]:
    """Send all that is written to standard output while working to standard error.

    Libraries report there, from Python and from C; a reader of ``--json`` must not see it. Of several processes, the
    others than the first say nothing at all.
    """
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        place = sys.stderr
        if not is_first_process():
            place = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        try:
            kept = os.dup(1)
            os.dup2(2 if is_first_process() else place.fileno(), 1)
            stack.callback(_put_back, kept)
        except OSError:
            # No such file descriptors, as in some notebooks: what Python writes is still redirected.
            pass
        stack.enter_context(contextlib.redirect_stdout(place))
        yield


def _put_back(kept: int) -> None:
    os.dup2(kept, 1)
    os.close(kept)


def print_json(result: Any) -> None:
    """Print a result as strict JSON: what is not a finite number becomes null."""
    if is_first_process():
        print(json.dumps(_strict(result), indent=2, allow_nan=False))


def print_lines(*lines: str) -> None:
    """Print lines of a readable result."""
    if is_first_process():
        print("\n".join(lines))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but those of words are flush right."""
    if not is_first_process():
        return
    terminal = sys.stdout.isatty()
    table = Table()
    for index, column in enumerate(columns):
        numeric = all(_looks_numeric(row[index]) for row in rows)
        table.add_column(
            column,
            justify="right" if numeric and rows else "left",
            overflow="fold",
            no_wrap=not terminal,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A narrow terminal breaks cells into lines; files and pipes get whole lines.
    console = Console()
    if not terminal:
        needed = Console(width=WIDEST).measure(table).maximum
        console = Console(width=max(needed, len(title)))
    # Not the table's own title, which would be broken to its width.
    console.print(Text(title, style="bold"))
    console.print(table)
    if any(NO_INTERVAL in cell for row in rows for cell in row):
        print(
            f"{NO_INTERVAL}: no interval, since too few images bear on the value, or they do not differ."
        )


def interval(record: Mapping[str, Any], value: str) -> str:
    """Format an estimate and its 95% interval: ``0.512 [0.480, 0.540]``; a dash where undefined.

    A number without an interval is followed by NO_INTERVAL; one of no objects, as of the weights themselves, stands
    alone.
    """
    if not _finite(record[value]):
        return "-"
    low, high = record[f"{value}_low"], record[f"{value}_high"]
    if not (_finite(low) and _finite(high)):
        return f"{record[value]:.3f}" + (f" {NO_INTERVAL}" if record.get("objects", 1) else "")
    return f"{record[value]:.3f} [{low:.3f}, {high:.3f}]"


def number(value: Any, digits: int = 3) -> str:
    """Format a number; a dash where it is undefined."""
    return f"{value:.{digits}f}" if _finite(value) else "-"


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _looks_numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "-+" or not cell


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    # numpy's scalars become Python's.
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
