"""The figure and the paired table that an analysis of several detectors leaves in a folder named after them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.config import CONFIG_NAME
from rethink_heads.console import redirect_stdout
from rethink_heads.errors import UserError
from rethink_heads.runs import DEFAULT_MEASUREMENTS, Run
from rethink_heads.study import is_of_detectors

if TYPE_CHECKING:
    import pandas as pd

NOTE_NAME = "comparison.json"
"""Beside the tables of a comparison of detectors: what was compared. Figures drawn from them name the detectors."""

LONGEST_NAME = 100
HASH_DIGITS = 8


def shared_folder(runs: Sequence[Run]) -> Path:
    """The folder of results of several detectors: beside the first, named after all."""
    name = "-".join(folder.name for folder in runs)
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - HASH_DIGITS - 1]}-{_digits(name)}"
    path = runs[0].path.parent / name
    # Where a detector has that name of its own.
    return path.with_name(f"{name}-compared") if (path / CONFIG_NAME).exists() else path


def written_folder(runs: Sequence[Run]) -> Path:
    """The folder that results of one detector, or of several, are written into."""
    return runs[0].path if len(runs) == 1 else shared_folder(runs)


def result_folders(runs: Sequence[Run], names: Sequence[str]) -> tuple[Path, Path]:
    """Where tables and figures of measurements go, given each detector's name of them.

    Into the detector's folder, or the shared one; results of other measurements than the detectors' own in a folder
    that is named after these.
    """
    if len(runs) == 1:
        return runs[0].tables(names[0]), runs[0].figures(names[0])
    shared = shared_folder(runs)
    different = dict.fromkeys(names)
    if list(different) == [DEFAULT_MEASUREMENTS]:
        return shared / "tables", shared / "figures"
    inner = names[0] if len(different) == 1 else _digits(" ".join(names))
    return shared / "tables" / inner, shared / "figures" / inner


@contextlib.contextmanager
def legends_for(runs: Sequence[Run]) -> Iterator[None]:
    """Have figures name the detectors where these are what is compared."""
    from rethink_heads.plots.style import naming_detectors

    if is_of_detectors(runs):
        with naming_detectors():
            yield
    else:
        yield


def note_comparison(runs: Sequence[Run], names: Sequence[str], tables: Path) -> None:
    """Write beside the tables of a comparison of detectors the name of each one's measurements."""
    from rethink_heads.files import write_text

    if is_of_detectors(runs):
        compared = {folder.name: name for folder, name in zip(runs, names, strict=True)}
        write_text(tables / NOTE_NAME, json.dumps(compared, indent=2) + "\n")


def write_comparison(
    runs: Sequence[Run],
    names: Sequence[str],
    analysis: str,
    differences: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    inner: str = "",
) -> tuple[list[Path], UserError | None]:
    """Write the paired table and the figures of an analysis of several detectors; nothing for one.

    Args:
        runs: the detectors'.
        names: of their measurements.
        analysis: what the table of differences is called after.
        differences: of the pairs of heads on the same objects.
        tables: of all the heads, by the names under which ``rethink-heads figures`` draws them.
        inner: folder within those of tables and figures.

    Returns:
        The paths written, and what went wrong: the results are still to be printed.
    """
    if len(runs) == 1:
        return [], None
    from rethink_heads.locking import hold
    from rethink_heads.report.results import write_results

    try:
        tables_folder, figures_folder = (each / inner for each in result_folders(runs, names))
        found = {name: table for name, table in tables.items() if len(table)}
        if len(differences):
            found[f"{analysis}_comparisons"] = differences
        with hold(shared_folder(runs)), redirect_stdout(), legends_for(runs):
            note_comparison(runs, names, tables_folder)
            written = write_results(found, tables_folder, figures_folder)
    except UserError as error:
        return [], error
    return written, None


def whereabouts(runs: Sequence[Run], written: Sequence[Path]) -> str:
    """Say where the tables and figures of results are."""
    if written:
        return f"tables and figures are in {' and '.join(dict.fromkeys(str(p.parent) for p in written))}"
    return f"rethink-heads figures --run {runs[0].path} draws all figures"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
