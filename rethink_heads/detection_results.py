"""Tables and figures of final detections: precision, TIDE's errors, calibration; no detector is needed, only files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rethink_heads.data.coco import CocoDataset
from rethink_heads.files import write_csv
from rethink_heads.measure.kept_detections import (
    HeadDetections,
    KeptDetections,
    Side,
    as_detections,
)
from rethink_heads.plots import detections as drawing
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.statistics.average_precision import (
    AP_NAMES,
    difference_frame,
    precision_rows,
    resampled_precision,
)
from rethink_heads.statistics.bootstrap import REPLICATES, Resampled
from rethink_heads.statistics.calibration import (
    CALIBRATION_ERRORS,
    POSITIVE_IOU,
    calibration_of,
    calibration_rows,
    reliability_rows,
)
from rethink_heads.statistics.detection_errors import error_rows, resampled_errors
from rethink_heads.statistics.error_kinds import ERRORS
from rethink_heads.statistics.matches import resampling

log = logging.getLogger(__name__)

# Table -> the column that names its quantities, and the quantities.
_NAMED = {
    "ap": ("metric", AP_NAMES),
    "detection_errors": ("error", ERRORS),
    "calibration": ("error", CALIBRATION_ERRORS),
}


def detection_tables(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    sides: Iterable[Side],
    *,
    errors: bool = False,
    calibration: bool = False,
    pairs: Iterable[tuple[Side, Side]] = (),
    error_iou: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables of several heads, each head resampled once for its rows and for all its comparisons.

    Args:
        detections, dataset: as of ``average_precision.precision_table``.
        sides: (detector, head) of the heads, in the order of the rows.
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
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    rows: dict[str, list[pd.DataFrame]] = {}
    resampled: dict[str, dict[Side, Resampled]] = {name: {} for name in _NAMED}
    for side in sides:
        # A head that found nothing at all has no rows; its precision is 0.
        head = HeadDetections(found, side)
        precision = resampled["ap"][side] = resampled_precision(head, truth, bootstrap)
        rows.setdefault("ap", []).append(precision_rows(side, precision))
        if errors:
            gains, objects = resampled_errors(head, truth, bootstrap, error_iou)
            resampled["detection_errors"][side] = gains
            rows.setdefault("detection_errors", []).append(error_rows(side, gains, objects))
        if calibration:
            scores = calibration_of(head, truth, bootstrap)
            resampled["calibration"][side] = scores.errors
            rows.setdefault("calibration", []).append(calibration_rows(side, scores))
            rows.setdefault("reliability", []).append(
                reliability_rows(side, scores.sums, bootstrap)
            )
    for a, b in pairs:
        for name, (column, names) in _NAMED.items():
            if resampled[name]:
                frame = difference_frame(
                    column, names, a, b, resampled[name][a], resampled[name][b]
                )
                rows.setdefault(f"{name}_comparisons", []).append(frame)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}


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
