"""Bootstrap over images: intervals that know that the objects of an image are not independent.

Each replicate draws as many images as there are, with replacement, and weights everything measured
in an image by how often it was drawn. Images are those of the whole measurement set; one without
objects of the size in question adds nothing to it. A replicate that drew nothing at all for a
quantity gives nan and is left out of that quantity's interval.

An interval is the value and Student's t times the replicates' standard deviation on either side, with one degree of
freedom fewer than the images that bear on the value; of a correlation on Fisher's scale. The replicates of n images
vary by (n - 1) / n of what n images vary, which is made up for; of a mean over classes, n is the images of one class on
average. It is about the mean of the
statistic over data sets of as many images. For means, spreads and correlations that is next to the value of all
images that there could be. AP and calibration errors of few objects a class are larger on average than those of many
(the ranking of few objects fits them by chance), and no interval mends that: compare AP of equally many images.

Quantiles of the replicates, bias-corrected and accelerated or not, hold the truth less often: copies of an image
raise each class's AP alike, so that the replicates of a mean over many classes lie beside the value, by more than their
spread (benchmarks/coverage.py, whose table is in benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]

LEVEL = 0.95
REPLICATES = 1000
FEWEST_IMAGES = 5
"""Of fewer images that bear on a value there is no interval: they do not tell how images differ."""
# Replicates that differ by less of the value differ by rounding: no interval, since images that are all the same do
# not tell how others would differ.
ROUNDING = 1e-9
# What is held at once of the weights, of which there are as many as replicates times images, and of other arrays of
# that size.
BLOCK_BYTES = 16 * 2**20


class Limits(NamedTuple):
    """Least and largest value of a statistic, and whether its interval is taken on Fisher's scale."""

    low: float | Array
    high: float
    is_correlation: bool = False


ANY = Limits(-np.inf, np.inf)
SPREAD = Limits(0.0, np.inf)
SHARE = Limits(0.0, 1.0)
CORRELATION = Limits(-1.0, 1.0, is_correlation=True)
MEAN_CORRELATION = Limits(-1.0, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A statistic of all images and the ends of its interval, arrays of one shape."""

    value: Array
    low: Array
    high: Array

    def columns(self, name: str) -> dict[str, Any]:
        """Columns ``name``, ``name_low`` and ``name_high`` of a result frame; numbers where the shape is ()."""
        ends = {"": self.value, "_low": self.low, "_high": self.high}
        return {f"{name}{end}": values[()] for end, values in ends.items()}


@dataclass(frozen=True)
class Resampled:
    """A statistic of all images and of each replicate.

    Attributes:
        value: (...) of all images.
        replicates: (B, ...).
        images: (...) how many images bear on the statistic.
        limits: within which it lies.
        images_each: of a mean over classes, how many images bear on one of them on average; None: it is no such mean.
        is_zero_without: whether it is known to be 0 where no image bears on it, so that a difference rests on the
            images of either side.
    """

    value: Array
    replicates: Array
    images: npt.NDArray[np.int64]
    limits: Limits = ANY
    images_each: float | None = None
    is_zero_without: bool = False

    def less(self, other: Resampled) -> Resampled:
        """The difference of two statistics on the same images and draws."""
        images = np.maximum if self.is_zero_without else np.minimum
        return Resampled(
            self.value - other.value,
            self.replicates - other.replicates,
            images(self.images, other.images),
            images_each=self.images_each,
            is_zero_without=self.is_zero_without,
        )

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value and its interval; nan where fewer than FEWEST_IMAGES bear on it, or nothing varies."""
        images = np.maximum(self.images, 2)
        each = images if self.images_each is None else max(self.images_each, 2.0)
        times = -scipy.special.stdtrit(images - 1, (1 - level) / 2) * np.sqrt(each / (each - 1))
        reach = times * _deviation(self.replicates)
        has_interval = (self.images >= FEWEST_IMAGES) & (
            reach > ROUNDING * np.maximum(np.abs(self.value), ROUNDING)
        )
        low, high = self.value - reach, self.value + reach
        if self.limits.is_correlation:
            centre = _fisher(self.value)
            reach = times * _deviation(_fisher(self.replicates))
            low, high = np.tanh(centre - reach), np.tanh(centre + reach)
        low = np.maximum(low, self.limits.low)
        # Fisher's scale ends a little below 1.
        ends = (
            np.minimum(low, self.value),
            np.maximum(np.minimum(high, self.limits.high), self.value),
        )
        return Estimate(self.value, *(np.where(has_interval, end, np.nan) for end in ends))


def difference_columns(a: Resampled, b: Resampled) -> dict[str, Any]:
    """Columns of a comparison of two statistics on the same draws of images.

    "value_a", "value_b", "difference" (a - b), "difference_low", "difference_high" and "excludes_zero": whether the
    interval does. A difference that is not defined, or has no interval, excludes nothing.
    """
    found = a.less(b).estimate()
    # Some draws may have a difference where the whole has none.
    excludes = np.isfinite(found.value) & ((found.low > 0) | (found.high < 0))
    columns = {"value_a": a.value, "value_b": b.value, **found.columns("difference")}
    return {name: np.atleast_1d(v) for name, v in (columns | {"excludes_zero": excludes}).items()}


def _fisher(correlation: Array) -> Array:
    """Fisher's z, of which the spread hardly depends on the correlation; finite at -1 and 1."""
    return np.asarray(np.arctanh(np.clip(correlation, -1 + 1e-6, 1 - 1e-6)))


def _deviation(replicates: Array) -> Array:
    """Standard deviation (...) over replicates (B, ...), nan left out; nan of fewer than two."""
    found = np.isfinite(replicates)
    count = found.sum(axis=0)
    mean = np.where(found, replicates, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(found, replicates - mean, 0.0) ** 2).sum(axis=0)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


@lru_cache(maxsize=2)
def _counts(replicates: int, images: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each replicate drew each image (B, I): every table of some images asks for the same."""
    generator = np.random.default_rng(seed)
    counts = np.zeros((replicates, images), np.uint16)
    # The drawn images, their places and the counts are integers of 8 bytes each.
    rows = _rows_per_block(images, 3 * 8)
    for start in range(0, replicates, rows):
        block = counts[start : start + rows]
        # Block by block the generator draws what it draws at once.
        drawn = generator.integers(0, max(images, 1), size=block.shape)
        drawn += np.arange(len(block))[:, None] * images
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    counts.flags.writeable = False
    return counts


def _rows_per_block(images: int, bytes_per_image: int) -> int:
    return max(1, BLOCK_BYTES // max(1, images * bytes_per_image))


class ImageBootstrap:
    """Replicates of a set of images, the same for the same images, count and seed; without any, no intervals."""

    def __init__(
        self, image_ids: Iterable[int], replicates: int = REPLICATES, seed: int = 0
    ) -> None:
        if replicates < 0:
            raise ValueError(f"a bootstrap cannot have {replicates} replicates")
        ids = image_ids if isinstance(image_ids, np.ndarray) else [*image_ids]
        self.image_ids = np.unique(np.asarray(ids, np.int64))
        self.replicates = replicates
        self.seed = seed

    @property
    def weights(self) -> Array:
        """How often each replicate drew each image: (B, I), rows that add up to I."""
        return self.counts.astype(np.float64)

    def weight_blocks(self) -> Iterator[Array]:
        """The weights of some replicates after another, (b, I) each, of about BLOCK_BYTES."""
        rows = _rows_per_block(len(self.image_ids), 8)
        # A block at least, though it may be of none.
        for start in range(0, max(1, self.replicates), rows):
            yield self.counts[start : start + rows].astype(np.float64)

    @property
    def counts(self) -> npt.NDArray[np.uint16]:
        """The weights (B, I) in a quarter of the memory. 65,536 draws of one image do not happen."""
        return _counts(self.replicates, len(self.image_ids), self.seed)

    def index(self, image_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions (N,) in ``self.image_ids`` of images (N,), all of which are there."""
        return np.searchsorted(self.image_ids, image_ids).astype(np.int64)

    def sum_by_image(self, image_ids: npt.NDArray[np.int64], columns: Array) -> Array:
        """Add up rows (N, ...) within images: (I, ...). The images (N,) are in rising order."""
        starts = np.flatnonzero(np.diff(image_ids, prepend=image_ids[:1] - 1))
        sums = np.zeros((len(self.image_ids), *columns.shape[1:]))
        if len(starts):
            sums[self.index(image_ids[starts])] = np.add.reduceat(columns, starts, axis=0)
        return sums

    def replicate(self, sums: Array) -> Array:
        """Sums (I, ...) of each image to sums (B, ...) of each replicate."""
        return np.concatenate([np.tensordot(w, sums, axes=1) for w in self.weight_blocks()])

    def resample(
        self,
        sums: Array,
        statistic: Statistic,
        limits: Limits = ANY,
        replicated: Array | None = None,
    ) -> Resampled:
        """A statistic of all images and of the replicates.

        An image bears on the statistic where the first of its M sums, a count, is not zero; of a statistic of several
        counts, where any is not.

        Args:
            sums: (I, ..., M) per image.
            statistic: (R, ..., M) -> (R, ...), nan where it is not defined.
            limits: within which the statistic lies.
            replicated: (B, ..., M) what :meth:`replicate` gives of the sums, where it is known.
        """
        replicated = self.replicate(sums) if replicated is None else replicated
        value = statistic(sums.sum(axis=0)[None])[0]
        bears = sums[..., 0] > 0
        images = bears.any(axis=tuple(range(1 + value.ndim, bears.ndim))).sum(axis=0)
        return Resampled(value, statistic(replicated), images, limits)

    def estimate(self, sums: Array, statistic: Statistic, limits: Limits = ANY) -> Estimate:
        """A statistic of sums (I, ..., M) over images, with its interval; see ``resample``."""
        return self.resample(sums, statistic, limits).estimate()
