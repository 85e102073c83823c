"""Average precision with every set of causes fixed, all at once, with its derivatives by the weight of each image.

A class's detections are ranked once, with those that fixing classification brings into it and those that fixing
misses finds; a set of fixed causes (:mod:`.causes`) is then which of them are there and which are true positives.
That is 49 settings: 32 sets without ranking; 8 with it, since false positives behind all true ones cost nothing, there
or not; and nine steps of the ranking between the first of each. AP as COCO has it, the shares and what else is made of
it are sums of settings with fixed weights, and so are their derivatives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import scipy.sparse

from rethink_heads.evaluation.average_precision import (
    RECALLS,
    MeanOverClasses,
    Ranking,
    Weights,
    recalls_reached,
    weighted_precision,
)
from rethink_heads.evaluation.causes import (
    CAUSES,
    CLASSIFICATION,
    LOCALIZATION,
    MISSES,
    RANKING,
    Causes,
    Faults,
    find_faults,
)
from rethink_heads.evaluation.matching import Flags, GroundTruth, HeadDetections, Indices
from rethink_heads.statistics.bootstrap import (
    ROUNDING,
    SHARE,
    Array,
    BootstrapEstimate,
    ImageBootstrap,
    ImagesLeftOut,
)

STEPS = np.linspace(0, 1, 11)
"""Of the exchange rate: 0 is the detector's own order, 1 that of the true IoU."""
ORDER_WEIGHTS = np.array([3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
"""An order of fixing is drawn from its end by weight: ranking comes after each other cause in three of four orders."""


def _shapley() -> Array:
    """Weights (6, 64) of the sets of fixed causes in the share of each: Shapley's value with ORDER_WEIGHTS."""
    count = len(CAUSES)
    weights = np.zeros((count, 2**count))
    for order in itertools.permutations(range(count)):
        so_far = np.cumsum(ORDER_WEIGHTS[list(order)])
        chance = np.prod(ORDER_WEIGHTS / so_far)
        fixed = 0
        for cause in order:
            weights[cause, fixed] -= chance
            fixed |= 1 << cause
            weights[cause, fixed] += chance
    return weights


# What AP is taken of: the sets without ranking; with it the sets of what makes true positives; and the steps between
# the first of both.
_PLAIN = np.array([s for s in range(2 ** len(CAUSES)) if not s & RANKING], np.uint8)
_FINDING = LOCALIZATION | CLASSIFICATION | MISSES
_RANKED = _PLAIN[(_PLAIN & ~np.uint8(_FINDING)) == 0]
_SETTINGS = len(_PLAIN) + len(_RANKED) + len(STEPS) - 2


def _quantities() -> Array:
    """Weights (24, settings) of the settings in AP, the shares, the oracles, and AP by step."""
    setting_of = np.zeros((2 ** len(CAUSES), _SETTINGS))
    for fixed in range(2 ** len(CAUSES)):
        if fixed & RANKING:
            place = len(_PLAIN) + np.flatnonzero(np.uint8(fixed & _FINDING) == _RANKED)[0]
        else:
            place = np.flatnonzero(np.uint8(fixed) == _PLAIN)[0]
        setting_of[fixed, place] = 1
    oracles = setting_of[[1 << number for number in range(len(CAUSES))]]
    between = np.eye(_SETTINGS)[len(_PLAIN) + len(_RANKED) :]
    none, ranking = setting_of[:1], setting_of[RANKING : RANKING + 1]
    return np.vstack([none, _shapley() @ setting_of, oracles, none, between, ranking])


_QUANTITIES = _quantities()
SHARES = slice(1, 1 + len(CAUSES))
ORACLES = slice(SHARES.stop, SHARES.stop + len(CAUSES))
STEP_VALUES = slice(ORACLES.stop, ORACLES.stop + len(STEPS))
# Of AP, the shares and the oracles: the settings that they are made of, the steps not among them.
_UNSTEPPED = _QUANTITIES[: ORACLES.stop, : len(_PLAIN) + len(_RANKED)]
LEFT_OUT_DRAWS, LEFT_OUT_THRESHOLDS = 30, slice(0, None, 3)
"""How many draws are evaluated anew, and at which IoU thresholds: they correlate with the first order by 0.96 and more,
so that few tell the ratio of the two."""


@dataclass(frozen=True)
class LostPrecision:
    """One head's analysis: M quantities (AP, shares, oracles, AP by step) and their derivatives by image weights.

    Attributes:
        head, truth: what was analysed; faults: its faults at LEFT_OUT_THRESHOLDS.
        values: (T, M) at each IoU threshold; derivatives: (I, T, M).
        labels: (K,) classes that have objects.
        class_values: (K, 6) shares, means over thresholds; class_derivatives: (I, K * 6), sparse.
        counts: (6,) detections with each cause at the first threshold; images: (6,) images that have it at any, and
            class_images: (K, 6) those that have it in a class.
        bearing: images that bear on AP; images_each: on that of one class, on average.
        pcc: (11,) Pearson's correlation at each of STEPS.
    """

    head: HeadDetections
    truth: GroundTruth
    faults: Sequence[Faults]
    values: Array
    derivatives: Array
    labels: Indices
    class_values: Array
    class_derivatives: Any
    counts: Indices
    images: Indices
    class_images: Indices
    bearing: int
    images_each: float
    pcc: Array

    def resampled(
        self, bootstrap: ImageBootstrap, cut: slice, threshold: int | None = None
    ) -> BootstrapEstimate:
        """Some quantities at one threshold, or their means over thresholds, and their replicates."""
        at = slice(None) if threshold is None else slice(threshold, threshold + 1)
        value = self.values[at, cut].mean(axis=0)
        derivatives = self.derivatives[:, at, cut].mean(axis=1)
        change = bootstrap.replicate(derivatives) - derivatives.sum(axis=0)
        images_each, is_share = self.images_each, cut == SHARES
        if cut != STEP_VALUES and bootstrap.replicates:
            # Draws that leave images out vary as much as they should.
            change, images_each = change * self.stretch[cut], np.inf
        images = self.images if is_share else np.full(len(value), self.bearing)
        return BootstrapEstimate(
            value, value + change, images, SHARE, images_each, is_zero_without=is_share
        )

    @cached_property
    def left_out(self) -> tuple[Array, Array]:
        """AP, shares and oracles (D, 13) of draws that leave images out, exact and to the first order."""
        counts = ImagesLeftOut(self.truth.image_ids, LEFT_OUT_DRAWS).counts
        weights = np.ascontiguousarray(counts.T, np.float32)
        exact = [_weighted_values(faults, self.head, self.truth, weights) for faults in self.faults]
        derivatives = self.derivatives[:, LEFT_OUT_THRESHOLDS, : ORACLES.stop].mean(axis=1)
        # Of one image nothing is left.
        scale = counts.shape[1] / max(1, counts[0].sum())
        return np.mean(exact, axis=0), scale * (counts @ derivatives)

    @cached_property
    def stretch(self) -> Array:
        """How many times their first order AP, shares and oracles (13,) vary; 1 where too few draws have objects."""
        has_objects = np.isfinite(self.left_out[0]).all(axis=1)
        if has_objects.sum() < 2:
            return np.ones(ORACLES.stop)
        exact, first_order = (each[has_objects].std(axis=0) for each in self.left_out)
        varies = first_order > ROUNDING
        return np.where(varies, exact / np.where(varies, first_order, 1), 1.0)


@dataclass(frozen=True)
class _Entries:
    """N detections of all sets of fixed causes of one class, by falling score.

    Attributes:
        images, scores, ious: (N,).
        causes: (N,) that have to be fixed for it to change; true: (N,) whether it is a true positive then, or else
            gone; there: (N,) whether it is there before.
        stands: (N,) whether it stands for an object, so that ranking deals out its score.
    """

    labels: Indices
    images: Indices
    scores: Array
    ious: Array
    causes: Causes
    true: Flags
    there: Flags
    stands: Flags

    def fixed(self) -> tuple[Flags, Flags]:
        """Which are true positives (32, N), and which are there (32, N), in each of the sets without ranking."""
        is_mended = (self.causes & ~_PLAIN[:, None]) == 0
        return is_mended & self.true, np.where(is_mended, self.true, self.there)

    def take(self, rows: Indices | slice) -> _Entries:
        """Some of them, in a new order."""
        return _Entries(*(column[rows] for column in vars(self).values()))


def _entries(faults: Faults, head: HeadDetections, truth: GroundTruth) -> _Entries:
    """All classes' detections of all sets of fixed causes at one threshold, by class and falling score."""
    counted = np.flatnonzero(faults.counted)
    moves = faults.claims & (faults.causes & CLASSIFICATION > 0)
    moved, missed = np.flatnonzero(moves), np.flatnonzero(faults.missed)
    parts = (
        _Entries(
            head.labels[counted],
            head.images[counted],
            head.scores[counted],
            faults.ious[counted],
            faults.causes[counted],
            (faults.true | faults.claims & ~moves)[counted],
            np.ones(len(counted), bool),
            faults.stands()[counted],
        ),
        _Entries(
            truth.labels[faults.objects[moved]],
            head.images[moved],
            head.scores[moved],
            faults.ious[moved],
            faults.causes[moved],
            *_flags(len(moved), True, False, False),
        ),
        _Entries(
            truth.labels[missed],
            truth.images[missed],
            np.full(len(missed), np.inf),
            np.ones(len(missed)),
            np.full(len(missed), MISSES, np.uint8),
            *_flags(len(missed), True, False, False),
        ),
    )
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    every = _Entries(*(np.concatenate(column) for column in columns))
    return every.take(np.lexsort((every.images, -every.scores, every.labels)))


def _flags(count: int, *values: bool) -> Iterator[Flags]:
    """Each value (count,) times."""
    return (np.full(count, value) for value in values)


def _deal(entries: _Entries) -> tuple[Indices, Indices]:
    """The places (m,) that a class's detections have by score, and whose they are at each of STEPS.

    Returns:
        Rows (m,) of the entries, and the row (11, m) that each of these places goes to.
    """
    places = np.flatnonzero(entries.there)
    is_own = (entries.causes[places] & CLASSIFICATION) == 0
    quality = np.where(is_own, entries.ious[places], 0.0) + (entries.causes[places] == 0)
    own = np.arange(len(places))
    by_iou = np.empty_like(own)
    by_iou[np.argsort(-quality, kind="stable")] = own
    # Whole numbers, so that ties stay ties: they go by score.
    step = np.arange(len(STEPS))[:, None]
    mixed = (len(STEPS) - 1 - step) * own + step * by_iou
    return places, places[np.argsort(mixed, axis=1, kind="stable")]


def _class_precision(
    entries: _Entries, places: Indices, dealt: Indices, objects: int
) -> tuple[Array, Array, Array]:
    """The quantities (24,) of one class, and their derivatives by the weight of entries (24, N) and of an object (24,).

    Args:
        entries: the class's detections; places, dealt: of :func:`_deal`.
        objects: how many are to be found.
    """
    true, there = entries.fixed()
    between = dealt[1:-1]
    steps = np.zeros((len(between), *true.shape[1:]), bool)
    steps[:, places] = true[0, between]
    values, slopes, area = precision_and_derivatives(
        np.vstack([true, steps]),
        np.vstack([there, np.repeat(there[:1], len(between), axis=0)]),
        objects,
    )
    step = np.arange(len(true), len(slopes))[:, None]
    slopes[step, between] = slopes[step, places]
    # Behind all true positives, false ones are of no account.
    ranked = true[np.isin(_PLAIN, _RANKED)]
    found = ranked.sum(axis=1) / objects
    at = len(true)
    # Without a true positive, precision is 0 at recall 0, too.
    reached = np.where(found > 0, recalls_reached(found), 0)
    values = np.insert(values, at, reached / len(RECALLS))
    area = np.insert(area, at, found)
    slopes = np.insert(slopes, at, ranked / objects, axis=0)
    return _QUANTITIES @ values, _QUANTITIES @ slopes, -_QUANTITIES @ area / objects


def _weighted_values(
    faults: Faults, head: HeadDetections, truth: GroundTruth, weights: Weights
) -> Array:
    """AP, shares and oracles (b, 13) at one threshold, of images of weights (I, b)."""
    entries = _entries(faults, head, truth)
    labels, images = truth.labels[truth.findable], truth.images[truth.findable]
    mean = MeanOverClasses()
    for label in np.unique(labels).tolist():
        one = entries.take(slice(*np.searchsorted(entries.labels, [label, label + 1])))
        object_images = images[labels == label]
        true, there = one.fixed()
        to_find = np.ones((len(true), len(object_images)), bool)
        plain = weighted_precision(
            Ranking(one.images, true, there, object_images, to_find), weights
        )
        # Behind all true positives, false ones are of no account.
        found = true[np.isin(_PLAIN, _RANKED)].astype(np.float32) @ weights[one.images]
        recall = found / np.maximum(weights[object_images].sum(axis=0), 1)
        ranked = np.where(recall > 0, recalls_reached(recall), 0) / len(RECALLS)
        # nan without objects, as the first settings are.
        mean.add(np.hstack([plain, ranked.T]) @ _UNSTEPPED.T)
    return np.broadcast_to(mean.value, (weights.shape[1], ORACLES.stop))


def precision_and_derivatives(
    true: Flags, there: Flags, objects: int
) -> tuple[Array, Array, Array]:
    """COCO's AP of S settings of N ranked detections, and the derivatives of the area under the same precision.

    Args:
        true: (S, N) whether a detection is a true positive; there: (S, N) whether it is there.
        objects: how many are to be found.

    Returns:
        AP (S,), its derivatives by the weights of the detections (S, N), and the area (S,): that divided by the number
        of objects is lost with the weight of one.
    """
    # Precision is asked for at true positives only: the next E columns are those of each setting, by rank.
    up_to, seen_up_to = (flags.astype(np.int32).cumsum(axis=1) for flags in (true, there))
    count = true.sum(axis=1)[:, None]
    setting, place = np.nonzero(true)
    at = setting, up_to[setting, place] - 1
    column = np.arange(count.max(initial=0))
    found = np.minimum(column + 1.0, count)
    seen = np.full(found.shape, np.inf)
    seen[at] = np.maximum(seen_up_to[setting, place], 1)
    precision = found / seen
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = recalls_reached(found / objects)
    values = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    # The envelope is that of the next peak, over the true positives since the peak before.
    peak = np.nonzero((precision == envelope) & (column < count))
    to_peak = found[peak]
    same_setting = np.diff(peak[0], prepend=-1) == 0
    since = to_peak - np.where(same_setting, np.roll(to_peak, 1), 0.0)
    by_peak = np.zeros((2, len(true), len(column) + 1))
    by_peak[0][peak] = since / (objects * seen[peak])
    by_peak[1][peak] = by_peak[0][peak] * precision[peak]
    gain, loss = by_peak[..., ::-1].cumsum(axis=-1)[..., ::-1]
    each = envelope / objects
    # Detections lose to the peaks that come after them.
    row = np.arange(len(true))[:, None] * loss.shape[1]
    slopes = np.where(there, -loss.ravel()[row + up_to - true], 0.0)
    slopes[setting, place] += each[at] + gain[at]
    return values, slopes, each.sum(axis=1)


@lru_cache(maxsize=2)
def analyse(head: HeadDetections, truth: GroundTruth) -> LostPrecision:
    """Evaluate all sets of fixed causes of one head's detections, once for all tables of the head."""
    sums, found = _Sums(head, truth), find_faults(head, truth)
    for faults in found:
        sums.add(faults)
    return sums.result(found[LEFT_OUT_THRESHOLDS])


class _Sums:
    """Quantities at each threshold, and their derivatives added up by image, and by image and class."""

    def __init__(self, head: HeadDetections, truth: GroundTruth) -> None:
        self._head, self._truth = head, truth
        self._classes, self._images = truth.class_count, len(truth.image_ids)
        self._object_labels = truth.labels[truth.findable]
        self._object_images = truth.images[truth.findable]
        self._objects = np.bincount(self._object_labels, minlength=self._classes)
        self._pairs = np.unique(
            np.append(
                self._object_images * self._classes + self._object_labels,
                head.images * self._classes + head.labels,
            )
        )
        self._by_pair = np.zeros((len(CAUSES), len(self._pairs)))
        self._class_values = np.zeros((self._classes, len(CAUSES)))
        self._values: list[Array] = []
        self._derivatives: list[Array] = []
        self._counts: list[Any] = []
        self._has_cause = np.zeros((len(CAUSES), len(self._pairs)), bool)
        self._has_detection = np.zeros(self._images, bool)
        self._pcc: list[Array] = []

    def add(self, faults: Faults) -> None:
        """Add what one head's detections come to at one threshold."""
        entries = _entries(faults, self._head, self._truth)
        values = np.zeros((self._classes, len(_QUANTITIES)))
        slopes = np.zeros((len(_QUANTITIES), len(entries.labels)))
        object_slopes = np.zeros((len(_QUANTITIES), self._classes))
        is_displaced = np.zeros(len(entries.labels), bool)
        ends = np.searchsorted(entries.labels, np.arange(self._classes + 1))
        dealt_out = []
        for label in np.flatnonzero(self._objects).tolist():
            rows = slice(ends[label], ends[label + 1])
            one = entries.take(rows)
            places, dealt = _deal(one)
            found = _class_precision(one, places, dealt, self._objects[label])
            values[label], slopes[:, rows], object_slopes[:, label] = found
            is_true = one.causes[places] == 0
            is_displaced[rows][places] = is_true & ~np.logical_and.accumulate(is_true)
            dealt_out.append(_scores_and_ious(one, places, dealt))
        self._pcc.append(_correlations(dealt_out))
        # Without any object there is no AP.
        class_values = values[self._objects > 0]
        missing = np.full_like(values[:1], np.nan)
        self._values.append((class_values if len(class_values) else missing).mean(axis=0))
        self._class_values += values[:, SHARES]
        images = np.append(entries.images, self._object_images)
        labels = np.append(entries.labels, self._object_labels)
        pairs = np.searchsorted(self._pairs, images * self._classes + labels)
        slopes = np.hstack([slopes, object_slopes[:, self._object_labels]])
        by_image = [np.bincount(images, each, self._images) for each in slopes]
        self._derivatives.append(np.stack(by_image, axis=1) / max(1, (self._objects > 0).sum()))
        for total, each in zip(self._by_pair, slopes[SHARES], strict=True):
            total += np.bincount(pairs, each, len(self._pairs))
        self._has_detection[entries.images[self._objects[entries.labels] > 0]] = True
        # Those whose class is wrong are among the entries of both classes.
        has_cause = [(entries.causes >> n & 1) > 0 for n in range(len(CAUSES))]
        has_cause[0] = is_displaced
        for cause, each in enumerate(has_cause):
            self._has_cause[cause, pairs[: len(each)][each]] = True
        counts = [((faults.causes >> n & 1) > 0).sum() for n in range(len(CAUSES))]
        counts[0], counts[-1] = is_displaced.sum(), faults.missed.sum()
        self._counts.append(counts)

    def result(self, left_out: Sequence[Faults]) -> LostPrecision:
        """All of it, with the faults at LEFT_OUT_THRESHOLDS."""
        labels = np.flatnonzero(self._objects)
        images, its_label = np.divmod(self._pairs, self._classes)
        has_objects = self._objects[its_label] > 0
        columns = np.searchsorted(labels, its_label[has_objects]) * len(CAUSES)
        by_class = scipy.sparse.csr_array(
            (
                self._by_pair[:, has_objects].ravel() / len(self._values),
                (
                    np.tile(images[has_objects], len(CAUSES)),
                    (columns + np.arange(len(CAUSES))[:, None]).ravel(),
                ),
            ),
            (self._images, len(labels) * len(CAUSES)),
        )
        bears, has = self._has_detection.copy(), self._has_cause
        bears[self._object_images] = True
        return LostPrecision(
            self._head,
            self._truth,
            left_out,
            np.stack(self._values),
            np.stack(self._derivatives, axis=1),
            labels,
            self._class_values[labels] / len(self._values),
            by_class,
            np.array(self._counts[0]),
            np.array([len(np.unique(images[each])) for each in has]),
            np.array([np.bincount(its_label[each], minlength=self._classes) for each in has]).T[
                labels
            ],
            int(bears.sum()),
            self._truth.images_each(),
            self._pcc[0],
        )


def _scores_and_ious(entries: _Entries, places: Indices, dealt: Indices) -> tuple[Array, Array]:
    """Scores (11, m) and IoUs (11, m) of the detections of one class that stand for an object, at each of STEPS."""
    stands = entries.stands[dealt]
    scores = np.broadcast_to(entries.scores[places], dealt.shape)[stands]
    return scores.reshape(len(STEPS), -1), entries.ious[dealt][stands].reshape(len(STEPS), -1)


def _correlations(dealt_out: list[tuple[Array, Array]]) -> Array:
    """Pearson's (11,) of scores and IoUs (11, m) of all classes, nan where either is constant."""
    if not sum(scores.shape[1] for scores, _ in dealt_out):
        return np.full(len(STEPS), np.nan)
    scores, ious = (np.concatenate(each, axis=1) for each in zip(*dealt_out, strict=True))
    scores -= scores.mean(axis=1, keepdims=True)
    ious -= ious.mean(axis=1, keepdims=True)
    scale = np.sqrt((scores**2).sum(axis=1) * (ious**2).sum(axis=1))
    return np.where(scale > 0, (ious * scores).sum(axis=1) / np.where(scale > 0, scale, 1), np.nan)
