"""Mean and spread of a variable per IoU bin: what the score's and the regression's curves share."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import SAMPLED_TOTALS
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import SHARE, SPREAD, ImageBootstrap
from rethink_heads.statistics.reduction import BinSums, by_head
from rethink_heads.statistics.sampling_error import (
    SamplingErrors,
    mean_error,
    standard_deviation_error,
)
from rethink_heads.statistics.sums import difference_of_means, ratio, standard_deviation


def mean_and_spread(
    measurements: Measurements, bootstrap: ImageBootstrap, variable: str, gain: bool = False
) -> pd.DataFrame:
    """One row per detector, head, size and IoU bin: mean and standard deviation of a variable.

    With ``gain`` also the mean of the variable less the proposal's own IoU. Columns: detector,
    head, size, bin, iou_low, iou_high, mean, mean_low, mean_high, mean_sampling_error, std, std_low,
    std_high, std_sampling_error, (gain, gain_low, gain_high, gain_sampling_error,) proposals, measured, objects.
    """
    sums_of = ("n", f"sum_{variable}", f"sum_{variable}_{variable}", "sum_iou")
    results = []
    make = partial(BinSums, bootstrap, sums_of)
    totals = next(names for names in SAMPLED_TOTALS if variable in names)
    of, squares, iou = map(totals.index, (variable, f"{variable}_{variable}", "iou"))
    errors = SamplingErrors(measurements, totals)
    for keys, found in by_head(measurements, "bins", ["bin", "measured", *sums_of], make):
        sums = found.sums
        total, covariance = sums.sum(axis=0), errors.of(**keys).by_bin
        n, error = total[:, 0], "sampling_error"
        columns: dict[str, Any] = {**keys, **bin_ends()}
        columns |= bootstrap.estimate(sums[..., :2], ratio, SHARE).columns("mean")
        columns[f"mean_{error}"] = mean_error(n, covariance, of)
        columns |= bootstrap.estimate(sums[..., :3], standard_deviation, SPREAD).columns("std")
        columns[f"std_{error}"] = standard_deviation_error(total[:, :3], covariance, of, squares)
        if gain:
            columns |= bootstrap.estimate(sums[..., [0, 1, 3]], difference_of_means).columns("gain")
            columns[f"gain_{error}"] = mean_error(n, covariance, of, less=iou)
        results.append(pd.DataFrame(columns | found.counts))
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame()


def bin_ends() -> dict[str, npt.NDArray[Any]]:
    """Columns "bin", "iou_low" and "iou_high" of all IoU bins."""
    bins = np.arange(IOU_BINS)
    return {"bin": bins, "iou_low": bins / IOU_BINS, "iou_high": (bins + 1) / IOU_BINS}
