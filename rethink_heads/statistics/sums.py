"""Statistics as formulas on sums: columns of each object, added up by image, of which a formula makes a number.

Formulas take sums (..., M) in the order that their docstrings name and give (...), nan where the statistic is not
defined. They are the same for all images and for each replicate of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rethink_heads.errors import UserError
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.store import SIZES, Key, Measurements
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import (
    ANY,
    Array,
    BootstrapEstimate,
    ImageBootstrap,
    Limits,
    Statistic,
)

Flags = npt.NDArray[np.bool_]
Name = TypeVar("Name")

ALL_SIZES = (*SIZES, "all")
WHOLE_RANGE = (0.0, 1.0)
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


@dataclass(frozen=True)
class Columns:
    """What a statistic of one head is made of.

    Attributes:
        values: (O, ..., M) of each object, sorted by image; the first of the M is a count.
        formula: of their sums.
        limits: within which the statistic lies.
    """

    values: Array
    formula: Statistic
    limits: Limits = ANY

    def resample(
        self, objects: Flags, measurements: Measurements, bootstrap: ImageBootstrap
    ) -> list[BootstrapEstimate]:
        """The statistic of those objects (O,) that are of each of ALL_SIZES, and of the replicates of their images."""
        one = {"": Quantity(slice(None), self.formula, self.limits)}
        sizes = resample_by_size(self.values, one, measurements, bootstrap, objects)
        return [found[""] for _, _, found in sizes]


@dataclass(frozen=True)
class Quantity:
    """A statistic of some of an array's columns, the first of them a count."""

    columns: Sequence[int] | slice
    formula: Statistic
    limits: Limits = ANY


def resample_by_size(
    values: Array,
    quantities: Mapping[Name, Quantity],
    measurements: Measurements,
    bootstrap: ImageBootstrap,
    objects: Flags | None = None,
) -> Iterator[tuple[str, Flags, dict[Name, BootstrapEstimate]]]:
    """Each of ALL_SIZES, the objects (O,) of it, and statistics of their values (O, ..., M); of some objects only.

    Replicates are taken once: of all columns, whatever statistics they are of, and of three sizes, which add up to all.
    """
    images = measurements.objects["image_id"].to_numpy()
    sizes = [
        (size, chosen if objects is None else chosen & objects)
        for size, chosen in by_size(measurements)
    ]
    sums = np.stack(
        [bootstrap.sum_by_image(images[each], values[each]) for _, each in sizes[: len(SIZES)]],
        axis=1,
    )
    replicates = bootstrap.replicate(sums)
    for number, (size, chosen) in enumerate(sizes):
        part = slice(None) if size == "all" else slice(number, number + 1)
        whole, drawn = sums[:, part].sum(axis=1), replicates[:, part].sum(axis=1)
        found = {
            name: bootstrap.resample(
                whole[..., each.columns], each.formula, each.limits, drawn[..., each.columns]
            )
            for name, each in quantities.items()
        }
        yield size, chosen, found


def bin_range(iou_range: tuple[float, float]) -> tuple[int, int]:
    """First bin and the bin after the last of an IoU range.
    Raises UserError where the ends are not multiples of the bins' width, or not 0 <= low < high <= 1.
    """
    low, high = (float(end) for end in iou_range)
    if not 0 <= low < high <= 1:
        raise UserError(
            f"the IoU range {low:g} to {high:g} must have 0 <= low < high <= 1; give for example "
            "0.5 1.0"
        )
    edges = np.array([low, high]) * IOU_BINS
    if np.abs(edges - np.rint(edges)).max() > 1e-6:
        raise UserError(
            f"the ends of the IoU range {low:g} to {high:g} must be multiples of "
            f"{1 / IOU_BINS:g}, the width of the IoU bins that measurements are kept in"
        )
    first, after = np.rint(edges).astype(int)
    return int(first), int(after)


def bin_ends() -> dict[str, npt.NDArray[np.generic]]:
    """Columns "bin", "iou_low" and "iou_high" of all IoU bins."""
    bins = np.arange(IOU_BINS)
    return {"bin": bins, "iou_low": bins / IOU_BINS, "iou_high": (bins + 1) / IOU_BINS}


def moments_of(
    measurements: Measurements,
    key: Key,
    columns: Sequence[str],
    iou_range: tuple[float, float] = WHOLE_RANGE,
) -> Array:
    """Moments (O, 20, M) of a head by object and IoU bin, in the order of ``columns``; zeros outside the IoU range.
    Raises UserError where the head was not measured, or the range is not one of whole bins.
    """
    first, after = bin_range(iou_range)
    # Unlike an index, it leaves the values of an object beside each other.
    found = measurements.moments(key).take([VALUE_COLUMNS.index(name) for name in columns], axis=-1)
    found[:, :first], found[:, after:] = 0, 0
    return found


def by_size(measurements: Measurements) -> Iterator[tuple[str, Flags]]:
    """Each size and "all", and whether each object (O,) is of it."""
    sizes = measurements.objects["size"].to_numpy()
    for size in ALL_SIZES:
        yield size, np.ones(len(sizes), bool) if size == "all" else sizes == size


def counts_of(measured: Array, by_bin: bool = False) -> dict[str, Any]:
    """Columns "proposals" (of the whole grid), "measured" (of these) and "objects" (with one), over all IoU bins or
    ``by_bin``, from the moments (O, 20, 2) "n" and "measured".
    """
    has = measured[..., 1] > 0
    total = np.rint(measured.sum(axis=0 if by_bin else (0, 1))).astype(np.int64)
    objects = has.sum(axis=0) if by_bin else has.any(axis=1).sum()
    return {"proposals": total[..., 0], "measured": total[..., 1], "objects": objects}
