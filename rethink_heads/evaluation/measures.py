"""Everything that is measured of final detections, by the names of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.average_precision import average_precisions
from rethink_heads.evaluation.by_class import class_values, confusion_matrix, precision_recall
from rethink_heads.evaluation.calibration import calibration_of
from rethink_heads.evaluation.detections import Measure, detection_tables
from rethink_heads.evaluation.errors import errors_of
from rethink_heads.evaluation.lost_precision import (
    exchange_rate_of,
    lost_by_threshold_of,
    lost_precision_of,
    oracles_of,
)
from rethink_heads.evaluation.lrp import lrp_of
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import REPLICATES

MEASURES: Mapping[str, Measure] = {
    "ap": average_precisions,
    "lost_precision": lost_precision_of,
    "lost_by_threshold": lost_by_threshold_of,
    "oracles": oracles_of,
    "exchange_rate": exchange_rate_of,
    "lrp": lrp_of,
    "by_class": class_values,
    "detection_errors": errors_of,
    "calibration": calibration_of,
}


def measured_tables(
    names: Iterable[str],
    detections: pd.DataFrame,
    dataset: CocoDataset,
    keys: Iterable[Key],
    *,
    pairs: Iterable[tuple[Key, Key]] = (),
    error_iou: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables of some of MEASURES, each head resampled once for its rows and for all its comparisons.
    Raises UserError for detections in other images or of other classes than the dataset's.

    Args:
        names: of MEASURES.
        keys: (detector, head) of the heads, in the order of the rows.
        pairs: heads to compare, a - b.
        error_iou: least IoU of a true positive for "detection_errors"; None: 0.5.

    Returns:
        By name, as the measures' own functions return them, with their curves, such as "reliability"; and with pairs
        NAME_comparisons.
    """
    measures = {name: MEASURES[name] for name in names}
    if error_iou is not None and "detection_errors" in measures:
        measures["detection_errors"] = partial(errors_of, iou_threshold=error_iou)
    return detection_tables(detections, dataset, keys, measures, pairs, replicates, seed)


def diagnosis_tables(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    keys: Iterable[Key],
    pairs: Iterable[tuple[Key, Key]],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """All tables that final detections alone give; arguments and errors are those of :func:`measured_tables`."""
    options = {"replicates": replicates, "seed": seed}
    tables = measured_tables(MEASURES, detections, dataset, keys, pairs=pairs, **options)
    # Heads that found nothing have no curves.
    if len(detections):
        tables["confusion"] = confusion_matrix(detections, dataset)
        tables["precision_recall"] = precision_recall(detections, dataset)
    return tables
