"""Spearman's rank correlation of weighted proposals; and of boxes within images and within classes.

The latter are those of Kahraman, Oksuz, Kalkan and Akbas, "Correlation Loss: Enforcing Correlation between
Classification and Localization" (AAAI 2023, arXiv 2301.01019), taken from a public summary: at the *image level* of an
image's positive detections before NMS, averaged over images, at the *class level* of a class's true positives after
NMS, averaged over classes. Their text was not at hand, and their repository (fehmikahraman/CorrLoss) holds the training
loss, but not these measures: so what makes a detection positive, and what becomes of images and classes with too few,
is not verified. Here positive means an IoU of 0.5 or more: before NMS, of the box regressed for the class of the object
that the RPN proposal overlaps most, with that object; after NMS, of a true positive in COCO's matching. Images and
classes whose scores or IoUs do not vary have no correlation and are left out.

The image level is given after NMS as well, which is not in that paper. An image with two positives can only have a
correlation of -1 or 1, so that this one is noisy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
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
    REPLICATES,
    Array,
    BootstrapEstimate,
    ImageBootstrap,
    difference_columns,
    effective_images,
)
from rethink_heads.statistics.sums import (
    NO_VARIANCE,
    WHOLE_RANGE,
    Flags,
    bin_range,
    by_size,
    ratio,
)

Rows = npt.NDArray[np.void]
"""Sampled proposals (N,) with the fields object, bin, weight, iou and score, sorted by object."""

# More rows of a head than these change nothing that could be seen: the interval is of the images.
MOST_RANKED = 1_000_000
_OBJECTS_AT_ONCE = 1000
# Of 1 and -1, so that Fisher's scale is finite there.
ROUNDING = 1e-9
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


@dataclass(frozen=True)
class RankedRows:
    """Sampled proposals (N,) ranked by IoU and by score: those of some objects keep the order, so that one sort serves.

    Attributes:
        object, stratum: (N,) row of the object, and number of the object's IoU bin, that each is of.
        weight: (N,) how many proposals each stands for.
        iou, score: (N,) number of each value among the different ones, in rising order.
    """

    object: npt.NDArray[np.int32]
    stratum: npt.NDArray[np.int64]
    weight: Array
    iou: npt.NDArray[np.int64]
    score: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows) -> RankedRows:
        """Rank the rows of :func:`ranked_rows`."""
        stratum = rows["object"].astype(np.int64) * IOU_BINS + rows["bin"]
        weight = rows["weight"].astype(np.float64)
        places = numbered(rows["iou"]), numbered(rows["score"])
        return cls(rows["object"].copy(), stratum, weight, *places)

    def select(self, objects: Flags) -> RankedRows:
        """The rows of some objects (O,)."""
        if objects.all():
            return self
        chosen = objects[self.object]
        return RankedRows(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @cached_property
    def spearman(self) -> tuple[float, Array]:
        """Spearman's correlation and its derivatives, see :func:`weighted_spearman`."""
        return weighted_spearman(self.iou, self.score, self.weight)

    def resample(
        self, objects: Flags, measurements: Measurements, bootstrap: ImageBootstrap
    ) -> list[BootstrapEstimate]:
        """Spearman's correlation of those objects (O,) that are of each of ALL_SIZES, and of the replicates."""
        return [
            self.select(chosen & objects).resample_all(measurements, bootstrap)
            for _, chosen in by_size(measurements)
        ]

    def resample_all(
        self, measurements: Measurements, bootstrap: ImageBootstrap
    ) -> BootstrapEstimate:
        """Spearman's correlation, and that of the replicates of the images."""
        image_ids = measurements.objects["image_id"].to_numpy()[self.object]
        value, slope = self.spearman
        by_image = slopes_by_image(slope, image_ids, bootstrap)
        bearing = effective_images(np.bincount(bootstrap.index(image_ids), self.weight))
        replicates = rank_replicates(np.array(value), by_image, bootstrap)
        return BootstrapEstimate(np.array(value), replicates, bearing, CORRELATION)

    @property
    def sampling_error(self) -> float:
        """Standard error of Spearman's correlation that comes of ranking some proposals in place of all.

        That of the sum of the derivatives, rows being drawn without replacement from each object and bin (Cochran,
        Sampling Techniques, 3rd edition, section 5.3). Bins of which every proposal is a row have none. nan where one
        row stands for a bin's proposals, which does not tell how they differ.
        """
        value, slope = self.spearman
        if np.isfinite(value) and (self.weight == 1).all():
            return 0.0
        size = np.bincount(self.stratum)
        if not np.isfinite(value) or (self.weight[size[self.stratum] == 1] > 1).any():
            return float("nan")
        mean = np.bincount(self.stratum, slope) / np.maximum(size, 1)
        unseen = (1 - 1 / self.weight).clip(min=0) * (slope - mean[self.stratum]) ** 2
        return float(np.sqrt((np.bincount(self.stratum, unseen) * size / (size - 1).clip(1)).sum()))


@lru_cache(maxsize=4)
def ranked_head(measurements: Measurements, key: Key, iou_range: tuple[float, float]) -> RankedRows:
    """The rows of :func:`ranked_rows` of all objects, ranked; the latest are kept for the differences of a table."""
    return RankedRows.of(ranked_rows(measurements, key, iou_range))


def slopes_by_image(
    slope: Array, image_ids: npt.NDArray[np.int64], bootstrap: ImageBootstrap
) -> Array:
    """Derivatives (N,) of a rank correlation by its rows, of images (N,), added up by image (I,)."""
    images = bootstrap.index(image_ids)
    return np.bincount(images, slope, len(bootstrap.image_ids)).astype(np.float64)


def rank_replicates(value: Array, by_image: Array, bootstrap: ImageBootstrap) -> Array:
    """Replicates (B, ...) of rank correlations (...), to the first order in how often each image was drawn.

    On Fisher's scale, so that they stay between -1 and 1. Ranking the rows of each draw anew takes a hundred times as
    long for intervals that hold as often (benchmarks/README.md, "Intervals").
    ``value``: nan gives nan; by_image: (I, ...) of :func:`slopes_by_image`.
    """
    change = bootstrap.replicate(by_image) - by_image.sum(axis=0)
    bounded = np.clip(value, -1 + ROUNDING, 1 - ROUNDING)
    return np.asarray(np.tanh(np.arctanh(bounded) + change / (1 - bounded**2)))


def numbered(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Number (N,) of each value among the different values (N,), in rising order."""
    return np.unique(values, return_inverse=True)[1]


def weighted_spearman(
    x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], weight: Array
) -> tuple[float, Array]:
    """Rank correlation of rows (N,) that each stand for ``weight`` equal ones, and its derivatives.

    With the midranks r_x and r_y, centred, of the share u of all weight that a row has, the correlation is
    C / sqrt(V_x V_y), C the sum of u r_x r_y and V = (1 - sum of the shares of different values cubed) / 12. More
    weight of a row adds to C its own product, and moves the ranks of all others: by the sum of u r_y over the rows with
    a larger x less that with a smaller, halved, and likewise for y.

    Args:
        x, y: (N,) places of the rows in the rising order of a variable; equal values, which share the mean of their
            ranks, have one number, and numbers may be left out.
        weight: (N,).

    Returns:
        The correlation, and (N,) how fast it changes with the logarithm of each row's weight, 0 in sum. nan and zeros
        where one variable does not vary.
    """
    total = weight.sum()
    if total <= 0:
        return float("nan"), np.zeros(len(weight))
    share = weight / total
    shares = [np.bincount(places, share).astype(np.float64) for places in (x, y)]
    ranks = [_centred(each)[places] for each, places in zip(shares, (x, y), strict=True)]
    spreads = [share @ (each * each) for each in ranks]
    # Centred ranks span [-1/2, 1/2]: a spread of next to nothing is a single value.
    if spreads[0] * spreads[1] <= NO_VARIANCE**2:
        return float("nan"), np.zeros(len(weight))
    spread = np.sqrt(spreads[0] * spreads[1])
    product = ranks[0] * ranks[1] / spread
    value = share @ product
    slope = product
    for places, value_share, other, own in zip((x, y), shares, ranks[::-1], spreads, strict=True):
        moved = -_centred(np.bincount(places, share * other).astype(np.float64)) / spread
        slope = slope + (moved - value * (1 - value_share**2) / (8 * own))[places]
    return float(value), share * slope


def _centred(sums: Array) -> Array:
    """Of each value (V,) the sums up to it, half of its own included, less half of all: midranks, of shares."""
    return np.asarray(np.cumsum(sums) - sums / 2 - sums.sum() / 2)


def level_correlation(
    stages: pd.DataFrame, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Image- and class-level rank correlation of positive boxes (Kahraman et al., see the module).

    Args:
        stages: what ``measure_stages`` returns.
        replicates, seed: of the bootstrap over images.

    Returns:
        One row per detector, head, "level" ("image" or "class") and "stage" that the frame holds
        ("rpn": before NMS, "detections": after it) with "spearman", "spearman_low", "spearman_high", "groups" (images
        or classes that have a correlation) and "boxes" (positives, in any image or class).
    """
    return level_tables(stages, replicates=replicates, seed=seed)[0]


def compare_levels(
    stages: pd.DataFrame, a: Key, b: Key, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """The rank correlations of two heads on the same draws of images, and their difference a - b.

    Each head averages over the images or classes where it has a correlation.

    Returns:
        One row per "level" and "stage" with "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: a head has no boxes at all.
    """
    return level_tables(stages, [(a, b)], replicates=replicates, seed=seed)[1]


def level_tables(
    stages: pd.DataFrame,
    pairs: Iterable[tuple[Key, Key]] = (),
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What :func:`level_correlation` gives, and :func:`compare_levels` of some pairs, of the same resampled heads."""
    images = stages["image_id"].to_numpy()[(stages["object_id"] >= 0).to_numpy()]
    bootstrap = ImageBootstrap(images, replicates, seed)
    keys = sorted(stages[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None))
    present = set(stages["stage"].unique())
    measures = [(level, stage) for level, stage in MEASURES if stage in present]
    rows: list[dict[str, Any]] = []
    resampled: dict[tuple[Key, str, str], BootstrapEstimate] = {}
    for key, (level, stage) in product(keys, measures):
        boxes = positives(stages, key, stage)
        found = (_over_images if level == IMAGE else _over_classes)(boxes, bootstrap)
        resampled[key, level, stage] = found.resampled
        named = {"detector": key[0], "head": key[1], "level": level, "stage": stage}
        counts = {"groups": found.groups, "boxes": len(boxes)}
        rows.append(named | found.resampled.estimate().columns("spearman") | counts)
    differences = []
    for a, b in pairs:
        for key in (a, b):
            if key not in keys:
                names = ", ".join("/".join(pair) for pair in keys) or "nothing"
                raise UserError(f"no boxes of {'/'.join(key)}; there are those of {names}")
        for level, stage in measures:
            named = {"level": level, "stage": stage, "a": "/".join(a), "b": "/".join(b)}
            both = (resampled[key, level, stage] for key in (a, b))
            differences.append(pd.DataFrame(named | difference_columns(*both)))
    compared = pd.concat(differences, ignore_index=True) if differences else pd.DataFrame()
    return pd.DataFrame(rows), compared


def positives(stages: pd.DataFrame, key: Key, stage: str) -> pd.DataFrame:
    """The positive boxes of a head at a stage: image_id, class_name, score and iou, the IoU that counts."""
    is_positive = (stages["object_id"] >= 0) & (stages[_IOU[stage]] >= POSITIVE_IOU)
    for name, value in zip(("detector", "head", "stage"), (*key, stage), strict=True):
        is_positive &= stages[name] == value
    found = stages.loc[is_positive, ["image_id", "class_name", "score", _IOU[stage]]]
    return found.rename(columns={_IOU[stage]: "iou"})


class _Level(NamedTuple):
    """A level's correlation, resampled, and how many images or classes have one."""

    resampled: BootstrapEstimate
    groups: int


def _over_images(boxes: pd.DataFrame, bootstrap: ImageBootstrap) -> _Level:
    """The mean of the images' own correlations: they do not change from draw to draw."""
    image = bootstrap.index(boxes["image_id"].to_numpy())
    ranks = boxes.groupby("image_id")[["iou", "score"]].rank().to_numpy().T
    count = np.bincount(image, minlength=len(bootstrap.image_ids))
    x, y = (each - (count[image] + 1) / 2 for each in ranks)
    xx, yy, xy = (np.bincount(image, each, len(count)) for each in (x * x, y * y, x * y))
    varies = (xx > 0) & (yy > 0)
    values = np.where(varies, xy / np.sqrt(np.where(varies, xx * yy, 1)), 0)
    sums = np.stack([varies, values], axis=1)
    resampled = bootstrap.resample(sums, ratio, limits=CORRELATION)
    return _Level(resampled, int(varies.sum()))


def _over_classes(boxes: pd.DataFrame, bootstrap: ImageBootstrap) -> _Level:
    """The mean of the classes' correlations."""
    classes, values, value_share = 0, [], []
    for classes, (_, rows) in enumerate(boxes.groupby("class_name", observed=True), 1):  # noqa: B007
        places = numbered(rows["iou"].to_numpy()), numbered(rows["score"].to_numpy())
        value, slope = weighted_spearman(*places, np.ones(len(rows)))
        if np.isfinite(value):
            values.append(value)
            value_share.append(
                slopes_by_image(slope, rows["image_id"].to_numpy(np.int64), bootstrap)
            )
    # Copies of a few boxes correlate as they do themselves: replicates of fewer vary by twice what data sets do.
    is_enough = values and len(boxes) >= FEWEST_BOXES * classes
    if not values:
        values, value_share = [np.nan], [np.zeros(len(bootstrap.image_ids))]
    found = np.array(values)
    resampled = BootstrapEstimate(
        np.array(found.mean()),
        rank_replicates(found, np.stack(value_share, axis=1), bootstrap).mean(axis=1),
        effective_images(boxes["image_id"].value_counts().to_numpy() * bool(is_enough)),
        CORRELATION,
    )
    return _Level(resampled, int(np.isfinite(found).sum()))
