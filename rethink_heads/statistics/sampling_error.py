"""Errors of sampling: how far estimates from some of the proposals may be from those of the whole grid.

With ``proposals_per_object`` the proposals of each object and IoU bin are drawn without replacement, and the sums of
:class:`~rethink_heads.measure.store.Measurements` are unbiased estimates of the whole grid's, with covariances that are
estimated from the proposals measured (``Measurements.sampling``). Draws of different bins and objects are independent,
so that the covariances of larger sums are sums of theirs. A statistic's error follows by linearising it in the sums
(delta method; Cochran, Sampling Techniques, 3rd edition, sections 2.11 and 6.3).

The standard error is about the value of the whole grid *on the same objects*: estimate +- 1.96 errors holds that value
in 95% of draws, in fewer in bins of low IoU, where few proposals hold most of the spread (benchmarks/sampling.py). It
is 0 where all proposals were measured and nan where one proposal stands for several of a bin. The intervals of the
tables are about all images that there might be, and hold both: replicates of the bootstrap differ by what images show
and by which of their proposals were drawn. Ranks and the components of the regression's error have no error of their
own here; their intervals hold it all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rethink_heads.measure.moments import SAMPLED_TOTALS, SAMPLING_COLUMNS, covariance_column
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import Array
from rethink_heads.statistics.sums import (
    WHOLE_RANGE,
    Flags,
    bin_range,
    moments_of,
    pearson_correlation,
    standard_deviation,
)

SCORE_TOTALS, BOX_TOTALS = SAMPLED_TOTALS

# Second derivatives of Pearson's correlation r by the means (x, y, xx, yy, xy) of standardised variables: those that
# are multiples of r, and the rest.
_CURVATURE_R = np.array(
    [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0.75, 0.25, 0],
        [0, 0, 0.25, 0.75, 0],
        [0, 0, 0, 0, 0],
    ]
)
_CURVATURE = np.array(
    [
        [0, -1, 0, 0, 0],
        [-1, 0, 0, 0, 0],
        [0, 0, 0, 0, -0.5],
        [0, 0, 0, 0, -0.5],
        [0, 0, -0.5, -0.5, 0],
    ]
)


@dataclass(frozen=True)
class Covariances:
    """Of M totals of one head's objects, in bins.

    Attributes:
        values: (O, 20, C) the different covariances of an object and bin: zeros where all of it was measured, nan where
            they are not known; None: nothing was drawn at all.
        at: (M, M) which of the C each is.
    """

    values: Array | None
    at: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        measurements: Measurements,
        key: Key,
        totals: tuple[str, ...],
        iou_range: tuple[float, float] = WHOLE_RANGE,
    ) -> Covariances:
        """Those of ``SCORE_TOTALS`` or ``BOX_TOTALS`` of a head over the bins of a range."""
        names = [
            [covariance_column(*sorted((a, b), key=totals.index)) for b in totals] for a in totals
        ]
        columns = sorted({name for row in names for name in row}, key=SAMPLING_COLUMNS.index)
        at = np.array([[columns.index(name) for name in row] for row in names])
        if (sampling := measurements.sampling(key)) is None:
            return cls(None, at)
        first, after = bin_range(iou_range)
        values = sampling.take([SAMPLING_COLUMNS.index(name) for name in columns], axis=-1)
        values[:, :first], values[:, after:] = 0, 0
        return cls(values, at)

    def by_bin(self, objects: Flags) -> Array:
        """(20, M, M) of the sums over some objects (O,)."""
        if self.values is None:
            return np.zeros((IOU_BINS, *self.at.shape))
        return np.asarray(self.values[objects].sum(axis=0)[:, self.at])

    @property
    def by_object(self) -> Array:
        """(O, M, M) of the sums over an object's bins."""
        assert self.values is not None
        return np.asarray(self.values.sum(axis=1)[:, self.at])


def proposals_per_object(measurements: Measurements) -> tuple[float, float]:
    """How many proposals an object has on average, measured and in the whole grid."""
    total, objects = np.zeros(2), 0
    for key in measurements.keys:
        counts = moments_of(measurements, key, ["measured", "n"]).sum(axis=1)
        total += counts.sum(axis=0)
        objects += int((counts[:, 0] > 0).sum())
    measured, whole = (total / max(objects, 1)).tolist()
    return measured, whole


def pearson_error(sums: Array, covariance: Array) -> Array:
    """Error (...) of Pearson's correlation from PEARSON_SUMS (..., 6) and covariances (..., 5, 5) of SCORE_TOTALS."""
    correlation, standardised = _standardise(sums, covariance)
    return _root(_linear_variance(correlation, standardised))


def pearson_bias_and_variance(sums: Array, covariance: Array) -> tuple[Array, Array]:
    """What sampling does to Pearson's correlation on average, and its variance, both to the second order.

    For many correlations of few proposals each, whose mean has an error so small that their bias counts: that of a
    correlation of n proposals falls with 1 / n, and the mean's error with the root of the number of correlations.

    Args:
        sums: PEARSON_SUMS (..., 6).
        covariance: (..., 5, 5) of SCORE_TOTALS.

    Returns:
        (...) each; 0 where the correlation is not defined.
    """
    correlation, standardised = _standardise(sums, covariance)
    defined = np.isfinite(correlation)
    r = np.where(defined, correlation, 0.0)
    bent = (r[..., None, None] * _CURVATURE_R + _CURVATURE) @ standardised
    bias = np.trace(bent, axis1=-2, axis2=-1) / 2
    # That of a quadratic form of normal errors.
    curved = np.trace(bent @ bent, axis1=-2, axis2=-1) / 2
    variance = _linear_variance(r, standardised) + curved
    return np.where(defined, bias, 0.0), np.where(defined, variance, 0.0)


def mean_error(n: Array, covariance: Array, of: int, less: int | None = None) -> Array:
    """Error (...) of a mean over n (...) proposals.

    Args:
        n: exact number of proposals.
        covariance: (..., M, M) of totals.
        of: place of the variable's sum among the totals.
        less: place of another's, whose mean is subtracted.
    """
    variance = covariance[..., of, of]
    if less is not None:
        cross = covariance[..., of, less]
        variance = variance - 2 * cross + covariance[..., less, less]
    return _over(_root(variance), n)


def standard_deviation_error(sums: Array, covariance: Array, of: int, squares: int) -> Array:
    """Error (...) of a standard deviation from count, sum and sum of squares (..., 3); places as in `mean_error`."""
    n, total = sums[..., 0], sums[..., 1]
    spread = standard_deviation(sums)
    mean = _over(total, n)
    variance = (
        covariance[..., squares, squares]
        - 4 * mean * covariance[..., squares, of]
        + 4 * mean**2 * covariance[..., of, of]
    )
    # Values that are all the same have no error either.
    error = np.where(variance > 0, _over(_root(variance), 2 * n * spread), _root(variance))
    return np.where(n > 0, error, np.nan)


def _standardise(sums: Array, covariance: Array) -> tuple[Array, Array]:
    """The correlation (...) and the covariances (..., 5, 5) of the means of x, y, xx, yy and xy, standardised.

    Pearson's correlation is that of the variables less their means over their standard deviations, whatever these are:
    so its derivatives need to be known for means of 0 and variances of 1 only.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        n, x, y, xx, yy, _ = np.moveaxis(sums, -1, 0)
        x, y = x / n, y / n
        sx, sy = np.sqrt(xx / n - x**2), np.sqrt(yy / n - y**2)
        change = np.zeros((*sums.shape[:-1], 5, 5))
        change[..., 0, 0], change[..., 1, 1] = 1 / sx, 1 / sy
        change[..., 2, 2], change[..., 2, 0] = 1 / sx**2, -2 * x / sx**2
        change[..., 3, 3], change[..., 3, 1] = 1 / sy**2, -2 * y / sy**2
        change[..., 4, 4] = 1 / (sx * sy)
        change[..., 4, 0], change[..., 4, 1] = -y / (sx * sy), -x / (sx * sy)
        covariance_of_means = covariance / n[..., None, None] ** 2
        correlation = pearson_correlation(sums)
        defined = np.isfinite(correlation)[..., None, None]
        change = np.where(defined, change, 0.0)
        standardised = (
            change @ np.where(defined, covariance_of_means, 0.0) @ np.swapaxes(change, -1, -2)
        )
    return correlation, standardised


def _linear_variance(correlation: Array, standardised: Array) -> Array:
    half = -np.asarray(correlation)[..., None] / 2
    slope = np.concatenate([0 * half, 0 * half, half, half, 0 * half + 1], axis=-1)
    return np.asarray(np.einsum("...i,...ij,...j->...", slope, standardised, slope))


def _root(variance: Array) -> Array:
    # Less than nothing is rounding.
    return np.sqrt(np.maximum(variance, 0.0))


def _over(value: Array, n: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(n != 0, value / n, np.nan))
