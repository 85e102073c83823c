"""Correlation of score and IoU at three stages: predefined, RPN's, final boxes (paper Figure 3).

At the first stage all detectors score the same boxes. At the other two each has its own, so that
heads are compared on the same images, not on the same boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.stage_boxes import (
    MATCHED,
    Side,
    StageBoxes,
    as_boxes,
    sides_of,
    stages_of,
)
from rethink_heads.measure.stage_frame import DETECTIONS, RPN
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap, difference_columns
from rethink_heads.statistics.comparison import compare
from rethink_heads.statistics.correlation import pearson, spearman
from rethink_heads.statistics.ranks import RANK_REPLICATES
from rethink_heads.statistics.selection import ALL_SIZES, WHOLE_RANGE, bin_range, of_size
from rethink_heads.statistics.stage_sums import SideBoxes, side_boxes, sizes_of

PREDEFINED = "predefined"
STAGES = (PREDEFINED, RPN, DETECTIONS)
STATISTICS = ("pcc", "spearman")


def stage_correlation(
    stages: pd.DataFrame | StageBoxes | None,
    measurements: Measurements | None = None,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    rank_replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Pearson's and Spearman's correlation of score and IoU at each stage (paper Figure 3).

    Args:
        stages: boxes of RPN and of the final detections, as ``measure_stages`` gives them or
            ``open_stages`` finds them in files, which are then not held; those matched to no
            object do not count. Ranks are taken of a million of a head's boxes at the most.
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
        boxes = as_boxes(stages)
        bootstraps = _bootstraps(boxes, replicates, rank_replicates, seed)
        for stage in _later(boxes):
            rows = [
                {"detector": side[0], "head": side[1], "size": size, "stage": stage, **columns}
                for side in sides_of(boxes)
                for size, columns in _correlations(boxes, side, stage, iou_range, bootstraps)
            ]
            parts.append(pd.DataFrame(rows))
    order = ["detector", "head", "stage", "size"]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=order)
    return found[[*order, *(column for column in found if column not in order)]]


def compare_stages(
    stages: pd.DataFrame | StageBoxes | None,
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
        "value_b", "difference", "difference_low", "difference_high", "excludes_zero" and "objects" (with a box of
        both).

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
        boxes = as_boxes(stages)
        # A head that was measured may have found nothing at all: then it has no boxes.
        there = {*sides_of(boxes), *(() if measurements is None else measurements.detector_heads)}
        for side in (a, b):
            _check_there(side, there)
        bootstraps = _bootstraps(boxes, replicates, rank_replicates, seed)
        for stage in _later(boxes):
            sides = [side_boxes(boxes, s, stage, iou_range, bootstraps["pcc"]) for s in (a, b)]
            parts += [
                _differences(statistic, stage, (a, b), sides, bootstraps[statistic])
                for statistic in statistics
            ]
    if not parts:
        return pd.DataFrame()
    found = pd.concat(parts, ignore_index=True)
    order = ["statistic", "stage", "size"]
    return found[[*order, *(column for column in found if column not in order)]]


def _predefined_correlation(
    measurements: Measurements,
    iou_range: tuple[float, float],
    counts: tuple[int, int],
    seed: int,
) -> pd.DataFrame:
    found = pearson(measurements, iou_range, replicates=counts[0], seed=seed)
    found = found.rename(columns={"measured": "n"}).assign(stage=PREDEFINED)
    keys = ["detector", "head", "size"]
    if measurements.groups("rows"):
        ranks = spearman(measurements, iou_range, replicates=counts[1], seed=seed)
        found = found.merge(ranks.drop(columns=["objects", "rows"]), on=keys, how="left")
    return found.reindex(columns=[*keys, "stage", *_columns()])


def _columns() -> list[str]:
    estimates = [[name, f"{name}_low", f"{name}_high"] for name in STATISTICS]
    return [*(column for estimate in estimates for column in estimate), "n", "objects"]


def _bootstraps(
    boxes: StageBoxes, replicates: int, rank_replicates: int, seed: int
) -> dict[str, ImageBootstrap]:
    """By statistic; over the images that hold an object that any head has a box of."""
    counts = {"pcc": replicates, "spearman": rank_replicates}
    return {name: ImageBootstrap(boxes.image_ids, count, seed) for name, count in counts.items()}


def _later(boxes: StageBoxes) -> list[str]:
    """The later stages that have boxes."""
    return [stage for stage in (RPN, DETECTIONS) if stage in stages_of(boxes)]


def _correlations(
    boxes: StageBoxes,
    side: Side,
    stage: str,
    iou_range: tuple[float, float],
    bootstraps: Mapping[str, ImageBootstrap],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each size and the columns of its row."""
    found = side_boxes(boxes, side, stage, iou_range, bootstraps["pcc"])
    for size, objects in sizes_of(found):
        columns: dict[str, Any] = {}
        for statistic, bootstrap in bootstraps.items():
            estimate = found.resampled(statistic, size, bootstrap).estimate()
            columns |= estimate.columns(statistic)
        yield size, {**columns, "n": found.count(size), "objects": objects}


def _check_there(side: Side, there: Collection[Side]) -> None:
    if side not in there:
        names = ", ".join("/".join(pair) for pair in sorted(there)) or "nothing"
        raise UserError(f"no boxes of {'/'.join(side)}; there are those of {names}")


def _differences(
    statistic: str,
    stage: str,
    names: tuple[Side, Side],
    sides: Sequence[SideBoxes],
    bootstrap: ImageBootstrap,
) -> pd.DataFrame:
    """A row per size: both values and their difference."""
    of_a, of_b = (side.objects for side in sides)
    both = of_a.merge(of_b[MATCHED], on=MATCHED)
    rows = []
    for size in ALL_SIZES:
        resampled = [side.resampled(statistic, size, bootstrap) for side in sides]
        columns: dict[str, Any] = {"statistic": statistic, "stage": stage, "size": size}
        columns |= {"a": "/".join(names[0]), "b": "/".join(names[1])}
        columns |= difference_columns(*resampled)
        rows.append(pd.DataFrame({**columns, "objects": len(of_size(both, size))}))
    return pd.concat(rows, ignore_index=True)
