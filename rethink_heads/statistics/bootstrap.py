"""Bootstrap over images: intervals that know that the objects of an image are not independent.

Each replicate draws as many images as there are, with replacement, and weights everything measured in an image by how
often it was drawn. Images are those of the whole measurement set; one without objects of the size in question adds
nothing to it. A replicate that drew nothing for a quantity gives nan and is left out of its interval.

An interval is of the mean that the statistic has over data sets of as many images: average precision is larger, on
average, of few objects a class than of many. It is about the value and not between quantiles of the replicates, since
copies of an image raise each class's precision, so that those of a mean over many classes lie beside the value.

It reaches from the value by Student's t times the replicates' standard deviation, further towards their longer
tail by Johnson's correction for skewness ("Modified t Tests and Confidence Intervals for Asymmetrical Populations",
JASA 73, 1978). docs/intervals.md has the formula, how images count, and how often the intervals hold
(benchmarks/coverage.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]

LEVEL = 0.95
REPLICATES = 1000
FEWEST_IMAGES = 15
"""Of fewer images that bear on a value there is no interval: so few do not tell how images differ."""
# Replicates that differ by less of the value differ by rounding: no interval, since images that are all the same do
# not tell how others would differ.
ROUNDING = 1e-9
# What is held at once of the weights, of which there are as many as replicates times images, and of other arrays of
# that size.
BLOCK_BYTES = 16 * 2**20


class Scale(NamedTuple):
    """On which the replicates of a statistic spread much the same, whatever its value: a function and its inverse."""

    forth: Callable[[Array], Array]
    back: Callable[[Array], Array]


def _fisher(correlation: Array) -> Array:
    """Fisher's z; finite at -1 and 1."""
    return np.asarray(np.arctanh(np.clip(correlation, -1 + 1e-6, 1 - 1e-6)))


def _log(spread: Array) -> Array:
    """The logarithm; nan of 0."""
    return np.log(np.where(spread > 0, spread, np.nan))


PLAIN = Scale(np.asarray, np.asarray)
FISHER = Scale(_fisher, np.tanh)
LOG = Scale(_log, np.exp)


class Limits(NamedTuple):
    """Of a statistic its least and largest value, the scale of its interval, and the fewest images that it takes.

    The last is in units of FEWEST_IMAGES.
    """

    low: float | Array
    high: float
    scale: Scale = PLAIN
    fewest: float = 1.0


ANY = Limits(-np.inf, np.inf)
MAGNITUDE = Limits(0.0, np.inf, LOG)
# That of few images is decided by the one or two that lie farthest out.
DEVIATION = Limits(0.0, np.inf, LOG, fewest=2.0)
SHARE = Limits(0.0, 1.0)
CORRELATION = Limits(-1.0, 1.0, FISHER)


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
class BootstrapEstimate:
    """A statistic of all images and of each replicate.

    Attributes:
        value: (...) of all images.
        replicates: (B, ...).
        images: (...) how many images bear on the statistic, as :func:`effective_images`.
        limits: within which it lies.
        images_each: of a mean over classes, how many images bear on one of them on average; None: it is no such mean;
            infinitely many: the replicates vary as much as data sets do.
        is_zero_without: whether it is known to be 0 where no image bears on it, so that a difference rests on the
            images of either side.
    """

    value: Array
    replicates: Array
    images: Array | npt.NDArray[np.int64]
    limits: Limits = ANY
    images_each: float | None = None
    is_zero_without: bool = False

    def less(self, other: BootstrapEstimate) -> BootstrapEstimate:
        """The difference of two statistics on the same images and draws."""
        images = np.maximum if self.is_zero_without else np.minimum
        return BootstrapEstimate(
            self.value - other.value,
            self.replicates - other.replicates,
            images(self.images, other.images),
            images_each=self.images_each,
            is_zero_without=self.is_zero_without,
        )

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value and its interval; nan where fewer than FEWEST_IMAGES bear on it, or nothing varies."""
        images = np.maximum(self.images, 2)
        each = 1 / (images if self.images_each is None else max(self.images_each, 2.0))
        forth, back = self.limits.scale
        centre, replicates = forth(self.value), forth(self.replicates)
        deviation = _deviation(replicates) / np.sqrt(1 - each)
        times = -scipy.special.stdtrit(images - 1, (1 - level) / 2)
        further = np.clip((1 + 2 * times**2) / 6 * _skewness(replicates), -times / 2, times / 2)
        low = back(centre - (times + np.maximum(-further, 0)) * deviation)
        high = back(centre + (times + np.maximum(further, 0)) * deviation)
        # Fisher's scale ends a little below 1.
        ends = (
            np.minimum(np.maximum(low, self.limits.low), self.value),
            np.maximum(np.minimum(high, self.limits.high), self.value),
        )
        varies = _deviation(self.replicates) > ROUNDING * np.maximum(np.abs(self.value), ROUNDING)
        has_interval = (self.images >= FEWEST_IMAGES * self.limits.fewest) & varies
        return Estimate(self.value, *(np.where(has_interval, end, np.nan) for end in ends))


def join(parts: Sequence[BootstrapEstimate]) -> BootstrapEstimate:
    """Statistics of the same draws and limits, one after another: (N,)."""
    return replace(
        parts[0],
        value=np.concatenate([np.ravel(each.value) for each in parts]),
        replicates=np.hstack([np.reshape(e.replicates, (-1, e.value.size)) for e in parts]),
        images=np.concatenate([np.ravel(each.images) for each in parts]),
    )


def difference_columns(a: BootstrapEstimate, b: BootstrapEstimate) -> dict[str, Any]:
    """Columns of a comparison of two statistics on the same draws of images.

    "value_a", "value_b", "difference" (a - b), "difference_low", "difference_high" and "excludes_zero": whether the
    interval does. A difference that is not defined, or has no interval, excludes nothing.
    """
    found = a.less(b).estimate()
    # Some draws may have a difference where the whole has none.
    excludes = np.isfinite(found.value) & ((found.low > 0) | (found.high < 0))
    columns = {"value_a": a.value, "value_b": b.value, **found.columns("difference")}
    return {name: np.atleast_1d(v) for name, v in (columns | {"excludes_zero": excludes}).items()}


def _deviation(replicates: Array) -> Array:
    """Standard deviation (...) over replicates (B, ...), nan left out; nan of fewer than two."""
    count, moment = _central_moments(replicates)
    return np.where(count > 1, np.sqrt(moment(2) * count / np.maximum(count - 1, 1)), np.nan)


def _skewness(replicates: Array) -> Array:
    """Skewness (...) of replicates (B, ...), nan left out; 0 where they do not differ."""
    _, moment = _central_moments(replicates)
    cubed = moment(2) ** 1.5
    return np.asarray(moment(3) / np.where(cubed > 0, cubed, 1.0))


def _central_moments(replicates: Array) -> tuple[Array, Callable[[int], Array]]:
    """How many replicates (...) are not nan, and their central moment (...) of an order."""
    found = np.isfinite(replicates)
    count = found.sum(axis=0)
    mean = np.where(found, replicates, 0.0).sum(axis=0) / np.maximum(count, 1)
    centred = np.where(found, replicates - mean, 0.0)
    return count, lambda order: (centred**order).sum(axis=0) / np.maximum(count, 1)


def effective_images(weights: npt.NDArray[Any]) -> Array:
    """How many images of equal weight (...) tell as much as images (I, ...) of these weights: (sum w)^2 / sum w^2."""
    squares = (weights.astype(np.float64) ** 2).sum(axis=0)
    return np.asarray(weights.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0))


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
    ) -> BootstrapEstimate:
        """A statistic of all images and of the replicates.

        An image bears on the statistic by the first of its M sums, a count; of a statistic of several counts, by their
        sum.

        Args:
            sums: (I, ..., M) per image.
            statistic: (R, ..., M) -> (R, ...), nan where it is not defined.
            limits: within which the statistic lies.
            replicated: (B, ..., M) what :meth:`replicate` gives of the sums, where it is known.
        """
        replicated = self.replicate(sums) if replicated is None else replicated
        value = statistic(sums.sum(axis=0)[None])[0]
        counts = sums[..., 0]
        images = effective_images(counts.sum(axis=tuple(range(1 + value.ndim, counts.ndim))))
        return BootstrapEstimate(value, statistic(replicated), images, limits)

    def estimate(self, sums: Array, statistic: Statistic, limits: Limits = ANY) -> Estimate:
        """A statistic of sums (I, ..., M) over images, with its interval; see ``resample``."""
        return self.resample(sums, statistic, limits).estimate()


class ImagesLeftOut(ImageBootstrap):
    """Draws that leave out some images and have none twice: for statistics of neighbours in a ranking.

    A copy of an image is next to it in every ranking, so that a bootstrap hardly breaks up a duplicate and the true
    positive before it. Leaving out d of n images, a statistic varies by d / (n - d) of its variance, with its skewness
    turned round (the delete-d jackknife: Shao and Wu, Annals of Statistics 17, 1989). With d / n = (1 - 1 / sqrt 5) / 2
    that is as large as the bootstrap's.
    """

    @cached_property
    def counts(self) -> npt.NDArray[np.uint16]:
        """Whether each draw has each image: (B, I)."""
        counts = np.ones((self.replicates, len(self.image_ids)), np.uint16)
        counts[:, : self._number] = 0
        return np.random.default_rng(self.seed).permuted(counts, axis=1)

    @property
    def _number(self) -> int:
        return max(1, round(len(self.image_ids) * (1 - 5**-0.5) / 2))

    def spread_out(self, draws: Array) -> Array:
        """Replicates (B, ...) that vary about their mean as data sets do, from values (B, ...) of the draws."""
        there = np.isfinite(draws)
        mean = np.where(there, draws, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        left = len(self.image_ids) - self._number
        return np.asarray(mean - np.sqrt(left / self._number) * (draws - mean))
