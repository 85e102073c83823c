"""Spearman's rank correlation of weighted proposals; and of boxes within images and within classes.

The latter are those of Kahraman, Oksuz, Kalkan and Akbas, "Correlation Loss: Enforcing
Correlation between Classification and Localization" (AAAI 2023, arXiv 2301.01019):

- at the *image level*, Spearman's correlation of the scores of the true class with the IoUs of an
  image's positive detections before post-processing, averaged over images: whether NMS keeps the
  best box of those it chooses among;
- at the *class level*, Spearman's correlation of the scores with the IoUs of a class's true
  positives after post-processing, over the whole data set, averaged over classes: whether better
  boxes come first, as AP over several IoU thresholds rewards.

The two averages and their pre- and post-NMS boxes were taken from a public summary of the paper;
the paper's text was not at hand, and the authors' repository (fehmikahraman/CorrLoss) holds the
training loss, but not these measures. Not verified are therefore what makes a detection positive,
and what becomes of images and classes with too few of them. Here positive means an IoU of 0.5 or
more: before NMS, of the box regressed for the class of the object that the RPN proposal overlaps
most, with that object; after NMS, of a true positive in COCO's matching. Images and classes whose
scores or IoUs do not vary, as with fewer than two positives, have no correlation and are left out.

The image level is given after NMS as well, which is not in that paper. An image with two positives
can only have a correlation of -1 or 1, so that this one is noisy.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.stage_boxes import DETECTIONS, POSITIVE_IOU, RPN
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import (
    CORRELATION,
    MEAN_CORRELATION,
    Array,
    ImageBootstrap,
    Resampled,
    difference_columns,
)
from rethink_heads.statistics.sums import NO_VARIANCE, WHOLE_RANGE, Flags, bin_range, ratio

Rows = npt.NDArray[np.void]
"""Sampled proposals (N,) with the fields object, bin, weight, iou and score, sorted by object."""

# More rows of a head than these change nothing that could be seen: the interval is of the images.
MOST_RANKED = 1_000_000
_OBJECTS_AT_ONCE = 1000
# The rows are sorted once, but ranks are recomputed in every replicate.
RANK_REPLICATES = 200
# Of replicates that are ranked at once: numbers in cache, and the fewest, where rows are many.
_CACHED, _FEWEST_AT_ONCE = 2**16, 16
# The latest resampled correlations, by a digest of all that they are made of.
_known: dict[bytes, Resampled] = {}
_MOST_KNOWN = 256
# Parts of the rows that are left out in turn.
_GROUPS = 10
IMAGE, CLASS = "image", "class"
# Level and stage of each measure: the first and the last are the paper's.
MEASURES = ((IMAGE, RPN), (IMAGE, DETECTIONS), (CLASS, DETECTIONS))
FEWEST_BOXES = 50
"""True positives a class, on average, below which the class level has no interval."""
_IOU = {RPN: "regressed_iou", DETECTIONS: "true_positive_iou"}


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
    every = max(1, -(-int(chosen.sum()) // MOST_RANKED))
    index = np.flatnonzero(chosen) if every == 1 else _thinned(measurements, rows, chosen, every)
    found = rows[index]
    found["weight"] *= every
    return found


def _thinned(
    measurements: Measurements, rows: Rows, chosen: Flags, every: int
) -> npt.NDArray[np.int64]:
    """Row numbers of every k-th of the chosen rows (N,) of each object."""
    object_of, kept = rows["object"], []
    starts = np.flatnonzero(np.append(True, object_of[1:] != object_of[:-1]))
    # Some objects after another: there may be many more rows than are kept.
    for first, after in pairwise([*starts[::_OBJECTS_AT_ONCE].tolist(), len(rows)]):
        index = first + np.flatnonzero(chosen[first:after])
        # From every bin.
        strata = object_of[index].astype(np.int64) * IOU_BINS + rows["bin"][index]
        index = index[np.argsort(strata, kind="stable")]
        kept.append(index[_is_kept(measurements, object_of[index], every)])
    return np.concatenate(kept)


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
    """Spearman's correlation of two variables (N,) with weights, and of each replicate of their images (N,).

    The latest answers are kept: the rows of a table of heads come again in that of their differences.
    """
    digest = hashlib.blake2b(repr((len(x), bootstrap.replicates, bootstrap.seed)).encode())
    for values in (x, y, weight, image_ids, bootstrap.image_ids):
        digest.update(str(values.dtype).encode())
        digest.update(np.ascontiguousarray(values).data)
    name = digest.digest()
    if name not in _known:
        if len(_known) >= _MOST_KNOWN:
            del _known[next(iter(_known))]
        _known[name] = _rank_correlation(x, y, weight, image_ids, bootstrap)
    return _known[name]


def _rank_correlation(
    x: Array, y: Array, weight: Array, image_ids: npt.NDArray[np.int64], bootstrap: ImageBootstrap
) -> Resampled:
    images = np.array(len(np.unique(image_ids)))
    if not len(x):
        nothing = np.full(bootstrap.replicates, np.nan)
        return Resampled(np.array(np.nan), nothing, images, CORRELATION)
    image, images_drawn = bootstrap.index(image_ids), len(bootstrap.image_ids)
    by_x, by_y = (_InOrder(values, weight, image, images_drawn) for values in (x, y))
    value = weighted_spearman(by_x.places, by_y.places, weight)
    # Where in the order of y the rows are, in that of x.
    place = np.empty_like(image)
    place[by_y.order] = np.arange(len(place))
    place = place[by_x.order]
    at_once = max(_FEWEST_AT_ONCE, 16 * _CACHED // len(x))
    replicates = [
        _drawn_spearman(by_x, by_y, place, bootstrap.counts[start : start + at_once])
        for start in range(0, bootstrap.replicates, at_once)
    ]
    return Resampled(np.array(value), np.concatenate(replicates), images, CORRELATION)


class _InOrder:
    """Rows (N,) in the rising order of a variable, in which every draw of images weights them anew.

    Attributes:
        order: (N,) row numbers.
        is_new: (N,) whether a value is not the one before.
        image, weight: (N,) positions of the rows' images, and (N, 1) weights.
        totals, cubes: (I,) by image, the sum of the weights, and of the cubed weights of values that one row has.
    """

    def __init__(
        self, values: Array, weight: Array, image: npt.NDArray[np.int64], images: int
    ) -> None:
        self.order = np.argsort(values, kind="stable")
        found = values[self.order]
        self.is_new = np.append(True, found[1:] != found[:-1])
        self.image, of_rows = image[self.order], weight[self.order].astype(np.float64)
        self.weight = of_rows[:, None]
        is_single = self.is_new & np.append(self.is_new[1:], True)
        self.totals = np.bincount(self.image, of_rows, images)
        self.cubes = np.bincount(self.image, np.where(is_single, of_rows**3, 0), images)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Number (N,) of each value among the different ones, by row, as of :func:`numbered`."""
        places = np.empty(len(self.order), np.int64)
        places[self.order] = np.cumsum(self.is_new) - 1
        return places

    def parts(self, size: int) -> list[slice]:
        """About ``size`` rows after another, equal values together."""
        starts = np.flatnonzero(self.is_new)
        ends = np.searchsorted(starts, np.arange(size, len(self.order), size))
        edges = np.unique([0, *starts[ends[ends < len(starts)]], len(self.order)])
        return [slice(*edge) for edge in pairwise(edges.tolist())]


def _drawn_spearman(
    x: _InOrder, y: _InOrder, place: npt.NDArray[np.int64], counts: npt.NDArray[np.uint16]
) -> Array:
    """Spearman's correlation (b,) of rows (N,) in draws of images (b, I): a pass in either order, without a sort.

    A row of mass m at the midrank r adds m (r_x - T/2) (r_y - T/2) to the covariance, where T is the mass of all. The
    variance is (T^3 - sum of the masses of different values cubed) / 12.
    """
    drawn = np.ascontiguousarray(counts.T, dtype=np.float64)
    draws = drawn.shape[1]
    total = x.totals @ drawn
    ranks = np.empty((len(place), draws))
    covariance, variance = np.zeros(draws), np.ones(draws)
    for side in (y, x):
        parts = side.parts(max(1, _CACHED // draws))
        # Written over part by part, so that they stay in cache.
        most = max(part.stop - part.start for part in parts)
        buffers = np.zeros((3, most + 1, draws))
        cubes, reached = side.cubes @ drawn**3, np.zeros(draws)
        for part in parts:
            mass, sums, other = buffers[:, : part.stop - part.start + 1]
            mass, centred, is_new = mass[1:], other[1:], side.is_new[part]
            drawn.take(side.image[part], axis=0, out=mass, mode="clip")
            mass *= side.weight[part]
            _add_up(mass, sums[1:])
            if is_new.all():
                np.add(sums[1:], sums[:-1], out=centred)
            else:
                starts = np.append(np.flatnonzero(is_new), len(is_new))
                ends = sums[starts]
                shared = np.diff(ends, axis=0)[np.diff(starts) > 1]
                cubes += (shared**3).sum(axis=0)
                np.take(ends[1:] + ends[:-1], np.cumsum(is_new) - 1, 0, out=centred, mode="clip")
            # Twice the midranks less their mean.
            centred -= total - 2 * reached
            reached += sums[-1]
            if side is y:
                ranks[part] = centred
            else:
                mass *= centred
                ranks.take(place[part], axis=0, out=centred, mode="clip")
                covariance += np.einsum("ij,ij->j", mass, centred)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = 1 - cubes / reached**3
        variance *= np.where(share > NO_VARIANCE, share, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(3 * covariance / total**3 / np.sqrt(variance))


def _add_up(values: Array, out: Array) -> None:
    """Cumulative sums (N, b) over the first axis; two draws at a time, as each sum waits for the one before."""
    kind = np.complex128 if values.shape[1] % 2 == 0 else np.float64
    np.cumsum(values.view(kind), axis=0, out=out.view(kind))


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


def level_correlation(
    stages: pd.DataFrame, *, replicates: int = RANK_REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Image- and class-level rank correlation of positive boxes (Kahraman et al., see the module).

    Args:
        stages: what ``measure_stages`` returns.
        replicates, seed: of the bootstrap over images; at the class level ranks are taken anew in
            every replicate.

    Returns:
        One row per detector, head, "level" ("image" or "class") and "stage" that the frame holds
        ("rpn": before NMS, "detections": after it) with "spearman", "spearman_low", "spearman_high", "groups" (images
        or classes that have a correlation) and "boxes" (positives, in any image or class).
    """
    bootstrap = ImageBootstrap(_matched(stages)["image_id"], replicates, seed)
    rows: list[dict[str, Any]] = []
    for (detector, head), (level, stage) in product(_keys(stages), _measures(stages)):
        found = _resampled(positives(stages, (detector, head), stage), level, bootstrap)
        rows.append(
            {
                "detector": detector,
                "head": head,
                "level": level,
                "stage": stage,
                **found.resampled.estimate().columns("spearman"),
                "groups": found.groups,
                "boxes": found.boxes,
            }
        )
    return pd.DataFrame(rows)


def compare_levels(
    stages: pd.DataFrame,
    a: Key,
    b: Key,
    *,
    replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The rank correlations of two heads on the same draws of images, and their difference a - b.

    Each head averages over the images or classes where it has a correlation.

    Returns:
        One row per "level" and "stage" with "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: a head has no boxes at all.
    """
    bootstrap = ImageBootstrap(_matched(stages)["image_id"], replicates, seed)
    there = _keys(stages)
    for key in (a, b):
        if key not in there:
            names = ", ".join("/".join(pair) for pair in there) or "nothing"
            raise UserError(f"no boxes of {'/'.join(key)}; there are those of {names}")
    rows = []
    for level, stage in _measures(stages):
        resampled_levels = [
            _resampled(positives(stages, key, stage), level, bootstrap).resampled for key in (a, b)
        ]
        columns = {"level": level, "stage": stage, "a": "/".join(a), "b": "/".join(b)}
        rows.append(pd.DataFrame({**columns, **difference_columns(*resampled_levels)}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def positives(stages: pd.DataFrame, key: Key, stage: str) -> pd.DataFrame:
    """The positive boxes of a head at a stage: image_id, class_name, score and iou, the IoU that counts."""
    boxes = _matched(stages)
    chosen = (boxes["detector"] == key[0]) & (boxes["head"] == key[1]) & (boxes["stage"] == stage)
    found = boxes.loc[chosen, ["image_id", "class_name", "score", _IOU[stage]]]
    found = found.rename(columns={_IOU[stage]: "iou"})
    return found[found["iou"] >= POSITIVE_IOU]


class _Level(NamedTuple):
    """A level's correlation, resampled; how many images or classes have one; the positives."""

    resampled: Resampled
    groups: int
    boxes: int


def _matched(stages: pd.DataFrame) -> pd.DataFrame:
    return stages[stages["object_id"] >= 0]


def _keys(stages: pd.DataFrame) -> list[Key]:
    """(detector, head) of all that has boxes, in rising order."""
    found = stages[["detector", "head"]].drop_duplicates()
    return sorted(found.itertuples(index=False, name=None))


def _measures(stages: pd.DataFrame) -> list[tuple[str, str]]:
    """The measures whose stage has boxes."""
    present = set(stages["stage"].unique())
    return [(level, stage) for level, stage in MEASURES if stage in present]


def _resampled(boxes: pd.DataFrame, level: str, bootstrap: ImageBootstrap) -> _Level:
    return (_over_images if level == IMAGE else _over_classes)(boxes, bootstrap)


def _over_images(boxes: pd.DataFrame, bootstrap: ImageBootstrap) -> _Level:
    """The mean of the images' own correlations: they do not change from draw to draw."""
    sums = np.zeros((len(bootstrap.image_ids), 2))
    for image_id, rows in boxes.groupby("image_id"):
        value = weighted_spearman(
            numbered(rows["iou"].to_numpy()), numbered(rows["score"].to_numpy()), np.ones(len(rows))
        )
        if np.isfinite(value):
            sums[bootstrap.index(np.array([image_id]))[0]] = 1, value
    resampled = bootstrap.resample(sums, ratio, limits=MEAN_CORRELATION)
    return _Level(resampled, int(sums[:, 0].sum()), len(boxes))


def _over_classes(boxes: pd.DataFrame, bootstrap: ImageBootstrap) -> _Level:
    """The mean of the classes' correlations, each taken anew in every draw of images."""
    found = [
        rank_correlation(
            rows["iou"].to_numpy(),
            rows["score"].to_numpy(),
            np.ones(len(rows)),
            rows["image_id"].to_numpy(np.int64),
            bootstrap,
        )
        for _, rows in boxes.groupby("class_name")
    ]
    values = np.array([each.value for each in found], dtype=float)
    replicates = np.array([each.replicates for each in found], dtype=float)
    # Copies of a few boxes correlate as they do themselves: replicates of fewer vary by twice what data sets do.
    is_enough = len(boxes) >= FEWEST_BOXES * max(1, len(values))
    resampled = Resampled(
        _mean_of_defined(values),
        _mean_of_defined(replicates.reshape(len(values), bootstrap.replicates)),
        np.array(boxes["image_id"].nunique() if is_enough else 0),
        MEAN_CORRELATION,
    )
    return _Level(resampled, int(np.isfinite(values).sum()), len(boxes))


def _mean_of_defined(values: Array) -> Array:
    """Mean over the first axis of what is not nan; nan where nothing is left."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
