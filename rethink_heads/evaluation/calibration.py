"""How well scores say how good detections are: reliability by score, and calibration errors.

D-ECE (Küppers et al., "Multivariate Confidence Calibration for Object Detection", CVPR Workshops 2020) and LaECE
(Oksuz et al., "Towards Building Self-Aware Object Detectors via Reliable Uncertainty Quantification and Calibration",
CVPR 2023); docs/definitions.md has the formulas. A true positive is COCO's at IoU 0.5 (a parameter). A bin is open
below and closed above, the first closed at 0. Noise in bins of few detections makes the errors larger, never smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rethink_heads.evaluation.average_precision import MeanOverClasses, Weights, in_draws
from rethink_heads.evaluation.detections import Quantities, head_comparison, head_table
from rethink_heads.evaluation.matching import (
    GroundTruth,
    HeadDetections,
    Indices,
    box_ious,
    match_detections,
)
from rethink_heads.measure.stage_boxes import POSITIVE_IOU
from rethink_heads.statistics.bootstrap import (
    SHARE,
    Array,
    BootstrapEstimate,
    ImageBootstrap,
    Limits,
    effective_images,
)
from rethink_heads.statistics.sums import ratio

RELIABILITY_BINS = 10
D_ECE_BINS, LAECE_BINS = 10, 25
CALIBRATION_ERRORS = ("d_ece", "laece", "overconfidence")


def _reliability(sums: Array, bootstrap: ImageBootstrap) -> dict[str, Any]:
    """Columns of "reliability" of one head, of sums (I, bins, 4) by image and bin."""
    bins = sums.shape[1]
    columns = {
        "bin": np.arange(bins),
        "score_low": np.arange(bins) / bins,
        "score_high": np.arange(1, bins + 1) / bins,
        "mean_score": ratio(sums.sum(axis=0)[:, [0, 1]]),
    }
    for name, (over, of) in {"precision": (0, 2), "iou": (0, 3), "hit_iou": (2, 3)}.items():
        estimate = bootstrap.estimate(sums[..., [over, of]], ratio, SHARE)
        columns |= estimate.columns(name)
    return columns | {"count": sums[..., 0].sum(axis=0).astype(np.int64)}


@dataclass(frozen=True)
class ScoredDetections:
    """N detections that count.

    Attributes:
        images: (N,) index of each one's image; labels: (N,).
        columns: (N, 4) 1, score, whether it is a true positive, and its IoU with its object (0 without).
    """

    images: Indices
    labels: Indices
    columns: Array

    def sums(self, bins: int, images: int) -> Array:
        """Columns added up by image and bin of the score: (images, bins, 4)."""
        bin_of = np.clip(np.ceil(self.columns[:, 1] * bins).astype(np.int64) - 1, 0, bins - 1)
        places = self.images * bins + bin_of
        total = [np.bincount(places, column, images * bins) for column in self.columns.T]
        return np.stack(total, axis=-1).reshape(images, bins, -1).astype(np.float64)


def scored_detections(
    head: HeadDetections, truth: GroundTruth, iou_threshold: float
) -> ScoredDetections:
    """One head's detections that count, matched."""
    found = match_detections(truth, head, np.array([iou_threshold]), sizes=1)
    true, counted = found.true[0, 0], found.counted[0, 0]
    ious = np.zeros(len(true))
    ious[true] = box_ious(head.boxes[true], truth.boxes[found.objects[0, 0, true]])
    columns = np.stack([np.ones(len(true)), head.scores, true, ious], axis=1)
    return ScoredDetections(head.images[counted], head.labels[counted], columns[counted])


def calibration_of(
    head: HeadDetections,
    truth: GroundTruth,
    bootstrap: ImageBootstrap,
    iou_threshold: float = POSITIVE_IOU,
    bins: int = RELIABILITY_BINS,
) -> Quantities:
    """Calibration errors, with 95% intervals over images, and what a reliability diagram shows.

    Detections of crowds do not count.

    Args:
        iou_threshold: least IoU of a true positive.
        bins: number of equal bins of the score in the diagram.

    Returns:
        A row an "error" with "value", "value_low", "value_high" and "detections": "d_ece" and "laece", 0..1, as at the
        head of this module; "overconfidence", the mean score less the precision of all detections, below 0 for a head
        that is too modest.

        Compared: "value", by "error".

        "reliability": precision and IoU by score, all classes together. A row a bin with "bin", "score_low",
        "score_high", "mean_score", "precision" (share of true positives), "iou" (mean IoU with the matched object, 0
        for a false positive), "hit_iou" (mean IoU of the true positives), each with "..._low" and "..._high", and
        "count"; nan where a bin is empty.
    """
    scored = scored_detections(head, truth, iou_threshold)
    images = len(truth.image_ids)
    pooled = scored.sums(D_ECE_BINS, images)
    class_sums = []
    for label in np.unique(scored.labels):
        chosen = scored.labels == label
        # Of the images that have such detections, which are few where there are many classes.
        there, places = np.unique(scored.images[chosen], return_inverse=True)
        in_class = ScoredDetections(places, scored.labels[chosen], scored.columns[chosen])
        class_sums.append((there, in_class.sums(LAECE_BINS, len(there))))

    def weighted_values(weights: Weights) -> Array:
        mean = MeanOverClasses()
        for there, sums in class_sums:
            summed = weights[there].T @ sums.reshape(len(there), -1)
            mean.add(_gap(summed.reshape(-1, *sums.shape[1:]), target=3)[:, None])
        every = np.tensordot(weights.T.astype(np.float64), pooled, axes=1)
        d_ece, overconfidence = (_gap(every, target=2, signed=signed) for signed in (False, True))
        # Without any detection there is no class to take a mean over.
        laece = np.broadcast_to(mean.value, (len(every), 1))[:, 0] if class_sums else d_ece
        return np.stack([d_ece, laece, overconfidence], axis=-1)

    value = weighted_values(np.ones((images, 1), np.float32))[0]
    bears = np.full(len(CALIBRATION_ERRORS), effective_images(pooled[..., 0].sum(axis=1)))
    # Overconfidence has a sign.
    limits = Limits(np.array([0.0, 0.0, -1.0]), 1.0)
    resampled = BootstrapEstimate(value, in_draws(bootstrap, weighted_values), bears, limits)
    count = {"detections": round(float(pooled[..., 0].sum()))}
    curve = _reliability(scored.sums(bins, images), bootstrap)
    keys = {"error": CALIBRATION_ERRORS}
    return Quantities(resampled, keys, "value", count, {"reliability": curve})


calibration_errors = head_table("calibration_errors", calibration_of)
reliability = head_table("reliability", calibration_of, "reliability")
compare_calibration = head_comparison("compare_calibration", calibration_of)


def _gap(sums: Array, target: int, signed: bool = False) -> Array:
    """Expected difference of score and target, from sums (R, bins, 4): (R,), nan without detections."""
    gaps = sums[..., 1] - sums[..., target]
    gaps = (gaps if signed else np.abs(gaps)).sum(axis=-1)
    return ratio(np.stack([sums[..., 0].sum(axis=-1), gaps], axis=-1))
