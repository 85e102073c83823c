"""Errors of sampling: how far estimates from some of the proposals may be from those of the whole grid.

With ``proposals_per_object`` the proposals of each object and IoU bin are drawn without replacement, and the sums of
:class:`~rethink_heads.measure.measurements.Measurements` are unbiased estimates of the whole grid's, with covariances
that are estimated from the proposals measured (``Measurements.sampling``). Draws of different bins and objects are
independent, so that the covariances of larger sums are sums of theirs. A statistic's error follows by linearising it in
the sums (delta method; Cochran, Sampling Techniques, 3rd edition, sections 2.11 and 6.3).

The standard error of sampling is about the value of the whole grid *on the same objects*: estimate +- 1.96 errors holds
that value in 95% of draws. It is 0 where all proposals were measured and nan where it is not known: in measurements
made before the covariances were kept.

The intervals of the tables are about all images that there might be, and hold both: the bootstrap draws images, whose
sums differ by what the images show and by which of their proposals were drawn, so that the spread of its replicates has
on average the variance between images and the squared error of sampling in it. In a simulation of 20 images with 2
objects each, tests/statistics/test_sampling_error.py, where sampling was half of the variance, so it was. Of one image
there is no bootstrap and no interval (nan), but an error of sampling.

Errors are estimated from the proposals measured, and are themselves uncertain where few of these hold most of a bin's
spread: in bins of low IoU, where a detector gives nearly all boxes a score of 0 and few one that is not. There the
standard deviation of the score was held by estimate +- 1.96 errors in as few as 57% of draws of 488 proposals (30
objects, benchmarks/sampling.py) and its mean in 78%, in the worst bin of two heads; over all in 94%.

Ranks (Spearman's correlation) and the components of the regression's error have no error of sampling of their own here;
their intervals hold it all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import SAMPLED_TOTALS, covariance_column
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import Array
from rethink_heads.statistics.reduction import by_size
from rethink_heads.statistics.selection import ALL_SIZES, WHOLE_RANGE
from rethink_heads.statistics.sums import pearson_correlation, standard_deviation

SCORE_TOTALS, BOX_TOTALS = SAMPLED_TOTALS
_OBJECT = ["image_id", "object_id"]

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
    """Of M totals of one head's objects of one size.

    Attributes:
        by_bin: (20, M, M) of the sums over all objects.
        by_object: (O, M, M) of the sums over an object's bins, of the objects that are not measured whole.
        objects: (image_id, object_id) of those.
        known: whether they were kept; where not, all are nan.
    """

    by_bin: Array
    by_object: Array
    objects: pd.MultiIndex
    known: bool = True

    @property
    def pooled(self) -> Array:
        """(M, M) of the sums over all objects and bins."""
        return np.asarray(self.by_bin.sum(axis=0))

    def of_objects(self, objects: pd.MultiIndex) -> Array:
        """(O, M, M) of these objects: zeros for those measured whole, nan where it is not known."""
        if not self.known:
            return np.full((len(objects), *self.by_bin.shape[1:]), np.nan)
        place = self.objects.get_indexer(objects)
        found = np.zeros((len(objects), *self.by_bin.shape[1:]))
        found[place >= 0] = self.by_object[place[place >= 0]]
        return found


class SamplingErrors:
    """The covariances of a set of totals, head by head as they are asked for."""

    def __init__(
        self,
        measurements: Measurements,
        totals: tuple[str, ...],
        iou_range: tuple[float, float] = WHOLE_RANGE,
    ) -> None:
        """Of ``SCORE_TOTALS`` or ``BOX_TOTALS`` over the bins of a range."""
        self._measurements, self._totals, self._range = measurements, totals, iou_range
        self._found: dict[tuple[str, str], dict[str, Covariances]] = {}

    def of(self, detector: str, head: str, size: str) -> Covariances:
        """Those of one head's objects of a size, or of all."""
        side = detector, head
        if side not in self._found:
            self._found = {side: self._of_head(detector, head)}
        return self._found[side][size]

    def _of_head(self, detector: str, head: str) -> dict[str, Covariances]:
        if (detector, head) in self._measurements.groups("sampling"):
            columns = list(dict.fromkeys(itertools.chain(*_names(self._totals))))
            found = by_size(
                self._measurements,
                "sampling",
                ["bin", *columns],
                lambda: _Sums(columns),
                iou_range=self._range,
                detector=detector,
                head=head,
            )
            return {size: sums.covariances(self._totals) for size, sums in found.items()}
        known = not is_drawn(self._measurements, detector, head)
        count = len(self._totals)
        nothing = Covariances(
            np.full((IOU_BINS, count, count), 0.0 if known else np.nan),
            np.zeros((0, count, count)),
            pd.MultiIndex.from_arrays([[], []], names=_OBJECT),
            known,
        )
        return dict.fromkeys(ALL_SIZES, nothing)


def is_drawn(measurements: Measurements, detector: str, head: str) -> bool:
    """Whether some proposals of a head's objects were not measured."""
    parts = measurements.read("bins", ["n", "measured"], detector=detector, head=head)
    return any(bool((part["measured"] < part["n"]).any()) for part in parts)


def proposals_per_object(measurements: Measurements) -> tuple[float, float]:
    """How many proposals an object has on average, measured and in the whole grid."""
    measured, whole, objects = 0.0, 0.0, 0
    for detector, head in measurements.detector_heads:
        for part in measurements.read("bins", ["n", "measured"], detector=detector, head=head):
            measured += float(part["measured"].sum())
            whole += float(part["n"].sum())
            objects += len(part[_OBJECT].drop_duplicates())
    return measured / max(objects, 1), whole / max(objects, 1)


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


class _Sums:
    """Columns of the frame ``sampling`` added up within bins, and within objects."""

    def __init__(self, columns: list[str]) -> None:
        self._columns = columns
        self._by_bin = np.zeros((IOU_BINS, len(columns)))
        self._by_object: list[pd.DataFrame] = []

    def add(self, frame: pd.DataFrame) -> None:
        """Take rows of whole images."""
        bins = frame["bin"].to_numpy()
        for number, name in enumerate(self._columns):
            self._by_bin[:, number] += np.bincount(bins, frame[name].to_numpy(), IOU_BINS)
        # Sums of pandas leave out nan, which say that something is not known.
        self._by_object.append(frame.groupby(_OBJECT)[self._columns].sum(skipna=False))

    def covariances(self, totals: tuple[str, ...]) -> Covariances:
        by_object = pd.concat(self._by_object)
        at = np.array([[self._columns.index(name) for name in row] for row in _names(totals)])
        index = pd.MultiIndex.from_frame(by_object.index.to_frame(index=False))
        return Covariances(self._by_bin[:, at], by_object.to_numpy(np.float64)[:, at], index)


def _names(totals: tuple[str, ...]) -> Iterator[list[str]]:
    """Names of the columns of a covariance matrix, row by row."""
    for i in range(len(totals)):
        yield [covariance_column(totals[min(i, j)], totals[max(i, j)]) for j in range(len(totals))]


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
        of_means = covariance / n[..., None, None] ** 2
        correlation = pearson_correlation(sums)
        defined = np.isfinite(correlation)[..., None, None]
        change = np.where(defined, change, 0.0)
        standardised = change @ np.where(defined, of_means, 0.0) @ np.swapaxes(change, -1, -2)
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
