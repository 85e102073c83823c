"""Tables and figure of the correlation at three stages, from frames alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import pandas as pd

from rethink_heads.files import write_csv
from rethink_heads.measure.stages import DETECTIONS
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.plots.figures import figure3
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.statistics.bootstrap import REPLICATES
from rethink_heads.statistics.rank_levels import compare_levels, level_correlation
from rethink_heads.statistics.ranks import RANK_REPLICATES
from rethink_heads.statistics.stages import compare_stages, stage_correlation
from rethink_heads.statistics.sums import WHOLE_RANGE

CORRELATION = "stage_correlation"


class _Counts(TypedDict):
    replicates: int
    rank_replicates: int
    seed: int


def stage_tables(
    stages: pd.DataFrame | None,
    measurements: Measurements | None,
    pairs: Sequence[tuple[Key, Key]],
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    rank_replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Every table of the three stages.

    Args:
        stages, measurements, iou_range, replicates, rank_replicates, seed: as of
            ``stage_correlation``.
        pairs: the heads to compare, each (detector, head).

    Returns:
        "stage_correlation" and "stage_comparisons"; where there are final detections also
        "rank_levels" and "rank_level_comparisons" (see
        :mod:`rethink_heads.statistics.rank_levels`), over all IoUs from 0.5 whatever the range.
        Without pairs the comparisons have no rows.
    """
    counts = _Counts(replicates=replicates, rank_replicates=rank_replicates, seed=seed)
    compared = [compare_stages(stages, measurements, a, b, iou_range, **counts) for a, b in pairs]
    tables = {
        CORRELATION: stage_correlation(stages, measurements, iou_range, **counts),
        "stage_comparisons": _stacked(compared),
    }
    if stages is not None and (stages["stage"] == DETECTIONS).any():
        levels = level_correlation(stages, replicates=rank_replicates, seed=seed)
        tables["rank_levels"] = levels
        # A head that found nothing at all has no boxes, only predefined proposals.
        there = set(zip(levels["detector"], levels["head"], strict=True))
        tables["rank_level_comparisons"] = _stacked(
            [
                compare_levels(stages, a, b, replicates=rank_replicates, seed=seed)
                for a, b in pairs
                if {a, b} <= there
            ]
        )
    return tables


def write_stage_results(
    tables: Mapping[str, pd.DataFrame], tables_folder: Path, figures_folder: Path, suffix: str = ""
) -> list[Path]:
    """Write what :func:`stage_tables` gives as CSV, and its figure as PNG and PDF.

    Tables without rows are left out, and so is a figure without anything to show.

    Args:
        suffix: of the files' names.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    for name, table in tables.items():
        if len(table):
            paths.append(Path(tables_folder) / f"{name}{suffix}.csv")
            write_csv(table, paths[-1])
    correlations = {f"{CORRELATION}{suffix}": tables[CORRELATION]}
    return paths + write_stage_figures(correlations, figures_folder)


def write_stage_figures(tables: Mapping[str, pd.DataFrame], figures_folder: Path) -> list[Path]:
    """Draw each table that is one of ``stage_correlation``, by its name; return the paths of PNG and PDF.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    for name, table in tables.items():
        if name.startswith(CORRELATION):
            try:
                figure = figure3(table)
            except NothingToDrawError:
                continue
            paths += save_figure(figure, Path(figures_folder) / name)
    return paths


def _stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
