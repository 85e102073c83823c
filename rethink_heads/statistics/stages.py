"""Correlation of score and IoU at three stages: predefined, RPN's, final boxes (paper Figure 3).

At the first stage all detectors score the same boxes. At the other two each has its own, so that
heads are compared on the same images, not on the same boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.stage_frame import DETECTIONS, RPN
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap, Resampled
from rethink_heads.statistics.comparison import Side, compare, difference_columns
from rethink_heads.statistics.correlation import pearson, spearman
from rethink_heads.statistics.ranks import RANK_REPLICATES, resampled_spearman
from rethink_heads.statistics.selection import (
    ALL_SIZES,
    WHOLE_RANGE,
    bin_range,
    count_objects,
    groups,
    of_size,
)
from rethink_heads.statistics.sums import pearson_correlation

PREDEFINED = "predefined"
STAGES = (PREDEFINED, RPN, DETECTIONS)
STATISTICS = ("pcc", "spearman")


def stage_correlation(
    stages: pd.DataFrame | None,
    measurements: Measurements | None = None,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    rank_replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Pearson's and Spearman's correlation of score and IoU at each stage (paper Figure 3).

    Args:
        stages: boxes of RPN and of the final detections, as ``measure_stages`` gives them; those
            matched to no object do not count.
        measurements: of the predefined proposals. Either may be None.
        iou_range: boxes of an IoU from the first to below the second (1 included) count; multiples
            of 0.05. For RPN's proposals it is the proposal's IoU, for detections the final box's.
        replicates, rank_replicates, seed: of the bootstrap over images; ranks are taken anew in
            every replicate.

    Returns:
        One row per detector, head, "stage" ("predefined", "rpn", "detections") and size ("small",
        "medium", "large", "all") with "pcc", "pcc_low", "pcc_high", "spearman", "spearman_low",
        "spearman_high" (of the predefined proposals from the sampled rows), "n" (boxes) and
        "objects" (that have one).

    Raises:
        UserError: the range is not one of whole bins.
    """
    bin_range(iou_range)
    parts = []
    if measurements is not None:
        counts = (replicates, rank_replicates)
        parts.append(_predefined_correlation(measurements, iou_range, counts, seed))
    if stages is not None:
        matched = matched_boxes(stages, iou_range)
        bootstraps = _bootstraps(stages, replicates, rank_replicates, seed)
        for stage in (RPN, DETECTIONS):
            of_stage = matched[matched["stage"] == stage]
            if (stages["stage"] == stage).any():
                rows = [
                    {**keys, "stage": stage, **_correlations(frame, bootstraps)}
                    for keys, frame in groups(of_stage, _sides(stages))
                ]
                parts.append(pd.DataFrame(rows))
    order = ["detector", "head", "stage", "size"]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=order)
    return found[[*order, *(column for column in found if column not in order)]]


def compare_stages(
    stages: pd.DataFrame | None,
    measurements: Measurements | None,
    a: Side,
    b: Side,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    statistics: Sequence[str] = STATISTICS,
    replicates: int = REPLICATES,
    rank_replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The correlations of two heads at each stage on the same draws of images, and a - b.

    Predefined proposals are those of the objects that both heads were measured on
    (:func:`rethink_heads.statistics.comparison.compare`). At the other stages each side has all its
    own boxes of the images.

    Args:
        a, b: (detector, head).
        statistics: of STATISTICS.
        stages, measurements, iou_range, replicates, rank_replicates, seed: as of
            :func:`stage_correlation`.

    Returns:
        One row per statistic, "stage" and "size" with "a", "b" (as "detector/head"), "value_a",
        "value_b", "difference", "low", "high", "excludes_zero" and "objects" (with a box of both).

    Raises:
        UserError: an unknown statistic, a head that was not measured, or a range that is not of
            whole bins.
    """
    bin_range(iou_range)
    for statistic in statistics:
        if statistic not in STATISTICS:
            raise UserError(f"unknown statistic {statistic!r}; there are {', '.join(STATISTICS)}")
    counts = {"pcc": replicates, "spearman": rank_replicates}
    parts = []
    if measurements is not None:
        parts += [
            compare(
                measurements,
                statistic,
                a,
                b,
                iou_range=iou_range,
                replicates=counts[statistic],
                seed=seed,
            ).assign(stage=PREDEFINED)
            for statistic in statistics
            # Ranks are of the sampled rows.
            if statistic != "spearman" or measurements.groups("rows")
        ]
    if stages is not None:
        # A head that was measured may have found nothing at all: then it has no boxes.
        there = {*_sides(stages), *(() if measurements is None else measurements.detector_heads)}
        bootstraps = _bootstraps(stages, replicates, rank_replicates, seed)
        matched = matched_boxes(stages, iou_range)
        parts += _later_differences(stages, matched, there, (a, b), statistics, bootstraps)
    if not parts:
        return pd.DataFrame()
    found = pd.concat(parts, ignore_index=True)
    order = ["statistic", "stage", "size"]
    return found[[*order, *(column for column in found if column not in order)]]


def _later_differences(
    stages: pd.DataFrame,
    matched: pd.DataFrame,
    there: Collection[Side],
    pair: tuple[Side, Side],
    statistics: Sequence[str],
    bootstraps: Mapping[str, ImageBootstrap],
) -> list[pd.DataFrame]:
    """The differences of two heads at each of the later stages that was measured."""
    parts = []
    for stage in (RPN, DETECTIONS):
        if (stages["stage"] == stage).any():
            sides = [_of_side(there, matched, side, stage) for side in pair]
            parts += [
                _differences(statistic, stage, pair, sides, bootstraps[statistic])
                for statistic in statistics
            ]
    return parts


def matched_boxes(
    stages: pd.DataFrame, iou_range: tuple[float, float] = WHOLE_RANGE
) -> pd.DataFrame:
    """The boxes of a stage frame that are matched to an object, with an IoU in the range."""
    low, high = iou_range
    iou = stages["iou"]
    # As the bins of the predefined proposals: the last one holds an IoU of 1.
    inside = (iou >= low) & ((iou < high) | (high >= 1))
    return stages[inside & (stages["object_id"] >= 0)]


def _predefined_correlation(
    measurements: Measurements,
    iou_range: tuple[float, float],
    counts: tuple[int, int],
    seed: int,
) -> pd.DataFrame:
    found = pearson(measurements, iou_range, replicates=counts[0], seed=seed)
    renamed = {"low": "pcc_low", "high": "pcc_high", "proposals": "n"}
    found = found.rename(columns=renamed).assign(stage=PREDEFINED)
    keys = ["detector", "head", "size"]
    if measurements.groups("rows"):
        ranks = spearman(measurements, iou_range, replicates=counts[1], seed=seed)
        ranks = ranks.rename(columns={"low": "spearman_low", "high": "spearman_high"})
        found = found.merge(ranks.drop(columns=["objects", "rows"]), on=keys, how="left")
    return found.reindex(columns=[*keys, "stage", *_columns()])


def _columns() -> list[str]:
    estimates = [[name, f"{name}_low", f"{name}_high"] for name in STATISTICS]
    return [*(column for estimate in estimates for column in estimate), "n", "objects"]


def _bootstraps(
    stages: pd.DataFrame, replicates: int, rank_replicates: int, seed: int
) -> dict[str, ImageBootstrap]:
    """By statistic; over the images that hold an object that any head has a box of."""
    images = stages.loc[stages["object_id"] >= 0, "image_id"]
    counts = {"pcc": replicates, "spearman": rank_replicates}
    return {name: ImageBootstrap(images, count, seed) for name, count in counts.items()}


def _sides(stages: pd.DataFrame) -> tuple[Side, ...]:
    pairs = stages[["detector", "head"]].drop_duplicates()
    return tuple(sorted(pairs.itertuples(index=False, name=None)))


def _correlations(frame: pd.DataFrame, bootstraps: dict[str, ImageBootstrap]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for statistic, bootstrap in bootstraps.items():
        estimate = _resampled(statistic, frame, bootstrap).estimate()
        columns[statistic] = float(estimate.value)
        columns[f"{statistic}_low"] = float(estimate.low)
        columns[f"{statistic}_high"] = float(estimate.high)
    return {**columns, "n": len(frame), "objects": count_objects(frame)}


def _resampled(statistic: str, frame: pd.DataFrame, bootstrap: ImageBootstrap) -> Resampled:
    if statistic == "spearman":
        return resampled_spearman(frame.assign(weight=1.0), bootstrap)
    iou, score = frame["iou"].to_numpy(float), frame["score"].to_numpy(float)
    # In the order of PEARSON_SUMS.
    columns = [np.ones(len(frame)), iou, score, iou * iou, score * score, iou * score]
    sums = bootstrap.sum_by_image(frame["image_id"].to_numpy(np.int64), np.stack(columns, axis=1))
    return bootstrap.resample(sums[:, 0], pearson_correlation)


def _of_side(
    there: Collection[Side], matched: pd.DataFrame, side: Side, stage: str
) -> pd.DataFrame:
    """A head's boxes of a stage, of the matched ones; UserError where it is not among those there."""
    if side not in there:
        names = ", ".join("/".join(pair) for pair in sorted(there)) or "nothing"
        raise UserError(f"no boxes of {'/'.join(side)}; there are those of {names}")
    detector, head = side
    return matched[
        (matched["detector"] == detector) & (matched["head"] == head) & (matched["stage"] == stage)
    ]


def _differences(
    statistic: str,
    stage: str,
    names: tuple[Side, Side],
    sides: Sequence[pd.DataFrame],
    bootstrap: ImageBootstrap,
) -> pd.DataFrame:
    """A row per size: both values and their difference."""
    keys = ["image_id", "object_id"]
    rows = []
    for size in ALL_SIZES:
        of_a, of_b = (of_size(side, size) for side in sides)
        resampled = [_resampled(statistic, side, bootstrap) for side in (of_a, of_b)]
        columns: dict[str, Any] = {"statistic": statistic, "stage": stage, "size": size}
        columns |= {"a": "/".join(names[0]), "b": "/".join(names[1])}
        columns |= difference_columns(*resampled)
        objects = of_a[keys].drop_duplicates().merge(of_b[keys].drop_duplicates(), on=keys)
        rows.append(pd.DataFrame({**columns, "objects": len(objects)}))
    return pd.concat(rows, ignore_index=True)
