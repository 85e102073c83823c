"""Tables and figures of final detections: precision, TIDE's errors, calibration; no detector is needed, only files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation import detections as evaluation
from rethink_heads.evaluation.average_precision import average_precisions
from rethink_heads.evaluation.calibration import calibration_of
from rethink_heads.evaluation.errors import POSITIVE_IOU, errors_of
from rethink_heads.files import write_csv
from rethink_heads.measure.store import Key
from rethink_heads.plots import detections as drawing
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.statistics.bootstrap import REPLICATES

log = logging.getLogger(__name__)


def detection_tables(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    keys: Iterable[Key],
    *,
    errors: bool = False,
    calibration: bool = False,
    pairs: Iterable[tuple[Key, Key]] = (),
    error_iou: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables of several heads, each head resampled once for its rows and for all its comparisons.

    Args:
        detections, dataset: as of ``average_precision.precision_table``.
        keys: (detector, head) of the heads, in the order of the rows.
        errors, calibration: whether to make those tables, too.
        pairs: heads to compare, a - b.
        error_iou: least IoU of a true positive for the errors.
        replicates, seed: of the bootstrap over images.

    Returns:
        By name, as ``precision_table``, ``detection_errors``, ``calibration_errors`` and ``reliability`` return them:
        "ap" and, where asked for, "detection_errors", "calibration", "reliability"; and with pairs
        "ap_comparisons", "detection_errors_comparisons", "calibration_comparisons".

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    measures: dict[str, evaluation.Measure] = {"ap": average_precisions}
    if errors:
        measures["detection_errors"] = partial(errors_of, iou_threshold=error_iou)
    if calibration:
        measures["calibration"] = calibration_of
    return evaluation.detection_tables(detections, dataset, keys, measures, pairs, replicates, seed)


def write_detection_results(
    tables: Mapping[str, pd.DataFrame], tables_folder: Path, figures_folder: Path
) -> list[Path]:
    """Write each table as CSV, and the figures that they hold the numbers of as PNG and PDF.

    Figures: average_precision, detection_errors and reliability.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    for name, table in tables.items():
        paths.append(Path(tables_folder) / f"{name}.csv")
        write_csv(table, paths[-1])
    return paths + write_detection_figures(tables, figures_folder)


def write_detection_figures(tables: Mapping[str, pd.DataFrame], figures_folder: Path) -> list[Path]:
    """Draw the figures that tables of detections hold the numbers of, as PNG and PDF; return their paths.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    for name, draw in _drawings(tables).items():
        try:
            figure = draw()
        except NothingToDrawError as reason:
            log.info("no figure %s: %s", name, reason)
            continue
        paths += save_figure(figure, Path(figures_folder) / name)
    return paths


def _drawings(tables: Mapping[str, pd.DataFrame]) -> dict[str, Callable[[], Figure]]:
    drawings: dict[str, Callable[[], Figure]] = {}
    if "ap" in tables:
        drawings["average_precision"] = lambda: drawing.average_precision(tables["ap"])
    if "detection_errors" in tables:
        drawings["detection_errors"] = lambda: drawing.detection_errors(tables["detection_errors"])
    if "reliability" in tables:
        drawings["reliability"] = lambda: drawing.reliability(
            tables["reliability"], tables["calibration"]
        )
    return drawings
