"""Bootstrap over images: intervals that know that the objects of an image are not independent.

Each replicate draws as many images as there are, with replacement, and weights everything measured
in an image by how often it was drawn. Images are those of the whole measurement set; one without
objects of the size in question adds nothing to it. A replicate that drew nothing at all for a
quantity gives nan and is left out of that quantity's interval.

Intervals are bias-corrected and accelerated (Efron and Tibshirani, An Introduction to the
Bootstrap, section 14.3), expanded for the number of images (Hesterberg, What Teachers Should Know
About the Bootstrap, 2015). Plain percentiles are too short where images are few: in a simulation of
40 clustered images those of Pearson's correlation held the truth in 90% of trials instead of 95%,
these in 93%; of 8 images in 73% and 84%.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.special

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]

LEVEL = 0.95
REPLICATES = 1000
# Fewer images than this say nothing about how images differ: no interval.
FEWEST_IMAGES = 2
# What is held at once of the weights, of which there are as many as replicates times images, and of other arrays of
# that size.
BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Estimate:
    """A statistic of all images and the ends of its interval, arrays of one shape."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Resampled:
    """A statistic of all images, of each replicate and of all images but one.

    Attributes:
        value: (...) of all images.
        replicates: (B, ...).
        left_out: (I, ...) without each image, nan for those that do not bear on the statistic; or
            None where that is too slow, which does without the acceleration.
        images: (...) how many images bear on the statistic.
    """

    value: Array
    replicates: Array
    left_out: Array | None
    images: npt.NDArray[np.int64]

    def less(self, other: Resampled) -> Resampled:
        """The difference of two statistics on the same images and draws."""
        left_out = None
        if self.left_out is not None and other.left_out is not None:
            left_out = self.left_out - other.left_out
        return Resampled(
            self.value - other.value,
            self.replicates - other.replicates,
            left_out,
            np.minimum(self.images, other.images),
        )

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value and its interval, nan where fewer than two images bear on it."""
        images = np.maximum(self.images, FEWEST_IMAGES)
        tail = np.sqrt(images / (images - 1)) * scipy.special.stdtrit(images - 1, (1 - level) / 2)
        bias = self._bias()
        ends = []
        for end in (tail, -tail):
            stretch = np.maximum(1 - self._acceleration() * (bias + end), 0.1)
            part = scipy.special.ndtr(bias + (bias + end) / stretch)
            ends.append(np.where(self.images < FEWEST_IMAGES, np.nan, self._quantile(part)))
        return Estimate(self.value, *ends)

    def _bias(self) -> Array:
        """How far the median of the replicates is from the value, in standard deviations."""
        # Drawing each image once gives the value again, but for the rounding of sums.
        rounding = 1e-12 * np.abs(self.value)
        below = (self.replicates < self.value - rounding).sum(axis=0)
        below = below + 0.5 * (np.abs(self.replicates - self.value) <= rounding).sum(axis=0)
        found = (~np.isnan(self.replicates)).sum(axis=0)
        # Away from 0 and 1, where the deviation is infinite.
        return np.asarray(scipy.special.ndtri((below + 0.5) / (found + 1)))

    def _acceleration(self) -> Array:
        """A sixth of the skewness of the images' influence; at most 1/6 either way."""
        if self.left_out is None or not len(self.left_out):
            return np.zeros(self.value.shape)
        count = np.maximum((~np.isnan(self.left_out)).sum(axis=0), 1)
        influence = np.nansum(self.left_out, axis=0) / count - self.left_out
        spread = np.nansum(influence**2, axis=0)
        skewness = np.nansum(influence**3, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0, skewness / (6 * spread**1.5), 0.0)

    def _quantile(self, part: Array) -> Array:
        """Quantile ``part`` (...) of the replicates, each place its own; nan left out."""
        ordered = np.sort(self.replicates, axis=0)  # nan last
        found = (~np.isnan(ordered)).sum(axis=0)
        position = part * np.maximum(found - 1, 0)
        before = np.floor(position).astype(np.int64)
        after = np.minimum(before + 1, np.maximum(found - 1, 0))
        low, high = (np.take_along_axis(ordered, at[None], axis=0)[0] for at in (before, after))
        return np.asarray(low + (high - low) * (position - before))


class ImageBootstrap:
    """Replicates of a set of images, the same for the same images, count and seed."""

    def __init__(
        self, image_ids: Iterable[int], replicates: int = REPLICATES, seed: int = 0
    ) -> None:
        if replicates < 1:
            raise ValueError(f"a bootstrap needs at least one replicate, not {replicates}")
        self.image_ids = np.unique(np.fromiter(image_ids, np.int64))
        self.replicates = replicates
        self.seed = seed

    @property
    def weights(self) -> Array:
        """How often each replicate drew each image: (B, I), rows that add up to I."""
        return self.counts.astype(np.float64)

    def weight_blocks(self) -> Iterator[Array]:
        """The weights of some replicates after another, (b, I) each, of about BLOCK_BYTES."""
        rows = self._rows_per_block(8)
        for start in range(0, self.replicates, rows):
            yield self.counts[start : start + rows].astype(np.float64)

    @cached_property
    def counts(self) -> npt.NDArray[np.uint16]:
        """The weights (B, I) in a quarter of the memory. 65,536 draws of one image do not happen."""
        images = len(self.image_ids)
        generator = np.random.default_rng(self.seed)
        counts = np.zeros((self.replicates, images), np.uint16)
        # The drawn images, their places and the counts are integers of 8 bytes each.
        rows = self._rows_per_block(3 * 8)
        for start in range(0, self.replicates, rows):
            block = counts[start : start + rows]
            # Block by block the generator draws what it draws at once.
            drawn = generator.integers(0, max(images, 1), size=block.shape)
            drawn += np.arange(len(block))[:, None] * images
            block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
        return counts

    def _rows_per_block(self, bytes_per_image: int) -> int:
        return max(1, BLOCK_BYTES // max(1, len(self.image_ids) * bytes_per_image))

    def index(self, image_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions (N,) in ``self.image_ids`` of images (N,), all of which are there."""
        return np.searchsorted(self.image_ids, image_ids).astype(np.int64)

    def sum_by_image(
        self,
        image_ids: npt.NDArray[np.int64],
        columns: Array,
        cells: npt.NDArray[np.int64] | None = None,
        cell_count: int = 1,
    ) -> Array:
        """Add up rows (N, M) within images, or within cells of images: (I, cell_count, M).

        ``cells`` (N,) says which of the ``cell_count`` cells each row belongs to; None: cell 0.
        """
        index = self.index(image_ids) * cell_count
        if cells is not None:
            index = index + cells
        total = len(self.image_ids) * cell_count
        sums = [np.bincount(index, column, total) for column in columns.T]
        shape = (len(self.image_ids), cell_count, columns.shape[1])
        return np.stack(sums, axis=-1).reshape(shape).astype(np.float64)

    def add_by_image(
        self,
        sums: Array,
        image_ids: npt.NDArray[np.int64],
        columns: Array,
        cells: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Add rows (N, M) within images and cells to sums (I, cell_count, M); see :meth:`sum_by_image`."""
        if not len(image_ids):
            return
        index = self.index(image_ids)
        first, after = int(index.min()), int(index.max()) + 1
        cell_count = sums.shape[1]
        places = (index - first) * cell_count
        if cells is not None:
            places = places + cells
        touched = sums[first:after].reshape(-1, sums.shape[2])
        for number, column in enumerate(columns.T):
            touched[:, number] += np.bincount(places, column, len(touched))

    def replicate(self, sums: Array) -> Array:
        """Sums (I, ...) of each image to sums (B, ...) of each replicate."""
        return np.concatenate([np.tensordot(w, sums, axes=1) for w in self.weight_blocks()])

    def resample(
        self, sums: Array, statistic: Statistic, bears: npt.NDArray[np.bool_] | None = None
    ) -> Resampled:
        """A statistic of all images, of the replicates, and without each image in turn.

        Args:
            sums: (I, ..., M) per image.
            statistic: (R, ..., M) -> (R, ...), nan where it is not defined.
            bears: (I, ...) whether an image bears on the statistic; by default where the first of
                the M sums, the count, is not zero.
        """
        if bears is None:
            bears = sums[..., 0] > 0
        total = sums.sum(axis=0)
        return Resampled(
            value=statistic(total[None])[0],
            replicates=statistic(self.replicate(sums)),
            left_out=self._left_out(sums, total, statistic, bears),
            images=bears.sum(axis=0),
        )

    def _left_out(
        self, sums: Array, total: Array, statistic: Statistic, bears: npt.NDArray[np.bool_]
    ) -> Array:
        """The statistic without each image that bears on it, of some images after another."""
        rows = max(1, BLOCK_BYTES // 4 // max(1, total.nbytes))
        blocks = [slice(start, start + rows) for start in range(0, max(1, len(sums)), rows)]
        return np.concatenate(
            [np.where(bears[b], statistic(total - sums[b]), np.nan) for b in blocks]
        )

    def estimate(self, sums: Array, statistic: Statistic) -> Estimate:
        """A statistic of sums (I, ..., M) over images, with its interval; see ``resample``."""
        return self.resample(sums, statistic).estimate()
