"""Rows that only a report's page has: objects, what each head makes of each, pictures of those worth a look, boxes
around them, their sampled proposals, and all detections.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.data.results import CORNERS
from rethink_heads.errors import UserError
from rethink_heads.evaluation.by_class import BACKGROUND, object_confusions
from rethink_heads.evaluation.causes import FOREGROUND_IOU, find_faults, object_causes
from rethink_heads.evaluation.matching import THRESHOLDS, GroundTruth, box_ious
from rethink_heads.measure.store import SIZES, Key, Measurements, size_name
from rethink_heads.statistics.bootstrap import Array
from rethink_heads.statistics.by_iou import HIGH_IOU, object_correlations

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
