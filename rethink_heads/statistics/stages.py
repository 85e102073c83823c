"""Correlation of score and IoU at three stages: predefined, RPN's, final boxes (paper Figure 3).

At the first stage all detectors score the same boxes. At the other two each has its own, so that
heads are compared on the same images, not on the same boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.stage_boxes import DETECTIONS, RPN, stage_measurements, with_head
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap
from rethink_heads.statistics.by_iou import pearson, spearman
from rethink_heads.statistics.comparison import check_common, compared_head, difference_rows
from rethink_heads.statistics.sums import WHOLE_RANGE, bin_range

PREDEFINED = "predefined"
STAGES = (PREDEFINED, RPN, DETECTIONS)
STATISTICS = ("pcc", "spearman")
Stages = pd.DataFrame | Mapping[str, Measurements] | None
"""Boxes of later stages, or what ``stage_measurements`` makes of them: once for several tables."""
_ESTIMATES = [f"{name}{end}" for name in STATISTICS for end in ("", "_low", "_high")]


def stage_correlation(
    stages: Stages,
    measurements: Measurements | None = None,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Pearson's and Spearman's correlation of score and IoU at each stage (paper Figure 3).

    Args:
        stages: boxes of RPN and of the final detections, as ``measure_stages`` gives them; those
            matched to no object do not count. Ranks are taken of a million of a head's boxes at the most.
        measurements: of the predefined proposals. Either may be None.
        iou_range: boxes of an IoU from the first to below the second (1 included) count; multiples
            of 0.05. For RPN's proposals it is the proposal's IoU, for detections the final box's.
        replicates, seed: of the bootstrap over images.

    Returns:
        One row per detector, head, "stage" ("predefined", "rpn", "detections") and size ("small",
        "medium", "large", "all") with "pcc", "pcc_low", "pcc_high", "spearman", "spearman_low",
        "spearman_high" (of the predefined proposals from the sampled ones), "n" (boxes) and
        "objects" (that have one).

    Raises:
        UserError: the range is not one of whole bins.
    """
    bin_range(iou_range)
    order = ["detector", "head", "stage", "size"]
    parts = []
    for stage, found in _by_stage(stages, measurements).items():
        rows = pearson(found, iou_range, replicates=replicates, seed=seed)
        rows = rows.rename(columns={"measured": "n"}).assign(stage=stage)
        if found.has_rows:
            ranks = spearman(found, iou_range, replicates=replicates, seed=seed)
            keys = ["detector", "head", "size"]
            rows = rows.merge(ranks.drop(columns=["objects", "rows"]), on=keys, how="left")
        parts.append(rows.reindex(columns=[*order, *_ESTIMATES, "n", "objects"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=order)


def compare_stages(
    stages: Stages,
    measurements: Measurements | None,
    a: Key,
    b: Key,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    *,
    statistics: Sequence[str] = STATISTICS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The correlations of two heads at each stage on the same draws of images, and a - b.

    Predefined proposals are those of the objects that both heads were measured on
    (:func:`rethink_heads.statistics.comparison.compare`). At the other stages each head has all its
    own boxes of the images.

    Args:
        a, b: (detector, head).
        statistics: of STATISTICS.
        stages, measurements, iou_range, replicates, seed: as of :func:`stage_correlation`.

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
    by_stage = _by_stage(stages, measurements)
    if stages is not None:
        _check_there(by_stage, a, b)
    parts = []
    for stage, found in by_stage.items():
        if stage != PREDEFINED:
            found = with_head(with_head(found, a), b)
        for statistic in statistics:
            # Ranks are of the sampled proposals.
            if statistic == "spearman" and not found.has_rows:
                continue
            bootstrap = ImageBootstrap(found.image_ids, replicates, seed)
            compared_heads = [compared_head(found, statistic, key, iou_range) for key in (a, b)]
            if stage == PREDEFINED:
                check_common(statistic, a, b, *compared_heads)
            keys, own = {"statistic": statistic, "stage": stage}, stage != PREDEFINED
            parts.append(difference_rows(found, keys, {}, (a, b), compared_heads, bootstrap, own))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _by_stage(stages: Stages, measurements: Measurements | None) -> dict[str, Measurements]:
    """Each stage that there are boxes of, as measurements."""
    predefined = {} if measurements is None else {PREDEFINED: measurements}
    if isinstance(stages, pd.DataFrame):
        stages = stage_measurements(stages)
    return {**predefined, **(stages or {})}


def _check_there(found: Mapping[str, Measurements], a: Key, b: Key) -> None:
    """Raise UserError for a head without boxes; one that was measured may have found nothing at all."""
    there = sorted({key for each in found.values() for key in each.keys})
    for key in (a, b):
        if key not in there:
            names = ", ".join("/".join(each) for each in there) or "nothing"
            raise UserError(f"no boxes of {'/'.join(key)}; there are those of {names}")
