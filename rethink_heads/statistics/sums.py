"""Statistics as formulas on sums: what is computed alike for all images and for each replicate.

Each takes sums (..., M) in the order that its docstring names and gives (...), with nan where the
statistic is not defined.
"""

from __future__ import annotations

import numpy as np

from rethink_heads.statistics.bootstrap import Array

PEARSON_SUMS = ("n", "sum_iou", "sum_score", "sum_iou_iou", "sum_score_score", "sum_iou_score")
# A variance below this part of the mean square is rounding of the sums.
NO_VARIANCE = 1e-12


def ratio(sums: Array) -> Array:
    """Mean from count and sum."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 0] > 0, sums[..., 1] / sums[..., 0], np.nan)


def root_mean_square(sums: Array) -> Array:
    """Root mean square from count and sum of squares."""
    return np.sqrt(ratio(sums))


def difference_of_means(sums: Array) -> Array:
    """Mean of the first variable less that of the second, from count, first sum, second sum."""
    return ratio(sums[..., :2]) - ratio(sums[..., [0, 2]])


def standard_deviation(sums: Array) -> Array:
    """Standard deviation of a population from count, sum and sum of squares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n, total, squares = np.moveaxis(sums, -1, 0)
        variance = squares / n - (total / n) ** 2
        return np.where(n > 0, np.sqrt(np.maximum(variance, 0)), np.nan)


def pearson_correlation(sums: Array) -> Array:
    """Pearson's correlation of IoU and score from PEARSON_SUMS; nan where one does not vary."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        covariance = xy / n - (x / n) * (y / n)
        variance_x = xx / n - (x / n) ** 2
        variance_y = yy / n - (y / n) ** 2
        varies = (variance_x > NO_VARIANCE * xx / n) & (variance_y > NO_VARIANCE * yy / n)
        pcc = covariance / np.sqrt(variance_x * variance_y)
    return np.where(varies, np.clip(pcc, -1, 1), np.nan)
