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
from rethink_heads.measure.kept_detections import (
    HeadDetections,
    KeptDetections,
    Side,
    as_detections,
)
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    SHARE,
    Array,
    ImageBootstrap,
    Resampled,
    difference_columns,
)
from rethink_heads.statistics.matches import (
    AREAS,
    THRESHOLDS,
    Flags,
    Indices,
    Matches,
    Truth,
    match_detections,
    of_heads,
    of_side,
    resampling,
)
from rethink_heads.statistics.weighted_precision import (
    RECALLS,
    Weights,
    by_class,
    in_draws,
    precision_at_recalls,
    weighted_precision,
)

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AP_COLUMNS = ["detector", "head", "metric", "value", "value_low", "value_high", "images"]
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
    strangers = {detection["image_id"] for detection in detections} - set(truth.get_img_ids())
    if strangers:
        raise UserError(
            f"{len(strangers)} images with detections are not in {where} (the first: "
            f"{min(strangers)}); evaluate on the data that was detected on"
        )
    results = [dict(detection) for detection in detections]
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results), "bbox")
    if image_ids is not None:
        evaluation.params.img_ids = sorted({int(image_id) for image_id in image_ids})
    if category_ids is not None:
        evaluation.params.cat_ids = sorted({int(category_id) for category_id in category_ids})
    return _summary(evaluation)


def precision_table(
    detections: pd.DataFrame | KeptDetections,
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
        detections: in the columns of :mod:`rethink_heads.measure.detections`, of any detectors and heads; or as
            ``open_detections`` finds them, of which then those of one head are held at once.
        dataset: what was detected on. Boxes that it leaves out as degenerate or outside are not missed.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        A row a head and metric ("AP", "AP50", "AP75", "APs", "APm", "APl") with "detector", "head", "metric",
        "value" (pycocotools' to the last digit), "value_low", "value_high" and "images" (those that bear on it); nan
        where there is nothing to find.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    frames = [
        precision_rows(head.side, resampled_precision(head, truth, bootstrap))
        for head in of_heads(found)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=AP_COLUMNS)


def precision_rows(side: Side, resampled: Resampled) -> pd.DataFrame:
    """One head's rows of :func:`precision_table`."""
    rows = estimate_rows(side, "metric", AP_NAMES, "value", resampled)
    return rows.assign(images=resampled.images)


def compare_precision(
    detections: pd.DataFrame | KeptDetections,
    dataset: CocoDataset,
    a: Side,
    b: Side,
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
    found = as_detections(detections)
    truth, bootstrap = resampling(found, dataset, replicates, seed)
    sides = [resampled_precision(of_side(found, side), truth, bootstrap) for side in (a, b)]
    return difference_frame("metric", AP_NAMES, a, b, *sides)


def estimate_rows(
    side: Side, column: str, names: Sequence[str], value: str, resampled: Resampled
) -> pd.DataFrame:
    """Named quantities of a head with their intervals: "detector", "head", ``column``, ``value`` and its ends."""
    estimate = resampled.estimate()
    detector, head = side
    columns = {"detector": detector, "head": head, column: names}
    return pd.DataFrame(columns | estimate.columns(value))


def difference_frame(
    column: str, names: Sequence[str], a: Side, b: Side, of_a: Resampled, of_b: Resampled
) -> pd.DataFrame:
    """Differences a - b of named quantities, in the columns that :func:`compare_precision` documents."""
    columns = {column: names, "a": "/".join(a), "b": "/".join(b)}
    return pd.DataFrame(columns | difference_columns(of_a, of_b))


def resampled_precision(head: HeadDetections, truth: Truth, bootstrap: ImageBootstrap) -> Resampled:
    """The six average precisions (6,) of one head's detections, and of the replicates."""
    found = match_detections(truth, head)
    settings = len(AREAS) * len(THRESHOLDS)
    true, counted = (each.reshape(settings, -1) for each in (found.true, found.counted))

    def objects(label: int) -> tuple[Indices, Flags]:
        images, within = truth.to_find(label)
        return images, np.repeat(within, len(THRESHOLDS), axis=0)

    rankings = list(
        by_class(
            found.labels, found.images, found.scores, true, counted, objects, truth.class_count
        )
    )
    bearing = _bearing_images(found, truth).sum(axis=1)
    # The rankings have all that is needed of them.
    del found, true, counted
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


def _bearing_images(found: Matches, truth: Truth) -> Flags:
    """Whether an image bears on the precision of a size (A, I): it has objects, or detections of a class that has."""
    bears = np.zeros((len(AREAS), len(truth.image_ids)), bool)
    has_objects = np.zeros((len(AREAS), truth.class_count), bool)
    for label in range(truth.class_count):
        images, within = truth.to_find(label)
        has_objects[:, label] = within.any(axis=1)
        for area, chosen in enumerate(within):
            bears[area, images[chosen]] = True
    for area, counted in enumerate(found.counted.any(axis=1) & has_objects[:, found.labels]):
        bears[area, found.images[counted]] = True
    return bears


class MeanOverClasses:
    """Mean over classes of quantities (B, M), each over the classes that it is defined for."""

    def __init__(self) -> None:
        self._sum: Array = np.zeros(())
        self._count: Array = np.zeros(())

    def add(self, values: Array) -> None:
        """Add a class's values (B, M), nan where they are not defined."""
        is_there = ~np.isnan(values)
        self._sum = self._sum + np.where(is_there, values, 0)
        self._count = self._count + is_there

    @property
    def value(self) -> Array:
        """(B, M), nan where no class has a value."""
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)


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
