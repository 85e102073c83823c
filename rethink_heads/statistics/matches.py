"""Detections matched to objects by COCO's rules, once: what precision, errors and calibration are counted from.

hotcoco does the matching; it is pycocotools' to the last digit. All that follows needs are flags, which are kept here
as arrays, so that a bootstrap counts again without matching again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.statistics.bootstrap import Array, ImageBootstrap

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Side = tuple[str, str]  # (detector, head)

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's ten IoU thresholds."""
AREAS = ("all", "small", "medium", "large")
"""COCO's object sizes, in its order."""
NO_OBJECT = -1


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class by falling score, those of equal score in the order of their images.

    Attributes:
        label: the class.
        rows: (N,) each detection's row in the frame of detections.
        images: (N,) its image, as an index into the sorted image ids.
        hits: (A, T, N) whether it is a true positive, by size and IoU threshold.
        kept: (A, T, N) whether it counts at all: a detection of a crowd or of an object of another size does not.
        objects: (T, N) row in :class:`Truth` of the object it is matched to, -1 for none.
        positives: (A, I) objects to find, by size and image.
    """

    label: int
    rows: Indices
    images: Indices
    hits: Flags
    kept: Flags
    objects: Indices
    positives: Array


class Truth:
    """A dataset's objects as evaluation sees them: boxes as annotated, crowds included, unusable boxes left out.

    Objects and crowds of classes that the dataset leaves out are not there.

    Attributes:
        image_ids: (I,) of the images that are evaluated, ascending.
        labels: (G,) class 0..K-1 of each object; images: (G,) index of its image; boxes: (G, 4) x, y, width, height
            in px of the original image; crowd: (G,) whether it is one; ids: (G,).
    """

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset
        self.image_ids: Indices = np.unique(np.array(dataset.image_ids, np.int64))
        content = json.loads(dataset.annotations_path.read_bytes())
        wanted = set(dataset.image_ids)
        label_of = {category: label for label, category in enumerate(dataset.category_ids)}
        kept = [
            record
            for record in content["annotations"]
            if record["id"] not in dataset.left_out_ids
            and record["image_id"] in wanted
            and record["category_id"] in label_of
        ]
        categories = [record for record in content["categories"] if record["id"] in label_of]
        self.coco = hotcoco.COCO({**content, "annotations": kept, "categories": categories})
        self.ids: Indices = np.array([record["id"] for record in kept], np.int64)
        self.labels: Indices = np.array([label_of[r["category_id"]] for r in kept], np.int64)
        self.boxes: Array = np.array([r["bbox"] for r in kept], np.float64).reshape(-1, 4)
        self.crowd: Flags = np.array([bool(r.get("iscrowd", 0)) for r in kept], bool)
        self.images = self.index([record["image_id"] for record in kept])

    def index(self, image_ids: Any) -> Indices:
        """Positions (N,) of image ids (N,) in ``image_ids``."""
        return np.searchsorted(self.image_ids, np.asarray(image_ids, np.int64)).astype(np.int64)

    def check(self, detections: pd.DataFrame) -> None:
        """Raise UserError where detections are of other images or classes than the dataset's."""
        strangers = sorted(set(detections["image_id"]) - set(self.image_ids.tolist()))
        where = self.dataset.annotations_path
        if strangers:
            raise UserError(
                f"{len(strangers)} images with detections are not among the {len(self.image_ids)} of {where}"
                f" (the first: {strangers[0]}); evaluate on the data that was detected on"
            )
        classes = len(self.dataset.category_ids)
        if len(detections) and not detections["label"].between(0, classes - 1).all():
            raise UserError(
                f"detections are of classes that {where} does not have ({classes} classes);"
                " evaluate on the data that was detected on"
            )


def resampling(
    detections: pd.DataFrame, dataset: CocoDataset, replicates: int, seed: int
) -> tuple[Truth, ImageBootstrap]:
    """What there is to find, and draws of the dataset's images to count it on.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = Truth(dataset)
    truth.check(detections)
    return truth, ImageBootstrap(truth.image_ids, replicates, seed)


def of_heads(detections: pd.DataFrame) -> Iterator[tuple[Side, pd.DataFrame]]:
    """The detections of each head of each detector, in the frame's order."""
    for (detector, head), frame in detections.groupby(["detector", "head"], sort=False):
        yield (str(detector), str(head)), frame.reset_index(drop=True)


def of_side(detections: pd.DataFrame, side: Side) -> pd.DataFrame:
    """The detections of one head.

    Raises:
        UserError: there are none of it.
    """
    detector, head = side
    chosen = detections[(detections["detector"] == detector) & (detections["head"] == head)]
    if chosen.empty:
        there = ", ".join("/".join(found) for found, _ in of_heads(detections)) or "nothing"
        raise UserError(f"no detections of {detector}/{head}; there are those of {there}")
    return chosen.reset_index(drop=True)


def sides_of(boxes: pd.DataFrame) -> Array:
    """Boxes (N, 4) of a frame of detections as COCO writes them: x, y, width, height."""
    corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    return np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


def box_ious(boxes: Array, objects: Array) -> Array:
    """IoU of boxes (..., 4) with objects (..., 4), x, y, width, height, as COCO computes it.

    The leading dimensions are broadcast: ``boxes[:, None]`` with ``objects[None]`` gives every pair.
    """
    near = np.maximum(boxes[..., :2], objects[..., :2])
    far = np.minimum(boxes[..., :2] + boxes[..., 2:], objects[..., :2] + objects[..., 2:])
    common = np.clip(far - near, 0, None).prod(axis=-1)
    union = boxes[..., 2:].prod(axis=-1) + objects[..., 2:].prod(axis=-1) - common
    return np.asarray(common / np.where(union > 0, union, 1))


def evaluator(
    truth: Truth, detections: pd.DataFrame, thresholds: Array = THRESHOLDS
) -> hotcoco.COCOeval:
    """hotcoco's evaluation of one head's detections; their ids are their rows in the frame plus one."""
    categories = np.array(truth.dataset.category_ids)[detections["label"].to_numpy()]
    columns = (detections["image_id"], categories, sides_of(detections), detections["score"])
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(*(c.tolist() for c in columns), strict=True)
    ]
    evaluation = hotcoco.COCOeval(truth.coco, truth.coco.load_res(results), "bbox")
    evaluation.params.img_ids = truth.image_ids.tolist()
    evaluation.params.iou_thrs = np.asarray(thresholds).tolist()
    return evaluation


def matches(
    truth: Truth, detections: pd.DataFrame, thresholds: Array = THRESHOLDS
) -> Iterator[ClassMatches]:
    """Match one head's detections class by class; classes without detections and objects are left out.

    Args:
        truth: the objects.
        detections: rows of one head in the columns of ``rethink_heads.measure.detections``, numbered from 0.
        thresholds: (T,) IoU thresholds.
    """
    evaluation = evaluator(truth, detections, thresholds)
    row_of_object = {object_id: row for row, object_id in enumerate(truth.ids.tolist())}
    found = set(detections["label"]) | set(truth.labels.tolist())
    for label in sorted(found):
        # One class at a time: the evaluation's records are Python's and take a lot of room.
        evaluation.params.cat_ids = [truth.dataset.category_ids[label]]
        evaluation.evaluate()
        records = [record for record in evaluation.eval_imgs if record is not None]
        yield _class_matches(truth, label, records, detections, row_of_object, len(thresholds))


def _class_matches(
    truth: Truth,
    label: int,
    records: list[dict[str, Any]],
    detections: pd.DataFrame,
    row_of_object: dict[int, int],
    thresholds: int,
) -> ClassMatches:
    area_of = {tuple(limits): area for area, limits in enumerate(_limits())}
    by_image: dict[int, dict[int, dict[str, Any]]] = {}
    for record in records:
        area = area_of[tuple(record["aRng"])]
        by_image.setdefault(record["image_id"], {})[area] = record
    positives = np.zeros((len(AREAS), len(truth.image_ids)))
    rows, images, hits, kept, objects = [], [], [], [], []
    for image_id in sorted(by_image):
        place = int(truth.index(image_id))
        of_areas = [by_image[image_id][area] for area in range(len(AREAS))]
        for area, record in enumerate(of_areas):
            positives[area, place] = sum(not ignored for ignored in record["gtIgnore"])
        ids = of_areas[0]["dtIds"]
        shape = (len(AREAS), thresholds, len(ids))
        ignored = np.array([r["dtIgnore"] for r in of_areas], bool).reshape(shape)
        matched = np.array([r["dtMatched"] for r in of_areas], bool).reshape(shape)
        partner = np.array(of_areas[0]["dtMatches"], np.int64).reshape(shape[1:])
        partners = [row_of_object[i] for i in partner[matched[0]].tolist()]
        partner_rows = np.full(shape[1:], NO_OBJECT, np.int64)
        partner_rows[matched[0]] = partners
        rows.append(np.array(ids, np.int64) - 1)
        images.append(np.full(len(ids), place))
        hits.append(matched & ~ignored)
        kept.append(~ignored)
        objects.append(partner_rows)
    if not rows:
        nothing = np.zeros((len(AREAS), thresholds, 0), bool)
        none = np.zeros(0, np.int64)
        return ClassMatches(
            label, none, none, nothing, nothing, np.zeros((thresholds, 0), np.int64), positives
        )
    all_rows = np.concatenate(rows)
    # Stable, as pycocotools: equal scores stay in the order of images.
    order = np.argsort(-detections["score"].to_numpy()[all_rows], kind="stable")
    return ClassMatches(
        label,
        all_rows[order],
        np.concatenate(images)[order],
        np.concatenate(hits, axis=-1)[..., order],
        np.concatenate(kept, axis=-1)[..., order],
        np.concatenate(objects, axis=-1)[..., order],
        positives,
    )


def _limits() -> list[list[float]]:
    """COCO's limits of area by size, in px^2 of the original image."""
    return [list(limits) for limits in hotcoco.Params("bbox").area_rng]
