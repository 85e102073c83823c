"""TIDE's split of detection errors (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020): what average precision would gain if one kind of error were not made.

At IoU 0.5 (a parameter) each false positive is of one kind, by the first rule that holds, in the order of the authors'
code:

- ``loc``: its IoU with an object of its class is from 0.1 to 0.5; fixed, its box is right;
- ``cls``: its IoU with an object of another class is 0.5 or more; fixed, its class is right;
- ``dupe``: an object of its class that it would fit is another detection's;
- ``bkg``: its IoU with any object is at most 0.1;
- ``both``: anything else, that is the wrong class at an IoU from 0.1 to 0.5;

and ``miss`` is an object that is neither found nor the best fit of a ``loc`` or ``cls``. Fixing ``dupe``, ``bkg`` and
``both`` takes the detection away; fixing ``miss`` takes the object away. A ``loc`` or ``cls`` of an object that
another detection has found is taken away, and of several of one object the highest score is fixed, the others taken
away. ``fp`` takes all false positives away and ``fn`` all objects that are not found.

hotcoco and the authors' tidecv give the same numbers where there are no crowds, no equal scores and no class without
objects. Here a detection that COCO's matching assigns to a crowd does not count, and crowds are no objects to be near
to. A class that has detections but no object has no AP and is left out of the means, as COCO has it; in tidecv it is a
class of AP 0, so that fixing ``cls`` gains more there (0.095 against 0.032 on ten images of COCO). tidecv reads
precision at recalls k / 100, COCO and this at np.linspace(0, 1, 101).
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
    MeanOverClasses,
    difference_frame,
    estimate_rows,
)
from rethink_heads.statistics.bootstrap import REPLICATES, Array, ImageBootstrap, Resampled
from rethink_heads.statistics.error_kinds import (
    CLS,
    ERRORS,
    LOC,
    NO_ERROR,
    OF_DETECTIONS,
    POSITIVE_IOU,
    SortedErrors,
    sort_errors,
)
from rethink_heads.statistics.matches import Flags, Indices, Truth, of_heads, of_side, resampling
from rethink_heads.statistics.weighted_precision import (
    Ranking,
    Weights,
    by_class,
    in_draws,
    precision_at_recalls,
    weighted_precision,
)

ERROR_COLUMNS = ["detector", "head", "error", "delta_ap", "delta_ap_low", "delta_ap_high", "count"]
# Settings that precision is taken in: as it is, then each of ERRORS fixed.
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
        "error", "delta_ap" (gain in AP at the IoU threshold, 0..1), "delta_ap_low", "delta_ap_high" and "count". The
        mean is over the classes that have objects, as in COCO. An interval needs five images that have the error. Small
        negative gains come of reading precision at 101 recalls; TIDE sets them to 0.

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


def error_rows(side: Side, resampled: Resampled, errors: SortedErrors) -> pd.DataFrame:
    """One head's rows of :func:`detection_errors`."""
    rows = estimate_rows(side, "error", ERRORS, "delta_ap", resampled)
    return rows.assign(count=errors.counts)


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
) -> tuple[Resampled, SortedErrors]:
    """Gains (8,) in AP without each of ERRORS, and of the replicates; and what each error is of."""
    errors = sort_errors(head, truth, iou_threshold)
    rankings = list(_rankings(errors, truth))

    def weighted_values(weights: Weights) -> Array:
        mean = MeanOverClasses()
        for ranking in rankings:
            mean.add(_gains(weighted_precision(ranking, weights)))
        return mean.value

    value = MeanOverClasses()
    for ranking in rankings:
        precision = precision_at_recalls(ranking).mean(axis=1)
        value.add(_gains(np.where(precision < 0, np.nan, precision)[None]))
    replicates = in_draws(bootstrap, weighted_values)
    images = _images_with(errors, truth)
    gains = Resampled(
        value.value[0],
        replicates,
        images,
        images_each=truth.images_each(),
        is_zero_without=True,
    )
    return gains, errors


def _images_with(errors: SortedErrors, truth: Truth) -> Indices:
    """How many images have each of ERRORS (8,): the others say nothing of what it costs."""
    images, kinds = errors.found.images, errors.kinds
    with_error = {kind: images[kinds == number] for number, kind in enumerate(OF_DETECTIONS)}
    with_error |= {"miss": truth.images[errors.missed], "fn": truth.images[errors.unmatched]}
    with_error["fp"] = images[kinds != NO_ERROR]
    return np.array([len(np.unique(with_error[kind])) for kind in ERRORS])


def _rankings(errors: SortedErrors, truth: Truth) -> Iterator[Ranking]:
    """Each class's detections and objects, as they are and with each of ERRORS fixed."""
    found = errors.found
    true, counted = found.true[0, 0], found.counted[0, 0]
    # miss, fp, fn: the same detections, but for fp.
    true_in = dict.fromkeys(_SETTINGS, true)
    counted_in = dict.fromkeys(_SETTINGS, counted) | {"fp": true}
    for number, kind in enumerate(OF_DETECTIONS):
        is_kind = errors.kinds == number
        stays = is_kind & errors.fixed if number == LOC else np.zeros(len(is_kind), bool)
        true_in[kind] = true | stays
        counted_in[kind] = (counted & ~is_kind) | stays
    # Detections whose class is fixed are ranked with another class, too.
    moved = np.flatnonzero(errors.fixed & (errors.kinds == CLS))
    flags = np.zeros((len(_SETTINGS), len(moved)), bool)
    flags[_SETTINGS.index("cls")] = True

    def objects(label: int) -> tuple[Indices, Flags]:
        of_class = np.flatnonzero((truth.labels == label) & ~truth.crowd)
        to_find = dict.fromkeys(_SETTINGS, np.ones(len(of_class), bool))
        to_find |= {"miss": ~errors.missed[of_class], "fn": ~errors.unmatched[of_class]}
        return truth.images[of_class], np.stack(list(to_find.values()))

    return by_class(
        np.append(found.labels, truth.labels[errors.targets[moved]]),
        np.append(found.images, found.images[moved]),
        np.append(found.scores, found.scores[moved]),
        np.hstack([np.stack(list(true_in.values())), flags]),
        np.hstack([np.stack(list(counted_in.values())), flags]),
        objects,
        truth.class_count,
    )


def _gains(values: Array) -> Array:
    """Gains (B, 8) from one class's average precisions (B, 9)."""
    # Where no object is left, none can be found: TIDE's AP is then 0.
    return np.asarray(np.where(np.isnan(values[:, 1:]), 0.0, values[:, 1:]) - values[:, :1])
