"""Localisation Recall Precision error of detections, at the score threshold that is best for each class.

Source: Oksuz et al., "One Metric to Measure Them All: Localisation Recall Precision (LRP) for Evaluating Visual
Detection Tasks", TPAMI 2021; docs/definitions.md has the formula. oLRP is 0 where all is found with its very box, 1
where nothing is found. Means are over the classes that have objects; those of 1 - IoU and of false positives are over
the classes that have true positives, or detections, above their threshold.

Detections of one score are above a threshold together. Each draw of images has a threshold of its own. As a minimum,
oLRP of few objects a class is lower on average than that of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rethink_heads.evaluation.average_precision import (
    MeanOverClasses,
    Weights,
    accumulate,
    counted_up_to,
    in_draws,
)
from rethink_heads.evaluation.causes import FOREGROUND_IOU
from rethink_heads.evaluation.detections import Quantities, head_comparison, head_table
from rethink_heads.evaluation.matching import (
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    Matches,
    box_ious,
    match_detections,
)
from rethink_heads.statistics.bootstrap import (
    SHARE,
    Array,
    BootstrapEstimate,
    ImageBootstrap,
)

LRP_PARTS = ("olrp", "localization", "false_positives", "misses")


def lrp_of(
    head: HeadDetections,
    truth: GroundTruth,
    bootstrap: ImageBootstrap,
    iou_threshold: float = FOREGROUND_IOU,
) -> Quantities:
    """oLRP and its parts, with 95% intervals over images.

    Args:
        iou_threshold: least IoU of a true positive.

    Returns:
        A row a "part" (one of LRP_PARTS) with "value", "value_low", "value_high", 0..1. By class, with the thresholds:
        ``by_class.class_table``.

        Compared: "value", by "part"; positive where a is worse.
    """
    matches = match_detections(truth, head, np.array([iou_threshold]), sizes=1)
    classes = list(ranked_classes(head, truth, matches).values())

    def weighted_values(weights: Weights) -> Array:
        mean = MeanOverClasses()
        for one in classes:
            mean.add(optimal_lrp(one, weights, iou_threshold)[0])
        return np.broadcast_to(mean.value, (weights.shape[1], len(LRP_PARTS)))

    value = weighted_values(np.ones((len(truth.image_ids), 1), np.float32))[0]
    bears = np.zeros(len(truth.image_ids), bool)
    for one in classes:
        bears[one.images], bears[one.object_images] = True, True
    replicates = in_draws(bootstrap, weighted_values)
    images = np.full(len(value), bears.sum())
    resampled = BootstrapEstimate(value, replicates, images, SHARE, truth.images_each())
    return Quantities(resampled, {"part": LRP_PARTS}, "value")


localization_recall_precision = head_table("localization_recall_precision", lrp_of)
compare_lrp = head_comparison("compare_lrp", lrp_of)


@dataclass(frozen=True)
class RankedDetections:
    """One class's N detections that count, by falling score.

    Attributes:
        images, scores: (N,); true: (N,) whether it is a true positive; ious: (N,) with its object.
        object_images: (G,) images of the objects to find.
    """

    images: Indices
    scores: Array
    true: Flags
    ious: Array
    object_images: Indices


def ranked_classes(
    head: HeadDetections, truth: GroundTruth, matches: Matches
) -> dict[int, RankedDetections]:
    """The detections of each class that has objects, matched at one IoU threshold, by label."""
    ious, true = matched_ious(head, truth, matches), matches.true[0, 0]
    ranked = {}
    for label in np.unique(truth.labels[truth.findable]).tolist():
        rows = np.flatnonzero(matches.counted[0, 0] & (head.labels == label))
        rows = rows[np.argsort(-head.scores[rows], kind="stable")]
        object_images = truth.images[truth.findable & (truth.labels == label)]
        ranked[label] = RankedDetections(
            head.images[rows], head.scores[rows], true[rows], ious[rows], object_images
        )
    return ranked


def matched_ious(
    head: HeadDetections, truth: GroundTruth, matches: Matches, area: int = 0
) -> Array:
    """IoU (N,) of each true positive at the first threshold with its object, 0 of the others."""
    rows = np.flatnonzero(matches.true[area, 0])
    ious = np.zeros(len(head.scores))
    ious[rows] = box_ious(head.boxes[rows], truth.boxes[matches.objects[area, 0, rows]])
    return ious


def optimal_lrp(
    one: RankedDetections, weights: Weights, iou_threshold: float
) -> tuple[Array, Array]:
    """oLRP and its parts (b, 4) of one class in each of b draws of images, and the best thresholds (b,).

    Args:
        weights: (I, b) how often each draw has each image.
        iou_threshold: at which the detections are matched.

    Returns:
        nan where a draw has no object; of parts, also where there is nothing that they are of. The threshold is nan
        where it is best to have no detection at all.
    """
    objects = weights[one.object_images].sum(axis=0, dtype=np.float64)
    draws = weights.shape[1]
    # The last detection of each score that true positives have: false ones alone never make LRP less.
    ends, at = np.flatnonzero(np.diff(one.scores, append=-np.inf)), np.flatnonzero(one.true)
    ends = ends[np.unique(np.searchsorted(ends, at))]
    last = np.searchsorted(at, ends, side="right") - 1
    of = weights[one.images[at]]
    none, every = np.zeros((1, draws)), np.ones(len(one.true), bool)
    detections, true, off = (
        np.vstack([none, sums], dtype=np.float64)
        for sums in (
            counted_up_to(ends, one.images, every, weights),
            accumulate(np.add, of)[last],
            # One after another: where a draw lacks an image, LRP stays the same to the last digit.
            (of * (1 - one.ious[at])[:, None]).cumsum(axis=0)[last],
        )
    )
    # Detections and misses.
    together = np.maximum(detections + objects - true, 1e-300)
    lrp = (off / (1 - iou_threshold) + detections + objects - 2 * true) / together
    best = lrp.argmin(axis=0)[None]
    least, detections, true, off = (
        np.take_along_axis(each, best, axis=0)[0] for each in (lrp, detections, true, off)
    )
    parts = [
        least,
        np.where(true > 0, off / np.maximum(true, 1), np.nan),
        np.where(detections > 0, 1 - true / np.maximum(detections, 1), np.nan),
        1 - true / np.maximum(objects, 1),
    ]
    values = np.where(objects[:, None] > 0, np.stack(parts, axis=1), np.nan)
    thresholds = np.append(np.nan, one.scores[ends])[best[0]]
    return values, np.where(objects > 0, thresholds, np.nan)
