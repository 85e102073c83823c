"""Quality of the regressed boxes against the proposal's IoU (paper Figure 2, row 2)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rethink_heads.measure.moments import ERRORS
from rethink_heads.measure.store import Measurements
from rethink_heads.statistics.bootstrap import MAGNITUDE, REPLICATES, ImageBootstrap
from rethink_heads.statistics.correlation import mean_and_spread
from rethink_heads.statistics.sums import (
    Quantity,
    bin_ends,
    counts_of,
    moments_of,
    ratio,
    resample_by_size,
    root_mean_square,
)


def regressed_iou_by_iou(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean and standard deviation of the regressed box's IoU per proposal IoU bin.

    Returns:
        As :func:`rethink_heads.statistics.correlation.score_by_iou`, and "gain", "gain_low",
        "gain_high", "gain_sampling_error": the mean of the regressed box's IoU less the proposal's own.
    """
    return mean_and_spread(
        measurements, "regressed_iou", gain=True, replicates=replicates, seed=seed
    )


def error_components(
    measurements: Measurements,
    by_bin: bool = False,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The regressed box's error, split into centre and scale.

    "dx" and "dy" are the centre's error in units of the object's width and height, "dw" and "dh"
    the logarithm of the regressed width and height over the object's. This ratio is held at 0.016 or more, so
    that a box of no width counts as one of ln 0.016 = -4.1: it decides the rms where a head makes such boxes (by up to
    0.042 in bins of low IoU, where it was tried).

    Returns:
        One row per detector, head, size, (bin with ``by_bin``) and component ("dx", "dy", "dw",
        "dh") with "mean" (signed: bias), "rms" (root mean square) and "mae" (mean absolute) over
        all proposals, each with "_low" and "_high"; "proposals", "measured" (of these) and "objects"; with
        ``by_bin`` also "bin", "iou_low", "iou_high".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    columns, quantities = ["n"], {}
    for error in ERRORS:
        first = len(columns)
        columns += [f"sum_{error}", f"sum_{error}_{error}", f"sum_abs_{error}"]
        quantities[error, "mean"] = Quantity([0, first], ratio)
        quantities[error, "rms"] = Quantity([0, first + 1], root_mean_square, MAGNITUDE)
        quantities[error, "mae"] = Quantity([0, first + 2], ratio, MAGNITUDE)
    results = []
    for detector, head in measurements.keys:
        key = detector, head
        counts = moments_of(measurements, key, ["n", "measured"])
        moments = moments_of(measurements, key, columns)
        if not by_bin:
            moments = moments.sum(axis=1, keepdims=True)
        for size, chosen, resampled in resample_by_size(
            moments, quantities, measurements, bootstrap
        ):
            counted = counts_of(counts[chosen], by_bin)
            for error in ERRORS:
                found: dict[str, Any] = {"detector": detector, "head": head, "size": size}
                found |= bin_ends() if by_bin else {}
                found["component"] = error
                for name in ("mean", "rms", "mae"):
                    found |= resampled[error, name].estimate().columns(name)
                results.append(pd.DataFrame(found | counted))
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame()
