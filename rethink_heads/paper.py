"""The paper's figures and tables: each is defined by a script of its own in ``analyses/``.

A script has two functions: ``tables(inputs)``, the numbers, from what was measured, and
``draw(tables)``, the figure, from these alone. ``rethink-heads figures``, :mod:`rethink_heads.report.results`
and ``python analyses/NAME.py`` all run them from here, so that a figure has one definition.

In a checkout the scripts lie beside the package, in an installed one inside it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.plots.style import NothingToDrawError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.store import Measurements

Tables = Mapping[str, pd.DataFrame]

PAPER_HEADS = ("fc", "conv")
PAPER_SIZES = ("small", "medium", "large")


class Options(TypedDict, total=False):
    """Of the bootstrap, as every statistic takes them."""

    replicates: int
    seed: int


class MissingInputError(UserError):
    """An analysis lacks what it is made of; the message says which command makes it."""


class TableSet(dict[str, pd.DataFrame]):
    """Tables by name; asking for one that is not there says that there is nothing to draw."""

    def __missing__(self, name: str) -> pd.DataFrame:
        raise NothingToDrawError(f"there is no table {name}")


@dataclass(frozen=True)
class AnalysisInputs:
    """What an analysis may read.

    Attributes:
        found: measurements of all the runs; use :attr:`measurements`.
        stages: boxes of RPN and final detections matched to objects, of all the runs, as
            ``measure_stages`` gives them or ``open_stages`` finds them; None where they were not measured.
        detected: final detections of all the runs, and the data set that they are of.
        sweeps: tables of sweeps, by the sweep's name.
        options: of the bootstrap.
        data: the name of the images, for the captions of figures.
    """

    found: Measurements | None = None
    stages: pd.DataFrame | None = None
    detected: tuple[pd.DataFrame, CocoDataset] | None = None
    sweeps: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    data: str = ""

    @property
    def measurements(self) -> Measurements:
        """Measurements of the predefined proposals. Raises MissingInputError where there are none."""
        if self.found is None:
            raise MissingInputError(
                "it needs measured runs: rethink-heads correlate --run RUN, then --run RUN here"
            )
        return self.found

    @property
    def detections(self) -> tuple[pd.DataFrame, CocoDataset]:
        """Final detections of every head, and their data set. Raises MissingInputError where there are none."""
        if self.detected is None:
            raise MissingInputError(
                "it needs detections: rethink-heads evaluate --run RUN, then --run RUN here"
            )
        return self.detected

    def sweep(self, name: str) -> pd.DataFrame:
        """The table of the sweep of that name. Raises MissingInputError where there is none."""
        if name not in self.sweeps:
            raise MissingInputError(
                f"it needs a sweep: rethink-heads sweep {name}, then --sweep FOLDER here"
            )
        return self.sweeps[name]


@dataclass(frozen=True)
class Analysis:
    """One figure or table of the paper.

    Attributes:
        name: of the script, without its suffix; its figure's files are called so.
        tables: frames by name, from the inputs.
        draw: the figure, from a :class:`TableSet` that holds those tables.
    """

    name: str
    tables: Callable[[AnalysisInputs], dict[str, pd.DataFrame]]
    draw: Callable[[TableSet], Figure]

    def complete(self, inputs: AnalysisInputs) -> TableSet:
        """The tables, as :attr:`draw` takes them."""
        return TableSet(self.tables(inputs))


@cache
def analyses() -> Mapping[str, Analysis]:
    """Every analysis by name, in the order of names.
    Raises UserError where the scripts are not there: an incomplete installation.
    """
    return {path.stem: load_analysis(path) for path in sorted(_folder().glob("[a-z]*.py"))}


def load_analysis(path: Path) -> Analysis:
    """Load a script with functions ``tables`` and ``draw``."""
    spec = importlib.util.spec_from_file_location(f"rethink_heads_analyses.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Analysis(path.stem, module.tables, module.draw)


def paper_heads(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of fc-head and conv-head, those of detectors that have only one where there are both.

    The paper compares an fc-head and a conv-head that were trained apart; without two such detectors
    the branches of a double head stand for them. Where there is no pair at all, all rows.
    """
    if frame.empty:
        return frame
    pairs = frame[frame["head"].isin(PAPER_HEADS)]
    head_counts = frame.groupby("detector")["head"].transform("nunique")
    apart = pairs[head_counts.loc[pairs.index] == 1]
    for rows in (apart, pairs):
        if set(rows["head"]) == set(PAPER_HEADS):
            return rows
    return frame


def _folder() -> Path:
    package = Path(__file__).resolve().parent
    for folder in (package / "analyses", package.parent / "analyses"):
        if (folder / "figure2.py").is_file():
            return folder
    raise UserError(
        f"the scripts of the paper's figures are not in {package}; install rethink-heads again"
    )
