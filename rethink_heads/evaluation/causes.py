"""Causes of lost average precision: what is wrong with each detection and object, at each of COCO's IoU thresholds.

A detection's *object* is the one that COCO's matching gives it at IoU 0.5. Without one it is the object of its class
that it overlaps by 0.5 or more, the most of them; failing that, the object of any class that it overlaps most, by 0.1
or more. At a threshold t an object is *found* by its true positive. Of the other detections of an object that is not
found the best is its *claimant*: those of its class with an IoU of 0.5 or more go first, then a higher score does.

At t the causes of loss are these, and each is fixed in one way:

- **ranking**: a true positive has a lower score than a false one. Fixed, the class's scores are dealt out again: to
  true positives first, in the order of their IoU, then to the others.
- **localization**: a claimant overlaps its object by less than t. Fixed, it has the object's box.
- **classification**: a claimant has another class than its object. Fixed, it has the object's class.
- **duplicates**: a further detection of the object's class overlaps it by 0.5 or more. Fixed, it is gone.
- **background**: a detection has no object. Fixed, it is gone.
- **misses**: an object is neither found nor claimed. Fixed, there is a detection of it, ranked before all others.

A further detection of an object that overlaps it by less than 0.5 is badly localised, one of another class badly
classified: fixed, it would say again what is said already, so that it is gone. What has two faults is fixed when both
are, and until then is what it was. A detection of another class with an IoU below 0.5 claims nothing.

So any set of causes can be fixed at once, in any order. With none of them fixed the detections are the detector's
own; with all of them there is one detection of every object, with its box and class, and no other: average precision
is 1. Each fixed set is a results file that COCO's evaluation could read. Misses are found as new detections, and not
struck off the objects as in TIDE, so that each object keeps its own part of recall, whatever happens to the others.

Detections that COCO does not count, of crowds or of an image and class that has a hundred better ones, are never
fixed, and crowds are nobody's object. Of equal scores, the first in its image goes first, as in matching.

TIDE (:mod:`.errors`) is at home at one threshold. Here an object's second detection stays a duplicate at thresholds
that it does not reach, for want of NMS and not of a better box; and a claimant of the right class stands before one of
a wrong class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rethink_heads.evaluation.matching import (
    NO_OBJECT,
    THRESHOLDS,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    box_ious,
    equal_pairs,
    match_detections,
)
from rethink_heads.statistics.bootstrap import Array

CAUSES = ("ranking", "localization", "classification", "duplicates", "background", "misses")
RANKING, LOCALIZATION, CLASSIFICATION, DUPLICATES, BACKGROUND, MISSES = (
    1 << number for number in range(len(CAUSES))
)
"""A set of causes is the sum of these."""
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
# Whose IoU with the objects of their images is computed at once.
_DETECTIONS_AT_ONCE = 2**15

Causes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Faults:
    """What is wrong with N detections of G objects, at one IoU threshold.

    Attributes:
        true: (N,) whether it is a true positive; counted: (N,) whether it counts.
        causes: (N,) set of the causes that have to be fixed; 0 for true positives and those that do not count.
        claims: (N,) whether it is then the true positive of its object; otherwise it is gone.
        objects: (N,) row in :class:`GroundTruth` of the object that it finds or claims, -1 for none.
        ious: (N,) IoU with its object, 0 without.
        missed: (G,) whether an object is neither found nor claimed.
        near: (N,) row of the object that its causes are about, -1 for none.
    """

    true: Flags
    counted: Flags
    causes: Causes
    claims: Flags
    objects: Indices
    ious: Array
    missed: Flags
    near: Indices

    def stands(self) -> Flags:
        """(N,) whether a detection stands for an object: its true positive, or its claimant of the right class."""
        return self.true | (self.claims & (self.causes == LOCALIZATION))


def find_faults(head: HeadDetections, truth: GroundTruth) -> list[Faults]:
    """The faults of one head's detections at each of :data:`THRESHOLDS`."""
    matches = match_detections(truth, head, sizes=1)
    objects, ious, same = _objects(head, truth, matches.objects[0, 0], matches.true[0, 0])
    found = []
    for number, threshold in enumerate(THRESHOLDS):
        true, counted = matches.true[0, number], matches.counted[0, number]
        matched = np.where(true, matches.objects[0, number], NO_OBJECT)
        found.append(_faults(head, truth, (objects, ious, same), true, counted, matched, threshold))
    return found


def object_causes(faults: Faults, head: HeadDetections) -> Causes:
    """The causes (G,) that each object has part in at one threshold.

    That is what is wrong with the detections whose object it is, and whether it is missed; it has part in the ranking
    where its true positive comes after a false one of its class.
    """
    found = np.where(faults.missed, np.uint8(MISSES), np.uint8(0))
    rows = np.flatnonzero((faults.causes > 0) & (faults.near != NO_OBJECT))
    np.bitwise_or.at(found, faults.near[rows], faults.causes[rows])
    rows = np.flatnonzero(faults.counted)
    rows = rows[np.lexsort((head.images[rows], -head.scores[rows], head.labels[rows]))]
    # The false ones so far, of which those of the classes before do not count.
    false = (faults.causes[rows] > 0).cumsum()
    _, first = np.unique(head.labels[rows], return_index=True)
    before = np.repeat(np.append(0, false)[first], np.diff(np.append(first, len(rows))))
    behind = rows[faults.true[rows] & (false > before)]
    found[faults.objects[behind]] |= np.uint8(RANKING)
    return found


def _faults(
    head: HeadDetections,
    truth: GroundTruth,
    nearest: tuple[Indices, Array, Flags],
    true: Flags,
    counted: Flags,
    matched: Indices,
    threshold: float,
) -> Faults:
    """The faults at one threshold; ``nearest`` is of :func:`_objects`, ``matched`` (N,) of the true positives."""
    objects, ious, same = nearest
    is_found = np.zeros(len(truth.labels), bool)
    is_found[matched[true]] = True
    is_false = counted & ~true
    has_object = is_false & (objects != NO_OBJECT)
    is_foreground = ious >= FOREGROUND_IOU

    may_claim = has_object & (same | is_foreground)
    may_claim[may_claim] = ~is_found[objects[may_claim]]
    candidates = np.flatnonzero(may_claim)
    is_first = (same & is_foreground)[candidates]
    ranked = candidates[np.lexsort((-head.scores[candidates], ~is_first))]
    _, best = np.unique(objects[ranked], return_index=True)
    claims = np.zeros(len(true), bool)
    claims[ranked[best]] = True

    causes = np.select(
        [~is_false, ~has_object, claims, same & is_foreground],
        [
            0,
            BACKGROUND,
            np.where(ious < threshold, LOCALIZATION, 0) + np.where(same, 0, CLASSIFICATION),
            DUPLICATES,
        ],
        np.where(is_foreground, 0, LOCALIZATION) + np.where(same, 0, CLASSIFICATION),
    ).astype(np.uint8)
    own = np.where(claims, objects, matched)
    rows = np.flatnonzero(true)
    ious = ious.copy()
    ious[rows] = box_ious(head.boxes[rows], truth.boxes[matched[rows]])
    is_found[own[claims]] = True
    missed = truth.findable & ~is_found
    return Faults(true, counted, causes, claims, own, ious, missed, np.where(true, own, objects))


def _objects(
    head: HeadDetections, truth: GroundTruth, matched: Indices, true: Flags
) -> tuple[Indices, Array, Flags]:
    """Each detection's object (N,), -1 for none, IoU (N,) with it, and whether (N,) they are of one class.

    Args:
        matched, true: (N,) the object that a detection is matched to at the first threshold, where it is a true
            positive.
    """
    (own, other), (own_iou, other_iou) = _most_overlapped(head, truth)
    is_own = (own_iou >= FOREGROUND_IOU) | (own_iou >= other_iou)
    objects, ious = np.where(is_own, own, other), np.where(is_own, own_iou, other_iou)
    rows = np.flatnonzero(true)
    objects[rows] = matched[rows]
    ious[rows] = box_ious(head.boxes[rows], truth.boxes[matched[rows]])
    is_near = ious >= BACKGROUND_IOU
    return np.where(is_near, objects, NO_OBJECT), np.where(is_near, ious, 0.0), is_own | true


def _most_overlapped(head: HeadDetections, truth: GroundTruth) -> tuple[Indices, Array]:
    """The objects (2, N) of its class and of another that each detection overlaps most, -1 for none; their IoU."""
    findable = np.flatnonzero(truth.findable)
    found = np.full((2, len(head.images)), NO_OBJECT)
    overlap = np.full(found.shape, -1.0)
    for start in range(0, len(head.images), _DETECTIONS_AT_ONCE):
        images = head.images[start : start + _DETECTIONS_AT_ONCE]
        each, objects = equal_pairs(images, truth.images[findable])
        if not len(each):
            continue
        each, objects, pairs = start + each, findable[objects], np.arange(len(each))
        detections, starts, detection_of = np.unique(each, return_index=True, return_inverse=True)
        ious = box_ious(head.boxes[each], truth.boxes[objects])
        same = head.labels[each] == truth.labels[objects]
        for which, chosen in enumerate((same, ~same)):
            there = np.where(chosen, ious, -1.0)
            best = np.maximum.reduceat(there, starts)
            place = np.where(there == best[detection_of], pairs, len(pairs))
            nearest = objects[np.minimum.reduceat(place, starts)]
            found[which, detections] = np.where(best >= 0, nearest, NO_OBJECT)
            overlap[which, detections] = best
    return found, overlap
