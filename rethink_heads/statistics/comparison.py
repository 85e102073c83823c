"""Paired comparison of two heads: the same objects, the same draws of images.

The two sides see the same proposals, so most of the spread over images is common to both and
cancels in their difference, whose interval is therefore the one to judge by.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import ERRORS
from rethink_heads.statistics.bootstrap import REPLICATES, Array, ImageBootstrap, Resampled
from rethink_heads.statistics.by_bin import bin_ends, bin_sums
from rethink_heads.statistics.correlation import object_pcc_sums, object_sums
from rethink_heads.statistics.ranks import RANK_REPLICATES, resampled_spearman
from rethink_heads.statistics.response import RESPONSE_KINDS, resampled_quantity
from rethink_heads.statistics.selection import (
    ALL_SIZES,
    WHOLE_RANGE,
    count_objects,
    in_range,
    of_size,
)
from rethink_heads.statistics.spatial import (
    OF_OBJECTS,
    by_distance,
    correlation_sums,
    mean_over_objects,
    stack,
)
from rethink_heads.statistics.sums import (
    PEARSON_SUMS,
    difference_of_means,
    pearson_correlation,
    ratio,
    root_mean_square,
    standard_deviation,
)

Side = tuple[str, str]  # (detector, head)
_OBJECT = ["image_id", "object_id"]


@dataclass(frozen=True)
class _Statistic:
    """A formula on columns of the bins, which can be taken bin by bin or over a range."""

    columns: tuple[str, ...]
    formula: Callable[[Array], Array]


_ON_BINS = {
    "pcc": _Statistic(PEARSON_SUMS, pearson_correlation),
    "score": _Statistic(("n", "sum_score"), ratio),
    "score_std": _Statistic(("n", "sum_score", "sum_score_score"), standard_deviation),
    "regressed_iou": _Statistic(("n", "sum_regressed_iou"), ratio),
    "regressed_iou_std": _Statistic(
        ("n", "sum_regressed_iou", "sum_regressed_iou_regressed_iou"), standard_deviation
    ),
    "gain": _Statistic(("n", "sum_regressed_iou", "sum_iou"), difference_of_means),
    **{f"rms_{e}": _Statistic(("n", f"sum_{e}_{e}"), root_mean_square) for e in ERRORS},
}
STATISTICS = (*_ON_BINS, "object_pcc", "spearman", OF_OBJECTS)
COMPARED_RESPONSES = {
    "displacement_score": ("drop_dx", "drop_dy", "half_width_dx", "half_width_dy"),
    "cell_score": ("mean_absolute_change",),
    "cell_iou": ("mean_absolute_change",),
}


def fc_against_conv(sides: Iterable[Side]) -> list[tuple[Side, Side]]:
    """The pairs ((detector, "fc"), (detector, "conv")) of some heads, as the paper compares them.

    The two heads of one detector where it has both; and each detector with an fc-head alone against
    each with a conv-head alone, as the paper compares heads trained apart.
    """
    there = list(sides)
    fc, conv = ({detector for detector, name in there if name == h} for h in ("fc", "conv"))
    pairs = [(name, name) for name in sorted(fc & conv)]
    pairs += itertools.product(sorted(fc - conv), sorted(conv - fc))
    return [((a, "fc"), (b, "conv")) for a, b in pairs]


def compare(
    measurements: Measurements,
    statistic: str,
    a: Side,
    b: Side,
    *,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    by_bin: bool = False,
    replicates: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A statistic of two heads on the objects that both have, and its difference a - b.

    Args:
        statistic: one of STATISTICS: "pcc" (pooled), "object_pcc", "spearman" (from the sampled
            rows), mean "score" and "regressed_iou", their "score_std" and "regressed_iou_std",
            mean "gain" of the regressed IoU over the proposal's, "rms_dx", "rms_dy", "rms_dw",
            "rms_dh", and "spatial_correlation" (mean over distinct pairs of RoI cells).
        a, b: (detector, head); for "spatial_correlation" (detector, branch).
        iou_range: proposals that count; multiples of 0.05; ignored by "spatial_correlation".
        by_bin: one row per IoU bin; not for the correlations.
        replicates, seed: of the bootstrap over images; 1000 replicates, 200 for "spearman".

    Returns:
        One row per size ("small", "medium", "large", "all") (and bin) with "statistic", "size",
        ("bin", "iou_low", "iou_high",) "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "low", "high", "excludes_zero" and "objects".

    Raises:
        UserError: unknown statistic, a head that was not measured, no object that both have, or a
            range that is not of whole bins.
    """
    per_bin = by_bin and _can_be_per_bin(statistic)
    if replicates is None:
        replicates = RANK_REPLICATES if statistic == "spearman" else REPLICATES
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    frame_a, frame_b = _paired(_frame_of(measurements, statistic, iou_range), statistic, a, b)
    results = []
    for size in ALL_SIZES:
        of_a, of_b = of_size(frame_a, size), of_size(frame_b, size)
        side_a = _resampled(statistic, of_a, bootstrap, per_bin)
        side_b = _resampled(statistic, of_b, bootstrap, per_bin)
        columns: dict[str, Any] = {"statistic": statistic, "size": size}
        objects: Any = count_objects(of_a)
        if per_bin:
            columns |= bin_ends()
            objects = np.bincount(of_a["bin"], minlength=len(columns["bin"]))
        columns |= {"a": "/".join(a), "b": "/".join(b), **difference_columns(side_a, side_b)}
        results.append(pd.DataFrame(columns | {"objects": objects}))
    return pd.concat(results, ignore_index=True)


def compare_responses(
    measurements: Measurements,
    kind: str,
    a: Side,
    b: Side,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """What the mean response maps of two heads come down to, and the differences a - b.

    Quantities are those of ``response_summary`` that COMPARED_RESPONSES names: of
    "displacement_score" the drops and half-widths, of the cells the mean absolute change.

    Returns:
        As :func:`compare`, with "kind" and "quantity" in place of "statistic". A size without
        objects has no rows.

    Raises:
        UserError: unknown kind, a head without such maps, or no object that both have.
    """
    if kind not in COMPARED_RESPONSES:
        raise UserError(f"unknown response {kind!r}; there are {', '.join(RESPONSE_KINDS)}")
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    frame_a, frame_b = _paired(_maps_of(measurements, kind), kind, a, b)
    results = []
    for size in ALL_SIZES:
        of_a, of_b = of_size(frame_a, size), of_size(frame_b, size)
        for quantity in COMPARED_RESPONSES[kind] if len(of_a) else ():
            side_a, side_b = (
                resampled_quantity(side, kind, quantity, bootstrap) for side in (of_a, of_b)
            )
            columns: dict[str, Any] = {"kind": kind, "quantity": quantity, "size": size}
            columns |= {"a": "/".join(a), "b": "/".join(b), **difference_columns(side_a, side_b)}
            results.append(pd.DataFrame(columns | {"objects": len(of_a)}))
    return pd.concat(results, ignore_index=True)


def compare_decay(
    measurements: Measurements, a: Side, b: Side, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Spatial correlation of two branches by the distance of cells, and the differences a - b.

    Returns:
        As :func:`compare`, with "kind" ("spatial_correlation") and "quantity" ("decay") in place
        of "statistic", and one row per "distance" (see ``spatial.decay``). A size without objects
        has no rows.

    Raises:
        UserError: a branch without such maps or with another RoI resolution, or no object that
            both have.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    frame_a, frame_b = _paired(_maps_of(measurements, OF_OBJECTS), OF_OBJECTS, a, b)
    results = []
    for size in ALL_SIZES:
        sides = [of_size(frame_a, size), of_size(frame_b, size)]
        if sides[0].empty:
            continue
        maps = [stack(side) for side in sides]
        if maps[0].shape != maps[1].shape:
            raise UserError(
                f"the RoIs of {'/'.join(a)} and {'/'.join(b)} have different numbers of cells, so "
                "their correlations by distance cannot be compared"
            )
        distance = by_distance(maps[0])[0]
        resampled = [
            bootstrap.resample(mean_over_objects(side, by_distance(of)[2], bootstrap)[1], ratio)
            for side, of in zip(sides, maps, strict=True)
        ]
        columns: dict[str, Any] = {"kind": OF_OBJECTS, "quantity": "decay", "size": size}
        columns |= {"distance": distance, "a": "/".join(a), "b": "/".join(b)}
        columns |= difference_columns(*resampled)
        results.append(pd.DataFrame(columns | {"objects": len(sides[0])}))
    return pd.concat(results, ignore_index=True)


def _maps_of(measurements: Measurements, kind: str) -> pd.DataFrame:
    return measurements.maps[measurements.maps["kind"] == kind]


def difference_columns(a: Resampled, b: Resampled) -> dict[str, Any]:
    """Two statistics on the same draws of images and their difference, as columns of a comparison."""
    difference = a.less(b).estimate()
    columns = {
        "value_a": a.value,
        "value_b": b.value,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        # Some draws may have a difference where the whole has none.
        "excludes_zero": np.isfinite(difference.value)
        & ((difference.low > 0) | (difference.high < 0)),
    }
    return {name: np.atleast_1d(column) for name, column in columns.items()}


def _can_be_per_bin(statistic: str) -> bool:
    if statistic not in _ON_BINS or statistic == "pcc":
        raise UserError(f"the statistic {statistic!r} cannot be compared bin by bin")
    return True


def _frame_of(
    measurements: Measurements, statistic: str, iou_range: tuple[float, float]
) -> pd.DataFrame:
    """The rows that a statistic is computed from."""
    if statistic not in STATISTICS:
        raise UserError(f"unknown statistic {statistic!r}; there are {', '.join(STATISTICS)}")
    if statistic == OF_OBJECTS:
        return _maps_of(measurements, statistic)
    frame = measurements.rows if statistic == "spearman" else measurements.bins
    return in_range(frame, iou_range)


def _paired(
    frame: pd.DataFrame, statistic: str, a: Side, b: Side
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both sides of the objects that both have."""
    sides = []
    for detector, head in (a, b):
        side = frame[(frame["detector"] == detector) & (frame["head"] == head)]
        if side.empty:
            pairs = frame[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None)
            there = ", ".join(sorted("/".join(pair) for pair in pairs)) or "nothing"
            raise UserError(
                f"no {statistic} measurements of {detector}/{head}; there are those of {there}"
            )
        sides.append(side)
    keys = [pd.MultiIndex.from_frame(side[_OBJECT]) for side in sides]
    common_a, common_b = keys[0].isin(keys[1]), keys[1].isin(keys[0])
    if not common_a.any():
        raise UserError(
            f"{'/'.join(a)} and {'/'.join(b)} were measured on different objects and cannot be "
            "compared; measure both on the same data"
        )
    return sides[0][common_a], sides[1][common_b]


def _resampled(
    statistic: str, frame: pd.DataFrame, bootstrap: ImageBootstrap, by_bin: bool
) -> Resampled:
    if statistic == "spearman":
        return resampled_spearman(frame, bootstrap)
    if statistic == "object_pcc":
        return bootstrap.resample(object_pcc_sums(*object_sums(frame), bootstrap), ratio)
    if statistic == OF_OBJECTS:
        return bootstrap.resample(correlation_sums(frame, bootstrap), ratio)
    sums = bin_sums(bootstrap, frame, _ON_BINS[statistic].columns)
    return bootstrap.resample(sums if by_bin else sums.sum(axis=1), _ON_BINS[statistic].formula)
