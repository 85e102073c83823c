"""Average precision by head of detections found image by image, in training and of a whole dataset at once."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from rethink_heads.console import ProgressReport
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import Detector, SupportsDetect, missing
from rethink_heads.detectors.classes import class_columns, in_data_labels
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import precision_values
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.measure.detections import detection_frame

DETECTOR = "detector"
"""What frames of detections call it here."""


def precision_by_head(
    frames: Sequence[pd.DataFrame], dataset: CocoDataset, heads: Sequence[str]
) -> dict[str, dict[str, float]]:
    """By head: AP, AP50, AP75, APs, APm and APl over the dataset's images.

    Boxes that the dataset leaves out, as degenerate, outside or of other classes, are not counted as missed.

    Args:
        frames: detections of DETECTOR in DETECTION_COLUMNS, as of :func:`.detection_frame`.
        dataset: what was detected on.
        heads: also one that found nothing.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    detections = pd.concat([detection_frame(0, {}, DETECTOR), *frames], ignore_index=True)
    truth = GroundTruth(dataset, detections)
    found = {head: truth.detections_of(detections, (DETECTOR, head)) for head in heads}
    return {head: precision_values(own, truth) for head, own in found.items()}


def evaluate(
    detector: Detector, dataset: CocoDataset, progress: bool = True
) -> dict[str, dict[str, float]]:
    """By head: COCO's average precisions, from final detections on every image of the dataset.

    Raises:
        UserError: the detector shows none, or its classes are not the dataset's.
    """
    if not isinstance(detector, SupportsDetect):
        raise UserError(f"the detector cannot be evaluated: {missing('detect')}")
    columns, frames = class_columns(detector, dataset), []
    report = ProgressReport("detecting", len(dataset), "images", enabled=progress)
    with torch.inference_mode(), report:
        for index in range(len(dataset)):
            sample = dataset[index]
            found = in_data_labels(detector.detect(sample.image.to(detector.device)), columns)
            frames.append(detection_frame(sample.image_id, found, DETECTOR))
            report.advance()
    return precision_by_head(frames, dataset, detector.heads)
