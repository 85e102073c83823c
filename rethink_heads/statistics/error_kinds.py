"""TIDE's kinds of detection errors: which of them each detection and object is.

The rules are those at the head of :mod:`.detection_errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rethink_heads.measure.kept_detections import HeadDetections
from rethink_heads.statistics.bootstrap import Array
from rethink_heads.statistics.matches import (
    NO_OBJECT,
    Flags,
    Indices,
    Matches,
    Truth,
    box_ious,
    match_detections,
)

MAIN_ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss")
ERRORS = (*MAIN_ERRORS, "fp", "fn")
POSITIVE_IOU, BACKGROUND_IOU = 0.5, 0.1
OF_DETECTIONS = ("cls", "loc", "both", "dupe", "bkg")
CLS, LOC, BOTH, DUPE, BKG = range(len(OF_DETECTIONS))
NO_ERROR = -1


@dataclass(frozen=True)
class SortedErrors:
    """N detections, each with its error, and what has become of each of G objects.

    Attributes:
        found: the detections, matched at the one IoU threshold.
        kinds: (N,) each one's error, CLS to BKG, NO_ERROR for true positives and those that do not count.
        targets: (N,) row of the object that fixing a ``loc`` or ``cls`` finds, -1 for none.
        fixed: (N,) whether fixing makes it a true positive: the best of its target, if that is not found.
        unmatched: (G,) objects that are no detection's; missed: (G,) those that are also no target.
    """

    found: Matches
    kinds: npt.NDArray[np.int8]
    targets: Indices
    fixed: Flags
    unmatched: Flags
    missed: Flags

    @property
    def counts(self) -> Indices:
        """How many there are of each of ERRORS: (8,)."""
        kinds = self.kinds[self.kinds != NO_ERROR]
        of_kinds = np.bincount(kinds, minlength=len(OF_DETECTIONS))
        rest = [self.missed.sum(), of_kinds.sum(), self.unmatched.sum()]
        return np.array([*of_kinds, *rest], np.int64)


def sort_errors(
    head: HeadDetections, truth: Truth, iou_threshold: float = POSITIVE_IOU
) -> SortedErrors:
    """Give each of one head's detections its error."""
    found = match_detections(truth, head, np.array([iou_threshold]), sizes=1)
    true = found.true[0, 0]
    is_false = found.counted[0, 0] & ~true
    kinds = np.full(len(is_false), NO_ERROR, np.int8)
    targets = np.full(len(is_false), NO_OBJECT, np.int64)
    is_found = np.zeros(len(truth.labels), bool)
    is_found[found.objects[true]] = True
    for rows in _of_images(found.images, np.flatnonzero(is_false)):
        image = found.images[rows[0]]
        objects = np.arange(*np.searchsorted(truth.images, [image, image + 1]))
        objects = objects[~truth.crowd[objects]]
        same = found.labels[rows][:, None] == truth.labels[objects][None]
        ious = box_ious(found.boxes[rows][:, None], truth.boxes[objects][None])
        kinds[rows], targets[rows] = _kinds(ious, same, is_found[objects], objects, iou_threshold)
    unmatched = ~truth.crowd & ~is_found
    missed = unmatched.copy()
    missed[targets[targets != NO_OBJECT]] = False
    is_open = targets != NO_OBJECT
    is_open[is_open] = ~is_found[targets[is_open]]
    fixed = _fixed(found.scores, np.where(is_open, targets, NO_OBJECT))
    return SortedErrors(found, kinds, targets, fixed, unmatched, missed)


def _kinds(
    ious: Array, same: Flags, is_found: Flags, objects: Indices, threshold: float
) -> tuple[Indices, Indices]:
    """The errors (D,) and targets (D,) of one image's false positives, from IoUs (D, G) with its objects."""
    if not ious.shape[1]:
        return np.full(len(ious), BKG), np.full(len(ious), NO_OBJECT)
    of_class, of_others = ious * same, ious * ~same
    own, other = of_class.max(axis=1), of_others.max(axis=1)
    is_loc = (own >= BACKGROUND_IOU) & (own <= threshold)
    is_cls = ~is_loc & (other >= threshold)
    is_dupe = (of_class * is_found).max(axis=1) >= threshold
    is_bkg = ious.max(axis=1) <= BACKGROUND_IOU
    kinds = np.select([is_loc, is_cls, is_dupe, is_bkg], [LOC, CLS, DUPE, BKG], default=BOTH)
    targets = np.select(
        [is_loc, is_cls], [objects[of_class.argmax(axis=1)], objects[of_others.argmax(axis=1)]],
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


def _of_images(images: Indices, rows: Indices) -> Iterator[Indices]:
    """Rows of each image after another; the images (N,) are in rising order."""
    starts = np.flatnonzero(np.diff(images[rows])) + 1
    return (part for part in np.split(rows, starts) if len(part))
