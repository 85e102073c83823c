"""Further rows of a report's page: detections, boxes around the chosen objects, and their sampled proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rethink_heads.data.results import CORNERS
from rethink_heads.evaluation.causes import find_faults, object_causes
from rethink_heads.evaluation.matching import THRESHOLDS, GroundTruth, box_ious
from rethink_heads.measure.store import SIZES, Key, Measurements
from rethink_heads.statistics.bootstrap import Array

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.candidates import Candidates

# Of a chosen object and head: how many proposals and boxes are in the page, and how near a box must be.
PROPOSALS_EACH, BOXES_EACH, BOX_IOU = 40, 3, 0.3
DENSITY_BINS = 20
BOX_COLUMNS = ["object_id", "detector", "head", "stage", "class_name", "score", "iou", *"xywh"]


def overlaps(
    boxes: pd.DataFrame,
    dataset: CocoDataset,
    *,
    least: float,
    same_class: bool = False,
    objects: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Pairs of a box and an object of its image: "detection" (the box's row), "object_id", "iou" of ``least`` and more.

    Args:
        boxes: with "image_id", "label", and corners in px.
        same_class: whether both have to be of one class.
        objects: ids of those that are looked at; None for all that are to be found.
    """
    annotated = dataset.annotated[~dataset.annotated.crowd]
    if objects is not None:
        annotated = annotated[np.isin(annotated.ids, list(objects))]
    truth = pd.DataFrame(
        {
            "image_id": np.array(dataset.image_ids, np.int64)[annotated.images],
            "label": annotated.labels,
            "object_id": annotated.ids,
            "object": np.arange(len(annotated.ids)),
        }
    )
    keys = ["image_id", "label"] if same_class else ["image_id"]
    own = boxes[keys].assign(detection=np.arange(len(boxes)))
    pairs = own.merge(truth[[*keys, "object_id", "object"]], on=keys)
    corners = boxes[CORNERS].to_numpy(np.float64)[pairs["detection"]]
    sides = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    pairs["iou"] = box_ious(sides, annotated.boxes[pairs["object"]])
    near = pairs[pairs["iou"] >= least]
    return near[["detection", "object_id", "iou"]].reset_index(drop=True)


def detection_tables(
    detections: pd.DataFrame, dataset: CocoDataset, keys: Sequence[Key]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is right and wrong with each detection that counts, and which causes of lost AP each object has part in.

    Returns:
        A row a detection: its head, "class_name", "score", "iou" with its object, "true_positive"; heads one after
        another, each by falling score. And a row a head and object: "detector", "head", "object_id", and by IoU
        threshold, "causes_50" to "causes_95", the set of causes as of ``evaluation.causes``.
    """
    truth = GroundTruth(dataset, detections)
    names = np.array(dataset.class_names, object)
    frames, causes = [], []
    for detector, head in keys:
        own = truth.detections_of(detections, (detector, head))
        faults = find_faults(own, truth)
        columns = {
            "detector": detector,
            "head": head,
            "class_name": names[own.labels],
            "score": own.scores,
            "iou": faults[0].ious,
            "true_positive": faults[0].true,
        }
        counted = pd.DataFrame(columns)[faults[0].counted]
        frames.append(counted.sort_values("score", ascending=False, kind="stable"))
        of = {"detector": detector, "head": head, "object_id": truth.ids}
        for threshold, each in zip(THRESHOLDS, faults, strict=True):
            of[f"causes_{100 * threshold:.0f}"] = object_causes(each, own)
        causes.append(pd.DataFrame(of)[truth.findable])
    return pd.concat(frames, ignore_index=True), pd.concat(causes, ignore_index=True)


def box_table(
    dataset: CocoDataset,
    keys: Sequence[Key],
    chosen: Sequence[int],
    detections: pd.DataFrame | None = None,
    candidates: Candidates | None = None,
) -> pd.DataFrame:
    """The boxes nearest to each chosen object: those of final detections, of any class, and the best of each stage.

    Returns:
        BOX_COLUMNS; "stage": "detection", "proposal" (the best proposal) or "regressed" (the best box before NMS).
    """
    frames = []
    if detections is not None:
        for detector, head in keys:
            own = detections[(detections["detector"] == detector) & (detections["head"] == head)]
            pairs = _nearest(overlaps(own, dataset, least=BOX_IOU, objects=chosen), BOXES_EACH)
            frames.append(_boxes(own, dataset, pairs, (detector, head), "detection"))
    for key in keys:
        if candidates is not None and key in candidates.keys:
            there = candidates.proposed_by(key[0])
            stages = {"proposal": there.proposal_boxes, "regressed": there.boxes[key]}
            for stage, boxes in stages.items():
                frame = pd.DataFrame(boxes, columns=CORNERS).assign(
                    image_id=there.images, label=there.labels, score=there.scores[key]
                )
                found = overlaps(frame, dataset, least=0.1, same_class=True, objects=chosen)
                frames.append(_boxes(frame, dataset, _nearest(found, 1), key, stage))
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame({}, columns=BOX_COLUMNS)


def proposal_table(
    measurements: Measurements, keys: Sequence[Key], chosen: Sequence[int]
) -> pd.DataFrame:
    """Sampled proposals of the chosen objects, evenly over IoU: "object_id", "detector", "head", "iou", "score"."""
    ids = measurements.objects["object_id"].to_numpy(np.int64)
    frames = []
    for detector, head in keys:
        if (detector, head) not in measurements.keys:
            continue
        rows = measurements.rows((detector, head))
        rows = rows[np.isin(ids[rows["object"]], list(chosen))]
        columns = {"object_id": ids[rows["object"]], "detector": detector, "head": head}
        own = pd.DataFrame(columns | {name: rows[name] for name in ("iou", "score")})
        own = own.sort_values(["object_id", "iou"], kind="stable")
        by_object = own.groupby("object_id")
        # Every n-th, so that PROPOSALS_EACH or fewer are left.
        step = np.ceil(by_object["iou"].transform("size") / PROPOSALS_EACH)
        frames.append(own[by_object.cumcount() % step.clip(lower=1) == 0])
    return pd.concat(frames, ignore_index=True)


def density_table(
    keys: Sequence[Key],
    measurements: Measurements | None = None,
    stages: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """How scores spread among boxes of equal IoU, by stage and object size.

    Args:
        measurements: sampled predefined proposals, weighted as they stand for the grid's.
        stages: boxes of the later stages, in STAGE_COLUMNS.

    Returns:
        A row a head, stage, size and filled cell with "detector", "head", "stage", "size", "iou_bin", "score_bin" (of
        DENSITY_BINS each) and "share" of the IoU bin's boxes.
    """
    frames = []
    for detector, head in keys:
        if measurements is not None and (detector, head) in measurements.keys:
            rows = measurements.rows((detector, head))
            sizes = measurements.objects["size"].to_numpy(object)
            boxes = rows["iou"], rows["score"], rows["weight"]
            frames += _densities((detector, head), "predefined", boxes, sizes, rows["object"])
        if stages is not None:
            own = stages[(stages["detector"] == detector) & (stages["head"] == head)]
            for stage, part in own.groupby("stage", observed=True):
                boxes = part["iou"].to_numpy(), part["score"].to_numpy(), np.ones(len(part))
                sizes = part["size"].to_numpy(object)
                frames += _densities(
                    (detector, head), str(stage), boxes, sizes, np.arange(len(part))
                )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _densities(
    key: Key, stage: str, boxes: tuple[Array, Array, Array], sizes: Any, objects: Any
) -> list[pd.DataFrame]:
    """Filled cells by size of N boxes, given as IoU, score and weight (N,), sizes (O,) and which is whose (N,)."""
    iou, score, weight = boxes
    cell = _bins(iou) * DENSITY_BINS + _bins(score)
    found = []
    for size in (*SIZES, "all"):
        chosen = slice(None) if size == "all" else (sizes == size)[objects]
        sums = np.bincount(cell[chosen], weight[chosen], DENSITY_BINS**2)
        whole = sums.reshape(DENSITY_BINS, DENSITY_BINS).sum(axis=1).repeat(DENSITY_BINS)
        filled = np.flatnonzero(sums)
        columns = {
            "detector": key[0],
            "head": key[1],
            "stage": stage,
            "size": size,
            "iou_bin": filled // DENSITY_BINS,
            "score_bin": filled % DENSITY_BINS,
            "share": sums[filled] / whole[filled],
        }
        found.append(pd.DataFrame(columns))
    return found


def _bins(values: Array) -> Any:
    return np.clip((values * DENSITY_BINS).astype(np.int64), 0, DENSITY_BINS - 1)


def _nearest(pairs: pd.DataFrame, most: int) -> pd.DataFrame:
    """Of each object's pairs those of highest IoU."""
    return pairs.sort_values(["object_id", "iou"], ascending=[True, False], kind="stable").pipe(
        lambda ordered: ordered[ordered.groupby("object_id").cumcount() < most]
    )


def _boxes(
    frame: pd.DataFrame, dataset: CocoDataset, pairs: pd.DataFrame, key: Key, stage: str
) -> pd.DataFrame:
    """Pairs as rows of :func:`box_table`."""
    own = frame.iloc[pairs["detection"].to_numpy()]
    corners = own[CORNERS].to_numpy(np.float32)
    sides = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    columns = {
        "object_id": pairs["object_id"].to_numpy(),
        "detector": key[0],
        "head": key[1],
        "stage": stage,
        "class_name": np.array(dataset.class_names, object)[own["label"]],
        "score": own["score"].to_numpy(np.float64),
        "iou": pairs["iou"].to_numpy(np.float64),
        **{name: sides[:, at] for at, name in enumerate("xywh")},
    }
    return pd.DataFrame(columns)[BOX_COLUMNS]
