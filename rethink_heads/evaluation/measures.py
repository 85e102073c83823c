"""Everything that is measured of final detections, by the names of the tables; and AP by head, in training too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from rethink_heads.console import ProgressReport
from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import (
    AP_NAMES,
    average_precisions,
    resampled_precision,
)
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
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap

if TYPE_CHECKING:
    from rethink_heads.detectors.base import Detector

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
DETECTOR = "detector"
"""What the one detector of :func:`precision_by_head` is called in the frames."""


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


def precision_by_head(
    found: Sequence[pd.DataFrame], dataset: CocoDataset, heads: Sequence[str]
) -> dict[str, dict[str, float]]:
    """By head: AP, AP50, AP75, APs, APm and APl over the dataset's images; 0 of a head that found nothing.

    Boxes that the dataset leaves out, as degenerate, outside or of other classes, are not counted as missed.
    """
    frame = pd.concat(found, ignore_index=True)
    truth = GroundTruth(dataset, frame)
    no_draws = ImageBootstrap(truth.image_ids, 0)
    precision = {}
    for head in heads:
        detections = truth.detections_of(frame, (DETECTOR, head))
        values = resampled_precision(detections, truth, no_draws).value
        precision[head] = dict(zip(AP_NAMES, values.tolist(), strict=True))
    return precision


def evaluate(
    detector: Detector, dataset: CocoDataset, progress: bool = True
) -> dict[str, dict[str, float]]:
    """By head: COCO's average precisions, from final detections on every image of the dataset.

    Raises:
        UserError: the detector shows none, or its classes are not the dataset's.
    """
    import torch

    from rethink_heads.detectors.base import SupportsDetect
    from rethink_heads.detectors.classes import class_columns, in_data_labels
    from rethink_heads.measure.detections import detection_frame

    if not isinstance(detector, SupportsDetect):
        raise UserError("the detector cannot be evaluated: it has no `detect`; write it")
    columns = class_columns(detector, dataset)
    frames = []
    report = ProgressReport("detecting", len(dataset), "images", enabled=progress)
    with torch.inference_mode(), report:
        for index in range(len(dataset)):
            sample = dataset[index]
            found = in_data_labels(detector.detect(sample.image.to(detector.device)), columns)
            frames.append(detection_frame(sample.image_id, found, DETECTOR))
            report.advance()
    return precision_by_head(frames, dataset, detector.heads)
