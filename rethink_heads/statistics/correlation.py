"""Correlation of the classification score with the proposal's IoU (paper Figures 2 and 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.statistics.bootstrap import (
    CORRELATION,
    MEAN_CORRELATION,
    REPLICATES,
    Array,
    ImageBootstrap,
)
from rethink_heads.statistics.by_bin import mean_and_spread
from rethink_heads.statistics.ranks import (
    RANK_REPLICATES,
    ranked_rows,
    resampled_spearman,
    spearman_sampling_error,
)
from rethink_heads.statistics.reduction import ObjectSums, by_head
from rethink_heads.statistics.sampling_error import (
    SCORE_TOTALS,
    Covariances,
    SamplingErrors,
    pearson_bias_and_variance,
    pearson_error,
)
from rethink_heads.statistics.selection import ALL_SIZES, WHOLE_RANGE, count_objects, of_size
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
        proposals of all objects, as we read the paper, and "object_pcc", the mean of each
        object's own PCC, each with "_low" and "_high"; "objects", "constant_objects" (those without
        variance in the range, which have no PCC), "proposals" (of the whole grid) and "measured" (of these). Where
        some
        proposals were drawn, "pcc_sampling_error" and "object_pcc_sampling_error" are the standard
        errors about the whole grid's values on the same objects, which the intervals hold too (see
        :mod:`~rethink_heads.statistics.sampling_error`); 0 for the whole grid. Each object's own PCC is
        then less the bias that drawing gives it.

    Raises:
        UserError: the range is not one of whole bins.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    columns = ["bin", "measured", *PEARSON_SUMS]
    errors = SamplingErrors(measurements, SCORE_TOTALS, iou_range)
    for keys, of_objects in by_head(measurements, "bins", columns, ObjectSums, iou_range):
        images, sums = of_objects.images, of_objects.sums
        pooled_sums = bootstrap.sum_by_image(images, sums)[:, 0]
        pooled = bootstrap.estimate(pooled_sums, pearson_correlation, CORRELATION)
        covariances = errors.of(**keys)
        pooled_error = pearson_error(pooled_sums.sum(axis=0), covariances.pooled)
        of_each = object_pccs(of_objects, covariances)
        own_sums = of_each.by_image(images, bootstrap)
        own = bootstrap.estimate(own_sums, ratio, MEAN_CORRELATION)
        results.append(
            {
                **keys,
                **pooled.columns("pcc"),
                "pcc_sampling_error": float(pooled_error),
                **own.columns("object_pcc"),
                "object_pcc_sampling_error": of_each.sampling_error,
                "objects": len(sums),
                "constant_objects": len(sums) - int(own_sums[:, 0].sum()),
                "proposals": round(pooled_sums[:, 0].sum()),
                "measured": of_objects.measured,
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
        One row per detector, head and size with "spearman", "spearman_low", "spearman_high", "spearman_sampling_error"
        (the rows' standard error about the ranks of all proposals, which the interval holds too), "objects", "rows".

    Raises:
        UserError: the range is not one of whole bins.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for detector, head in measurements.detector_heads:
        of_head = ranked_rows(measurements, (detector, head), iou_range)
        for size in ALL_SIZES:
            frame = of_size(of_head, size)
            estimate = resampled_spearman(frame, bootstrap).estimate()
            results.append(
                {
                    "detector": detector,
                    "head": head,
                    "size": size,
                    **estimate.columns("spearman"),
                    "spearman_sampling_error": spearman_sampling_error(frame),
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
        bin, "mean_sampling_error" and "std_sampling_error" (as in :func:`pearson`), "proposals" and
        "objects".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    return mean_and_spread(measurements, bootstrap, "score")


@dataclass(frozen=True)
class ObjectPccs:
    """Each object's own PCC.

    Attributes:
        pcc: (O,), nan without variance; less the bias that drawing proposals gives it, within [-1, 1].
        variance: (O,) of drawing proposals; 0 for the whole grid, nan where it is not known.
    """

    pcc: Array
    variance: Array

    @property
    def sampling_error(self) -> float:
        """Standard error of the mean over objects that have one."""
        defined = np.isfinite(self.pcc)
        if not defined.any():
            return math.nan
        return float(np.sqrt(self.variance[defined].sum()) / defined.sum())

    def by_image(self, images: npt.NDArray[np.int64], bootstrap: ImageBootstrap) -> Array:
        """Per image the number of objects with a PCC and the sum of their PCCs: (I, 2)."""
        defined = np.isfinite(self.pcc)
        columns = np.stack([defined, np.where(defined, self.pcc, 0)], 1)
        return bootstrap.sum_by_image(images, columns)[:, 0]


def object_pccs(found: ObjectSums, covariances: Covariances) -> ObjectPccs:
    """Each object's own PCC, given its sums and what is known of their errors of sampling."""
    pcc = pearson_correlation(found.sums)
    if covariances.known and not len(covariances.objects):
        return ObjectPccs(pcc, np.zeros(len(pcc)))
    bias, variance = pearson_bias_and_variance(found.sums, covariances.of_objects(found.objects))
    unbiased = pcc - np.where(np.isfinite(bias), bias, 0.0)
    return ObjectPccs(np.clip(unbiased, -1.0, 1.0), variance)
