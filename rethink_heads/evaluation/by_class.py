"""Final detections class by class and size by size: average precision, recall, LRP, correlation of score and IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.average_precision import RECALLS, Weights
from rethink_heads.evaluation.causes import FOREGROUND_IOU
from rethink_heads.evaluation.detections import (
    Quantities,
    head_comparison,
    head_table,
    keys_of,
)
from rethink_heads.evaluation.lrp import RankedDetections, matched_ious, optimal_lrp, ranked_classes
from rethink_heads.evaluation.matching import (
    AREAS,
    NO_OBJECT,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    Matches,
    box_ious,
    match_detections,
)
from rethink_heads.evaluation.oracles import precision_and_derivatives
from rethink_heads.statistics.bootstrap import (
    CORRELATION,
    SHARE,
    Array,
    BootstrapEstimate,
    ImageBootstrap,
)
from rethink_heads.statistics.sums import pearson_correlation

CLASS_METRICS = (
    "ap",
    "ap50",
    "ap75",
    "recall",
    "olrp",
    "localization",
    "false_positives",
    "misses",
    "score_threshold",
    "pcc",
)
BACKGROUND = -1
"""Of a confusion matrix: the class of detections without an object, and of objects without a detection."""


def class_values(head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap) -> Quantities:
    """What a head makes of the objects of each class and size, with 95% intervals over images.

    Returns:
        A row a class and size of which there are objects with "label", "class_name", "size"
        (one of COCO's, "all" first), "objects", and with "..._low" and "..._high": "ap", "ap50", "ap75" (pycocotools'
        own), "recall" (COCO's: the mean over its IoU thresholds), "olrp", "localization", "false_positives", "misses"
        and "score_threshold" (see :mod:`.lrp`, at IoU 0.5), and "pcc", Pearson's correlation of score and IoU of the
        true positives at IoU 0.5. Intervals of the first four are from derivatives, as in :mod:`.lost_precision`.

        Compared: "ap", by "label", "class_name" and "size".
    """
    matches = match_detections(truth, head)
    ious = [matched_ious(head, truth, matches, area) for area in range(len(AREAS))]
    cells: list[_Cell] = []
    weights_of = np.ascontiguousarray(bootstrap.counts.T, np.float32)
    for label in range(truth.class_count):
        object_images, within = truth.to_find(label)
        rows = np.flatnonzero(head.labels == label)
        rows = rows[np.lexsort((head.images[rows], -head.scores[rows]))]
        there = np.unique(np.append(head.images[rows], object_images))
        weights = weights_of[there]
        sums_of_label: list[_Sums] = []
        for area in np.flatnonzero(within.any(axis=1)).tolist():
            one = RankedDetections(
                np.searchsorted(there, head.images[rows]),
                head.scores[rows],
                matches.true[area, 0, rows],
                ious[area][rows],
                np.searchsorted(there, object_images[within[area]]),
            )
            flags = matches.true[area][:, rows], matches.counted[area][:, rows]
            sums_of_label.append(_sums((label, area), one, *flags, len(there)))
        # One product for all sizes.
        columns_of = [each.by_image for each in sums_of_label]
        sums = np.hstack([np.zeros((len(there), 0)), *columns_of])
        drawn = np.asarray(weights.T @ sums, np.float64)
        for number, each in enumerate(sums_of_label):
            width = each.by_image.shape[1]
            cells.append(_cell(each, weights, drawn[:, number * width : (number + 1) * width]))
    images = np.array([cell.images for cell in cells], np.int64)
    found_images = np.array([cell.found_images for cell in cells], np.int64)
    columns: dict[str, Any] = {"objects": [cell.objects for cell in cells]}
    resampled = {}
    for number, metric in enumerate(CLASS_METRICS):
        value = np.array([cell.values[number] for cell in cells])
        draws = np.array([cell.replicates[:, number] for cell in cells])
        draws = draws.reshape(len(cells), bootstrap.replicates).T
        is_correlation = metric == "pcc"
        resampled[metric] = BootstrapEstimate(
            value,
            draws,
            found_images if is_correlation else images,
            CORRELATION if is_correlation else SHARE,
        )
        if number:
            columns |= resampled[metric].estimate().columns(metric)
    names = truth.dataset.class_names
    keys = {
        "label": [cell.label for cell in cells],
        "class_name": [names[cell.label] for cell in cells],
        "size": [AREAS[cell.area] for cell in cells],
    }
    return Quantities(resampled["ap"], keys, "ap", columns)


class_table = head_table("class_table", class_values)
compare_classes = head_comparison("compare_classes", class_values)


@dataclass(frozen=True)
class _Cell:
    """One class and size: CLASS_METRICS of all images (10,) and of each draw (B, 10), and what they rest on."""

    label: int
    area: int
    objects: int
    images: int
    found_images: int
    values: Array
    replicates: Array


@dataclass(frozen=True)
class _Sums:
    """What one class and size comes to in each of I images.

    Attributes:
        label, area: the class and the size; one: its detections, counted or not.
        at_half: those that count at the first IoU threshold.
        bears: (I,) whether an image bears on the precision.
        values: (4,) AP, AP50, AP75 and recall; by_image: (I, 10) their derivatives by the weight of each image, and the
            sums that the correlation is made of.
    """

    label: int
    area: int
    one: RankedDetections
    at_half: RankedDetections
    bears: Flags
    values: Array
    by_image: Array


def _sums(
    of: tuple[int, int], one: RankedDetections, true: Flags, counted: Flags, images: int
) -> _Sums:
    """The sums ``of`` one class and size.

    Args:
        true, counted: (10, N) flags of its detections at each IoU threshold.
    """
    objects = len(one.object_images)
    values, slopes, areas = precision_and_derivatives(true, counted, objects)
    found = true.sum(axis=1) / objects
    # The mean over thresholds, the first and the sixth of them.
    picks = np.stack([np.full(10, 0.1), *np.eye(10)[[0, 5]]])
    slopes = np.vstack([picks @ slopes, picks[0] @ true / objects])
    object_slopes = -np.append(picks @ areas, picks[0] @ found) / objects
    derivatives = np.stack([np.bincount(one.images, each, images) for each in slopes], axis=1)
    derivatives = derivatives + np.outer(
        np.bincount(one.object_images, minlength=images), object_slopes
    )
    rows = np.flatnonzero(counted[0])
    at_half = replace(
        one,
        images=one.images[rows],
        scores=one.scores[rows],
        true=one.true[rows],
        ious=one.ious[rows],
    )
    sums = np.zeros((images, 6))
    x, y = one.ious[one.true], one.scores[one.true]
    moments = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
    np.add.at(sums, one.images[one.true], moments)
    bears = np.zeros(images, bool)
    bears[one.object_images] = True
    bears[one.images[counted.any(axis=0)]] = True
    means = np.append(picks @ values, picks[0] @ found)
    return _Sums(*of, one, at_half, bears, means, np.hstack([derivatives, sums]))


def _cell(sums: _Sums, weights: Weights, drawn: Array) -> _Cell:
    """CLASS_METRICS of one class and size.

    Args:
        weights: (I, B) how often each draw has each image that is there; drawn: (B, 10) what the sums by image come to.
    """
    once, count = sums.by_image.sum(axis=0), len(sums.values)
    draws = sums.values + drawn[:, :count] - once[:count]
    rest = []
    for each, moments in (
        (np.ones((len(weights), 1), np.float32), once[None, count:]),
        (weights, drawn[:, count:]),
    ):
        lrp, thresholds = optimal_lrp(sums.at_half, each, FOREGROUND_IOU)
        rest.append(np.column_stack([lrp, thresholds, pearson_correlation(moments)]))
    return _Cell(
        sums.label,
        sums.area,
        len(sums.one.object_images),
        int(sums.bears.sum()),
        len(np.unique(sums.one.images[sums.one.true])),
        np.append(sums.values, rest[0][0]),
        np.hstack([draws, rest[1]]),
    )


def precision_recall(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    iou_thresholds: Sequence[float] = (0.5, 0.75),
) -> pd.DataFrame:
    """Precision-recall curves of every head and class, as COCO interpolates them.

    Returns:
        A row a head, class that has objects, IoU threshold and recall with "detector", "head", "label", "iou",
        "recall" (0, 0.01 .. 1), "precision" (the best at this recall or above it, 0 where it is not reached) and
        "score" (the threshold that reaches it, nan where none does).

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = GroundTruth(dataset, detections)
    frames = []
    for key in keys_of(detections):
        head = truth.detections_of(detections, key)
        matches = match_detections(truth, head, np.array(iou_thresholds), sizes=1)
        for label in np.unique(truth.labels[truth.findable]).tolist():
            objects = (truth.findable & (truth.labels == label)).sum()
            rows = np.flatnonzero(head.labels == label)
            rows = rows[np.lexsort((head.images[rows], -head.scores[rows]))]
            for number, threshold in enumerate(iou_thresholds):
                of = rows[matches.counted[0, number, rows]]
                found = matches.true[0, number, of].cumsum()
                precision = found / np.arange(1, len(of) + 1)
                envelope = np.maximum.accumulate(precision[::-1])[::-1]
                at = np.searchsorted(found / objects, RECALLS)
                columns = {
                    "detector": key[0],
                    "head": key[1],
                    "label": label,
                    "iou": threshold,
                    "recall": RECALLS,
                    "precision": np.append(envelope, 0.0)[at],
                    "score": np.append(head.scores[of], np.nan)[at],
                }
                frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def confusion_matrix(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    score_threshold: float | Mapping[int, float] | None = None,
    iou_threshold: float = FOREGROUND_IOU,
) -> pd.DataFrame:
    """Which classes every head takes for which, with the background.

    The detections with a score at or above their class's threshold are matched in two rounds: to objects of their class
    as COCO matches them, then those that are left, by falling score, each to the free object of any class that it
    overlaps most, by the IoU threshold or more. Detections of crowds do not count.

    Args:
        detections, dataset: as of ``average_precision.precision_table``.
        score_threshold: of all classes, or by label; None: the one at which each class's LRP is least.
        iou_threshold: least IoU of a match.

    Returns:
        A row a head and pair of classes that occurs with "detector", "head", "object_label", "detection_label", "count"
        and "share" (of the objects of that class, or of the detections without an object). BACKGROUND (-1) is the
        class of a detection without an object, and what a missed object is taken for.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    names = ["detector", "head", "object_label", "detection_label"]
    frames = []
    # A head after another, in the order of the detections.
    for found in _confusions(detections, dataset, score_threshold, iou_threshold):
        counts = found[names].value_counts().sort_index().rename("count").reset_index()
        totals = counts.groupby("object_label")["count"].transform("sum")
        frames.append(counts.assign(share=counts["count"] / totals))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def object_confusions(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    score_threshold: float | Mapping[int, float] | None = None,
    iou_threshold: float = FOREGROUND_IOU,
) -> pd.DataFrame:
    """What every head takes each object for: the objects that :func:`confusion_matrix`, of the same arguments, counts.

    Returns:
        A row a head and object with "detector", "head", "object_id", "object_label", "detection_label" (BACKGROUND
        where it is missed) and "detection_score" (nan there).

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    frames = list(_confusions(detections, dataset, score_threshold, iou_threshold))
    every = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"object_label": []})
    return every[every["object_label"] != BACKGROUND].reset_index(drop=True)


def _confusions(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    score_threshold: float | Mapping[int, float] | None,
    iou_threshold: float,
) -> Iterator[pd.DataFrame]:
    """By head: what :func:`object_confusions` returns, and after it rows of the detections that have no object."""
    truth = GroundTruth(dataset, detections)
    for key in keys_of(detections):
        head = truth.detections_of(detections, key)
        matches = match_detections(truth, head, np.array([iou_threshold]), sizes=1)
        least = _score_thresholds(head, truth, matches, score_threshold, iou_threshold)
        above = head.scores >= least[head.labels]
        chosen = above & matches.counted[0, 0]
        objects = np.where(chosen & matches.true[0, 0], matches.objects[0, 0], NO_OBJECT)
        _match_any_class(head, truth, chosen, objects, iou_threshold)
        seen, scores = np.full(len(truth.labels), BACKGROUND), np.full(len(truth.labels), np.nan)
        rows = np.flatnonzero(objects != NO_OBJECT)
        seen[objects[rows]], scores[objects[rows]] = head.labels[rows], head.scores[rows]
        own, other = np.flatnonzero(truth.findable), chosen & (objects == NO_OBJECT)
        none = np.full(other.sum(), BACKGROUND)
        columns = {
            "detector": key[0],
            "head": key[1],
            "object_id": np.append(truth.ids[own], none),
            "object_label": np.append(truth.labels[own], none),
            "detection_label": np.append(seen[own], head.labels[other]),
            "detection_score": np.append(scores[own], head.scores[other]),
        }
        yield pd.DataFrame(columns)


def _score_thresholds(
    head: HeadDetections,
    truth: GroundTruth,
    matches: Matches,
    given: float | Mapping[int, float] | None,
    iou_threshold: float,
) -> Array:
    """The least score (K,) of each class that counts; of a class without objects the median of the others."""
    classes = truth.class_count
    if isinstance(given, Mapping):
        return np.array([given.get(label, 0.0) for label in range(classes)])
    if given is not None:
        return np.full(classes, given)
    once = np.ones((len(truth.image_ids), 1), np.float32)
    least = np.full(classes, np.nan)
    for label, one in ranked_classes(head, truth, matches).items():
        threshold = optimal_lrp(one, once, iou_threshold)[1][0]
        # Where LRP is best without any detection, none is above the threshold.
        least[label] = np.inf if np.isnan(threshold) else threshold
    finite = least[np.isfinite(least)]
    return np.where(np.isnan(least), np.median(finite) if len(finite) else np.inf, least)


def _match_any_class(
    head: HeadDetections, truth: GroundTruth, chosen: Flags, objects: Indices, least: float
) -> None:
    """Fill in the objects (N,) of chosen detections (N,) that have none, from those that no other has."""
    free = truth.findable.copy()
    free[objects[objects != NO_OBJECT]] = False
    rows = np.flatnonzero(chosen & (objects == NO_OBJECT))
    first, after = np.searchsorted(truth.images, head.images[rows] + np.array([[0], [1]]))
    count = after - first
    # Every pair of such a detection and an object of its image, that overlap enough.
    row = np.repeat(rows, count)
    candidate = np.arange(count.sum()) - np.repeat(count.cumsum() - count - first, count)
    ious = box_ious(head.boxes[row], truth.boxes[candidate])
    near = np.flatnonzero((ious >= least) & free[candidate])
    # By image, and by falling score in each; of one detection from the largest overlap.
    order = near[np.lexsort((-ious[near], row[near]))]
    for at, other in zip(row[order].tolist(), candidate[order].tolist(), strict=True):
        if free[other] and objects[at] == NO_OBJECT:
            objects[at] = other
            free[other] = False
