"""COCO's average precision of detections, with intervals from a bootstrap over images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.coco_json import read_json
from rethink_heads.errors import UserError
from rethink_heads.evaluation.detections import Quantities, head_differences, head_table
from rethink_heads.evaluation.matching import (
    AREAS,
    THRESHOLDS,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    Matches,
    match_detections,
)
from rethink_heads.evaluation.weighted_precision import (
    RECALLS,
    MeanOverClasses,
    Weights,
    by_class,
    in_draws,
    precision_at_recalls,
    weighted_precision,
)
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    SHARE,
    Array,
    ImageBootstrap,
    Resampled,
)

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Of each name: the index of its size, and of its IoU thresholds.
_CELLS = {
    "AP": (0, slice(None)),
    "AP50": (0, slice(0, 1)),
    "AP75": (0, slice(5, 6)),
    "APs": (1, slice(None)),
    "APm": (2, slice(None)),
    "APl": (3, slice(None)),
}


def average_precision(
    annotations: Path | Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
    left_out: Collection[int] = (),
    category_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """COCO's AP of boxes, equal to pycocotools' to the last digit and some ten times as fast.

    Args:
        annotations: COCO JSON file with the objects, or what one holds (:meth:`.CocoDataset.as_coco`).
        detections: COCO's result format: "image_id", "category_id", "bbox" (x, y, width, height
            in px of the original image) and "score". None at all is allowed.
        image_ids: the images to evaluate, None for all; detections in others do not count.
        left_out: ids of annotations that are not objects to find, such as boxes without an area
            (``CocoDataset.left_out_ids``). Crowd boxes are no such: COCO has its own rule for them.
        category_ids: the classes to evaluate, None for all; detections of others do not count.

    Returns:
        "AP" (mean over IoU 0.50 to 0.95), "AP50", "AP75", and "APs", "APm", "APl" of small, medium
        and large objects, in 0..1; nan where there is no object to find.

    Raises:
        UserError: no such file, not COCO, or detections in images that are not in the file.
    """
    where = "the data" if isinstance(annotations, Mapping) else str(annotations)
    content = dict(annotations) if isinstance(annotations, Mapping) else read_json(annotations)[0]
    try:
        truth = hotcoco.COCO(_without(content, left_out))
    except (ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
        raise UserError(f"cannot read {where} as COCO annotations: {error}") from error
    unknown = {detection["image_id"] for detection in detections} - set(truth.get_img_ids())
    if unknown:
        raise UserError(
            f"{len(unknown)} images with detections are not in {where} (the first: "
            f"{min(unknown)}); evaluate on the data that was detected on"
        )
    results = [dict(detection) for detection in detections]
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results), "bbox")
    if image_ids is not None:
        evaluation.params.img_ids = sorted({int(image_id) for image_id in image_ids})
    if category_ids is not None:
        evaluation.params.cat_ids = sorted({int(category_id) for category_id in category_ids})
    return _summary(evaluation)


def precision_table(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """COCO's average precisions of every head, with 95% intervals over images.

    A replicate draws images with replacement; their matches are fixed, and precision and recall are accumulated
    again with each image counted as often as it was drawn. Classes and sizes that a replicate did not draw are
    left out of its means, as COCO leaves out those without objects. Intervals: :mod:`.bootstrap`.

    Args:
        detections: in the columns of :mod:`rethink_heads.measure.detections`, of any detectors and heads.
        dataset: what was detected on. Boxes that it leaves out as degenerate or outside are not missed.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        A row a head and metric ("AP", "AP50", "AP75", "APs", "APm", "APl") with "detector", "head", "metric",
        "value" (pycocotools' to the last digit), "value_low", "value_high" and "images" (those that bear on it); nan
        where there is nothing to find.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    return head_table(average_precisions, detections, dataset, replicates, seed)


def compare_precision(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    a: Key,
    b: Key,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The average precisions of two heads and their differences a - b on the same draws of images.

    Args:
        detections, dataset, replicates, seed: as of :func:`precision_table`.
        a, b: (detector, head).

    Returns:
        A row a metric with "metric", "a", "b" (as "detector/head"), "value_a", "value_b", "difference",
        "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: no detections of a head, or detections in other images or of other classes.
    """
    return head_differences(average_precisions, detections, dataset, a, b, replicates, seed)


def average_precisions(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> Quantities:
    """One head's rows of :func:`precision_table`."""
    resampled = resampled_precision(head, truth, bootstrap)
    return Quantities(resampled, "metric", AP_NAMES, "value", {"images": resampled.images})


def resampled_precision(
    head: HeadDetections, truth: GroundTruth, bootstrap: ImageBootstrap
) -> Resampled:
    """The six average precisions (6,) of one head's detections, and of the replicates."""
    found = match_detections(truth, head)
    settings = len(AREAS) * len(THRESHOLDS)
    true, counted = (each.reshape(settings, -1) for each in (found.true, found.counted))

    def objects(label: int) -> tuple[Indices, Flags]:
        images, within = truth.to_find(label)
        return images, np.repeat(within, len(THRESHOLDS), axis=0)

    rankings = list(
        by_class(head.labels, head.images, head.scores, true, counted, objects, truth.class_count)
    )
    bearing = _bearing_images(head, found, truth).sum(axis=1)
    cells = list(_CELLS.values())

    def weighted_values(weights: Weights) -> Array:
        mean = MeanOverClasses()
        for ranking in rankings:
            values = weighted_precision(ranking, weights).reshape(-1, len(AREAS), len(THRESHOLDS))
            mean.add(np.stack([values[:, area, cut].mean(axis=-1) for area, cut in cells], axis=-1))
        return mean.value

    # By class, size, IoU threshold and recall; then as pycocotools has it.
    precision = np.stack([precision_at_recalls(ranking) for ranking in rankings])
    precision = precision.reshape(-1, len(AREAS), len(THRESHOLDS), len(RECALLS))
    value = [_mean_precision(precision[:, a, cut].transpose(1, 2, 0)) for a, cut in cells]
    images = bearing[[area for area, _ in cells]]
    replicates = in_draws(bootstrap, weighted_values)
    return Resampled(np.array(value), replicates, images, SHARE, truth.images_each())


def _bearing_images(head: HeadDetections, found: Matches, truth: GroundTruth) -> Flags:
    """Whether an image bears on the precision of a size (A, I): it has objects, or detections of a class that has."""
    bears = np.zeros((len(AREAS), len(truth.image_ids)), bool)
    has_objects = np.zeros((len(AREAS), truth.class_count), bool)
    for label in range(truth.class_count):
        images, within = truth.to_find(label)
        has_objects[:, label] = within.any(axis=1)
        for area, chosen in enumerate(within):
            bears[area, images[chosen]] = True
    for area, counted in enumerate(found.counted.any(axis=1) & has_objects[:, head.labels]):
        bears[area, head.images[counted]] = True
    return bears


def _summary(evaluation: hotcoco.COCOeval) -> dict[str, float]:
    """The six numbers, averaged as pycocotools averages them, so that not even the rounding differs."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    # By IoU threshold, recall, class, size and number of detections.
    counted = evaluation.eval
    assert counted is not None
    precision = np.asarray(counted["precision"])
    return {
        name: _mean_precision(precision[cut, :, :, area, -1])
        for name, (area, cut) in _CELLS.items()
    }


def _mean_precision(precision: Array) -> float:
    """Mean of precisions (T, R, K), -1 where there was nothing to find; nan where there was nothing at all."""
    values = precision[precision > -1]
    return float(values.mean()) if len(values) else float("nan")


def _without(content: dict[str, Any], left_out: Collection[int]) -> dict[str, Any]:
    """What a COCO file holds, without the annotations of these ids."""
    gone = set(left_out)
    kept = [record for record in content["annotations"] if record["id"] not in gone]
    return {**content, "annotations": kept}
