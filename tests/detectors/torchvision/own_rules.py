"""torchvision's rules from scores and boxes to detections, written out box by box in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rethink_heads.detectors.base import HeadOutput

Array = npt.NDArray[np.float64]


def kept_detections(
    output: HeadOutput,
    frame_scale: tuple[float, float],
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    most: int = 100,
    least_side: float = 1e-2,
) -> list[tuple[float, int, Array]]:
    """(score, label, box) of what is left after the threshold, NMS within each class and the cut, best first.

    Args:
        output: scores (N, K) and boxes (N, K, 4) in pixels of the original image.
        frame_scale: (x, y) factors to the resized image, in whose pixels a box may be too small.
    """
    scores = output.scores.double().numpy()
    boxes = output.boxes.double().numpy()
    kept: list[tuple[float, int, Array]] = []
    for label in range(scores.shape[1]):
        sides = (boxes[:, label, 2:] - boxes[:, label, :2]) * np.array(frame_scale)
        fine = (scores[:, label] > score_threshold) & (sides >= least_side).all(1)
        kept_of_class: list[Array] = []
        for box in sorted(np.flatnonzero(fine), key=lambda i: -scores[i, label]):
            candidate = boxes[box, label]
            if all(_iou(candidate, other) <= nms_threshold for other in kept_of_class):
                kept_of_class.append(candidate)
                kept.append((float(scores[box, label]), label, candidate))
    return sorted(kept, key=lambda each: -each[0])[:most]


def _iou(first: Array, second: Array) -> float:
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(first[2:], second[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]))
    return shared / (areas - shared)
