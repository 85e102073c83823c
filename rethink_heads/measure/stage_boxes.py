"""Boxes of a detector's later stages matched to objects, as rows and as measurements; no detector is needed.

:mod:`rethink_heads.measure.detections` keeps those of a detector, and a results file has final detections as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import union_categoricals

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.results import CORNERS
from rethink_heads.files import read_table
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.store import Key, Measurements, View, size_name
from rethink_heads.measure.store_files import (
    IDS,
    MOMENTS,
    OBJECT_COLUMNS,
    ROW_TYPE,
    ROWS,
    Name,
)
from rethink_heads.proposals import IOU_BINS

Indices = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

STAGES_NAME = "stages.parquet"
RPN, DETECTIONS = "rpn", "detections"
STAGE_TYPES: Mapping[str, str] = {
    "image_id": "int64",
    "object_id": "int64",
    "class_name": "str",
    "size": "str",
    "detector": "str",
    "head": "str",
    "stage": "str",
    "score": "float64",
    "iou": "float64",
    "regressed_iou": "float64",
    "true_positive_iou": "float64",
}
STAGE_COLUMNS = tuple(STAGE_TYPES)
_NAMES = [name for name, kind in STAGE_TYPES.items() if kind == "str"]

POSITIVE_IOU = 0.5
"""Least IoU of a true positive."""
UNMATCHED = -1


class Objects(NamedTuple):
    """M objects of an image.

    Attributes:
        ids, labels, areas: (M,); boxes: (M, 4) float64, xyxy in px of the original image, as float32 holds them.
    """

    ids: Indices
    labels: Indices
    areas: Array
    boxes: Array


def load_stages(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the stages that :func:`measure_stages` left in ``folder``, and their provenance.

    Returns:
        The boxes in STAGE_COLUMNS, names as categories, sorted by detector, head, stage and image; those of one image
        as they came.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    table, provenance = read_table(Path(folder) / STAGES_NAME)
    frame = join_stages([table.select(STAGE_COLUMNS).to_pandas(categories=_NAMES)])
    keys = [frame["image_id"], *(frame[name].cat.codes for name in ("stage", "head", "detector"))]
    return frame.take(np.lexsort(keys)).reset_index(drop=True), provenance


def join_stages(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Boxes of several detectors one below the other, their names as categories: text would take most of the time."""
    columns: dict[str, Any] = {}
    for name, kind in STAGE_TYPES.items():
        parts = [frame[name] for frame in frames]
        if name in _NAMES:
            named = [part.astype("category") for part in parts]
            columns[name] = union_categoricals(named, sort_categories=True)
        else:
            columns[name] = np.concatenate([part.to_numpy(kind) for part in parts])
    return pd.DataFrame(columns)


def match_detections(
    detections: pd.DataFrame, objects: Callable[[int], Objects], class_names: tuple[str, ...]
) -> pd.DataFrame:
    """Detections matched to the objects of their images, as rows of the stage "detections".

    Args:
        detections: in DETECTION_COLUMNS, sorted by head and image, of each in falling order of score.
        objects: by image id.
        class_names: by label.

    Returns:
        A row a detection, in STAGE_COLUMNS; see :func:`rethink_heads.measure.detections.measure_stages`.
    """
    own_class = np.array([*class_names, ""], dtype=object)
    groups = detections.groupby(["detector", "head", "image_id"], sort=False).ngroup().to_numpy()
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    images, labels = (detections[name].to_numpy() for name in ("image_id", "label"))
    corners = detections[CORNERS].to_numpy()
    columns: dict[str, list[np.ndarray]] = {}
    for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
        there, own = objects(int(images[start])), labels[start:end]
        ious = np.where(own[:, None] == there.labels, ious_with(corners[start:end], there.boxes), 0)
        index, iou = most_overlapping(ious)
        # A place more than there are objects, for the boxes of none: index -1.
        found = {
            "object_id": np.append(there.ids, UNMATCHED)[index],
            "area": np.append(there.areas, np.nan)[index],
            "iou": iou,
            "true_positive_iou": _true_positive_ious(ious, own),
        }
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    merged = {name: np.concatenate(parts) for name, parts in columns.items()}
    areas = merged.pop("area", np.zeros(0))
    frame = detections[["image_id", "detector", "head", "score"]].assign(
        stage=DETECTIONS,
        # A detection is matched to an object of its own class, or to none.
        class_name=own_class[labels],
        size=[size_name(area) if area == area else "" for area in areas.tolist()],
        **(merged or dict.fromkeys(("object_id", "iou", "true_positive_iou"), np.zeros(0))),
    )
    frame["regressed_iou"] = frame["iou"]
    return frame[list(STAGE_COLUMNS)].astype(STAGE_TYPES).reset_index(drop=True)


def objects_of(dataset: CocoDataset) -> Callable[[int], Objects]:
    """The objects of a data set's images, by image id."""
    index = {image_id: i for i, image_id in enumerate(dataset.image_ids)}

    def objects(image_id: int) -> Objects:
        found = dataset.objects(index[image_id])
        corners = found.corners.astype(np.float32).astype(np.float64)
        return Objects(found.ids, found.labels, found.object_areas, corners)

    return objects


def _true_positive_ious(ious: Array, labels: Indices) -> Array:
    """IoU (N,) of each detection with the object whose true positive it is, else nan."""
    found = np.full(len(ious), np.nan)
    # Objects of other classes have IoU 0 here, and so are never taken.
    near = (ious >= POSITIVE_IOU).any(axis=1)
    for label in np.unique(labels[near]):
        rows = np.flatnonzero(near & (labels == label))
        matches = true_positives(ious[rows])
        positive = matches != UNMATCHED
        found[rows[positive]] = ious[rows[positive], matches[positive]]
    return found


def ious_with(boxes: Array, objects: Array) -> Array:
    """IoU (N, M) of boxes (N, 4) with objects (M, 4), xyxy in the same pixels."""
    near = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    far = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    common = np.clip(far - near, 0, None).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, objects)]
    return np.asarray(common / (areas[0][:, None] + areas[1] - common))


def most_overlapping(ious: Array) -> tuple[Indices, Array]:
    """The object that each box overlaps most, the first of equals.
    ``ious``: (N, M) of N boxes with M objects; entries of 0 are never matched.

    Returns:
        Index (N,) of the object, -1 where no object is overlapped at all, and the IoU with it (N,),
        there 0.
    """
    if not ious.shape[1]:
        return np.full(len(ious), UNMATCHED), np.zeros(len(ious))
    best = ious.argmax(axis=1)
    iou = ious[np.arange(len(ious)), best]
    return np.where(iou > 0, best, UNMATCHED), iou


def true_positives(ious: Array) -> Indices:
    """COCO's matching of one image's detections and objects of one class.

    The detections take turns in the order of ``ious`` (N, M), best score first. Each takes the object it overlaps most
    among those that none before it took, if their IoU is POSITIVE_IOU or more; of equal ones, like pycocotools, the
    last. Returns the index (N,) of each detection's object, -1 for a false positive.
    """
    matches = np.full(len(ious), UNMATCHED)
    free = np.ones(ious.shape[1], dtype=bool)
    for index, row in enumerate(ious):
        candidates = np.flatnonzero(free & (row >= POSITIVE_IOU))
        if len(candidates):
            # The last of equal ones: the first in reverse.
            taken = candidates[::-1][row[candidates[::-1]].argmax()]
            matches[index] = taken
            free[taken] = False
    return matches


def stage_measurements(boxes: pd.DataFrame) -> dict[str, Measurements]:
    """By stage: its boxes as measurements of the objects that they are matched to, each box of weight 1.

    Of the moments those of score and IoU are there; the others are 0. A head without boxes at the stage has zeros.

    Args:
        boxes: of any stages, in STAGE_COLUMNS. The objects are those that a box of any stage is matched to, so that the
            bootstrap draws the same images at each.
    """
    is_matched = (boxes["object_id"] >= 0).to_numpy()
    number = boxes.loc[is_matched, IDS].groupby(IDS, sort=True).ngroup().to_numpy()
    first = np.empty(number.max(initial=-1) + 1, np.int64)
    first[number[::-1]] = np.flatnonzero(is_matched)[::-1]
    objects = boxes[list(OBJECT_COLUMNS)].take(first)
    object_of = np.full(len(boxes), -1)
    object_of[is_matched] = number
    stages, iou, score = boxes["stage"], boxes["iou"].to_numpy(), boxes["score"].to_numpy()
    keys = [*boxes[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None)]
    is_head = {
        key: ((boxes["detector"] == key[0]) & (boxes["head"] == key[1])).to_numpy() & is_matched
        for key in keys
    }
    found = {}
    for stage in (each for each in (RPN, DETECTIONS) if (stages == each).any()):
        arrays: dict[Name, npt.NDArray[Any] | View] = {}
        for key in keys:
            chosen = np.flatnonzero(is_head[key] & (stages == stage).to_numpy())
            # An object's boxes one below the other, the best first.
            chosen = chosen[np.lexsort([-iou[chosen], object_of[chosen]])]
            rows = np.ones(len(chosen), ROW_TYPE)
            rows["object"], rows["proposal"] = object_of[chosen], -1
            rows["iou"], rows["score"] = iou[chosen], score[chosen]
            rows["bin"] = np.minimum((rows["iou"] * IOU_BINS).astype(np.int64), IOU_BINS - 1)
            arrays[ROWS, *key] = rows
            # Added up when they are asked for: they take more than the boxes.
            arrays[MOMENTS, *key] = View(partial(_moments, rows, len(objects)))
        found[stage] = Measurements(objects, arrays)
    return found


def with_head(measurements: Measurements, key: Key) -> Measurements:
    """Measurements in which a head is, too: without a box, where it was not measured."""
    if key in measurements.keys:
        return measurements
    rows = np.ones(0, ROW_TYPE)
    moments = View(partial(_moments, rows, len(measurements.objects)))
    arrays: dict[Name, npt.NDArray[Any] | View] = {(ROWS, *key): rows, (MOMENTS, *key): moments}
    return Measurements.merge([measurements, Measurements(measurements.objects, arrays)])


def _moments(rows: npt.NDArray[Any], objects: int) -> npt.NDArray[np.float64]:
    iou, score = rows["iou"], rows["score"]
    values = {
        "n": None,
        "measured": None,
        "sum_iou": iou,
        "sum_score": score,
        "sum_iou_iou": iou * iou,
        "sum_score_score": score * score,
        "sum_iou_score": iou * score,
    }
    place = rows["object"].astype(np.int64) * IOU_BINS + rows["bin"]
    # A moment after another: those that are not there then take no memory.
    moments = np.zeros((len(VALUE_COLUMNS), objects, IOU_BINS))
    for name, column in values.items():
        total = np.bincount(place, column, objects * IOU_BINS)
        moments[VALUE_COLUMNS.index(name)] = total.reshape(objects, IOU_BINS)
    return np.moveaxis(moments, 0, -1)
