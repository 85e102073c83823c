"""Boxes of a detector's later stages as measurements: a stage has moments and rows like the predefined proposals."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.store import Key, Measurements, View
from rethink_heads.measure.store_files import (
    IDS,
    MOMENTS,
    OBJECT_COLUMNS,
    ROW_TYPE,
    ROWS,
    Array,
    Name,
)
from rethink_heads.proposals import IOU_BINS


def stage_measurements(boxes: pd.DataFrame, stage: str, *keys: Key) -> Measurements:
    """The boxes of one stage as measurements of the objects that they are matched to, each box of weight 1.

    Of the moments those of score and IoU are there; the others are 0. A head without boxes at the stage has zeros.

    Args:
        boxes: of any stages, in STAGE_COLUMNS. The objects are those that a box of any stage is matched to, so that the
            bootstrap draws the same images at each.
        stage: "rpn" or "detections".
        keys: (detector, head) of further heads, which may have no boxes at any stage.
    """
    matched = boxes[boxes["object_id"] >= 0]
    objects = matched[list(OBJECT_COLUMNS)].drop_duplicates(IDS).sort_values(IDS)
    number = matched.groupby(IDS, sort=True).ngroup().to_numpy()
    arrays: dict[Name, Array | View] = {}
    at_stage = (matched["stage"] == stage).to_numpy()
    heads = boxes[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None)
    for detector, head in dict.fromkeys([*heads, *keys]):
        is_head = (matched["detector"] == detector) & (matched["head"] == head)
        chosen = np.flatnonzero(at_stage & is_head.to_numpy())
        rows = np.ones(len(chosen), ROW_TYPE)
        rows["object"], rows["proposal"] = number[chosen], -1
        for field in ("iou", "score"):
            rows[field] = matched[field].to_numpy()[chosen]
        rows["bin"] = np.minimum((rows["iou"] * IOU_BINS).astype(np.int64), IOU_BINS - 1)
        # An object's boxes one below the other, the best first.
        rows = rows[np.lexsort([-rows["iou"], rows["object"]])]
        arrays[ROWS, detector, head] = rows
        # Added up when they are asked for: they take more than the boxes.
        arrays[MOMENTS, detector, head] = View(partial(_moments, rows, len(objects)))
    return Measurements(objects, arrays)


def _moments(rows: Array, objects: int) -> npt.NDArray[np.float64]:
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
    moments = np.zeros((objects, IOU_BINS, len(VALUE_COLUMNS)))
    for name, column in values.items():
        total = np.bincount(place, column, objects * IOU_BINS)
        moments[..., VALUE_COLUMNS.index(name)] = total.reshape(objects, IOU_BINS)
    return moments
