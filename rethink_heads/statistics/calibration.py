"""How well scores say how good detections are: reliability by score, and calibration errors.

- D-ECE, the detection expected calibration error (Küppers et al., "Multivariate Confidence Calibration for Object
  Detection", CVPR Workshops 2020): detections of all classes in 10 bins of score; mean over detections of the
  difference in their bin of mean score and precision.
- LaECE, the localisation-aware error (Oksuz et al., "Towards Building Self-Aware Object Detectors via Reliable
  Uncertainty Quantification and Calibration", CVPR 2023): class by class in 25 bins; mean score against precision
  times the mean IoU of the true positives, which is the mean IoU where a false positive counts 0; mean over classes.

A true positive is COCO's at IoU 0.5 (a parameter). A bin is open below and closed above, the first closed at 0.
Errors are sums of absolute differences, so that noise in bins of few detections makes them larger, never smaller.
They also depend on which detections are kept: of those of low scores there are many, and they are easily right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.measure.kept_detections import (
    HeadDetections,
    KeptDetections,
    Side,
    as_detections,
)
from rethink_heads.statistics.average_precision import (
    OverClasses,
    difference_frame,
    estimate_rows,
)
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    Array,
    ImageBootstrap,
    Resampled,
)
from rethink_heads.statistics.matches import (
    Indices,
    Truth,
    box_ious,
    matches,
    of_heads,
    of_side,
    resampling,
)
from rethink_heads.statistics.ranking import turns_of
from rethink_heads.statistics.sums import ratio

POSITIVE_IOU = 0.5
RELIABILITY_BINS = 10
D_ECE_BINS, LAECE_BINS = 10, 25
CALIBRATION_ERRORS = ("d_ece", "laece", "overconfidence")
# What is added up by image and bin, after the number.
_SUMS = ["score", "hit", "iou"]


@dataclass(frozen=True)
class Calibration:
    """What is asked of one head's scores.

    Attributes:
        errors: the three CALIBRATION_ERRORS.
        sums: (I, D_ECE_BINS, 4) number and _SUMS by image and bin, all classes together.
    """

    errors: Resampled
    sums: Array

    @property
    def detections(self) -> int:
        """How many count."""
        return round(float(self.sums[..., 0].sum()))


def reliability(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    *,
    bins: int = RELIABILITY_BINS,
    iou_threshold: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Precision and IoU by score, all classes together: what a reliability diagram shows.

    Args:
        detections, dataset: as of ``average_precision.precision_table``.
        bins: number of equal bins of the score.
        iou_threshold: least IoU of a true positive.
        replicates, seed: of the bootstrap over images.

    Returns:
        A row a head and bin with "detector", "head", "bin", "score_low", "score_high", "mean_score", "precision"
        (share of true positives), "iou" (mean IoU with the matched object, 0 for a false positive), "hit_iou" (mean
        IoU of the true positives), each with "..._low" and "..._high", and "count"; nan where a bin is empty.
        Detections of crowds do not count.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    frames = []
    for head in of_heads(found):
        sums = _no_sums(bootstrap, bins)
        for rows in judged(head, truth, iou_threshold):
            _add(sums, rows, bootstrap)
        frames.append(reliability_rows(head.side, sums, bootstrap))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def reliability_rows(side: Side, sums: Array, bootstrap: ImageBootstrap) -> pd.DataFrame:
    """One head's rows of :func:`reliability`, of sums (I, bins, 4) of its judged detections by image and bin."""
    bins = sums.shape[1]
    columns = {
        "detector": side[0],
        "head": side[1],
        "bin": np.arange(bins),
        "score_low": np.arange(bins) / bins,
        "score_high": np.arange(1, bins + 1) / bins,
        "mean_score": ratio(sums.sum(axis=0)[:, [0, 1]]),
    }
    for name, (over, of) in {"precision": (0, 2), "iou": (0, 3), "hit_iou": (2, 3)}.items():
        estimate = bootstrap.estimate(sums[..., [over, of]], ratio)
        columns |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
        }
    columns["count"] = sums[..., 0].sum(axis=0).astype(np.int64)
    return pd.DataFrame(columns)


def calibration_errors(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    *,
    iou_threshold: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Calibration errors of every head, with 95% intervals over images.

    Args:
        detections, dataset, iou_threshold, replicates, seed: as of :func:`reliability`.

    Returns:
        A row a head and error with "detector", "head", "error", "value", "low", "high" and "detections". Errors:
        "d_ece" and "laece", 0..1, as at the head of this module; "overconfidence", the mean score less the precision
        of all detections, below 0 for a head that is too modest.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    frames = [
        calibration_rows(head.side, calibration_of(head, truth, bootstrap, iou_threshold))
        for head in of_heads(found)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def calibration_rows(side: Side, found: Calibration) -> pd.DataFrame:
    """One head's rows of :func:`calibration_errors`."""
    rows = estimate_rows(side, "error", CALIBRATION_ERRORS, "value", found.errors)
    return rows.assign(detections=found.detections)


def compare_calibration(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    a: Side,
    b: Side,
    *,
    iou_threshold: float = POSITIVE_IOU,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The calibration errors of two heads and their differences a - b on the same draws of images.

    Returns:
        A row an error with "error" and the columns of ``average_precision.compare_precision``.

    Raises:
        UserError: no detections of a head, or detections in other images or of other classes.
    """
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    sides = [
        calibration_of(of_side(found, side), truth, bootstrap, iou_threshold).errors
        for side in (a, b)
    ]
    return difference_frame("error", CALIBRATION_ERRORS, a, b, *sides)


def judged(
    head: HeadDetections,
    truth: Truth,
    iou_threshold: float,
    labels: Collection[int] | None = None,
) -> Iterator[pd.DataFrame]:
    """One head's detections that count, some images after another.

    Columns: "image_id", "label", "score", "hit" and "iou" (0 without a hit).
    """
    for found in matches(truth, head, np.array([iou_threshold]), sizes=1, labels=labels):
        hits, kept = found.hits[0, 0], found.kept[0, 0]
        ious = np.zeros(len(hits))
        ious[hits] = box_ious(found.boxes[hits], truth.boxes[found.objects[0, hits]])
        rows = pd.DataFrame({"image_id": truth.image_ids[found.images], "label": found.labels})
        rows = rows.assign(score=found.scores, hit=hits, iou=ious)
        yield rows[kept].reset_index(drop=True)


def calibration_of(
    head: HeadDetections,
    truth: Truth,
    bootstrap: ImageBootstrap,
    iou_threshold: float = POSITIVE_IOU,
) -> Calibration:
    """One head's calibration errors; so many classes are judged at once as there is memory for."""
    pooled = _no_sums(bootstrap, D_ECE_BINS)
    of_classes = OverClasses(1 + bootstrap.replicates + len(bootstrap.image_ids), 1)
    each = np.ones(len(bootstrap.image_ids), bool)
    # Sums need no order: a class that is ranked in several turns is judged in one.
    for labels in [turn.labels for turn in turns_of(head, truth.class_count) if turn.is_last]:
        for sums in _of_classes(head, truth, iou_threshold, labels, pooled, bootstrap):
            found = bootstrap.resample(sums, partial(_gap, target=3), each)
            values = np.concatenate([[found.value], found.replicates, _left_out(found)])
            of_classes.add(values[:, None])
    bears = pooled[..., 0].sum(axis=1) > 0
    cut = 1 + bootstrap.replicates
    mean = of_classes.mean[:, 0]
    laece = Resampled(
        mean[0], mean[1:cut], np.where(bears, mean[cut:], np.nan), np.asarray(bears.sum())
    )
    distance, signed = (partial(_gap, target=2, signed=signed) for signed in (False, True))
    d_ece, overconfidence = (bootstrap.resample(pooled, s, bears) for s in (distance, signed))
    return Calibration(_together([d_ece, laece, overconfidence]), pooled)


def _of_classes(
    head: HeadDetections,
    truth: Truth,
    iou_threshold: float,
    labels: Indices,
    pooled: Array,
    bootstrap: ImageBootstrap,
) -> Iterator[Array]:
    """Sums (I, LAECE_BINS, 4) of each of some classes that has detections; they are added to ``pooled``, too."""
    sums, gathered = _no_sums(bootstrap, LAECE_BINS), []
    for rows in judged(head, truth, iou_threshold, labels):
        _add(pooled, rows, bootstrap)
        if len(labels) == 1:
            # Of one class there may be more than there is memory for.
            _add(sums, rows, bootstrap)
        else:
            gathered.append(rows.astype({"label": "int32"}))
    if len(labels) == 1:
        yield sums
    if not gathered:
        return
    found = pd.concat(gathered, ignore_index=True)
    gathered.clear()
    order = np.argsort(found["label"].to_numpy(), kind="stable")
    ends = np.flatnonzero(np.diff(found["label"].to_numpy()[order])) + 1
    for rows_of_class in np.split(order, ends):
        sums[:] = 0
        _add(sums, found.iloc[rows_of_class], bootstrap)
        yield sums


def _no_sums(bootstrap: ImageBootstrap, bins: int) -> Array:
    return np.zeros((len(bootstrap.image_ids), bins, 1 + len(_SUMS)))


def _add(sums: Array, rows: pd.DataFrame, bootstrap: ImageBootstrap) -> None:
    """Add judged detections to sums (I, bins, 4) by image and bin: their number and _SUMS."""
    bins = sums.shape[1]
    bin_of = np.clip(np.ceil(rows["score"].to_numpy() * bins).astype(np.int64) - 1, 0, bins - 1)
    columns = rows[_SUMS].to_numpy(np.float64)
    columns = np.column_stack([np.ones(len(rows)), columns])
    bootstrap.add_by_image(sums, rows["image_id"].to_numpy(np.int64), columns, bin_of)


def _gap(sums: Array, target: int, signed: bool = False) -> Array:
    """Expected difference of score and target, from sums (R, bins, 4): (R,), nan without detections."""
    gaps = sums[..., 1] - sums[..., target]
    gaps = (gaps if signed else np.abs(gaps)).sum(axis=-1)
    return ratio(np.stack([sums[..., 0].sum(axis=-1), gaps], axis=-1))


def _left_out(found: Resampled) -> Array:
    assert found.left_out is not None
    return found.left_out


def _together(found: list[Resampled]) -> Resampled:
    """Several statistics (), of the same images, as one (M,)."""
    return Resampled(
        np.array([one.value for one in found]),
        np.stack([one.replicates for one in found], axis=-1),
        np.stack([_left_out(one) for one in found], axis=-1),
        np.array([one.images for one in found]),
    )
