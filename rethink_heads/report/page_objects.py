"""The objects of a report's page: what each head makes of each, and pictures of those worth a look."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.evaluation.by_class import BACKGROUND, object_confusions
from rethink_heads.evaluation.causes import FOREGROUND_IOU
from rethink_heads.measure.store import Key, Measurements, size_name
from rethink_heads.report.page_tables import overlaps
from rethink_heads.statistics.correlation import HIGH_IOU, object_correlations

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset

Frame = tuple[float, float, float, float]
"""x, y, width and height in px of the image."""

MOST_CROPS = 2000
# Of the object's longer side, shown around it.
CROP_MARGIN = 0.5
# Longer side in px and JPEG quality: the first that fits into what a crop may take.
CROP_FORMS = ((176, 70), (176, 45), (128, 40), (96, 35), (64, 30))
# What a crop may take where few objects share the budget: more than the first form ever needs.
LARGEST_CROP = 60_000
FATE_COLUMNS = {
    "fate": "",
    "iou_proposals": np.nan,
    "iou_regressed": np.nan,
    "iou_classified": np.nan,
    "iou_after_nms": np.nan,
    "iou_detections": np.nan,
    "rank": np.nan,
    "precision": np.nan,
    "suppressor_score": np.nan,
    "suppressor_iou": np.nan,
    "suppressor_object": -1,
    "other_class": "",
    "other_score": np.nan,
}


def object_table(dataset: CocoDataset) -> pd.DataFrame:
    """A row an object that is to be found: "object_id", "image_id", "file_name", "class_name", "size", and its box.

    The box is x, y, w, h in px. By image, in each as in the annotation file.
    """
    annotated = dataset.annotated[~dataset.annotated.crowd]
    annotated = annotated[np.argsort(annotated.images, kind="stable")]
    return pd.DataFrame(
        {
            "object_id": annotated.ids,
            "image_id": np.array(dataset.image_ids, np.int64)[annotated.images],
            "file_name": np.array(dataset.file_names, object)[annotated.images],
            "class_name": np.array(dataset.class_names, object)[annotated.labels],
            "size": [size_name(area) for area in annotated.object_areas.tolist()],
            **{name: annotated.boxes[:, at].astype(np.float32) for at, name in enumerate("xywh")},
        }
    )


def object_heads_table(
    objects: pd.DataFrame,
    keys: Sequence[Key],
    dataset: CocoDataset,
    measurements: Measurements | None = None,
    detections: pd.DataFrame | None = None,
    fates: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A row a head and object, heads one after another, objects in the order of ``objects``.

    Returns:
        "detector", "head", "object_id"; of measurements "pcc", "score" and "regressed_iou" (as of
        ``object_correlations``); of detections "best_iou", the best IoU of a detection of its class that fits it,
        "top_iou", that of the one with the highest score, and "seen_label" and "seen_score", what the confusion matrix
        has it taken for; of fates their columns, with "score" as "fate_score".
    """
    names = ["detector", "head", "object_id"]
    heads = [
        pd.DataFrame({"detector": key[0], "head": key[1], "object_id": objects["object_id"]})
        for key in keys
    ]
    found = pd.concat(heads, ignore_index=True)
    if measurements is not None:
        own = object_correlations(measurements)
        found = found.merge(own[[*names, "pcc", "score", "regressed_iou"]], "left", on=names)
    if detections is not None:
        best = [_best_detections(detections, dataset, key) for key in keys]
        found = found.merge(pd.concat(best, ignore_index=True), "left", on=names)
        if len(detections):
            own = object_confusions(detections, dataset).rename(
                columns={"detection_label": "seen_label", "detection_score": "seen_score"}
            )
            found = found.merge(own[[*names, "seen_label", "seen_score"]], "left", on=names)
            found["seen_label"] = found["seen_label"].fillna(BACKGROUND).astype(np.int64)
    if fates is not None:
        own = fates.rename(columns={"score": "fate_score"})
        there = [name for name in FATE_COLUMNS if name in own]
        found = found.merge(own[[*names, *there, "fate_score"]], "left", on=names)
        found = found.fillna({name: FATE_COLUMNS[name] for name in there})
        if "suppressor_object" in there:
            found = found.astype({"suppressor_object": np.int64})
    return found


def choose_objects(objects: pd.DataFrame, object_heads: pd.DataFrame, most: int) -> list[int]:
    """Ids of the objects worth a picture: heads disagree, well placed but badly scored, lost; then others.

    Args:
        objects: what :func:`object_table` returns.
        object_heads: what :func:`object_heads_table` returns.
    """
    by_object = object_heads.groupby("object_id", sort=False)
    orders = []
    if "score" in object_heads:
        low, high = by_object["score"].min(), by_object["score"].max()
        placed = by_object["regressed_iou"].max() >= HIGH_IOU
        orders += [-(high - low), low[placed], by_object["pcc"].mean()]
    if "best_iou" in object_heads:
        worse = (object_heads["best_iou"] - object_heads["top_iou"]).groupby(
            object_heads["object_id"], sort=False
        )
        orders += [-worse.max(), -(by_object["best_iou"].max() - by_object["best_iou"].min())]
    if "fate" in object_heads:
        lost = (object_heads["fate"] != "found").groupby(object_heads["object_id"], sort=False)
        # Lost by some heads and found by others before lost by all.
        orders += [(lost.mean() - 0.5).abs(), -lost.mean()]
    orders.append(objects.set_index("object_id")["image_id"].sample(frac=1, random_state=0) * 0)
    ids = [order.dropna().sort_values(kind="stable").index.tolist() for order in orders]
    # One of each in turn, so that no question uses up the pictures.
    turns = (each[place] for place in range(len(objects)) for each in ids if place < len(each))
    return list(dict.fromkeys(turns))[:most]


def with_crops(
    dataset: CocoDataset, objects: pd.DataFrame, chosen: Sequence[int], crops_mb: float
) -> tuple[list[bytes], pd.DataFrame]:
    """JPEG crops of the chosen objects, which together take at most ``crops_mb`` MB in base64.

    Returns:
        The crops; and the objects with "crop", the number of each one's (-1 for none), and "crop_x", "crop_y",
        "crop_w", "crop_h", what it shows in px of the image.
    """
    allowed = crops_mb * 1e6 * 3 / 4
    most_bytes = min(LARGEST_CROP, allowed / max(1, len(chosen)))
    crops: list[bytes] = []
    numbers = np.full(len(objects), -1, np.int64)
    frames = np.full((len(objects), 4), np.nan, np.float32)
    wanted = np.flatnonzero(objects["object_id"].isin(chosen))
    index = {image_id: number for number, image_id in enumerate(dataset.image_ids)}
    boxes = objects[list("xywh")].to_numpy(np.float64)
    # By image, so that each is read once.
    image_ids = objects["image_id"].to_numpy(np.int64)[wanted]
    for image_id in np.unique(image_ids).tolist():
        pixels = _pixels(dataset, index[image_id])
        for row in wanted[image_ids == image_id].tolist() if pixels is not None else ():
            picture, frame = _crop(pixels, boxes[row], most_bytes)
            if picture is not None:
                numbers[row], frames[row] = len(crops), frame
                crops.append(picture)
    columns = {f"crop_{name}": frames[:, at] for at, name in enumerate("xywh")}
    return crops, objects.assign(crop=numbers, **columns)


def _pixels(dataset: CocoDataset, index: int) -> npt.NDArray[np.uint8] | None:
    """The image (H, W, 3), or None where there are no images or this one cannot be read."""
    if dataset.images_path is None:
        return None
    try:
        return dataset.read_pixels(index)
    except UserError:
        return None


def _crop(
    pixels: Any, box: npt.NDArray[np.float64], most_bytes: float
) -> tuple[bytes | None, Frame]:
    """A JPEG of the image around a box, None where none is small enough, and what it shows."""
    from PIL import Image

    height, width = pixels.shape[:2]
    margin = CROP_MARGIN * max(box[2:])
    left, top = (max(0, int(start - margin)) for start in box[:2])
    right, bottom = (
        min(int(np.ceil(start + side + margin)), limit)
        for start, side, limit in zip(box[:2], box[2:], (width, height), strict=True)
    )
    frame = (left, top, right - left, bottom - top)
    if min(frame[2:]) < 1:
        return None, frame
    whole = Image.fromarray(pixels[top:bottom, left:right]).convert("RGB")
    for side, quality in CROP_FORMS:
        picture, stored = whole.copy(), io.BytesIO()
        picture.thumbnail((side, side))
        picture.save(stored, "JPEG", quality=quality)
        if stored.tell() <= most_bytes:
            return stored.getvalue(), frame
    return None, frame


def _best_detections(detections: pd.DataFrame, dataset: CocoDataset, key: Key) -> pd.DataFrame:
    """Of each object that a head's detections of its class fit: the best IoU, and that of the highest score."""
    own = detections[(detections["detector"] == key[0]) & (detections["head"] == key[1])]
    pairs = overlaps(own, dataset, least=FOREGROUND_IOU, same_class=True)
    pairs["score"] = own["score"].to_numpy()[pairs["detection"]]
    best = pairs.groupby("object_id")["iou"].max()
    top = pairs.loc[pairs.groupby("object_id")["score"].idxmax()].set_index("object_id")["iou"]
    columns = {"best_iou": best, "top_iou": top}
    return pd.DataFrame(columns).reset_index().assign(detector=key[0], head=key[1])
