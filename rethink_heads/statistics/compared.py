"""A statistic of one head's objects of each size, as comparisons take it: resampled, by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import ERRORS
from rethink_heads.statistics.bootstrap import Array, ImageBootstrap, Resampled
from rethink_heads.statistics.correlation import object_pccs
from rethink_heads.statistics.ranks import ranked_rows, resampled_spearman
from rethink_heads.statistics.reduction import BinSums, MapSums, ObjectSums, by_size
from rethink_heads.statistics.sampling_error import SCORE_TOTALS, SamplingErrors
from rethink_heads.statistics.selection import ALL_SIZES, count_objects, of_size
from rethink_heads.statistics.spatial import OF_OBJECTS, distinct_means
from rethink_heads.statistics.sums import (
    PEARSON_SUMS,
    difference_of_means,
    pearson_correlation,
    ratio,
    root_mean_square,
    standard_deviation,
)

Side = tuple[str, str]  # (detector, head)


@dataclass(frozen=True)
class OnBins:
    """A formula on columns of the bins, which can be taken bin by bin or over a range."""

    columns: tuple[str, ...]
    formula: Callable[[Array], Array]


ON_BINS = {
    "pcc": OnBins(PEARSON_SUMS, pearson_correlation),
    "score": OnBins(("n", "sum_score"), ratio),
    "score_std": OnBins(("n", "sum_score", "sum_score_score"), standard_deviation),
    "regressed_iou": OnBins(("n", "sum_regressed_iou"), ratio),
    "regressed_iou_std": OnBins(
        ("n", "sum_regressed_iou", "sum_regressed_iou_regressed_iou"), standard_deviation
    ),
    "gain": OnBins(("n", "sum_regressed_iou", "sum_iou"), difference_of_means),
    **{f"rms_{e}": OnBins(("n", f"sum_{e}_{e}"), root_mean_square) for e in ERRORS},
}
STATISTICS = (*ON_BINS, "object_pcc", "spearman", OF_OBJECTS)

BySize = dict[str, tuple[Resampled, Any]]


@dataclass(frozen=True)
class Compared:
    """What statistics of two heads are taken of.

    Attributes:
        measurements: of any heads.
        bootstrap: over the images.
        iou_range: proposals that count.
        objects: (image_id, object_id) of those that count; None: all.
    """

    measurements: Measurements
    bootstrap: ImageBootstrap
    iou_range: tuple[float, float]
    objects: pd.MultiIndex | None

    def resampled(self, statistic: str, side: Side, by_bin: bool) -> BySize:
        """One of STATISTICS by size, and of how many objects it is, in each bin where taken bin by bin."""
        if statistic == "spearman":
            return self._spearman(side)
        if statistic == "object_pcc":
            return self._object_pcc(side)
        return (
            self._alike(side) if statistic == OF_OBJECTS else self._on_bins(statistic, side, by_bin)
        )

    def _spearman(self, side: Side) -> BySize:
        rows = ranked_rows(self.measurements, side, self.iou_range, self.objects)
        found = {}
        for size in ALL_SIZES:
            frame = of_size(rows, size)
            found[size] = (resampled_spearman(frame, self.bootstrap), count_objects(frame))
        return found

    def _object_pcc(self, side: Side) -> BySize:
        found = by_size(
            self.measurements,
            "bins",
            ["bin", "measured", *PEARSON_SUMS],
            ObjectSums,
            detector=side[0],
            head=side[1],
            iou_range=self.iou_range,
            objects=self.objects,
        )
        errors = SamplingErrors(self.measurements, SCORE_TOTALS, self.iou_range)
        resampled: BySize = {}
        for size, each in found.items():
            pccs = object_pccs(each, errors.of(*side, size))
            sums = pccs.by_image(each.images, self.bootstrap)
            resampled[size] = (self.bootstrap.resample(sums, ratio), len(each.images))
        return resampled

    def _alike(self, side: Side) -> BySize:
        found = by_size(
            self.measurements,
            "maps",
            ["values"],
            partial(MapSums, self.bootstrap, distinct_means),
            detector=side[0],
            head=side[1],
            kind=OF_OBJECTS,
            objects=self.objects,
        )
        return {
            size: (self.bootstrap.resample(each.like(found["all"]).sums[:, 0], ratio), each.objects)
            for size, each in found.items()
        }

    def _on_bins(self, statistic: str, side: Side, by_bin: bool) -> BySize:
        formula, columns = ON_BINS[statistic].formula, ON_BINS[statistic].columns
        found = by_size(
            self.measurements,
            "bins",
            ["bin", "measured", *columns],
            partial(BinSums, self.bootstrap, columns),
            detector=side[0],
            head=side[1],
            iou_range=self.iou_range,
            objects=self.objects,
        )
        if by_bin:
            return {
                size: (self.bootstrap.resample(each.sums, formula), each.objects)
                for size, each in found.items()
            }
        return {
            size: (self.bootstrap.resample(each.sums.sum(axis=1), formula), each.object_count)
            for size, each in found.items()
        }
