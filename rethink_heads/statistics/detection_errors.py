"""TIDE's split of detection errors (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020): what average precision would gain if one kind of error were not made.

At IoU 0.5 (a parameter) each false positive is of one kind, by the first rule that holds, in the order of the authors'
code:

- ``loc``: its IoU with an object of its class is from 0.1 to 0.5; mended, its box is right;
- ``cls``: its IoU with an object of another class is 0.5 or more; mended, its class is right;
- ``dupe``: an object of its class that it would fit is another detection's;
- ``bkg``: its IoU with any object is at most 0.1;
- ``both``: anything else, that is the wrong class at an IoU from 0.1 to 0.5;

and ``miss`` is an object that is neither found nor the best fit of a ``loc`` or ``cls``. Mending ``dupe``, ``bkg`` and
``both`` takes the detection away; mending ``miss`` takes the object away. A ``loc`` or ``cls`` of an object that
another detection has found is taken away, and of several of one object the highest score is mended, the others taken
away. ``fp`` takes all false positives away and ``fn`` all objects that are not found.

hotcoco and the authors' tidecv give the same numbers where there are no crowds and no equal scores. Here a detection
that COCO's matching assigns to a crowd does not count, and crowds are no objects to be near to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.measure.kept_detections import (
    HeadDetections,
    KeptDetections,
    Side,
    as_detections,
)
from rethink_heads.statistics.average_precision import (
    OverClasses,
    as_resampled,
    difference_frame,
    estimate_rows,
)
from rethink_heads.statistics.bootstrap import REPLICATES, Array, ImageBootstrap, Resampled
from rethink_heads.statistics.error_kinds import (
    CLS,
    ERRORS,
    LOC,
    OF_DETECTIONS,
    POSITIVE_IOU,
    Objects,
    Sorted,
    sort_errors,
)
from rethink_heads.statistics.matches import Truth, of_heads, of_side, resampling
from rethink_heads.statistics.ranking import Candidates, Turn, by_class, turns_of
from rethink_heads.statistics.weighted_precision import Curves, Draws

ERROR_COLUMNS = ["detector", "head", "error", "delta_ap", "low", "high", "count"]
# Settings that precision is taken in: as it is, then each of ERRORS mended.
_SETTINGS = ("", *ERRORS)


def detection_errors(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    *,
    iou_threshold: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """TIDE's errors of every head: how many there are and what AP at IoU 0.5 gains without them.

    Args:
        detections, dataset: as of ``average_precision.precision_table``.
        iou_threshold: least IoU of a true positive; above 0.5 more detections are ill localised.
        replicates, seed: of the bootstrap over images, in which each detection keeps its error.

    Returns:
        A row a head and error ("cls", "loc", "both", "dupe", "bkg", "miss", "fp", "fn") with "detector", "head",
        "error", "delta_ap" (gain in AP at the IoU threshold, 0..1), "low", "high" and "count". The mean is over the
        classes that have objects, as in COCO. Small negative gains come of reading precision at 101 recalls; TIDE sets
        them to 0.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    frames = [
        error_rows(head.side, *resampled_errors(head, truth, bootstrap, iou_threshold))
        for head in of_heads(found)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=ERROR_COLUMNS)


def error_rows(side: Side, resampled: Resampled, objects: Objects) -> pd.DataFrame:
    """One head's rows of :func:`detection_errors`."""
    rows = estimate_rows(side, "error", ERRORS, "delta_ap", resampled)
    return rows.assign(count=objects.of_errors)


def compare_errors(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    a: Side,
    b: Side,
    *,
    iou_threshold: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """What two heads lose to each error, and the differences a - b on the same draws of images.

    Returns:
        A row an error with "error" and the columns of ``average_precision.compare_precision``; positive where a
        loses more to it.

    Raises:
        UserError: no detections of a head, or detections in other images or of other classes.
    """
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    sides = [
        resampled_errors(of_side(found, side), truth, bootstrap, iou_threshold)[0]
        for side in (a, b)
    ]
    return difference_frame("error", ERRORS, a, b, *sides)


def resampled_errors(
    head: HeadDetections,
    truth: Truth,
    bootstrap: ImageBootstrap,
    iou_threshold: float = POSITIVE_IOU,
) -> tuple[Resampled, Objects]:
    """Gains (8,) in AP without each of ERRORS, of the replicates, and without each image; and the objects' fates."""
    draws = Draws(bootstrap)
    gains = OverClasses(len(draws), len(ERRORS))
    objects = Objects(truth)
    turns = turns_of(head, truth.class_count)

    def gather(turn: Turn) -> Iterator[Candidates]:
        # An error depends on the image's other detections, of whatever class and score: all are matched in each turn.
        for errors in sort_errors(head, truth, iou_threshold):
            if turn is turns[0]:
                objects.add(errors)
            yield _own(errors)
            yield _joining(errors, truth)

    curves = None
    for label, found, is_last in by_class(gather, turns):
        # By now all images were gone through, so that all objects' fates are known.
        if curves is None:
            curves = Curves(draws, _positives(truth, objects, label))
        curves.add(found, is_last)
        if is_last:
            gains.add(_gains(curves.values))
            curves = None
    bears = np.repeat(objects.images[:, None], len(ERRORS), axis=1)
    return as_resampled(gains.mean, bootstrap, bears), objects


def _own(errors: Sorted) -> Candidates:
    """Detections of some images, and what they are with each of ERRORS mended."""
    found = errors.found
    hit, keep = found.hits[0, 0], found.kept[0, 0]
    # miss, fp, fn: the same detections, but for fp.
    hits = dict.fromkeys(_SETTINGS, hit)
    kept = dict.fromkeys(_SETTINGS, keep) | {"fp": hit}
    for number, kind in enumerate(OF_DETECTIONS):
        is_kind = errors.kinds == number
        stays = is_kind & errors.mended if number == LOC else np.zeros(len(is_kind), bool)
        hits[kind] = hit | stays
        kept[kind] = (keep & ~is_kind) | stays
    of_settings = (np.stack(list(flags.values())) for flags in (hits, kept))
    return Candidates.of(found.labels, found.images, found.scores, *of_settings)


def _joining(errors: Sorted, truth: Truth) -> Candidates:
    """Detections that are ranked with another class, once their class is mended."""
    joining = np.flatnonzero(errors.mended & (errors.kinds == CLS))
    flags = np.zeros((len(_SETTINGS), len(joining)), bool)
    flags[_SETTINGS.index("cls")] = True
    found, labels = errors.found, truth.labels[errors.targets[joining]]
    return Candidates.of(labels, found.images[joining], found.scores[joining], flags, flags)


def _positives(truth: Truth, objects: Objects, label: int) -> Array:
    """One class's objects to find (9, I), as they are and with each of ERRORS mended."""
    of_class = (truth.labels == label) & ~truth.crowd
    gone = {"miss": objects.missed, "fn": objects.unfound}
    nothing = np.zeros(len(of_class), bool)
    return np.stack(
        [
            np.bincount(
                truth.images[of_class & ~gone.get(name, nothing)], minlength=len(truth.image_ids)
            )
            for name in _SETTINGS
        ]
    ).astype(np.float64)


def _gains(values: Array) -> Array:
    """Gains (B, 8) from one class's average precisions (B, 9)."""
    # Where no object is left, none can be found: TIDE's AP is then 0.
    return np.asarray(np.where(np.isnan(values[:, 1:]), 0.0, values[:, 1:]) - values[:, :1])
