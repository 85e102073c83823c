"""A sample of a file's boxes against the objects of their images: how many overlap one, and how many by accident."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.special

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.results import (
    UNKNOWN,
    Array,
    Indices,
    Results,
    ResultsFormat,
    parse_frame,
    to_corners,
    to_original,
)

Flags = npt.NDArray[np.bool_]

MOST_IMAGES = 200
MOST_BOXES = 20
"""Of an image's boxes as many as it has objects, the best-scored, and no more than these."""
OVERLAP = 0.5
LEAST_ACCIDENT, LARGEST_CHANCE = 0.03, 1e-6
"""As many overlaps as are there must be less likely than this by accident, of which there are some in any case."""
BEYOND = 0.1
"""Boxes reach far beyond their image by this part of its sides."""


class BoxSample:
    """Well-scored boxes of some images, paired with the objects of these.

    Attributes:
        rows: (n,) of the results.
        sizes: (n, 2) width and height of each one's image.
    """

    def __init__(self, results: Results, dataset: CocoDataset, reading: ResultsFormat) -> None:
        self.results, self.reading = results, reading
        rows = results.image_rows(dataset, reading.image_ids)[results.images]
        annotated = dataset.annotated
        order = np.argsort(annotated.images, kind="stable")
        starts = np.searchsorted(annotated.images[order], np.arange(len(dataset) + 1))
        counts = np.diff(starts)
        # By image, the best scores first; of the first ones of each image.
        known = np.flatnonzero(rows != UNKNOWN)
        known = known[counts[rows[known]] > 0]
        there = np.unique(rows[known])
        if len(there) > MOST_IMAGES:
            there = np.sort(np.random.default_rng(0).choice(there, MOST_IMAGES, replace=False))
            known = known[np.isin(rows[known], there)]
        known = known[np.lexsort([-results.scores[known], rows[known]])]
        place = np.arange(len(known)) - np.searchsorted(rows[known], rows[known])
        self.rows = known[place < np.minimum(counts[rows[known]], MOST_BOXES)]
        images = rows[self.rows]
        self.sizes = np.array(dataset.sizes, np.float64)[images]
        self._own = Pairs(annotated.boxes, annotated.labels, order, starts, images)
        # The objects of another image of the sample, as far from the borders as there.
        following = dict(zip(there.tolist(), np.roll(there, 1).tolist(), strict=True))
        others = np.array([following[image] for image in images.tolist()], np.int64)
        self._other = Pairs(annotated.boxes, annotated.labels, order, starts, others)
        scale = self.sizes / np.array(dataset.sizes, np.float64)[others]
        self._other.boxes = self._other.boxes * np.tile(scale, 2)[self._other.detections]

    def __len__(self) -> int:
        return len(self.rows)

    def corners(self, reading: ResultsFormat) -> Array:
        """Corners (n, 4) in px of the original images in a reading."""
        given = to_corners(self.results.boxes[self.rows], reading.box_format)
        return to_original(given, parse_frame(reading.box_frame), self.sizes)

    @cached_property
    def asked(self) -> Array:
        """Corners (n, 4) in the reading asked for."""
        return self.corners(self.reading)

    def hits(self, corners: Array) -> Flags:
        """Whether each box (n,) overlaps an object."""
        return self._own.any(self._own.ious(corners) >= OVERLAP)

    def accidents(self, corners: Array) -> float:
        """The share of boxes that overlap an object of another image, in its place."""
        return float(self._other.any(self._other.ious(corners) >= OVERLAP).mean())

    def beats_accident(self, corners: Array, hits: Flags) -> bool:
        """Whether as many overlaps are not to be had by accident."""
        rate = max(self.accidents(corners), LEAST_ACCIDENT)
        chance = scipy.special.bdtrc(int(hits.sum()) - 1, len(hits), min(rate, 1.0))
        return bool(chance < LARGEST_CHANCE)

    def beyond(self, corners: Array) -> float:
        """The share of boxes that reach far beyond their image, or have a negative side."""
        slack = np.tile(self.sizes, 2) * BEYOND
        out = (corners < -slack).any(axis=1) | (corners > np.tile(self.sizes, 2) + slack).any(
            axis=1
        )
        return float((out | (corners[:, 2:] < corners[:, :2]).any(axis=1)).mean())

    def away(self, corners: Array) -> float:
        """The share of boxes whose centre lies outside the image."""
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        return float(((centres < 0) | (centres > self.sizes)).any(axis=1).mean())

    def same_class(self, corners: Array, labels: Indices) -> tuple[Flags, Flags]:
        """Of each box (n,) whether it overlaps an object, and whether one of its class."""
        overlaps = self._own.ious(corners) >= OVERLAP
        same = self._own.labels == labels[self._own.detections]
        return self._own.any(overlaps), self._own.any(overlaps & same)


class Pairs:
    """All pairs of a box of the sample and an object of one image."""

    def __init__(
        self, boxes: Array, labels: Indices, order: Indices, starts: Indices, images: Indices
    ) -> None:
        counts = np.diff(starts)[images]
        self.detections = np.repeat(np.arange(len(images)), counts)
        self.first = counts.cumsum() - counts
        within = np.arange(len(self.detections)) - np.repeat(self.first, counts)
        objects = order[starts[images][self.detections] + within]
        sides = boxes[objects]
        self.boxes = np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]])
        self.labels = labels[objects]

    def ious(self, corners: Array) -> Array:
        """IoU of each pair."""
        boxes, objects = corners[self.detections], self.boxes
        near, far = (
            np.maximum(boxes[:, :2], objects[:, :2]),
            np.minimum(boxes[:, 2:], objects[:, 2:]),
        )
        common = np.clip(far - near, 0, None).prod(axis=1)
        sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
        union = sides.prod(axis=1) + (objects[:, 2:] - objects[:, :2]).prod(axis=1) - common
        return np.asarray(common / np.where(union > 0, union, 1))

    def any(self, flags: Flags) -> Flags:
        """Whether any pair of each box is flagged."""
        if not len(self.first):
            return np.zeros(0, bool)
        return np.logical_or.reduceat(flags, self.first)
