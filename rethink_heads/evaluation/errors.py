"""TIDE's split of detection errors (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020): what average precision would gain if one kind of error were not made.

Each false positive is of the first kind whose rule holds, in the order of the authors' code: ``loc``, ``cls``,
``dupe``, ``bkg``, ``both``; docs/definitions.md has the rules and how each is fixed. ``miss`` is an object that is
neither found nor the best fit of a ``loc`` or ``cls``; ``fp`` takes all false positives away, ``fn`` all objects that
are not found.

hotcoco and the authors' tidecv give the same numbers where there are no crowds, no equal scores and no class without
objects. Here a detection that COCO's matching assigns to a crowd does not count, and crowds are no objects to be near
to. A class that has detections but no object has no AP and is left out of the means, as COCO has it; in tidecv it is a
class of AP 0, so that fixing ``cls`` gains more there (0.095 against 0.032 on ten images of COCO). tidecv reads
precision at recalls k / 100, COCO and this at np.linspace(0, 1, 101).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rethink_heads.evaluation.average_precision import (
    MeanOverClasses,
    Ranking,
    Weights,
    by_class,
    in_draws,
    precision_at_recalls,
    weighted_precision,
)
from rethink_heads.evaluation.detections import Quantities, head_comparison, head_table
from rethink_heads.evaluation.matching import (
    NO_OBJECT,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    Matches,
    image_overlaps,
    match_detections,
)
from rethink_heads.measure.stage_boxes import POSITIVE_IOU
from rethink_heads.statistics.bootstrap import (
    Array,
    BootstrapEstimate,
    ImageBootstrap,
    ImagesLeftOut,
    effective_images,
)

MAIN_ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss")
ERRORS = (*MAIN_ERRORS, "fp", "fn")
BACKGROUND_IOU = 0.1
DETECTION_ERRORS = ("cls", "loc", "both", "dupe", "bkg")
CLS, LOC, BOTH, DUPE, BKG = range(len(DETECTION_ERRORS))
NO_ERROR = -1


# Settings that precision is taken in: as it is, then each of ERRORS fixed.
_SETTINGS = ("", *ERRORS)


def errors_of(
    head: HeadDetections,
    truth: GroundTruth,
    bootstrap: ImageBootstrap,
    iou_threshold: float = POSITIVE_IOU,
) -> Quantities:
    """TIDE's errors: how many there are and what AP at IoU 0.5 gains without them.

    In a draw of images each detection keeps its error.

    Args:
        iou_threshold: least IoU of a true positive; above 0.5 more detections are ill localised.

    Returns:
        A row an "error" ("cls", "loc", "both", "dupe", "bkg", "miss", "fp", "fn") with "delta_ap" (gain in AP at the
        IoU threshold, 0..1), "delta_ap_low", "delta_ap_high" and "count". The mean is over the classes that have
        objects, as in COCO. An interval takes images that have the error (:mod:`.bootstrap`). Small negative gains come
        of reading precision at 101 recalls; TIDE sets them to 0.

        Compared: "delta_ap", by "error"; positive where a loses more to it.
    """
    errors = error_kinds(head, truth, iou_threshold)
    rankings = list(_rankings(head, errors, truth))

    def weighted_values(weights: Weights) -> Array:
        mean = MeanOverClasses()
        for ranking in rankings:
            mean.add(_gains(weighted_precision(ranking, weights)))
        return mean.value

    value = MeanOverClasses()
    for ranking in rankings:
        precision = precision_at_recalls(ranking).mean(axis=1)
        value.add(_gains(np.where(precision < 0, np.nan, precision)[None]))
    draws = ImagesLeftOut(bootstrap.image_ids, bootstrap.replicates, bootstrap.seed)
    gains = BootstrapEstimate(
        value.value[0],
        draws.spread_out(in_draws(draws, weighted_values)),
        _images_with(head, errors, truth),
        # Such draws vary as much as they should.
        images_each=np.inf,
        is_zero_without=True,
    )
    return Quantities(gains, {"error": ERRORS}, "delta_ap", {"count": errors.counts})


detection_errors = head_table("detection_errors", errors_of)
compare_errors = head_comparison("compare_errors", errors_of)


def _images_with(head: HeadDetections, errors: ErrorKinds, truth: GroundTruth) -> Array:
    """How many images bear on each of ERRORS (8,): those without it say nothing of what it costs."""
    images, kinds = head.images, errors.kinds
    with_error = {kind: images[kinds == number] for number, kind in enumerate(DETECTION_ERRORS)}
    with_error |= {"miss": truth.images[errors.missed], "fn": truth.images[errors.unmatched]}
    with_error["fp"] = images[kinds != NO_ERROR]
    return np.array([effective_images(np.bincount(with_error[kind])) for kind in ERRORS])


def _rankings(head: HeadDetections, errors: ErrorKinds, truth: GroundTruth) -> Iterator[Ranking]:
    """Each class's detections and objects, as they are and with each of ERRORS fixed."""
    true, counted = errors.matches.true[0, 0], errors.matches.counted[0, 0]
    # miss, fp, fn: the same detections, but for fp.
    true_in = dict.fromkeys(_SETTINGS, true)
    counted_in = dict.fromkeys(_SETTINGS, counted) | {"fp": true}
    for number, kind in enumerate(DETECTION_ERRORS):
        is_kind = errors.kinds == number
        stays = is_kind & errors.fixed if number == LOC else np.zeros(len(is_kind), bool)
        true_in[kind] = true | stays
        counted_in[kind] = (counted & ~is_kind) | stays
    # Detections whose class is fixed are ranked with another class, too.
    moved = np.flatnonzero(errors.fixed & (errors.kinds == CLS))
    flags = np.zeros((len(_SETTINGS), len(moved)), bool)
    flags[_SETTINGS.index("cls")] = True

    def objects(label: int) -> tuple[Indices, Flags]:
        same_class = np.flatnonzero((truth.labels == label) & ~truth.crowd)
        to_find = dict.fromkeys(_SETTINGS, np.ones(len(same_class), bool))
        to_find |= {"miss": ~errors.missed[same_class], "fn": ~errors.unmatched[same_class]}
        return truth.images[same_class], np.stack(list(to_find.values()))

    return by_class(
        np.append(head.labels, truth.labels[errors.targets[moved]]),
        np.append(head.images, head.images[moved]),
        np.append(head.scores, head.scores[moved]),
        np.hstack([np.stack(list(true_in.values())), flags]),
        np.hstack([np.stack(list(counted_in.values())), flags]),
        objects,
        truth.class_count,
    )


def _gains(values: Array) -> Array:
    """Gains (B, 8) from one class's average precisions (B, 9)."""
    # Where no object is left, none can be found: TIDE's AP is then 0.
    return np.asarray(np.where(np.isnan(values[:, 1:]), 0.0, values[:, 1:]) - values[:, :1])


@dataclass(frozen=True)
class ErrorKinds:
    """N detections, each with its error, and what has become of each of G objects.

    Attributes:
        matches: the detections', at the one IoU threshold.
        kinds: (N,) each one's error, CLS to BKG, NO_ERROR for true positives and those that do not count.
        targets: (N,) row of the object that fixing a ``loc`` or ``cls`` finds, -1 for none.
        fixed: (N,) whether fixing makes it a true positive: the best of its target, if that is not found.
        unmatched: (G,) objects that are no detection's; missed: (G,) those that are also no target.
    """

    matches: Matches
    kinds: npt.NDArray[np.int8]
    targets: Indices
    fixed: Flags
    unmatched: Flags
    missed: Flags

    @property
    def counts(self) -> Indices:
        """How many there are of each of ERRORS: (8,)."""
        kinds = self.kinds[self.kinds != NO_ERROR]
        by_kind = np.bincount(kinds, minlength=len(DETECTION_ERRORS))
        rest = [self.missed.sum(), by_kind.sum(), self.unmatched.sum()]
        return np.array([*by_kind, *rest], np.int64)


def error_kinds(
    head: HeadDetections, truth: GroundTruth, iou_threshold: float = POSITIVE_IOU
) -> ErrorKinds:
    """Give each of one head's detections its error."""
    matches = match_detections(truth, head, np.array([iou_threshold]), sizes=1)
    true = matches.true[0, 0]
    is_false = matches.counted[0, 0] & ~true
    kinds = np.where(is_false, BKG, NO_ERROR).astype(np.int8)
    targets = np.full(len(is_false), NO_OBJECT, np.int64)
    is_found = np.zeros(len(truth.labels), bool)
    is_found[matches.objects[0, 0, true]] = True
    false = np.flatnonzero(is_false)
    for places, objects, ious in image_overlaps(head.images[false], head.boxes[false], truth):
        rows = false[places]
        same = head.labels[rows][:, None] == truth.labels[objects][None]
        kinds[rows], targets[rows] = _kinds(ious, same, is_found[objects], objects, iou_threshold)
    unmatched = ~truth.crowd & ~is_found
    missed = unmatched.copy()
    missed[targets[targets != NO_OBJECT]] = False
    is_open = targets != NO_OBJECT
    is_open[is_open] = ~is_found[targets[is_open]]
    fixed = _fixed(head.scores, np.where(is_open, targets, NO_OBJECT))
    return ErrorKinds(matches, kinds, targets, fixed, unmatched, missed)


def _kinds(
    ious: Array, same: Flags, is_found: Flags, objects: Indices, threshold: float
) -> tuple[Indices, Indices]:
    """The errors (D,) and targets (D,) of one image's false positives, from IoUs (D, G) with its objects."""
    same_class, other_class = ious * same, ious * ~same
    own, other = same_class.max(axis=1), other_class.max(axis=1)
    is_loc = (own >= BACKGROUND_IOU) & (own <= threshold)
    is_cls = ~is_loc & (other >= threshold)
    is_dupe = (same_class * is_found).max(axis=1) >= threshold
    is_bkg = ious.max(axis=1) <= BACKGROUND_IOU
    kinds = np.select([is_loc, is_cls, is_dupe, is_bkg], [LOC, CLS, DUPE, BKG], default=BOTH)
    targets = np.select(
        [is_loc, is_cls], [objects[same_class.argmax(axis=1)], objects[other_class.argmax(axis=1)]],
        default=NO_OBJECT,
    )  # fmt: skip
    return kinds, targets


def _fixed(scores: Array, targets: Indices) -> Flags:
    """(N,) whether a detection is the best of those that have its target (N,), which is -1 for none."""
    candidates = np.flatnonzero(targets != NO_OBJECT)
    # Of equal scores the first in its image, which is the order of the detections.
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")]
    _, best = np.unique(targets[ranked], return_index=True)
    fixed = np.zeros(len(scores), bool)
    fixed[ranked[best]] = True
    return fixed
