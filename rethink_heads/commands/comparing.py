"""The figure and the paired table that an analysis of several detectors leaves in a folder named after them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.console import say, work
from rethink_heads.study_folder import DEFAULT_MEASUREMENTS, StudyFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def shared_folder(folders: Sequence[StudyFolder]) -> Path:
    """The folder of results of several detectors: beside the first, named after all."""
    return folders[0].path.parent / "-".join(folder.name for folder in folders)


def result_folders(folders: Sequence[StudyFolder], name: str) -> tuple[Path, Path]:
    """Where tables and figures of the measurements of a name go: into the detector's folder, or the shared one."""
    if len(folders) == 1:
        return folders[0].tables(name), folders[0].figures(name)
    shared = shared_folder(folders)
    inner = "" if name == DEFAULT_MEASUREMENTS else name
    return shared / "tables" / inner, shared / "figures" / inner


@contextlib.contextmanager
def legends_for(folders: Sequence[StudyFolder]) -> Iterator[None]:
    """Have figures name the detectors where several are compared of which some were not trained here.

    Detectors trained here are compared for their heads, which legends name.
    """
    from rethink_heads.brought import BroughtRun
    from rethink_heads.plots.style import naming_detectors

    if len(folders) > 1 and any(isinstance(folder, BroughtRun) for folder in folders):
        with naming_detectors():
            yield
    else:
        yield


def files_written(written: Sequence[Path]) -> dict[str, list[str]]:
    """What ``--json`` says of the files of a comparison: nothing where there are none."""
    return {"files": [str(path) for path in written]} if written else {}


def write_comparison(
    folders: Sequence[StudyFolder],
    name: str,
    analysis: str,
    differences: pd.DataFrame,
    draw: Callable[[], Figure],
) -> list[Path]:
    """Write the paired table and the figure of an analysis of several detectors; nothing for one.

    Args:
        folders: the detectors'.
        name: of the measurements, of the first.
        analysis: what the files are called after.
        differences: of every two heads on the same objects.
        draw: draws all the heads together.

    Raises:
        UserError: a file cannot be written.
    """
    if len(folders) == 1:
        return []
    from rethink_heads.files import write_csv
    from rethink_heads.plots.saving import save_figure
    from rethink_heads.plots.style import NothingToDrawError

    tables, figures = result_folders(folders, name)
    written = []
    with work():
        if len(differences):
            written.append(tables / f"{analysis}_comparisons.csv")
            write_csv(differences, written[-1])
        try:
            with legends_for(folders):
                figure = draw()
            written += save_figure(figure, figures / f"{analysis}_comparison")
        except NothingToDrawError as reason:
            say(f"no figure of {analysis}: {reason}")
    for path in written:
        say(f"wrote {path}")
    return written
