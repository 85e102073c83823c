"""Matching of boxes to objects, against loops and against pycocotools."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rethink_heads.measure.stage_boxes import (
    UNMATCHED,
    ious_with,
    most_overlapping,
    true_positives,
)


def boxes_on_a_grid(generator: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Boxes with corners at multiples of 4 px: many overlap, and many IoUs are equal."""
    corner = generator.integers(0, 6, (count, 2)) * 4.0
    size = generator.integers(2, 6, (count, 2)) * 4.0
    return np.concatenate([corner, corner + size], axis=1)


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return width * height / (area - width * height)


@pytest.mark.parametrize("seed", range(5))
def test_most_overlapping_equals_a_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    boxes, objects = boxes_on_a_grid(generator, 30), boxes_on_a_grid(generator, 4)
    index, found = most_overlapping(ious_with(boxes, objects))
    for row, box in enumerate(boxes.tolist()):
        best, expected = UNMATCHED, 0.0
        for number, other in enumerate(objects.tolist()):
            if iou(box, other) > expected + 1e-12:
                best, expected = number, iou(box, other)
        assert index[row] == best
        assert found[row] == pytest.approx(expected, abs=1e-12)


def test_without_objects_or_boxes_nothing_is_matched() -> None:
    index, found = most_overlapping(np.zeros((3, 0)))
    assert index.tolist() == [UNMATCHED] * 3
    assert found.tolist() == [0.0] * 3
    assert true_positives(np.zeros((2, 0))).tolist() == [UNMATCHED] * 2
    assert len(most_overlapping(np.zeros((0, 2)))[0]) == 0


@pytest.mark.parametrize("seed", range(20))
def test_true_positives_are_pycocotools(seed: int) -> None:
    """Detections and objects of one class on a grid, where IoUs are often equal."""
    generator = np.random.default_rng(seed)
    objects, boxes = boxes_on_a_grid(generator, 6), boxes_on_a_grid(generator, 25)
    scores = np.sort(generator.random(25))[::-1]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for number, (x1, y1, x2, y2) in enumerate(objects.tolist())
        ],
    }
    results = [
        {
            "image_id": 1,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.tolist(), strict=True)
    ]
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
    matched = evaluation.evalImgs[0]["dtMatches"][0].astype(int)  # IoU 0.5, all areas
    found = true_positives(ious_with(boxes, objects))
    assert (found + 1).tolist() == matched.tolist()
    assert (found >= 0).any()
