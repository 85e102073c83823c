"""Detections matched to objects by COCO's rules: what precision, errors and calibration count.

Detections of one image and class are matched by falling score, each to the free object that it overlaps most; objects
that are to be found come before those that are ignored (crowds and objects of another size), and a crowd is never
taken. All images, sizes and IoU thresholds are matched at once: the first detections of each image and class, then the
second ones, and so on. Tests hold it to hotcoco and pycocotools. All that follows needs are flags, so that a bootstrap
counts again without matching again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import Array

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's ten IoU thresholds."""
AREAS = ("all", "small", "medium", "large")
"""COCO's object sizes, in its order."""
_AREA_LIMITS = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""COCO's limits of area by size, in px^2 of the original image, both included."""
MOST_DETECTIONS = 100
"""Of an image and class, those of lower score do not count."""
NO_OBJECT = -1


@dataclass(frozen=True, eq=False)
class HeadDetections:
    """One head's N detections, by image and in each by falling score, those of equal score as they were found.

    Attributes:
        images: (N,) each detection's image, as an index into the sorted image ids, ascending.
        labels: (N,); scores: (N,); boxes: (N, 4) x, y, width, height in px of the original image.
    """

    images: Indices
    labels: Indices
    scores: Array
    boxes: Array


@dataclass(frozen=True)
class Matches:
    """What becomes of N detections.

    Attributes:
        true: (A, T, N) whether it is a true positive, by size and IoU threshold.
        counted: (A, T, N) whether it counts at all: a detection of a crowd or of an object of another size is ignored,
            as is one of a class and image that has a hundred better ones.
        objects: (A, T, N) row in :class:`GroundTruth` of the object it is matched to, -1 for none.
    """

    true: Flags
    counted: Flags
    objects: Indices


class GroundTruth:
    """A dataset's objects as evaluation sees them: boxes as annotated, crowds included, unusable boxes left out.

    Objects and crowds of classes that the dataset leaves out are not there.

    Attributes:
        image_ids: (I,) of the images that are evaluated, ascending.
        labels: (G,) class 0..K-1 of each object; images: (G,) index of its image, ascending.
        boxes: (G, 4) x, y, width, height in px of the original image.
        areas: (G,) px^2, the box's where the file gives none; crowd: (G,) whether it is one.
        ids: (G,) the file's.
    """

    def __init__(self, dataset: CocoDataset, detections: pd.DataFrame | None = None) -> None:
        """Take a dataset's objects, and check that detections, if given, are of its images and classes.
        Raises UserError where they are not.
        """
        self.dataset = dataset
        self.image_ids: Indices = np.unique(np.array(dataset.image_ids, np.int64))
        annotated = dataset.annotated
        images = self.index(np.array(dataset.image_ids, np.int64)[annotated.images])
        # A stable sort keeps the file's order within an image, by which equal matches are decided.
        order = np.argsort(images, kind="stable")
        self.images: Indices = images[order]
        self.labels: Indices = annotated.labels[order]
        self.boxes: Array = annotated.boxes[order]
        areas = annotated.areas[order]
        self.areas: Array = np.where(np.isnan(areas), self.boxes[:, 2:].prod(axis=1), areas)
        self.crowd: Flags = annotated.crowd[order]
        self.ids: Indices = annotated.ids[order]
        if detections is not None:
            self.check(detections)

    @property
    def class_count(self) -> int:
        """K."""
        return len(self.dataset.category_ids)

    @property
    def findable(self) -> Flags:
        """(G,) whether an object is to be found at all: it is no crowd."""
        return ~self.crowd & _within(self.areas, _AREA_LIMITS[:1])[0]

    def index(self, image_ids: Any) -> Indices:
        """Positions (N,) of image ids (N,) in ``image_ids``."""
        return np.searchsorted(self.image_ids, np.asarray(image_ids, np.int64)).astype(np.int64)

    def to_find(self, label: int) -> tuple[Indices, Flags]:
        """Images (G,) of a class's objects, and whether each is to be found in each size (A, G)."""
        in_class = np.flatnonzero((self.labels == label) & ~self.crowd)
        areas = self.areas[in_class]
        return self.images[in_class], _within(areas, _AREA_LIMITS)

    def images_each(self) -> float:
        """Images that have objects of a class, on average over the classes that have objects; at least 1."""
        pairs = np.unique(self.labels[~self.crowd] + self.class_count * self.images[~self.crowd])
        return len(pairs) / max(1, len(np.unique(pairs % self.class_count)))

    def detections_of(
        self, detections: pd.DataFrame, key: Key, needed: bool = False
    ) -> HeadDetections:
        """One head's detections, of which there may be none unless ``needed``.
        Raises UserError where there are none, where needed.
        """
        detector, head = key
        chosen = (detections["detector"] == detector) & (detections["head"] == head)
        if needed and not chosen.any():
            keys = detections[["detector", "head"]].drop_duplicates().to_numpy()
            there = ", ".join("/".join(map(str, each)) for each in keys) or "nothing"
            raise UserError(f"no detections of {'/'.join(key)}; there are those of {there}")
        found = detections[chosen]
        images, scores = self.index(found["image_id"]), found["score"].to_numpy(np.float64)
        order = np.lexsort((-scores, images))
        corners = found[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)[order]
        boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        labels = found["label"].to_numpy(np.int64)
        return HeadDetections(images[order], labels[order], scores[order], boxes)

    def check(self, detections: pd.DataFrame) -> None:
        """Raise UserError where detections are of other images or classes than the dataset's."""
        found, where = np.unique(detections["image_id"].to_numpy(np.int64)), self.dataset.where
        unknown = found[~np.isin(found, self.image_ids)]
        if len(unknown):
            raise UserError(
                f"{len(unknown)} images with detections are not among the {len(self.image_ids)} of {where}"
                f" (the first: {unknown[0]}); evaluate on the data that was detected on"
            )
        labels = {0, *detections["label"].unique().tolist()}
        if min(labels) < 0 or max(labels) >= self.class_count:
            raise UserError(
                f"detections have labels from {min(labels)} to {max(labels)}, but {where} has {self.class_count}"
                f" classes, 0 to {self.class_count - 1};"
                " evaluate on the data that was detected on"
            )


def box_ious(boxes: Array, objects: Array, crowd: Flags | bool = False) -> Array:
    """IoU of boxes (..., 4) with objects (..., 4), x, y, width, height, as COCO computes it.

    The leading dimensions are broadcast: ``boxes[:, None]`` with ``objects[None]`` gives every pair. With a crowd (...)
    it is the part of the box that lies in it.
    """
    near = np.maximum(boxes[..., :2], objects[..., :2])
    far = np.minimum(boxes[..., :2] + boxes[..., 2:], objects[..., :2] + objects[..., 2:])
    common = np.clip(far - near, 0, None).prod(axis=-1)
    area = boxes[..., 2:].prod(axis=-1)
    union = np.where(crowd, area, area + objects[..., 2:].prod(axis=-1) - common)
    return np.asarray(common / np.where(union > 0, union, 1))


def places_within(keys: Indices) -> Indices:
    """The place (N,) of each of N rows among those of its key (N,)."""
    order = np.argsort(keys, kind="stable")
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
    return place


def equal_pairs(keys: Indices, object_keys: Indices) -> tuple[Indices, Indices]:
    """The pairs (E,), (E,) of a row and an object of the same key, given as (N,) and (G,): by row, then by object."""
    order = np.argsort(object_keys, kind="stable")
    first, after = (np.searchsorted(object_keys[order], keys, side=s) for s in ("left", "right"))
    counts = after - first
    rows = np.repeat(np.arange(len(keys)), counts)
    within = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
    return rows, order[first[rows] + within]


def by_image(images: Indices) -> Iterator[Indices]:
    """The rows of each image, one image after the other; the images (N,) are in rising order."""
    rows = np.arange(len(images))
    return (part for part in np.split(rows, np.flatnonzero(np.diff(images)) + 1) if len(part))


def image_overlaps(
    images: Indices, boxes: Array, truth: GroundTruth
) -> Iterator[tuple[Indices, Indices, Array]]:
    """Of each image with boxes and objects that are no crowds: the rows (D,) of both, and their IoUs (D, G)."""
    for rows in by_image(images):
        objects = np.arange(*np.searchsorted(truth.images, images[rows[0]] + np.array([0, 1])))
        objects = objects[~truth.crowd[objects]]
        if len(objects):
            yield rows, objects, box_ious(boxes[rows][:, None], truth.boxes[objects][None])


def match_detections(
    truth: GroundTruth,
    head: HeadDetections,
    thresholds: Array = THRESHOLDS,
    *,
    sizes: int = len(AREAS),
) -> Matches:
    """Match one head's detections.

    Args:
        thresholds: (T,) IoU thresholds.
        sizes: how many of AREAS.
    """
    # As pycocotools has it, so that an IoU of 1 passes a threshold of 1.
    thresholds = np.minimum(thresholds, 1 - 1e-10)
    overlaps = _overlaps(truth, head, thresholds.min())
    limits = _AREA_LIMITS[:sizes]
    ignored = truth.crowd | ~_within(truth.areas, limits)
    objects = _assign(overlaps, ignored, truth.crowd, thresholds, len(head.images))
    is_matched = objects != NO_OBJECT
    # NO_OBJECT takes the last of them, which is none.
    padded = np.pad(ignored, ((0, 0), (0, 1)))
    is_ignored = np.take_along_axis(padded[:, None], objects, axis=2)
    is_ignored |= ~is_matched & ~_within(head.boxes[:, 2:].prod(axis=1), limits)[:, None]
    counted = ~is_ignored & (overlaps.rank < MOST_DETECTIONS)
    return Matches(is_matched & counted, counted, objects)


def _within(areas: Array, limits: Array) -> Flags:
    """Whether areas (N,) are in each of the limits (A, 2): (A, N)."""
    return np.asarray((areas >= limits[:, :1]) & (areas <= limits[:, 1:]))


@dataclass(frozen=True)
class _Overlaps:
    """The E pairs of a detection and an object of its image and class that overlap enough, by detection.

    Attributes:
        detections, objects: (E,) rows; ious: (E,).
        rank: (N,) each detection's place by score among those of its image and class.
    """

    detections: Indices
    objects: Indices
    ious: Array
    rank: Indices


def _overlaps(truth: GroundTruth, head: HeadDetections, least: float) -> _Overlaps:
    """Find the pairs of an IoU of ``least`` or more, objects in the file's order."""
    keys = head.images * truth.class_count + head.labels
    rank = places_within(keys)
    counted = np.flatnonzero(rank < MOST_DETECTIONS)
    rows, objects = equal_pairs(keys[counted], truth.images * truth.class_count + truth.labels)
    detections = counted[rows]
    ious = box_ious(head.boxes[detections], truth.boxes[objects], truth.crowd[objects])
    enough = ious >= least
    return _Overlaps(detections[enough], objects[enough], ious[enough], rank)


def _assign(
    overlaps: _Overlaps, ignored: Flags, crowd: Flags, thresholds: Array, detections: int
) -> Indices:
    """The object (A, T, N) that each detection is matched to, where objects are ignored (A, G) or crowds (G,)."""
    found = np.full((len(ignored), len(thresholds), detections), NO_OBJECT)
    is_taken = np.zeros((len(ignored), len(thresholds), len(crowd)), bool)
    least = thresholds[:, None]
    # The detections of a round are of different images or classes, so that they do not share objects.
    rounds = overlaps.rank[overlaps.detections]
    by_round = np.argsort(rounds, kind="stable")
    for pairs in np.split(by_round, np.flatnonzero(np.diff(rounds[by_round])) + 1):
        if not len(pairs):
            continue
        rows, starts = np.unique(overlaps.detections[pairs], return_index=True)
        row_of = np.repeat(np.arange(len(rows)), np.diff(np.append(starts, len(pairs))))
        objects, ious = overlaps.objects[pairs], overlaps.ious[pairs]
        is_free = (~is_taken[..., objects] | crowd[objects]) & (ious >= least)
        chosen = np.full((*found.shape[:2], len(rows)), -1)
        for among_ignored in (False, True):
            is_open = is_free & (ignored[:, objects] == among_ignored)[:, None]
            best = np.maximum.reduceat(np.where(is_open, ious, 0.0), starts, axis=-1)
            is_best = is_open & (ious == best[..., row_of])
            # Of equal overlaps the last object's.
            last = np.maximum.reduceat(
                np.where(is_best, np.arange(len(pairs)), -1), starts, axis=-1
            )
            chosen = np.where(chosen < 0, last, chosen)
        matched = np.where(chosen >= 0, objects[chosen], NO_OBJECT)
        found[..., rows] = matched
        area, threshold, _ = np.nonzero(chosen >= 0)
        is_taken[area, threshold, matched[chosen >= 0]] = True
    return found
