"""What heads make of proposals, by IoU: scores, their correlation with IoU, regressed boxes (paper Figures 2 and 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.measure.moments import ERRORS, SAMPLED_TOTALS
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.statistics.bootstrap import (
    CORRELATION,
    DEVIATION,
    MAGNITUDE,
    REPLICATES,
    SHARE,
    Array,
    ImageBootstrap,
)
from rethink_heads.statistics.ranks import ranked_head
from rethink_heads.statistics.sampling_error import (
    SCORE_TOTALS,
    Covariances,
    mean_error,
    pearson_bias_and_variance,
    pearson_error,
    standard_deviation_error,
)
from rethink_heads.statistics.sums import (
    PEARSON_SUMS,
    WHOLE_RANGE,
    Columns,
    Quantity,
    bin_ends,
    bin_range,
    by_size,
    counts_of,
    difference_of_means,
    moments_of,
    pearson_correlation,
    ratio,
    resample_by_size,
    root_mean_square,
    standard_deviation,
)

HIGH_IOU = 0.7
"""Least IoU of the proposals that a detector's final box of an object comes from, in :func:`object_correlations`."""


def pearson(
    measurements: Measurements,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Pearson's correlation of score and proposal IoU (paper Figure 3, left).

    Args:
        measurements: moments; exact for any range of whole bins.
        iou_range: proposals of an IoU from the first to below the second (1 included) count;
            multiples of 0.05.
        replicates, seed: of the bootstrap over images.

    Returns:
        One row per detector, head and size ("small", "medium", "large", "all") with "pcc" over the
        proposals of all objects, as we read the paper, and "object_pcc", the mean of each object's own
        PCC, each with "_low" and "_high"; "objects", "constant_objects" (those without variance in the
        range, which have no PCC), "proposals" (of the whole grid) and "measured" (of these). Where some
        proposals were drawn, "pcc_sampling_error" and "object_pcc_sampling_error" are the standard
        errors about the whole grid's values on the same objects, which the intervals hold too (see
        :mod:`~rethink_heads.statistics.sampling_error`); 0 for the whole grid. Each object's own PCC is
        then less the bias that drawing gives it.

    Raises:
        UserError: the range is not one of whole bins.
    """
    bin_range(iou_range)
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    quantities = {
        "pcc": Quantity(range(6), pearson_correlation, CORRELATION),
        "object_pcc": Quantity([6, 7], ratio, CORRELATION),
    }
    results = []
    for detector, head in measurements.keys:
        key = detector, head
        moments = moments_of(measurements, key, [*PEARSON_SUMS, "measured"], iou_range)
        own = object_pccs(measurements, key, iou_range, moments[..., :-1])
        values = np.concatenate([own.sums, own.columns.values], axis=1)
        counts = moments[..., [0, -1]]
        covariances = Covariances.of(measurements, key, SCORE_TOTALS, iou_range)
        for size, chosen, resampled in resample_by_size(
            values, quantities, measurements, bootstrap
        ):
            total, defined = own.sums[chosen].sum(axis=0), np.isfinite(own.pcc[chosen])
            counted = counts_of(counts[chosen])
            error = pearson_error(total, covariances.by_bin(chosen).sum(axis=0))
            results.append(
                {
                    "detector": detector,
                    "head": head,
                    "size": size,
                    **resampled["pcc"].estimate().columns("pcc"),
                    "pcc_sampling_error": float(error),
                    **resampled["object_pcc"].estimate().columns("object_pcc"),
                    "object_pcc_sampling_error": own.sampling_error(chosen),
                    "objects": int(counted["objects"]),
                    "constant_objects": int(counted["objects"] - defined.sum()),
                    "proposals": int(counted["proposals"]),
                    "measured": int(counted["measured"]),
                }
            )
    return pd.DataFrame(results)


def spearman(
    measurements: Measurements,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's rank correlation of score and proposal IoU, from the sampled proposals.

    A row stands for ``weight`` equal proposals, and equal values share the mean of their ranks.
    Replicates are to the first order in the images' weights (see :mod:`~rethink_heads.statistics.ranks`).

    Returns:
        One row per detector, head and size with "spearman", "spearman_low", "spearman_high",
        "spearman_sampling_error" (the rows' standard error about the ranks of all proposals, which the
        interval holds too), "objects", "rows".

    Raises:
        UserError: the range is not one of whole bins.
    """
    bin_range(iou_range)
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for detector, head in measurements.keys:
        whole = ranked_head(measurements, (detector, head), (iou_range[0], iou_range[1]))
        for size, chosen in by_size(measurements):
            rows = whole.select(chosen)
            estimate = rows.resample_all(measurements, bootstrap).estimate()
            results.append(
                {
                    "detector": detector,
                    "head": head,
                    "size": size,
                    **estimate.columns("spearman"),
                    "spearman_sampling_error": rows.sampling_error,
                    "objects": len(np.unique(rows.object)),
                    "rows": len(rows.object),
                }
            )
    return pd.DataFrame(results)


def score_by_iou(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean and standard deviation of the score per IoU bin (paper Figure 2, row 1).

    Returns:
        One row per detector, head, size and bin with "iou_low", "iou_high" (the bin's ends),
        "mean", "mean_low", "mean_high", "std", "std_low", "std_high" over all proposals of the
        bin, "mean_sampling_error" and "std_sampling_error" (as in :func:`pearson`), "proposals" and
        "objects".
    """
    return mean_and_spread(measurements, "score", replicates=replicates, seed=seed)


def mean_and_spread(
    measurements: Measurements, variable: str, gain: bool = False, *, replicates: int, seed: int
) -> pd.DataFrame:
    """One row per detector, head, size and IoU bin: mean and standard deviation of a variable.

    With ``gain`` also the mean of the variable less the proposal's own IoU. Columns: detector, head, size, bin,
    iou_low, iou_high, mean, std and with ``gain`` gain, each with "_low", "_high" and "_sampling_error", proposals,
    measured, objects.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    squares = f"{variable}_{variable}"
    totals = next(names for names in SAMPLED_TOTALS if variable in names)
    of, squared, iou = map(totals.index, (variable, squares, "iou"))
    names = ("n", f"sum_{variable}", f"sum_{squares}", "sum_iou", "measured")
    quantities = {
        "mean": Quantity([0, 1], ratio, SHARE),
        "std": Quantity([0, 1, 2], standard_deviation, DEVIATION),
    }
    if gain:
        quantities["gain"] = Quantity([0, 1, 3], difference_of_means)
    results = []
    for detector, head in measurements.keys:
        moments = moments_of(measurements, (detector, head), names)
        covariances = Covariances.of(measurements, (detector, head), totals)
        for size, chosen, resampled in resample_by_size(
            moments, quantities, measurements, bootstrap
        ):
            total, covariance = moments[chosen].sum(axis=0), covariances.by_bin(chosen)
            errors = {
                "mean": mean_error(total[:, 0], covariance, of),
                "std": standard_deviation_error(total[:, :3], covariance, of, squared),
                "gain": mean_error(total[:, 0], covariance, of, less=iou),
            }
            columns: dict[str, Any] = {"detector": detector, "head": head, "size": size}
            columns |= bin_ends()
            for name, each in resampled.items():
                columns |= each.estimate().columns(name) | {f"{name}_sampling_error": errors[name]}
            counts = counts_of(moments[chosen][..., [0, 4]], by_bin=True)
            results.append(pd.DataFrame(columns | counts))
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame()


def object_correlations(
    measurements: Measurements, iou_range: tuple[float, float] = WHOLE_RANGE
) -> pd.DataFrame:
    """What each head makes of each single object: which objects a head, or two heads, find hardest.

    Args:
        measurements: of any heads.
        iou_range: proposals that the correlation is of, as of :func:`pearson`.

    Returns:
        One row per detector, head and object that was measured, with "image_id", "object_id", "class_name", "size",
        "detector", "head", "pcc" (the object's own, less the bias of drawing proposals; nan where score or IoU do not
        vary), "score" and "regressed_iou" (means over proposals of IoU >= 0.7, nan without), and "proposals" (of the
        whole grid in the range).

    Raises:
        UserError: the range is not one of whole bins.
    """
    frames = []
    for detector, head in measurements.keys:
        own = object_pccs(measurements, (detector, head), iou_range)
        columns = ("n", "sum_score", "sum_regressed_iou")
        high = moments_of(measurements, (detector, head), columns, (HIGH_IOU, 1.0)).sum(axis=1)
        named = measurements.objects.assign(
            detector=detector,
            head=head,
            pcc=own.pcc,
            score=ratio(high[:, :2]),
            regressed_iou=ratio(high[:, [0, 2]]),
            proposals=np.rint(own.sums[:, 0]).astype(np.int64),
        )
        frames.append(named[named["proposals"] > 0])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class ObjectPccs:
    """Each object's own PCC.

    Attributes:
        sums: (O, 6) PEARSON_SUMS of each object.
        pcc: (O,), nan without variance; less the bias that drawing proposals gives it, within [-1, 1].
        variance: (O,) of drawing proposals; 0 for the whole grid, nan where it is not known.
    """

    sums: Array
    pcc: Array
    variance: Array

    @property
    def columns(self) -> Columns:
        """Their mean over the objects that have one."""
        defined = np.isfinite(self.pcc)
        values = np.stack([defined, np.where(defined, self.pcc, 0)], 1).astype(np.float64)
        return Columns(values, ratio, CORRELATION)

    def sampling_error(self, chosen: np.ndarray) -> float:
        """Standard error of the mean over some objects (O,)."""
        defined = np.isfinite(self.pcc) & chosen
        if not defined.any():
            return math.nan
        return float(np.sqrt(self.variance[defined].sum()) / defined.sum())


def object_pccs(
    measurements: Measurements,
    key: Key,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    moments: Array | None = None,
) -> ObjectPccs:
    """Each object's own PCC of a head; ``moments`` (O, 20, 6) are its PEARSON_SUMS, where they are at hand."""
    if moments is None:
        moments = moments_of(measurements, key, PEARSON_SUMS, iou_range)
    sums = moments.sum(axis=1)
    pcc = pearson_correlation(sums)
    covariances = Covariances.of(measurements, key, SCORE_TOTALS, iou_range)
    if covariances.values is None:
        return ObjectPccs(sums, pcc, np.zeros(len(pcc)))
    bias, variance = pearson_bias_and_variance(sums, covariances.by_object)
    unbiased = pcc - np.where(np.isfinite(bias), bias, 0.0)
    return ObjectPccs(sums, np.clip(unbiased, -1.0, 1.0), variance)


def regressed_iou_by_iou(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean and standard deviation of the regressed box's IoU per proposal IoU bin.

    Returns:
        As :func:`rethink_heads.statistics.by_iou.score_by_iou`, and "gain", "gain_low",
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
