"""Where average precision is lost: the share of each cause, what fixing it wins, and what a better ranking is worth.

The mean over COCO's ten IoU thresholds and over classes loses 1 - AP. Each of the six causes of :mod:`.causes` can be
fixed alone, which is its *oracle*; but what two fixes win together is not what they win one by one, and a fix wins
more after others than before. A cause's *share* is what fixing it wins on average over all orders in which the six can
be fixed (Shapley's value): all sets of them, 64 at each threshold, are evaluated. Shares are at least 0 and add up to
1 - AP.

A false positive that stands before true ones is a fault of its kind and of the ranking at once: it costs nothing when
it is gone, nor when it is last. So the ranking is fixed after another cause in three of four orders (Kalai and Samet's
weights, "On weighted Shapley values", 1987): of such a loss the kind has three quarters, the ranking one. Where false
positives of one or two kinds stand too high, that kind has the greater share; where those of all kinds do, the ranking.
By halves, the ranking would have as much as any kind and something of each other one, and too many duplicates or too
much background would never show; benchmarks/README.md has both.

The *exchange rate* is AP while the scores of a class are dealt out in an order that moves in ten equal steps from their
own to that of the corrected ranking (true positives by their IoU, then false ones by theirs with an object of their
class): a detection's place is the mean, weighted by the step, of its places in both.

Intervals come from the derivatives of AP by the weight of each image (the infinitesimal jackknife: Efron,
"Nonparametric standard errors and confidence intervals", 1981), one pass for all of them. A replicate's value is the
first-order one, the value plus the derivatives times what its weights differ from 1, and goes the way of all
replicates (:mod:`.bootstrap`), paired between heads as they are. The derivative takes AP as the area under the same
precision, not as its mean at 101 recalls, whose steps have no derivative; and classes stay in the mean whose images a
replicate does not draw. To the first order shares vary too little where a class has few objects, those of duplicates
and of ranking most: from which true positive on precision is best depends on the images. So a few draws that leave
images out are evaluated anew, and shares and oracles vary by as many times their first order as in these draws
(:class:`.ImagesLeftOut`, as TIDE's kinds). How often these intervals hold is in benchmarks/README.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rethink_heads.evaluation.causes import CAUSES
from rethink_heads.evaluation.detections import Quantities, head_comparison, head_table
from rethink_heads.evaluation.matching import THRESHOLDS, GroundTruth, HeadDetections
from rethink_heads.evaluation.oracles import (
    ORACLES,
    SHARES,
    STEP_VALUES,
    STEPS,
    LostPrecision,
    analyse,
)
from rethink_heads.statistics.bootstrap import SHARE, BootstrapEstimate, ImageBootstrap, join


def lost_precision_of(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> Quantities:
    """What each cause costs, with 95% intervals over images; in a draw of images each detection keeps its faults.

    Returns:
        A row a "cause" (one of CAUSES) with "share" (of 1 - AP, to which the shares of a head add up; 0..1), "oracle"
        (AP with that cause alone fixed), each with "..._low" and "..._high", and "count" (detections, or missed
        objects, with the cause at IoU 0.5; of "ranking" the true positives that have a false one before them). The mean
        is over the classes that have objects, as in COCO. An interval takes images that have the cause
        (:mod:`.bootstrap`).

        Compared: "share", by "cause"; positive where a loses more to it.

        "lost_by_class": a row a class that has objects, "label", and "cause" with "share" and its "..._low" and
        "..._high". Shares of a class add up to 1 - its AP, and their intervals take images that have the cause in it.
    """
    lost = analyse(head, truth)
    shares = lost.resampled(bootstrap, SHARES)
    oracles = lost.resampled(bootstrap, ORACLES).estimate().columns("oracle")
    rest = {**oracles, "count": lost.counts}
    curves = {"lost_by_class": _by_class(lost, bootstrap)}
    return Quantities(shares, {"cause": CAUSES}, "share", rest, curves)


lost_precision = head_table("lost_precision", lost_precision_of)
lost_by_class = head_table("lost_by_class", lost_precision_of, "lost_by_class")
compare_lost_precision = head_comparison("compare_lost_precision", lost_precision_of)


def lost_by_threshold_of(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> Quantities:
    """What each cause costs at each of COCO's IoU thresholds, with 95% intervals over images.

    Returns:
        A row an "iou" and "cause" with "share" (of 1 - AP at that threshold) and "oracle", each with "..._low" and
        "..._high".

        Compared: "share", by "iou" and "cause"; positive where a loses more to it.
    """
    lost = analyse(head, truth)
    shares, oracles = (
        join([lost.resampled(bootstrap, cut, number) for number in range(len(THRESHOLDS))])
        for cut in (SHARES, ORACLES)
    )
    keys = {
        "iou": np.repeat(THRESHOLDS.round(2), len(CAUSES)),
        "cause": np.tile(CAUSES, len(THRESHOLDS)),
    }
    return Quantities(shares, keys, "share", oracles.estimate().columns("oracle"))


lost_by_threshold = head_table("lost_by_threshold", lost_by_threshold_of)
compare_lost_by_threshold = head_comparison("compare_lost_by_threshold", lost_by_threshold_of)


def oracles_of(head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap) -> Quantities:
    """AP with each cause alone fixed, for comparisons.

    Returns:
        A row a "cause" (one of CAUSES) with "oracle".

        Compared: "oracle", by "cause".
    """
    oracles = analyse(head, truth).resampled(bootstrap, ORACLES)
    return Quantities(oracles, {"cause": CAUSES}, "oracle")


compare_oracles = head_comparison("compare_oracles", oracles_of)


def exchange_rate_of(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> Quantities:
    """AP while the ranking moves to that of the true IoU.

    Returns:
        A row a "step" (0..1) with "ap", "ap_low", "ap_high", and "pcc", Pearson's correlation of score and IoU of the
        detections that stand for an object at IoU 0.5, as the step deals out the scores.

        Compared: "ap", by "step".
    """
    lost = analyse(head, truth)
    steps = lost.resampled(bootstrap, STEP_VALUES)
    return Quantities(steps, {"step": STEPS.tolist()}, "ap", {"pcc": lost.pcc})


exchange_rate = head_table("exchange_rate", exchange_rate_of)
compare_exchange_rate = head_comparison("compare_exchange_rate", exchange_rate_of)


def _by_class(lost: LostPrecision, bootstrap: ImageBootstrap) -> dict[str, Any]:
    """Columns of "lost_by_class" of one head."""
    by_image = lost.class_derivatives
    changes = [by_image.T @ (weights - 1).T for weights in bootstrap.weight_blocks()]
    # As much more than to the first order as the means over classes vary.
    stretch = lost.stretch[SHARES] if bootstrap.replicates else np.ones(len(CAUSES))
    stretches = np.tile(stretch, len(lost.labels))
    replicates = lost.class_values.ravel() + np.hstack(changes).T * stretches
    images = lost.class_images.ravel()
    shares = BootstrapEstimate(
        lost.class_values.ravel(), replicates, images, SHARE, is_zero_without=True
    )
    return {
        "label": np.repeat(lost.labels, len(CAUSES)),
        "cause": np.tile(CAUSES, len(lost.labels)),
        **shares.estimate().columns("share"),
    }
