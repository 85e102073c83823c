"""COCO's average precision of every head's final detections on a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from rethink_heads.console import ProgressReport
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import Detector, SupportsDetect, missing
from rethink_heads.detectors.classes import class_columns, in_data_labels
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import AP_NAMES, resampled_precision
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.measure.detections import detection_frame
from rethink_heads.statistics.bootstrap import ImageBootstrap

DETECTOR = "detector"
"""What the one detector is called in the frames."""


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
    if not isinstance(detector, SupportsDetect):
        raise UserError(f"the detector cannot be evaluated: {missing('detect')}")
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
