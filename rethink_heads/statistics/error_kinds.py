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
    matches,
)

MAIN_ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss")
ERRORS = (*MAIN_ERRORS, "fp", "fn")
POSITIVE_IOU, BACKGROUND_IOU = 0.5, 0.1
OF_DETECTIONS = ("cls", "loc", "both", "dupe", "bkg")
CLS, LOC, BOTH, DUPE, BKG = range(len(OF_DETECTIONS))
NO_ERROR = -1


@dataclass(frozen=True)
class Sorted:
    """Detections of some images, each with its error.

    Attributes:
        found: the detections, matched at the one IoU threshold.
        kinds: (N,) each one's error, CLS to BKG, NO_ERROR for true positives and those that do not count.
        targets: (N,) row of the object that mending a ``loc`` or ``cls`` finds, -1 for none.
        mended: (N,) whether mending makes it a true positive: the best of its target, if that is not found.
    """

    found: Matches
    kinds: npt.NDArray[np.int8]
    targets: Indices
    mended: Flags


class Objects:
    """What has become of each of G objects, with the detections that were looked at.

    Attributes:
        unfound: (G,) those that are no detection's; missed: (G,) those that are also no target.
        counts: (5,) detections with each error.
        images: (I,) whether an image has objects or detections that count.
    """

    def __init__(self, truth: Truth) -> None:
        self.unfound = ~truth.crowd
        self.missed = ~truth.crowd
        self.counts = np.zeros(len(OF_DETECTIONS), np.int64)
        self.images = np.zeros(len(truth.image_ids), bool)
        self.images[truth.images[~truth.crowd]] = True

    def add(self, errors: Sorted) -> None:
        """Note some images' detections."""
        found = errors.found
        partners = found.objects[0, found.hits[0, 0]]
        self.unfound[partners] = False
        self.missed[partners] = False
        self.missed[errors.targets[errors.targets != NO_OBJECT]] = False
        kinds = errors.kinds[errors.kinds != NO_ERROR]
        self.counts += np.bincount(kinds, minlength=len(self.counts))
        self.images[found.images[found.kept[0, 0]]] = True

    @property
    def of_errors(self) -> Indices:
        """How many there are of each of ERRORS: (8,)."""
        rest = [self.missed.sum(), self.counts.sum(), self.unfound.sum()]
        return np.array([*self.counts, *rest], np.int64)


def sort_errors(
    head: HeadDetections, truth: Truth, iou_threshold: float = POSITIVE_IOU
) -> Iterator[Sorted]:
    """Give each of one head's detections its error, some images after another."""
    for found in matches(truth, head, np.array([iou_threshold]), sizes=1):
        hits = found.hits[0, 0]
        is_false = found.kept[0, 0] & ~hits
        kinds = np.full(len(is_false), NO_ERROR, np.int8)
        targets = np.full(len(is_false), NO_OBJECT, np.int64)
        partners = found.objects[0, hits]
        for rows in _of_images(found.images, np.flatnonzero(is_false)):
            objects = truth.rows_in(found.images[rows[:1]])
            objects = objects[~truth.crowd[objects]]
            same = found.labels[rows][:, None] == truth.labels[objects][None]
            ious = box_ious(found.boxes[rows][:, None], truth.boxes[objects][None])
            is_found = np.isin(objects, partners)
            kinds[rows], targets[rows] = _kinds(ious, same, is_found, objects, iou_threshold)
        mended = _mended(found.scores, np.where(np.isin(targets, partners), NO_OBJECT, targets))
        yield Sorted(found, kinds, targets, mended)


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


def _mended(scores: Array, targets: Indices) -> Flags:
    """(N,) whether a detection is the best of those that have its target (N,), which is -1 for none."""
    candidates = np.flatnonzero(targets != NO_OBJECT)
    # Of equal scores the first in its image, which is the order of the detections.
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")]
    _, best = np.unique(targets[ranked], return_index=True)
    mended = np.zeros(len(scores), bool)
    mended[ranked[best]] = True
    return mended


def _of_images(images: Indices, rows: Indices) -> Iterator[Indices]:
    """Rows of each image after another; the images (N,) are in rising order."""
    starts = np.flatnonzero(np.diff(images[rows])) + 1
    return (part for part in np.split(rows, starts) if len(part))
