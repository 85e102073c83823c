"""Tables and figures of measurements, of a detector's stages and of final detections, from files alone.

Tables are computed once and figures are drawn from them, so that a figure shows what its CSV says, and can be drawn
again from the CSV. The paper's own figures are those of :mod:`rethink_heads.paper`; here are the ones that it lacks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rethink_heads import bounds
from rethink_heads.errors import UserError
from rethink_heads.files import read_csv, write_csv
from rethink_heads.measure.stage_boxes import DETECTIONS, stage_measurements
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.paper import (
    AnalysisInputs,
    MissingInputError,
    Options,
    Tables,
    TableSet,
    analyses,
    paper_heads,
)
from rethink_heads.plots import detections as drawn_detections
from rethink_heads.plots import figures
from rethink_heads.plots import lost_precision as lost_figures
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import NothingToDrawError, naming_data
from rethink_heads.statistics.bootstrap import REPLICATES
from rethink_heads.statistics.by_iou import error_components, pearson, spearman
from rethink_heads.statistics.comparison import (
    COMPARED_RESPONSES,
    STATISTICS,
    compare,
    compare_decay,
    compare_pairs,
    compare_responses,
    compared_pairs,
)
from rethink_heads.statistics.ranks import level_tables
from rethink_heads.statistics.sensitivity import (
    RESPONSE_KINDS,
    distinct_pairs,
    response,
    response_summary,
)
from rethink_heads.statistics.stages import compare_stages, stage_correlation
from rethink_heads.statistics.sums import WHOLE_RANGE

# Over all proposals as we read the paper, and over those that a detector's final boxes come from, where
# a score that saturates early no longer hides how well it ranks.
IOU_RANGES = ((0.0, 1.0), (0.5, 1.0))
COMPARED_BY_IOU = ("score", "regressed_iou", "gain")

log = logging.getLogger(__name__)


def compute_tables(
    measurements: Measurements,
    *,
    stages: pd.DataFrame | None = None,
    replicates: int | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Every table of measurements, each estimate with its 95% interval.

    Args:
        stages: boxes of RPN and final detections of the same detectors, see ``measure_stages``.
        replicates: of the bootstrap; by default each statistic's own.

    Returns:
        Frames by name. The paper's (see :mod:`rethink_heads.paper`): "score_by_iou" and
        "regressed_iou" (Figure 2), "stages" (Figure 3), "correlation_maps" and "decay" (Figure 4).
        Beyond the paper: "pcc" and "spearman" (a row a head, size and range of IoU, in the columns
        "iou_low" and "iou_high"), "error_components", "error_components_by_iou",
        "spatial_correlation" (mean over distinct pairs of RoI positions), "displacement", "cells",
        "response_summary", and "comparisons", "comparisons_by_iou" and "comparisons_sensitivity"
        (of the pairs of
        heads that :func:`.compared_pairs` gives). What was not measured has an empty frame.
    """
    options: Options = {"seed": seed}
    if replicates is not None:
        options["replicates"] = bounds.DRAWS.check(replicates, "a number of replicates of")
    return compute(AnalysisInputs(measurements, stages, options=options))


def compute(inputs: AnalysisInputs, skipped: dict[str, str] | None = None) -> TableSet:
    """Every table of the inputs: the paper's analyses', of measurements the rest, and the data's name in "source".

    Args:
        skipped: gets by name the analyses that lack something, and what they lack.
    """
    tables = TableSet()
    for name, analysis in analyses().items():
        try:
            tables |= analysis.tables(inputs)
        except MissingInputError as reason:
            if skipped is not None:
                skipped[name] = str(reason)
    if inputs.found is not None:
        tables |= _tables_beyond_the_paper(inputs.found, inputs.options)
        if inputs.data:
            tables["source"] = pd.DataFrame({"data": [inputs.data]})
    return tables


def stage_tables(
    stages: pd.DataFrame | None,
    measurements: Measurements | None,
    pairs: Sequence[tuple[Key, Key]],
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Every table of the three stages.

    Args:
        stages, measurements, iou_range, replicates, seed: as of ``stage_correlation``.
        pairs: the heads to compare, each (detector, head).

    Returns:
        "stage_correlation" and "stage_comparisons"; where there are final detections also
        "rank_levels" and "rank_level_comparisons" (see
        :mod:`rethink_heads.statistics.ranks`), over all IoUs from 0.5 whatever the range.
        Without pairs the comparisons have no rows.
    """
    correlate, compared_by = (
        partial(each, replicates=replicates, seed=seed)
        for each in (stage_correlation, compare_stages)
    )
    by_stage = None if stages is None else stage_measurements(stages)
    compared = [compared_by(by_stage, measurements, a, b, iou_range) for a, b in pairs]
    tables = {
        "stage_correlation": correlate(by_stage, measurements, iou_range),
        "stage_comparisons": _stack(compared),
    }
    if stages is not None and (stages["stage"] == DETECTIONS).any():
        # A head that found nothing at all has no boxes, only predefined proposals.
        there = {*stages[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None)}
        both = [pair for pair in pairs if there.issuperset(pair)]
        tables["rank_levels"], tables["rank_level_comparisons"] = level_tables(
            stages, both, replicates=replicates, seed=seed
        )
    return tables


def write_tables(
    measurements: Measurements | Tables, folder: Path, *, seed: int = 0
) -> dict[str, Path]:
    """Write every table as ``folder``/NAME.csv and return the paths by name.

    Tables without rows are left out.

    Args:
        measurements: measurements, or the tables that :func:`compute_tables` made of them.
        folder: made if it is not there.

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


def write_results(tables: Tables, tables_folder: Path, figures_folder: Path) -> list[Path]:
    """Write tables as CSV and the figures that they hold the numbers of; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    written = [*write_tables(tables, tables_folder).values()]
    return written + write_figures(tables, figures_folder)


def read_tables(folder: Path) -> TableSet:
    """Read what :func:`write_tables` wrote, every number to its last digit.

    Raises:
        UserError: there are no tables in the folder, or a file is not CSV.
    """
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        raise UserError(f"there are no tables (*.csv) in {folder}")
    return TableSet({path.stem: read_csv(path) for path in paths})


def write_figures(
    measurements: Measurements | Tables,
    folder: Path,
    *,
    seed: int = 0,
    skipped: dict[str, str] | None = None,
) -> list[Path]:
    """Draw every figure that there are measurements for, as PNG and PDF in ``folder``.

    Figures: figure2, figure3 and figure4 (the paper's) and those of its other analyses whose tables
    are there; correlations, gain, error_components, decay, displacement and cells;
    figure2_all_heads, all heads and sizes without standard deviations, where there are others than
    fc-head and conv-head; of final detections average_precision, detection_errors and reliability;
    and each table stage_correlation, by its name.

    Args:
        measurements: measurements, or the tables that :func:`compute_tables` made of them.
        folder: made if it is not there.
        skipped: gets by name the figures without anything to show, and why.

    Returns:
        The paths written. A figure without anything to show is skipped with a line in the log.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    tables = TableSet(_tables(measurements, seed))
    data = str(tables["source"]["data"].iloc[0]) if "source" in tables else ""
    for name, draw in _drawings(tables).items():
        try:
            with naming_data(data):
                figure = draw()
        except NothingToDrawError as reason:
            log.info("no figure %s: %s", name, reason)
            if skipped is not None:
                skipped.setdefault(name, str(reason))
            continue
        paths += save_figure(figure, Path(folder) / name)
    return paths


def _tables(measurements: Measurements | Tables, seed: int) -> Tables:
    if isinstance(measurements, Measurements):
        return compute_tables(measurements, seed=seed)
    return measurements


def _tables_beyond_the_paper(m: Measurements, options: Options) -> dict[str, pd.DataFrame]:
    responses = {kind: response(m, kind, **options) for kind in RESPONSE_KINDS}
    summaries = [response_summary(m, kind, **options) for kind in RESPONSE_KINDS]
    return {
        "pcc": over_ranges(partial(pearson, m, **options)),
        "spearman": over_ranges(partial(spearman, m, **options)) if m.has_rows else pd.DataFrame(),
        "error_components": error_components(m, **options),
        "error_components_by_iou": error_components(m, by_bin=True, **options),
        "spatial_correlation": distinct_pairs(m, **options),
        "displacement": responses["displacement_score"],
        "cells": _stack([responses["cell_score"], responses["cell_iou"]]),
        "response_summary": _stack(summaries),
        "comparisons": _comparisons(m, STATISTICS, options),
        "comparisons_by_iou": _comparisons(m, COMPARED_BY_IOU, options, by_bin=True),
        "comparisons_sensitivity": _sensitivity_comparisons(m, options),
    }


def _drawings(tables: TableSet) -> dict[str, Callable[[], Figure]]:
    """What draws each figure: the paper's, then ours."""
    drawings: dict[str, Callable[[], Figure]] = {
        name: partial(analysis.draw, tables) for name, analysis in analyses().items()
    }

    def add(name: str, draw: Callable[..., Figure], *needed: str) -> None:
        drawings[name] = lambda: draw(*(tables[each] for each in needed))

    drawings["correlations"] = lambda: figures.correlations(tables["pcc"], tables.get("spearman"))
    add("gain", figures.gain, "regressed_iou")
    add("error_components", figures.error_components, "error_components")
    add("decay", figures.decay, "decay")
    add("displacement", figures.displacement, "displacement")
    add("cells", figures.cells, "cells")
    scores = tables.get("score_by_iou", pd.DataFrame())
    if len(paper_heads(scores)) < len(scores):
        whole = partial(figures.figure2, spread=False)
        add("figure2_all_heads", whole, "score_by_iou", "regressed_iou")
    # What other commands than `figures` make tables of: missed by no one where it is not there.
    elsewhere: dict[str, tuple[Callable[..., Figure], list[str]]] = {
        "average_precision": (drawn_detections.average_precision, ["ap"]),
        "detection_errors": (drawn_detections.detection_errors, ["detection_errors"]),
        "reliability": (drawn_detections.reliability, ["reliability", "calibration"]),
        "lost_precision": (lost_figures.shares, ["lost_by_threshold", "lost_precision"]),
        "exchange_rate": (lost_figures.exchange_rate, ["exchange_rate"]),
        "recall_ladder": (lost_figures.recall_ladder, ["recall_ladder"]),
        "swaps": (lost_figures.swaps, ["swaps"]),
    }
    stages = [name for name in tables if name.startswith("stage_correlation")]
    elsewhere |= {name: (figures.figure3, [name]) for name in stages}
    for name, (draw, needed) in elsewhere.items():
        if needed[0] in tables:
            add(name, draw, *needed)
    return drawings


def over_ranges(
    table: Callable[[tuple[float, float]], pd.DataFrame],
    ranges: Sequence[tuple[float, float]] = IOU_RANGES,
) -> pd.DataFrame:
    """A table over each of several ranges of IoU, one below the other, with the range in columns of its own."""
    return _stack([_with_range(table(ends), ends) for ends in ranges])


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


def _comparisons(
    measurements: Measurements,
    statistics: tuple[str, ...],
    options: Options,
    *,
    by_bin: bool = False,
) -> pd.DataFrame:
    """Statistics of every pair of heads, over each range of IoU or in each bin."""
    frames = []
    for statistic in statistics:
        # Correlations of RoI positions are of the object's own box: there is no proposal to choose.
        has_maps = statistic == "spatial_correlation"
        keys = measurements.map_keys(statistic) if has_maps else measurements.keys
        for pair in compared_pairs(keys, statistic):
            for ends in IOU_RANGES[:1] if by_bin or has_maps else IOU_RANGES:
                each = partial(compare, statistic=statistic, iou_range=ends, by_bin=by_bin)
                found = compare_pairs(each, measurements, [pair], statistic, log.info, **options)
                frames.append(found if by_bin else _with_range(found, ends, after=2))
    return _stack(frames)


def _sensitivity_comparisons(measurements: Measurements, options: Options) -> pd.DataFrame:
    """Decay and responses of every pair of heads."""
    comparisons = {"decay": compare_decay}
    comparisons |= {kind: partial(compare_responses, kind=kind) for kind in COMPARED_RESPONSES}
    frames = []
    for name, compared in comparisons.items():
        keys = measurements.map_keys("spatial_correlation" if name == "decay" else name)
        pairs = compared_pairs(keys, name)
        frames.append(compare_pairs(compared, measurements, pairs, name, log.info, **options))
    return _stack(frames)
