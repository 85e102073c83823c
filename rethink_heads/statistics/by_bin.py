"""Mean and spread of a variable per IoU bin: what the score's and the regression's curves share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import Array, Estimate, ImageBootstrap
from rethink_heads.statistics.selection import groups
from rethink_heads.statistics.sums import difference_of_means, ratio, standard_deviation


def mean_and_spread(
    measurements: Measurements, bootstrap: ImageBootstrap, variable: str, gain: bool = False
) -> pd.DataFrame:
    """One row per detector, head, size and IoU bin: mean and standard deviation of a variable.

    With ``gain`` also the mean of the variable less the proposal's own IoU. Columns: detector,
    head, size, bin, iou_low, iou_high, mean, mean_low, mean_high, std, std_low, std_high, (gain,
    gain_low, gain_high,) proposals, objects.
    """
    sums_of = ("n", f"sum_{variable}", f"sum_{variable}_{variable}", "sum_iou")
    results = []
    for keys, frame in groups(measurements.bins, measurements.detector_heads):
        sums = bin_sums(bootstrap, frame, sums_of)
        columns: dict[str, Any] = {**keys, **bin_ends()}
        columns |= named("mean", bootstrap.estimate(sums[..., :2], ratio))
        columns |= named("std", bootstrap.estimate(sums[..., :3], standard_deviation))
        if gain:
            columns |= named("gain", bootstrap.estimate(sums[..., [0, 1, 3]], difference_of_means))
        results.append(pd.DataFrame(columns | bin_counts(frame)))
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame()


def named(name: str, estimate: Estimate) -> dict[str, Array]:
    """An estimate as columns ``name``, ``name_low`` and ``name_high``."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def bin_sums(bootstrap: ImageBootstrap, frame: pd.DataFrame, columns: tuple[str, ...]) -> Array:
    """Columns of a frame of bins added up within images and bins: (I, 20, M)."""
    return bootstrap.sum_by_image(
        frame["image_id"].to_numpy(),
        frame[list(columns)].to_numpy(),
        frame["bin"].to_numpy(),
        IOU_BINS,
    )


def bin_ends() -> dict[str, npt.NDArray[Any]]:
    """Columns "bin", "iou_low" and "iou_high" of all IoU bins."""
    bins = np.arange(IOU_BINS)
    return {"bin": bins, "iou_low": bins / IOU_BINS, "iou_high": (bins + 1) / IOU_BINS}


def bin_counts(frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Columns "proposals" and "objects" of all IoU bins of one head's frame of bins."""
    bins = frame["bin"].to_numpy()
    proposals = np.bincount(bins, frame["n"].to_numpy(), IOU_BINS)
    return {
        "proposals": np.rint(proposals).astype(np.int64),
        "objects": np.bincount(bins, minlength=IOU_BINS),
    }
