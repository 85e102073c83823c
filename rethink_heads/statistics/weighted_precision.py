"""COCO's average precision of detections whose images have weights.

An image of weight w counts as w copies of it, each detection followed by its own copies in the ranking. With whole
weights the result is that of pycocotools on a data set with the copies, where no two scores within an image are equal;
with all weights one it is pycocotools' own. Only the true positives have to be looked at: recall rises at them and
nowhere else, and between two of them precision only falls. So the weights of the detections between two of them are
added up by one product with a sparse matrix, for many sets of weights at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from rethink_heads.statistics.bootstrap import Array, ImageBootstrap
from rethink_heads.statistics.matches import Flags, Indices
from rethink_heads.statistics.ranking import Candidates

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads precision."""
# Sets of weights times true positives, images, or recalls and settings at once. Of such arrays, of 4 MiB, there are
# some eight at a time.
_MOST_AT_ONCE = 2**19


class Draws:
    """Sets of weights of I images: each image once, those of each replicate, and all images but one.

    The last are left out where they would be more than the replicates: the intervals then do without acceleration,
    whose part in them falls with the number of images.
    """

    def __init__(self, bootstrap: ImageBootstrap) -> None:
        self._bootstrap = bootstrap
        self.images = len(bootstrap.image_ids)
        self.left_out = self.images if self.images <= bootstrap.replicates else 0

    def __len__(self) -> int:
        return 1 + self._bootstrap.replicates + self.left_out

    def weights(self, sets: slice, images: Indices) -> Array:
        """Weights (U, b) of U images in consecutive sets."""
        start, stop, _ = sets.indices(len(self))
        first_left_out = 1 + self._bootstrap.replicates
        found = np.ones((len(images), stop - start))
        drawn = slice(max(start, 1), min(stop, first_left_out))
        if drawn.start < drawn.stop:
            counts = self._bootstrap.counts[drawn.start - 1 : drawn.stop - 1, images]
            found[:, drawn.start - start : drawn.stop - start] = counts.T
        for number in range(max(start, first_left_out), stop):
            found[images == number - first_left_out, number - start] = 0
        return found


class Curves:
    """Precision at COCO's recalls in S settings, such as IoU thresholds, of one class's ranked detections.

    Attributes:
        values: (B, S) average precision in each set of weights, 0..1, nan where there is nothing to find; there when
            the last detections were added.
        precision: (S, 101) precision at RECALLS with all images once.
    """

    def __init__(self, draws: Draws, positives: Array) -> None:
        """Begin.

        Args:
            draws: the B sets of weights.
            positives: (S, I) objects to find by image.
        """
        self._draws, self._positives = draws, positives
        self.values = np.full((len(draws), len(positives)), np.nan)
        self.precision = np.zeros((len(positives), len(RECALLS)))
        self._with_objects = np.flatnonzero(positives.any(axis=0))
        self._begun: dict[int, _Curve] = {}
        most = max(draws.images, int(positives.sum(axis=1).max(initial=0)), self.precision.size, 1)
        self._step = max(1, _MOST_AT_ONCE // most)

    def add(self, found: Candidates, is_last: bool) -> None:
        """Add detections by falling score, none above those that were added before."""
        if not len(self._with_objects):
            return
        used = np.union1d(self._with_objects, found.images)
        places = np.searchsorted(used, found.images)
        for sets in self._sets():
            drawn = self._draws.weights(sets, used)
            curve = self._begun.pop(sets.start, None)
            if curve is None:
                curve = _Curve(self._positives[:, used] @ drawn)
            curve.add(found, places, drawn)
            if not is_last:
                self._begun[sets.start] = curve
                continue
            values = curve.precision.mean(axis=-1)
            self.values[sets] = np.where(curve.to_find > 0, values, np.nan).T
            if sets.start == 0:
                self.precision = curve.precision[:, 0].copy()

    def _sets(self) -> Iterator[slice]:
        for start in range(0, len(self._draws), self._step):
            yield slice(start, min(start + self._step, len(self._draws)))


class _Curve:
    """What is known after the detections so far, in S settings and b sets of weights.

    Attributes:
        to_find: (S, b) weight of the objects.
        precision: (S, b, 101) the highest at each recall or above it.
    """

    def __init__(self, to_find: Array) -> None:
        self.to_find = to_find
        self.precision = np.zeros((*to_find.shape, len(RECALLS)))
        self._true, self._seen = np.zeros(to_find.shape), np.zeros(to_find.shape)
        # How many of RECALLS are reached.
        self._reached = np.zeros(to_find.shape, np.int64)

    def add(self, found: Candidates, places: Indices, drawn: Array) -> None:
        """Add detections whose images are at these places (N,) of the weights (U, b)."""
        for setting in range(len(self.to_find)):
            hits, kept = found.setting(setting)
            counted = places[kept]
            is_hit = hits[kept]
            seen = self._seen[setting] + _between(counted, is_hit, drawn).cumsum(axis=0)
            true = self._true[setting] + drawn[counted[is_hit]].cumsum(axis=0)
            self._seen[setting] = seen[-1]
            if len(true):
                self._true[setting] = true[-1]
                self._read(setting, true, seen[:-1])

    def _read(self, setting: int, true: Array, seen: Array) -> None:
        """Read precision at every recall that one of the true positives (n, b) is the first to reach."""
        # pycocotools' formula, with its guard against a division by zero.
        precision = true / (seen + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        to_find = self.to_find[setting]
        recall = true / np.where(to_find > 0, to_find, np.inf)
        reached = np.searchsorted(RECALLS, recall, side="right").T
        before = self._reached[setting]
        number = np.arange(len(RECALLS))
        at = self.precision[setting]
        earlier = number < before[:, None]
        at[earlier] = np.maximum(at, envelope[0][:, None])[earlier]
        fresh = np.diff(reached, axis=1, prepend=before[:, None])
        now = reached[:, -1]
        at[~earlier & (number < now[:, None])] = np.repeat(envelope.T.ravel(), fresh.ravel())
        self._reached[setting] = now


def _between(places: Indices, is_hit: Flags, drawn: Array) -> Array:
    """Weights (n + 1, b) of the detections up to each of n true positives, and after the last, each counted once."""
    ends = np.flatnonzero(is_hit) + 1
    starts = np.concatenate([[0], ends, [len(places)]])
    shape = (len(ends) + 1, len(drawn))
    return np.asarray(scipy.sparse.csr_array((np.ones(len(places)), places, starts), shape) @ drawn)
