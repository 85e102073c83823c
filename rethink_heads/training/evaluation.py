"""Detections of a whole dataset in COCO's result format, and their average precision by head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from rethink_heads.console import ProgressReport
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors.base import Detections, Detector, SupportsDetect, missing
from rethink_heads.detectors.classes import class_columns, in_data_labels
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import average_precision

Results = dict[str, list[dict[str, float]]]
"""By head: detections in COCO's result format."""


def add_detections(
    results: Results, sample: Sample, found: Mapping[str, Detections], category_ids: Sequence[int]
) -> None:
    """Adds an image's detections by head to the results, boxes as x, y, width, height."""
    for head, detections in found.items():
        boxes = detections.boxes.double().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        columns = (boxes.tolist(), detections.scores.tolist(), detections.labels.tolist())
        results.setdefault(head, []).extend(
            {
                "image_id": sample.image_id,
                "category_id": category_ids[label],
                "bbox": box,
                "score": score,
            }
            for box, score, label in zip(*columns, strict=True)
        )


def precision_by_head(
    results: Results, dataset: CocoDataset, heads: Sequence[str]
) -> dict[str, dict[str, float]]:
    """By head: AP, AP50, AP75, APs, APm and APl over the dataset's images.

    Boxes that the dataset leaves out, as degenerate, outside or of other classes, are not counted as missed.
    """
    truth = dataset.as_coco()
    return {head: average_precision(truth, results.get(head, [])) for head in heads}


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
    results: Results = {}
    report = ProgressReport("detecting", len(dataset), "images", enabled=progress)
    with torch.inference_mode(), report:
        for index in range(len(dataset)):
            sample = dataset[index]
            found = detector.detect(sample.image.to(detector.device))
            add_detections(results, sample, in_data_labels(found, columns), dataset.category_ids)
            report.advance()
    return precision_by_head(results, dataset, detector.heads)
