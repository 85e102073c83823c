"""Correlation of the classification score with the proposal's IoU (paper Figures 2 and 3)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.statistics.bootstrap import REPLICATES, Array, ImageBootstrap
from rethink_heads.statistics.by_bin import mean_and_spread
from rethink_heads.statistics.ranks import RANK_REPLICATES, resampled_spearman
from rethink_heads.statistics.selection import WHOLE_RANGE, count_objects, groups, in_range
from rethink_heads.statistics.sums import PEARSON_SUMS, pearson_correlation, ratio


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
        proposals of all objects, as in the paper, "low", "high"; "object_pcc", the mean of each
        object's own PCC, "object_low", "object_high"; "objects", "constant_objects" (those without
        variance in the range, which have no PCC) and "proposals".

    Raises:
        UserError: the range is not one of whole bins.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, frame in groups(in_range(measurements.bins, iou_range), measurements.detector_heads):
        images, sums = object_sums(frame)
        pooled_sums = bootstrap.sum_by_image(images, sums)[:, 0]
        pooled = bootstrap.estimate(pooled_sums, pearson_correlation)
        own_sums = object_pcc_sums(images, sums, bootstrap)
        own = bootstrap.estimate(own_sums, ratio)
        results.append(
            {
                **keys,
                "pcc": float(pooled.value),
                "low": float(pooled.low),
                "high": float(pooled.high),
                "object_pcc": float(own.value),
                "object_low": float(own.low),
                "object_high": float(own.high),
                "objects": len(sums),
                "constant_objects": len(sums) - int(own_sums[:, 0].sum()),
                "proposals": round(pooled_sums[:, 0].sum()),
            }
        )
    return pd.DataFrame(results)


def spearman(
    measurements: Measurements,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's rank correlation of score and proposal IoU, from the sampled rows.

    A row stands for ``weight`` equal proposals, and equal values share the mean of their ranks.
    Ranks are taken anew in every replicate of the bootstrap, which is why its default count is 200.

    Returns:
        One row per detector, head and size with "spearman", "low", "high", "objects", "rows".

    Raises:
        UserError: the range is not one of whole bins.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, frame in groups(in_range(measurements.rows, iou_range), measurements.detector_heads):
        estimate = resampled_spearman(frame, bootstrap).estimate()
        results.append(
            {
                **keys,
                "spearman": float(estimate.value),
                "low": float(estimate.low),
                "high": float(estimate.high),
                "objects": count_objects(frame),
                "rows": len(frame),
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
        bin, "proposals" and "objects".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    return mean_and_spread(measurements, bootstrap, "score")


def object_sums(frame: pd.DataFrame) -> tuple[np.ndarray, Array]:
    """Image id (O,) and PEARSON_SUMS (O, 6) of each object, over the bins of a frame."""
    by_object = frame.groupby(["image_id", "object_id"], sort=True)[list(PEARSON_SUMS)].sum()
    return by_object.index.get_level_values(0).to_numpy(np.int64), by_object.to_numpy(np.float64)


def object_pcc_sums(images: np.ndarray, sums: Array, bootstrap: ImageBootstrap) -> Array:
    """Per image the number of objects with a PCC and the sum of their PCCs: (I, 2)."""
    pcc = pearson_correlation(sums)
    defined = np.isfinite(pcc)
    return bootstrap.sum_by_image(images, np.stack([defined, np.where(defined, pcc, 0)], 1))[:, 0]
