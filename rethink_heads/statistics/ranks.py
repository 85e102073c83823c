"""Spearman's rank correlation of weighted proposals, for all images and for each replicate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.store import Key, Measurements
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import CORRELATION, Array, ImageBootstrap, Resampled
from rethink_heads.statistics.sums import NO_VARIANCE, WHOLE_RANGE, Flags, bin_range

Rows = npt.NDArray[np.void]
"""Sampled proposals (N,) with the fields object, bin, weight, iou and score, sorted by object."""

# More rows of a head than these change nothing that could be seen: the interval is of the images.
MOST_RANKED = 1_000_000
# The rows are sorted once, but ranks are recomputed in every replicate.
RANK_REPLICATES = 200
# Parts of the rows that are left out in turn.
_GROUPS = 10


def ranked_rows(
    measurements: Measurements,
    key: Key,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    objects: Flags | None = None,
) -> Rows:
    """The sampled proposals of a head that ranks are taken of.

    Where there are more than MOST_RANKED, every k-th of each object, which stands for k times as many proposals:
    weighted sums are unbiased estimates of those of all rows. The first is chosen by a hash of the object's ids, so
    that the rows are the same for all heads and each time.

    Args:
        measurements: of any heads.
        key: (detector, head).
        iou_range: rows of bins in it.
        objects: (O,) those that count; None: all.
    """
    rows, (first, after) = measurements.rows(key), bin_range(iou_range)
    chosen = (rows["bin"] >= first) & (rows["bin"] < after)
    if objects is not None:
        chosen &= objects[rows["object"]]
    index = np.flatnonzero(chosen)
    every = max(1, -(-len(index) // MOST_RANKED))
    if every > 1:
        # From every bin.
        strata = rows["object"][index].astype(np.int64) * IOU_BINS + rows["bin"][index]
        index = index[np.argsort(strata, kind="stable")]
        index = index[_is_kept(measurements, rows["object"][index], every)]
    found = rows[index]
    found["weight"] *= every
    return found


def _is_kept(measurements: Measurements, object_of: npt.NDArray[np.int32], every: int) -> Flags:
    """Whether each of some rows (N,), sorted by object, is a k-th of its object's."""
    starts = np.flatnonzero(np.diff(object_of, prepend=-1))
    place = np.arange(len(object_of)) - np.repeat(
        starts, np.diff(np.append(starts, len(object_of)))
    )
    ids = (measurements.objects[name].to_numpy() for name in ("image_id", "object_id"))
    first, second = (each[object_of[starts]].astype(np.uint64) for each in ids)
    with np.errstate(over="ignore"):
        # splitmix64 of one id, then of both.
        offset = _mixed(_mixed(first) + second) % np.uint64(every)
    offset = np.repeat(offset, np.diff(np.append(starts, len(object_of))))
    return np.asarray((place.astype(np.uint64) + offset) % np.uint64(every) == 0)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def resampled_spearman(
    rows: Rows, measurements: Measurements, bootstrap: ImageBootstrap
) -> Resampled:
    """Spearman's correlation of sampled proposals of some measurements' objects, and of each replicate."""
    image_ids = measurements.objects["image_id"].to_numpy()[rows["object"]]
    return rank_correlation(rows["iou"], rows["score"], rows["weight"], image_ids, bootstrap)


def rank_correlation(
    x: Array, y: Array, weight: Array, image_ids: npt.NDArray[np.int64], bootstrap: ImageBootstrap
) -> Resampled:
    """Spearman's correlation of two variables (N,) with weights, and of each replicate of their images (N,)."""
    images = np.array(len(np.unique(image_ids)))
    if not len(x):
        nothing = np.full(bootstrap.replicates, np.nan)
        return Resampled(np.array(np.nan), nothing, images, CORRELATION)
    places = numbered(x), numbered(y)
    image = bootstrap.index(image_ids)
    values = [
        weighted_spearman(*places, weight * drawn[image])
        for block in bootstrap.weight_blocks()
        for drawn in block
    ]
    value = weighted_spearman(*places, weight)
    return Resampled(np.array(value), np.array(values), images, CORRELATION)


def spearman_sampling_error(rows: Rows) -> float:
    """Standard error of Spearman's correlation that comes of ranking some proposals in place of all.

    Of each object and bin so many rows stand for all of its proposals. They are dealt out to ten groups, and each
    group is left out in turn, the other rows of its bins standing for more (the jackknife by groups; of bins of fewer
    rows a part is left out: Kott, The Delete-a-Group Jackknife, 2001). Bins of which every proposal is a row have no
    error. nan where one row stands for a bin's proposals, which does not tell how they differ.
    """
    if not len(rows):
        return float("nan")
    weight = rows["weight"]
    strata = pd.Series(weight).groupby([rows["object"], rows["bin"]])
    stratum = strata.ngroup().to_numpy()
    number, size = strata.cumcount().to_numpy(), strata.transform("size").to_numpy()
    # Small bins give their rows to different groups.
    group = (number + stratum) % _GROUPS
    is_drawn = weight > 1
    if (is_drawn & (size == 1)).any():
        return float("nan")
    part = np.sqrt(_GROUPS * (size - 1) / ((_GROUPS - 1) * size)).clip(max=1)
    places = numbered(rows["iou"]), numbered(rows["score"])
    left_out = []
    for out in range(_GROUPS):
        is_out = is_drawn & (group == out)
        gone = np.bincount(stratum, is_out)[stratum]
        others = weight * (1 + part * gone / np.maximum(size - gone, 1))
        left_out.append(weighted_spearman(*places, np.where(is_out, weight * (1 - part), others)))
    variance = (_GROUPS - 1) * np.var(left_out)
    # What a bin's rows are of its proposals, their error lacks.
    unseen = np.average(1 - 1 / weight[is_drawn], weights=weight[is_drawn]) if is_drawn.any() else 0
    return float(np.sqrt(variance * unseen))


def numbered(values: Array) -> npt.NDArray[np.int64]:
    """Number (N,) of each value among the different values (N,), in rising order."""
    return np.unique(values, return_inverse=True)[1]


def weighted_spearman(
    places_x: npt.NDArray[np.int64], places_y: npt.NDArray[np.int64], weight: Array
) -> float:
    """Rank correlation of rows (N,) that each stand for ``weight`` equal ones.

    ``places`` number the different values of a variable from 0 in rising order, so that equal
    values, which share the mean of their ranks, have one number. nan where one variable does not
    vary.
    """
    total = weight.sum()
    if total <= 0:
        return float("nan")
    ranks = []
    for places in (places_x, places_y):
        mass = np.bincount(places, weight)
        # Less half the total, which is the mean of midranks: centred without a second pass.
        midranks = (np.cumsum(mass) - mass / 2 - total / 2) / total
        ranks.append(midranks[places])
    x, y = ranks
    spread = (weight @ (x * x)) * (weight @ (y * y))
    # Centred ranks span [-1/2, 1/2]: a spread of next to nothing is a single value.
    if spread <= (NO_VARIANCE * total) ** 2:
        return float("nan")
    return float(weight @ (x * y) / np.sqrt(spread))
