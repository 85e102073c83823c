"""COCO's average precision of detections, with intervals from a bootstrap over images.

An image of weight w counts as w copies of it, each detection followed by its own copies in the ranking. With whole
weights the result is that of pycocotools on a data set with the copies, where no two scores within an image are equal;
with all weights one it is pycocotools' own. Only the true positives have to be looked at: recall rises at them and
nowhere else, and between two of them precision only falls. So the weights of the detections between two of them are
added up by one product with a sparse matrix, for many draws of images at once, and only once for all settings that
count the same detections. Each recall is read from a true positive: nothing is made of size draws times recalls.

The recalls are pycocotools' np.linspace(0, 1, 101), of which some lie a rounding beside k / 100 (0.29 above it); TIDE's
authors read precision at k / 100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse

from rethink_heads.evaluation.detections import Quantities, head_comparison, head_table
from rethink_heads.evaluation.matching import (
    AREAS,
    THRESHOLDS,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    Matches,
    match_detections,
)
from rethink_heads.machine import core_count, one_blas_thread
from rethink_heads.statistics.bootstrap import SHARE, Array, BootstrapEstimate, ImageBootstrap

Weights = npt.NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.float64)

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads precision."""
# Weights at once: as many draws as fit into the processor's cache, but enough of them to be worth a call.
_WEIGHTS_AT_ONCE = 2**20
_FEWEST_DRAWS = 128
AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Of each name: the index of its size, and of its IoU thresholds.
_CELLS = {
    "AP": (0, slice(None)),
    "AP50": (0, slice(0, 1)),
    "AP75": (0, slice(5, 6)),
    "APs": (1, slice(None)),
    "APm": (2, slice(None)),
    "APl": (3, slice(None)),
}


def average_precisions(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> Quantities:
    """COCO's average precisions, with 95% intervals over images.

    A replicate draws images with replacement; their matches are fixed, and precision and recall are accumulated
    again with each image counted as often as it was drawn. Classes and sizes that a replicate did not draw are
    left out of its means, as COCO leaves out those without objects. Intervals: :mod:`.bootstrap`.

    Returns:
        A row a "metric" ("AP", "AP50", "AP75", "APs", "APm", "APl") with "value" (pycocotools' to the last digit),
        "value_low", "value_high" and "images" (those that bear on it); nan where there is nothing to find.

        Compared: "value", by "metric".
    """
    resampled = resampled_precision(head, truth, bootstrap)
    return Quantities(resampled, {"metric": AP_NAMES}, "value", {"images": resampled.images})


precision_table = head_table("precision_table", average_precisions)
compare_precision = head_comparison("compare_precision", average_precisions)


def resampled_precision(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> BootstrapEstimate:
    """The six average precisions (6,) of one head's detections, and of the replicates."""
    found = match_detections(truth, head)
    settings = len(AREAS) * len(THRESHOLDS)
    true, counted = (each.reshape(settings, -1) for each in (found.true, found.counted))

    def objects(label: int) -> tuple[Indices, Flags]:
        images, within = truth.to_find(label)
        return images, np.repeat(within, len(THRESHOLDS), axis=0)

    rankings = list(
        by_class(head.labels, head.images, head.scores, true, counted, objects, truth.class_count)
    )
    bearing = _bearing_images(head, found, truth).sum(axis=1)
    cells = list(_CELLS.values())

    def weighted_values(weights: Weights) -> Array:
        mean = MeanOverClasses()
        for ranking in rankings:
            values = weighted_precision(ranking, weights).reshape(-1, len(AREAS), len(THRESHOLDS))
            mean.add(np.stack([values[:, area, cut].mean(axis=-1) for area, cut in cells], axis=-1))
        return mean.value

    # By class, size, IoU threshold and recall; then as pycocotools has it.
    precision = np.stack([precision_at_recalls(ranking) for ranking in rankings])
    precision = precision.reshape(-1, len(AREAS), len(THRESHOLDS), len(RECALLS))
    value = [_mean_precision(precision[:, a, cut].transpose(1, 2, 0)) for a, cut in cells]
    images = bearing[[area for area, _ in cells]]
    replicates = in_draws(bootstrap, weighted_values)
    return BootstrapEstimate(np.array(value), replicates, images, SHARE, truth.images_each())


def _bearing_images(head: HeadDetections, found: Matches, truth: GroundTruth) -> Flags:
    """Whether an image bears on the precision of a size (A, I): it has objects, or detections of a class that has."""
    bears = np.zeros((len(AREAS), len(truth.image_ids)), bool)
    has_objects = np.zeros((len(AREAS), truth.class_count), bool)
    for label in range(truth.class_count):
        images, within = truth.to_find(label)
        has_objects[:, label] = within.any(axis=1)
        for area, chosen in enumerate(within):
            bears[area, images[chosen]] = True
    for area, counted in enumerate(found.counted.any(axis=1) & has_objects[:, head.labels]):
        bears[area, head.images[counted]] = True
    return bears


def _mean_precision(precision: Array) -> float:
    """Mean of precisions (T, R, K), -1 where there was nothing to find; nan where there was nothing at all."""
    values = precision[precision > -1]
    return float(values.mean()) if len(values) else float("nan")


@dataclass(frozen=True)
class Ranking:
    """One class's N detections by falling score, those of equal score in the order of images, in S settings.

    A setting is an object size with an IoU threshold, or an error that is fixed.

    Attributes:
        images: (N,) index of each one's image.
        true: (S, N) whether it is a true positive; counted: (S, N) whether it counts at all (is not ignored).
        object_images: (G,) index of each object's image; to_find: (S, G) whether it is to be found.
    """

    images: Indices
    true: Flags
    counted: Flags
    object_images: Indices
    to_find: Flags


def by_class(
    labels: Indices,
    images: Indices,
    scores: Array,
    true: Flags,
    counted: Flags,
    objects: Callable[[int], tuple[Indices, Flags]],
    classes: int,
) -> Iterator[Ranking]:
    """Rank detections (N,) with flags (S, N) class by class; ``objects`` gives a class's images (G,) and (S, G)."""
    order = np.lexsort((images, -scores, labels))
    ends = np.searchsorted(labels[order], np.arange(classes + 1))
    for label in range(classes):
        rows = order[ends[label] : ends[label + 1]]
        yield Ranking(images[rows], true[:, rows], counted[:, rows], *objects(label))


def precision_at_recalls(ranking: Ranking) -> Array:
    """Precision (S, 101) at RECALLS of each image once, to pycocotools' last digit; -1 where nothing is to be found."""
    found = np.full((len(ranking.true), len(RECALLS)), -1.0)
    for setting, to_find in enumerate(ranking.to_find.sum(axis=1)):
        if to_find == 0:
            continue
        true = ranking.true[setting][ranking.counted[setting]]
        found_so_far = true.cumsum()
        precision = found_so_far / (np.arange(1, len(true) + 1) + np.spacing(1))
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        found[setting] = envelope[np.searchsorted(found_so_far / to_find, RECALLS, side="left")]
    return found


def in_draws(bootstrap: ImageBootstrap, statistic: Callable[[Weights], Array]) -> Array:
    """A statistic of weights (I, b) of b draws of images, (b, ...), for all draws: (B, ...).

    Blocks of draws are shared out to the cores; the result does not depend on their number.
    """
    draws = max(_FEWEST_DRAWS, _WEIGHTS_AT_ONCE // max(1, len(bootstrap.image_ids)))
    # At least two blocks, for two cores.
    draws = max(1, min(draws, -(-bootstrap.replicates // 2)))
    starts = range(0, max(1, bootstrap.replicates), draws)

    def run_block(start: int) -> Array:
        block = bootstrap.counts[start : start + draws]
        return statistic(np.ascontiguousarray(block.T, np.float32))

    # Each holds weights of its own.
    with ThreadPoolExecutor(min(8, core_count())) as pool, one_blas_thread():
        return np.concatenate(list(pool.map(run_block, starts)))


def weighted_precision(ranking: Ranking, weights: Weights) -> Array:
    """Average precision (b, S), 0..1, of each of b draws of images; nan where one has nothing to find.
    ``weights``: (I, b) how often each draw has each image.
    """
    to_find = ranking.to_find.astype(np.float32) @ weights[ranking.object_images]
    found = np.full((weights.shape[1], len(ranking.true)), np.nan)
    # Neighbouring IoU thresholds often have the same true positives.
    same_as = _first_equal(np.hstack([ranking.true, ranking.counted, ranking.to_find]))
    counted_as = _first_equal(ranking.counted)
    for first in sorted(set(counted_as)):
        counted = ranking.counted[first]
        settings = np.flatnonzero(np.array(counted_as) == first)
        if not ranking.to_find[settings].any():
            continue
        # A true positive in any of the settings that count the same detections.
        ends = np.flatnonzero((ranking.true[settings] & counted).any(axis=0))
        up_to_ends = counted_up_to(ends, ranking.images, counted, weights)
        for setting in settings.tolist():
            if same_as[setting] == setting and ranking.to_find[setting].any():
                at = np.flatnonzero(ranking.true[setting] & counted)
                true = accumulate(np.add, weights[ranking.images[at]])
                there = up_to_ends[np.searchsorted(ends, at)]
                found[:, setting] = _area(true, there, to_find[setting])
    return found[:, same_as]


def _first_equal(flags: Flags) -> list[int]:
    """The first of S rows of flags (S, N) that is equal to each."""
    first: dict[bytes, int] = {}
    return [first.setdefault(row.tobytes(), number) for number, row in enumerate(flags)]


def counted_up_to(ends: Indices, images: Indices, counted: Flags, weights: Weights) -> Weights:
    """Weights (E, b) of the counted detections up to and with each of E of the N ranked ones."""
    rows = np.flatnonzero(counted)
    starts = np.concatenate([[0], np.searchsorted(rows, ends, side="right")])
    columns = images[rows[: starts[-1]]]
    ones = np.ones(len(columns), np.float32)
    shape = (len(ends), len(weights))
    between = scipy.sparse.csr_array((ones, columns, starts), shape) @ weights
    return accumulate(np.add, between)


def accumulate(ufunc: np.ufunc, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """``ufunc.accumulate`` of values (n, b) along n, in log2(n) passes that take a half to a tenth of its time."""
    values, other, step = np.array(values, order="C"), np.empty(values.shape, values.dtype), 1
    while step < len(values):
        ufunc(values[step:], values[:-step], out=other[step:])
        other[:step] = values[:step]
        values, other, step = other, values, 2 * step
    return values


def _area(true: Weights, counted: Weights, to_find: Weights) -> Array:
    """Mean over RECALLS (b,) of the best precision at each recall or above it.

    Args:
        true, counted: (n, b) weights of the true positives and of all detections up to each of n true positives.
        to_find: (b,) weight of the objects.
    """
    if not len(true):
        return np.where(to_find > 0, 0.0, np.nan)
    # Whole numbers are exact in either precision; from here on double, which is as quick as what follows allows.
    precision = np.divide(true, np.maximum(counted, 1), dtype=np.float64)
    envelope = accumulate(np.maximum, precision[::-1])[::-1]
    recall = np.divide(true, np.maximum(to_find, 1), dtype=np.float64)
    reached = recalls_reached(recall)
    steps = reached.copy()
    steps[1:] -= reached[:-1]
    area = np.einsum("nb,nb->b", envelope, steps)
    return np.where(to_find > 0, area / len(RECALLS), np.nan)


def recalls_reached(recall: Array) -> npt.NDArray[np.int16]:
    """How many of RECALLS a recall is enough for."""
    # The nearest one, and whether it is reached: without a search.
    nearest = (recall * (len(RECALLS) - 1) + 0.5).astype(np.int16)
    return nearest + (RECALLS[nearest] <= recall)


class MeanOverClasses:
    """Mean over classes of quantities (B, M), each over the classes that it is defined for."""

    def __init__(self) -> None:
        self._sum: Array = np.zeros(())
        self._count: Array = np.zeros(())

    def add(self, values: Array) -> None:
        """Add a class's values (B, M), nan where they are not defined."""
        is_there = ~np.isnan(values)
        self._sum = self._sum + np.where(is_there, values, 0)
        self._count = self._count + is_there

    @property
    def value(self) -> Array:
        """(B, M), nan where no class has a value."""
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)
