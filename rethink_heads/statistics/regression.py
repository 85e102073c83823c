"""Accuracy of the regressed box by the proposal's IoU (paper Figure 2, row 2)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import ERRORS
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap
from rethink_heads.statistics.by_bin import bin_counts, bin_ends, bin_sums, mean_and_spread, named
from rethink_heads.statistics.selection import count_objects, groups
from rethink_heads.statistics.sums import ratio, root_mean_square


def regressed_iou_by_iou(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean and standard deviation of the regressed box's IoU per proposal IoU bin.

    Returns:
        As :func:`rethink_heads.statistics.correlation.score_by_iou`, and "gain", "gain_low",
        "gain_high": the mean of the regressed box's IoU less the proposal's own.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    return mean_and_spread(measurements, bootstrap, "regressed_iou", gain=True)


def error_components(
    measurements: Measurements,
    by_bin: bool = False,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The regressed box's error, split into centre and scale.

    "dx" and "dy" are the centre's error in units of the object's width and height, "dw" and "dh"
    the logarithm of the regressed width and height over the object's.

    Returns:
        One row per detector, head, size, (bin with ``by_bin``) and component ("dx", "dy", "dw",
        "dh") with "mean" (signed: bias), "rms" (root mean square) and "mae" (mean absolute) over
        all proposals, each with "_low" and "_high"; "proposals" and "objects"; with ``by_bin`` also
        "bin", "iou_low", "iou_high".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, frame in groups(measurements.bins, measurements.detector_heads):
        for component in ERRORS:
            names = (
                "n",
                f"sum_{component}",
                f"sum_{component}_{component}",
                f"sum_abs_{component}",
            )
            sums = bin_sums(bootstrap, frame, names)
            columns: dict[str, Any] = dict(keys)
            if by_bin:
                columns |= bin_ends()
                counts: dict[str, Any] = bin_counts(frame)
            else:
                sums = sums.sum(axis=1, keepdims=True)
                proposals = round(sums[..., 0].sum())
                counts = {"proposals": proposals, "objects": count_objects(frame)}
            columns["component"] = component
            columns |= named("mean", bootstrap.estimate(sums[..., [0, 1]], ratio))
            columns |= named("rms", bootstrap.estimate(sums[..., [0, 2]], root_mean_square))
            columns |= named("mae", bootstrap.estimate(sums[..., [0, 3]], ratio))
            results.append(pd.DataFrame(columns | counts))
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame()
