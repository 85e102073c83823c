"""How a two-stage detector makes detections of scored boxes: a threshold of score, NMS by class, the best of an image.

The rule is torchvision's, and detectron2's: see ``postprocess_detections`` of torchvision's ``RoIHeads``. Here it also
says of every box what became of it, and which box suppressed it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DETECTED, CUT, SUPPRESSED, REJECTED = range(4)
"""What becomes of a box: a detection; beyond the most of an image; under a better box; below the threshold of score, or
too small."""
NO_BOX = -1


@dataclass(frozen=True)
class Suppression:
    """The rule; without arguments torchvision's.

    Attributes:
        score_threshold: a score has to be above it.
        nms_iou: a box is suppressed by a better one of its class that it overlaps by more.
        most: detections of an image, of all classes together.
        least_side: pixels of a box's sides, at least.

    A detector takes IoUs in its resized image, where they are the same but for rounding, unless its framework's boxes
    end at pixels (``conventions.box_ends``): then a box's IoUs differ by what a part of a pixel makes of them.
    """

    score_threshold: float = 0.05
    nms_iou: float = 0.5
    most: int = 100
    least_side: float = 0.01


@dataclass(frozen=True)
class SuppressionOutcome:
    """What became of the N boxes of an image.

    Attributes:
        outcome: (N,) DETECTED, CUT, SUPPRESSED or REJECTED.
        suppressor: (N,) the box that suppressed each, the best of several; NO_BOX where none did.
    """

    outcome: npt.NDArray[np.int8]
    suppressor: npt.NDArray[np.int64]


def suppress(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float32],
    rule: Suppression,
) -> SuppressionOutcome:
    """Threshold, NMS by class and the cut to the best, on the boxes of one image.

    IoUs are taken as torchvision takes them, in the boxes' precision. Of equal scores the first comes first.

    Args:
        scores, labels: (N,), a box's score and the class that it is of.
        boxes: (N, 4) xyxy.
    """
    outcome = np.full(len(scores), REJECTED, np.int8)
    suppressor = np.full(len(scores), NO_BOX, np.int64)
    sides = boxes[:, 2:] - boxes[:, :2]
    # Thresholds as torch compares them: in the precision of scores and boxes, but IoUs in double.
    passes = (scores > rule.score_threshold) & (sides >= rule.least_side).all(axis=1)
    rows = np.flatnonzero(passes)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    area = sides.prod(axis=1)
    survivors = []
    for label in np.unique(labels[rows]):
        left = rows[labels[rows] == label]
        while len(left):
            best, left = left[0], left[1:]
            survivors.append(best)
            near = np.maximum(boxes[best, :2], boxes[left, :2])
            far = np.minimum(boxes[best, 2:], boxes[left, 2:])
            common = np.maximum(far - near, 0).prod(axis=1)
            union = area[best] + area[left] - common
            iou = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
            overlaps = iou > np.float64(rule.nms_iou)
            suppressor[left[overlaps]] = best
            outcome[left[overlaps]] = SUPPRESSED
            left = left[~overlaps]
    ranked = np.sort(np.array(survivors, np.int64))
    ranked = ranked[np.argsort(-scores[ranked], kind="stable")]
    outcome[ranked] = CUT
    outcome[ranked[: rule.most]] = DETECTED
    return SuppressionOutcome(outcome, suppressor)
