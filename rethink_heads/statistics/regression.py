"""Accuracy of the regressed box by the proposal's IoU (paper Figure 2, row 2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import ERRORS
from rethink_heads.statistics.bootstrap import REPLICATES, SPREAD, ImageBootstrap
from rethink_heads.statistics.by_bin import bin_ends, mean_and_spread
from rethink_heads.statistics.reduction import BinSums, by_size
from rethink_heads.statistics.selection import ALL_SIZES
from rethink_heads.statistics.sums import ratio, root_mean_square


def regressed_iou_by_iou(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean and standard deviation of the regressed box's IoU per proposal IoU bin.

    Returns:
        As :func:`rethink_heads.statistics.correlation.score_by_iou`, and "gain", "gain_low",
        "gain_high", "gain_sampling_error": the mean of the regressed box's IoU less the proposal's own.
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
    results = []
    for detector, head in measurements.detector_heads:
        found = {}
        for component in ERRORS:
            names = (
                "n",
                f"sum_{component}",
                f"sum_{component}_{component}",
                f"sum_abs_{component}",
            )
            make = partial(BinSums, bootstrap, names)
            columns = ["bin", "measured", *names]
            for size, sums in by_size(
                measurements, "bins", columns, make, detector=detector, head=head
            ).items():
                keys = {"detector": detector, "head": head, "size": size}
                found[size, component] = _component(keys, component, sums, bootstrap, by_bin)
        results += [found[size, component] for size in ALL_SIZES for component in ERRORS]
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame()


def _component(
    keys: dict[str, str], component: str, found: BinSums, bootstrap: ImageBootstrap, by_bin: bool
) -> pd.DataFrame:
    """One component of the error of one head's objects of one size."""
    columns: dict[str, Any] = dict(keys)
    sums = found.sums
    counts: dict[str, Any] = found.counts
    if by_bin:
        columns |= bin_ends()
    else:
        sums = sums.sum(axis=1, keepdims=True)
        proposals = round(sums[..., 0].sum())
        measured = round(found.measured.sum())
        counts = {"proposals": proposals, "measured": measured, "objects": found.object_count}
    columns["component"] = component
    columns |= bootstrap.estimate(sums[..., [0, 1]], ratio).columns("mean")
    columns |= bootstrap.estimate(sums[..., [0, 2]], root_mean_square, SPREAD).columns("rms")
    columns |= bootstrap.estimate(sums[..., [0, 3]], ratio, SPREAD).columns("mae")
    return pd.DataFrame(columns | counts)
