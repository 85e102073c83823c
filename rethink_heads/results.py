"""Tables and figures of measurements: everything that needs no detector, only files.

Tables are computed once and figures are drawn from them, so that a figure shows what its CSV says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rethink_heads.errors import UserError
from rethink_heads.files import write_csv
from rethink_heads.measure.measurements import Measurements
from rethink_heads.plots import figures
from rethink_heads.plots.saving import save_figure
from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.statistics.comparison import (
    COMPARED_RESPONSES,
    STATISTICS,
    Side,
    compare,
    compare_decay,
    compare_responses,
)
from rethink_heads.statistics.correlation import pearson, score_by_iou, spearman
from rethink_heads.statistics.regression import error_components, regressed_iou_by_iou
from rethink_heads.statistics.response import RESPONSE_KINDS, response, response_summary
from rethink_heads.statistics.spatial import correlation_map, decay, distinct_pairs

Tables = Mapping[str, pd.DataFrame]

# Over all proposals as in the paper, and over those that a detector's final boxes come from, where
# a score that saturates early no longer hides how well it ranks.
IOU_RANGES = ((0.0, 1.0), (0.5, 1.0))
COMPARED_BY_IOU = ("score", "regressed_iou", "gain")
PAPER_HEADS = ("fc", "conv")

log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """Of the bootstrap, as every statistic takes them."""

    replicates: int
    seed: int


def compute_tables(
    measurements: Measurements, *, replicates: int | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Every table of the three analyses, each estimate with its 95% interval.

    Args:
        measurements: of any detectors and heads.
        replicates: of the bootstrap; by default each statistic's own.
        seed: of the bootstrap.

    Returns:
        Frames by name: "pcc" and "spearman" (a row a head, size and range of IoU, in the columns
        "iou_low" and "iou_high"), "score_by_iou", "regressed_iou", "error_components",
        "error_components_by_iou", "spatial_correlation" (mean over distinct cell pairs),
        "correlation_maps" (detector, head, kind, cell_a, cell_b, cosine), "decay", "displacement",
        "cells", "response_summary", and "comparisons", "comparisons_by_iou" and
        "comparisons_sensitivity" (fc less conv, see :func:`compared_sides`). What was not measured
        has an empty frame.
    """
    m = measurements
    options: Options = {"seed": seed}
    if replicates is not None:
        options["replicates"] = replicates
    responses = {kind: response(m, kind, **options) for kind in RESPONSE_KINDS}
    summaries = [response_summary(m, kind, **options) for kind in RESPONSE_KINDS]
    return {
        "pcc": _over_ranges(partial(pearson, m, **options)),
        "spearman": _over_ranges(partial(spearman, m, **options))
        if len(m.rows)
        else pd.DataFrame(),
        "score_by_iou": score_by_iou(m, **options),
        "regressed_iou": regressed_iou_by_iou(m, **options),
        "error_components": error_components(m, **options),
        "error_components_by_iou": error_components(m, by_bin=True, **options),
        "spatial_correlation": distinct_pairs(m, **options),
        "correlation_maps": _correlation_maps(m),
        "decay": decay(m, **options),
        "displacement": responses["displacement_score"],
        "cells": _stack([responses["cell_score"], responses["cell_iou"]]),
        "response_summary": _stack(summaries),
        "comparisons": _comparisons(m, STATISTICS, options),
        "comparisons_by_iou": _comparisons(m, COMPARED_BY_IOU, options, by_bin=True),
        "comparisons_sensitivity": _sensitivity_comparisons(m, options),
    }


def write_tables(
    measurements: Measurements | Tables, folder: Path, *, seed: int = 0
) -> dict[str, Path]:
    """Write every table as ``folder``/NAME.csv and return the paths by name.

    Tables without rows are left out.

    Args:
        measurements: measurements, or the tables that :func:`compute_tables` made of them.
        folder: made if it is not there.
        seed: of the bootstrap.

    Raises:
        UserError: a file cannot be written.
    """
    paths = {}
    for name, table in _tables(measurements, seed).items():
        if table.empty:
            log.info("no table %s: nothing measured for it", name)
            continue
        paths[name] = Path(folder) / f"{name}.csv"
        write_csv(table, paths[name])
    return paths


def write_figures(
    measurements: Measurements | Tables, folder: Path, *, seed: int = 0
) -> list[Path]:
    """Draw every figure that there are measurements for, as PNG and PDF in ``folder``.

    Figures: figure2, figure3 and figure4 (the paper's), gain, error_components, displacement and
    cells. figure2 shows fc-head and conv-head where there are both; other heads then come in
    figure2_all_heads, without standard deviations.

    Args:
        measurements: measurements, or the tables that :func:`compute_tables` made of them.
        folder: made if it is not there.
        seed: of the bootstrap.

    Returns:
        The paths written. A figure without anything to show is skipped with a line in the log.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    for name, draw in _drawings(_tables(measurements, seed)).items():
        try:
            figure = draw()
        except NothingToDrawError as reason:
            log.info("no figure %s: %s", name, reason)
            continue
        paths += save_figure(figure, Path(folder) / name)
    return paths


def compared_sides(measurements: Measurements) -> list[tuple[Side, Side]]:
    """The pairs ((detector, "fc"), (detector, "conv")) that are compared.

    The two heads of one detector where it has both; and each detector with an fc-head alone against
    each with a conv-head alone, as the paper compares heads trained apart.
    """
    fc, conv = ({d for d, head in measurements.detector_heads if head == h} for h in PAPER_HEADS)
    pairs = [(name, name) for name in sorted(fc & conv)]
    pairs += product(sorted(fc - conv), sorted(conv - fc))
    return [((a, "fc"), (b, "conv")) for a, b in pairs]


def _tables(measurements: Measurements | Tables, seed: int) -> Tables:
    if isinstance(measurements, Measurements):
        return compute_tables(measurements, seed=seed)
    return measurements


def _drawings(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """What draws each figure."""

    def table(name: str) -> pd.DataFrame:
        return tables.get(name, pd.DataFrame())

    scores, regressed = table("score_by_iou"), table("regressed_iou")
    drawings: dict[str, Callable[[], Figure]] = {
        "figure2": lambda: figures.figure2(_paper_heads(scores), _paper_heads(regressed)),
        "figure3": lambda: figures.figure3(table("pcc"), table("spearman")),
        "figure4": lambda: figures.figure4(table("correlation_maps"), table("decay")),
        "gain": lambda: figures.gain(regressed),
        "error_components": lambda: figures.error_components(table("error_components")),
        "displacement": lambda: figures.displacement(table("displacement")),
        "cells": lambda: figures.cells(table("cells")),
    }
    if len(_paper_heads(scores)) < len(scores):
        drawings["figure2_all_heads"] = lambda: figures.figure2(scores, regressed, spread=False)
    return drawings


def _paper_heads(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of fc and conv, or all rows where one of the two is not there."""
    if frame.empty or not set(PAPER_HEADS) <= set(frame["head"]):
        return frame
    return frame[frame["head"].isin(PAPER_HEADS)]


def _over_ranges(table: Callable[[tuple[float, float]], pd.DataFrame]) -> pd.DataFrame:
    return _stack([_with_range(table(ends), ends) for ends in IOU_RANGES])


def _with_range(
    frame: pd.DataFrame, iou_range: tuple[float, float], after: int = 3
) -> pd.DataFrame:
    """The frame with the ends of the range after its keys, the first ``after`` columns."""
    if len(frame):
        frame.insert(after, "iou_low", iou_range[0])
        frame.insert(after + 1, "iou_high", iou_range[1])
    return frame


def _stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _correlation_maps(measurements: Measurements) -> pd.DataFrame:
    """The mean correlation maps as a long frame."""
    frames = []
    for (detector, head, kind), cosines in correlation_map(measurements).items():
        a, b = np.indices(cosines.shape)
        keys = {"detector": detector, "head": head, "kind": kind}
        columns = {"cell_a": a.ravel(), "cell_b": b.ravel(), "cosine": cosines.ravel()}
        frames.append(pd.DataFrame(keys | columns))
    return _stack(frames)


def _comparisons(
    measurements: Measurements,
    statistics: tuple[str, ...],
    options: Options,
    *,
    by_bin: bool = False,
) -> pd.DataFrame:
    """Statistics of every pair of sides, over each range of IoU or in each bin."""
    frames = []
    for (a, b), statistic in product(compared_sides(measurements), statistics):
        # Correlations of cells are of the object's own box: there is no proposal to choose.
        once = by_bin or statistic == "spatial_correlation"
        for ends in IOU_RANGES[:1] if once else IOU_RANGES:
            try:
                found = compare(
                    measurements, statistic, a, b, iou_range=ends, by_bin=by_bin, **options
                )
            except UserError as reason:
                log.info("no comparison of %s: %s", statistic, reason)
                break
            frames.append(found if by_bin else _with_range(found, ends, after=2))
    return _stack(frames)


def _sensitivity_comparisons(measurements: Measurements, options: Options) -> pd.DataFrame:
    """Decay and responses of every pair of sides."""
    comparisons = {"decay": compare_decay}
    comparisons |= {kind: partial(compare_responses, kind=kind) for kind in COMPARED_RESPONSES}
    frames = []
    for (a, b), (name, compared) in product(compared_sides(measurements), comparisons.items()):
        try:
            frames.append(compared(measurements, a=a, b=b, **options))
        except UserError as reason:
            log.info("no comparison of %s: %s", name, reason)
    return _stack(frames)
