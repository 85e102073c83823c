"""What a report's page holds: every table, all objects and detections, and crops of the objects worth a look."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.evaluation.causes import find_faults
from rethink_heads.evaluation.matching import GroundTruth, box_ious
from rethink_heads.measure.store import Key, Measurements, size_name
from rethink_heads.plots.style import heads_of
from rethink_heads.report.heads import Heads
from rethink_heads.report.page_file import write_page
from rethink_heads.report.verdict import size_counts, verdict, warnings
from rethink_heads.statistics.correlation import object_correlations

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset

CROPS_MB = 12.0
MOST_CROPS = 2000
# Of the object's longer side, shown around it; px of a crop's longer side.
CROP_MARGIN, CROP_SIDE, CROP_QUALITY = 0.5, 176, 70
PROPOSALS_EACH, BOXES_EACH, BOX_IOU = 40, 5, 0.3
UNIT = (0.0, 1.0)
QUANTISED = {
    "objects": {name: UNIT for name in ("score", "regressed_iou", "iou_detections", "fate_score")}
    | {"pcc": (-1.0, 1.0)},
    "detections": {"score": UNIT, "iou": UNIT},
    "proposals": {"score": UNIT, "iou": UNIT},
}
DEFINITIONS = (
    ("AP", "COCO's average precision: mean over IoU thresholds 0.50 to 0.95 and classes."),
    ("PCC", "Pearson's correlation of a head's score with the IoU of the proposal that it scores."),
    (
        "Score of an object",
        "Mean score of its class over its predefined proposals of IoU 0.7 and more.",
    ),
    ("Regressed IoU of an object", "Mean IoU of the regressed box over the same proposals."),
    ("Interval", "95%, from a bootstrap over images; differences are paired on the same images."),
    ("Sizes", "small: area below 32 x 32 px; medium: below 96 x 96 px; large: above."),
)


@dataclass(frozen=True)
class Findings:
    """All that was found of some heads on one data set; what was not measured is None or has no table.

    Attributes:
        keys: (detector, head) of the heads, in the order in which they are shown.
        dataset: the objects; with images where crops are wanted.
        tables: result frames by the names of their CSV files.
        measurements: of predefined proposals.
        detections: final detections, in ``DETECTION_COLUMNS``.
        fates: a row an object and head, what ``object_fates`` returns.
        provenance: names and texts: versions, hashes, the command.
    """

    keys: Sequence[Key]
    dataset: CocoDataset
    tables: Mapping[str, pd.DataFrame]
    measurements: Measurements | None = None
    detections: pd.DataFrame | None = None
    fates: pd.DataFrame | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_report(
    path: Path, found: Findings, *, title: str = "", crops_mb: float = CROPS_MB
) -> Path:
    """Write what was found as one HTML file that opens offline; return its path.

    Args:
        path: of the file.
        found: of one or more heads.
        title: of the report; names the detectors and the data by default.
        crops_mb: how much crops of objects may take, in MB; 0 for none.

    Raises:
        UserError: the file cannot be written.
    """
    objects = object_table(found)
    chosen = choose_objects(objects, MOST_CROPS if crops_mb > 0 else 0)
    crops, objects = _with_crops(found.dataset, objects, chosen, crops_mb)
    tables = {name: frame for name, frame in found.tables.items() if len(frame)}
    tables |= {"objects": objects.drop(columns=["area"])}
    if found.fates is not None:
        tables["object_fates"] = pd.DataFrame({"rows": [len(found.fates)]})
    if found.detections is not None:
        tables["detections"] = detection_table(found)
        tables["boxes"] = box_table(found, chosen)
    if found.measurements is not None and found.measurements.has_rows:
        tables["proposals"] = proposal_table(found, chosen)
    heads = Heads(list(found.keys))
    one = objects.drop_duplicates("object_id")
    names = ", ".join(dict.fromkeys(detector for detector, _ in found.keys))
    header = {
        "title": title or f"{names} on {found.dataset.where}",
        "subtitle": f"{len(found.dataset)} images, {len(one)} objects of {len(found.dataset.class_names)} classes",
        "series": _series(found.keys),
        "sentences": [vars(sentence) for sentence in verdict(tables, heads)],
        "warnings": warnings(tables, len(found.dataset), size_counts(one["size"].tolist())),
        "definitions": [list(pair) for pair in DEFINITIONS],
        "provenance": [list(pair) for pair in found.provenance.items()],
        "absent": ABSENT,
        "counts": {"objects": len(one)},
    }
    write_page(path, header, tables, QUANTISED, crops)
    return path


ABSENT = {
    "lost": "Detections were not evaluated: rethink-heads diagnose does it.",
    "score": "No predefined proposals were measured: rethink-heads correlate does it, with a detector.",
    "boxes": "No predefined proposals were measured: rethink-heads regress does it, with a detector.",
    "space": "Spatial sensitivity was not measured: rethink-heads sensitivity does it, with a detector.",
    "stages": "Stages were not measured: rethink-heads diagnose and correlate --stage all do it, with a detector.",
    "compare": "There is only one head: name several detectors or heads to compare them.",
    "classes": "Detections were not evaluated: rethink-heads diagnose does it.",
    "thresholds": "Detections were not evaluated: rethink-heads evaluate --calibration does it.",
}


def object_table(found: Findings) -> pd.DataFrame:
    """A row an object and head: ids, class, size, box (x, y, w, h in px), its numbers from proposals and its fate."""
    dataset = found.dataset
    annotated = dataset.annotated[~dataset.annotated.crowd]
    areas = annotated.object_areas
    base = pd.DataFrame(
        {
            "object_id": annotated.ids,
            "image_id": np.array(dataset.image_ids, np.int64)[annotated.images],
            "class_name": pd.Categorical.from_codes(
                annotated.labels, list(dataset.class_names)
            ).astype(object),
            "size": [size_name(area) for area in areas.tolist()],
            "area": areas,
            **{name: annotated.boxes[:, at].astype(np.float32) for at, name in enumerate("xywh")},
            "image": annotated.images,
        }
    )
    by_head = []
    for detector, head in found.keys:
        by_head.append(base.assign(detector=detector, head=head))
    objects = pd.concat(by_head, ignore_index=True)
    names = ["detector", "head", "object_id"]
    if found.measurements is not None:
        own = object_correlations(found.measurements)
        objects = objects.merge(own[[*names, "pcc", "score", "regressed_iou"]], "left", on=names)
    else:
        objects = objects.assign(pcc=np.nan, score=np.nan, regressed_iou=np.nan)
    if found.fates is not None:
        own = found.fates.rename(columns={"score": "fate_score"})
        objects = objects.merge(
            own[[*names, "fate", "iou_detections", "fate_score"]], "left", on=names
        )
    return objects


def choose_objects(objects: pd.DataFrame, most: int) -> list[int]:
    """Ids of the objects worth a picture: badly scored though well placed, heads disagreeing, lost; then others.

    Args:
        objects: what :func:`object_table` returns.
        most: how many.
    """
    one = objects.groupby("object_id", sort=False).agg(
        low=("score", "min"),
        high=("score", "max"),
        placed=("regressed_iou", "max"),
        pcc=("pcc", "mean"),
    )
    if "fate" in objects:
        one["lost"] = (
            objects.assign(lost=objects["fate"] != "found").groupby("object_id")["lost"].mean()
        )
    else:
        one["lost"] = 0.0
    orders = [
        (one["high"] - one["low"]).sort_values(ascending=False),
        one[one["placed"] >= 0.7]["low"].sort_values(),
        one["pcc"].sort_values(),
        one["lost"].sort_values(ascending=False, kind="stable"),
        pd.Series(0.0, one.index).sample(frac=1, random_state=0),
    ]
    ids = [order.dropna().index.tolist() for order in orders]
    # One of each in turn, so that no question uses up the pictures.
    turns = (each[place] for place in range(len(one)) for each in ids if place < len(each))
    return list(dict.fromkeys(turns))[:most]


def _with_crops(
    dataset: CocoDataset, objects: pd.DataFrame, chosen: Sequence[int], crops_mb: float
) -> tuple[list[bytes], pd.DataFrame]:
    """JPEG crops of the chosen objects within the budget, and the objects with the crops' numbers and frames."""
    frames = objects.drop_duplicates("object_id").set_index("object_id")
    places = {object_id: order for order, object_id in enumerate(chosen)}
    crops: dict[int, tuple[bytes, tuple[float, ...]]] = {}
    left = crops_mb * 1e6 * 3 / 4
    # By image, so that each is read once; the budget is dealt out in the order of choice.
    most_bytes = left / max(1, len(chosen))
    wanted = frames.loc[list(places)].groupby("image") if places else ()
    for index, rows in wanted:
        pixels = _pixels(dataset, int(index))
        if pixels is None:
            continue
        for object_id, row in rows.iterrows():
            picture, frame = _crop(pixels, *(float(row[name]) for name in "xywh"), most_bytes)
            crops[int(object_id)] = picture, frame
    numbers = {object_id: number for number, object_id in enumerate(crops)}
    ids = objects["object_id"].tolist()
    columns: dict[str, Any] = {"crop": [numbers.get(object_id, -1) for object_id in ids]}
    none = (np.nan,) * 4
    for at, name in enumerate("xywh"):
        values = [crops[i][1][at] if i in crops else none[at] for i in ids]
        columns[f"crop_{name}"] = np.array(values, np.float32)
    return [picture for picture, _ in crops.values()], objects.assign(**columns).drop(
        columns="image"
    )


def _pixels(dataset: CocoDataset, index: int) -> np.ndarray[Any, Any] | None:
    """The image (H, W, 3), or None where there are no images or this one cannot be read."""
    try:
        return dataset.read_pixels(index)
    except UserError:
        return None


def _crop(
    pixels: np.ndarray[Any, Any], x: float, y: float, w: float, h: float, most_bytes: float
) -> tuple[bytes, tuple[float, ...]]:
    """A JPEG of the image around a box, and its frame (x, y, w, h) in px of the image."""
    from PIL import Image

    height, width = pixels.shape[:2]
    margin = CROP_MARGIN * max(w, h)
    left, top = max(0, int(x - margin)), max(0, int(y - margin))
    right, bottom = (
        min(width, int(np.ceil(x + w + margin))),
        min(height, int(np.ceil(y + h + margin))),
    )
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    picture = Image.fromarray(pixels[top:bottom, left:right])
    picture.thumbnail((CROP_SIDE, CROP_SIDE))
    stored = b""
    for quality in (CROP_QUALITY, 45, 25):
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=quality)
        stored = buffer.getvalue()
        if len(stored) <= most_bytes:
            break
    return stored, (left, top, right - left, bottom - top)


def detection_table(found: Findings) -> pd.DataFrame:
    """A row a detection that counts: its head, "class_name", "score", "iou" with its object, "true_positive"."""
    assert found.detections is not None
    truth = GroundTruth(found.dataset, found.detections)
    names = list(found.dataset.class_names)
    frames = []
    for detector, head in found.keys:
        own = truth.detections_of(found.detections, (detector, head))
        faults = find_faults(own, truth)[0]
        frames.append(
            pd.DataFrame(
                {
                    "detector": detector,
                    "head": head,
                    "class_name": [names[label] for label in own.labels.tolist()],
                    "score": own.scores,
                    "iou": faults.ious,
                    "true_positive": faults.true,
                }
            )[faults.counted]
        )
    return pd.concat(frames, ignore_index=True)


def box_table(found: Findings, chosen: Sequence[int]) -> pd.DataFrame:
    """The detections nearest to each chosen object: ids, head, class, score, IoU and box (x, y, w, h in px)."""
    assert found.detections is not None
    dataset = found.dataset
    annotated = dataset.annotated[~dataset.annotated.crowd]
    kept = np.isin(annotated.ids, list(chosen))
    image_ids = np.array(dataset.image_ids, np.int64)[annotated.images]
    objects = {
        int(image_id): (
            annotated.ids[kept & (image_ids == image_id)],
            annotated.boxes[kept & (image_ids == image_id)],
        )
        for image_id in np.unique(image_ids[kept])
    }
    shown = found.detections[found.detections["image_id"].isin(objects)]
    shown = shown[pd.MultiIndex.from_frame(shown[["detector", "head"]]).isin(list(found.keys))]
    corners = shown[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    rows = []
    for (image_id, detector, head), places in shown.groupby(
        ["image_id", "detector", "head"]
    ).indices.items():
        ids, around = objects[int(image_id)]
        ious = box_ious(boxes[places][:, None], around[None])
        for at, object_id in enumerate(ids.tolist()):
            near = np.argsort(-ious[:, at], kind="stable")[:BOXES_EACH]
            rows += [
                (object_id, detector, head, places[n], ious[n, at])
                for n in near
                if ious[n, at] >= BOX_IOU
            ]
    table = pd.DataFrame(rows, columns=["object_id", "detector", "head", "place", "iou"])
    places = table.pop("place").to_numpy(np.int64)
    labels = shown["label"].to_numpy(np.int64)[places]
    table["class_name"] = [dataset.class_names[label] for label in labels.tolist()]
    table["stage"] = "detection"
    table["score"] = shown["score"].to_numpy(np.float32)[places]
    for at, name in enumerate("xywh"):
        table[name] = boxes[places, at].astype(np.float32)
    return table.astype({"iou": np.float32})


def proposal_table(found: Findings, chosen: Sequence[int]) -> pd.DataFrame:
    """Sampled proposals of the chosen objects, evenly over IoU: "object_id", "detector", "head", "iou", "score"."""
    assert found.measurements is not None
    ids = found.measurements.objects["object_id"].to_numpy(np.int64)
    frames = []
    for detector, head in found.measurements.keys:
        if (detector, head) not in found.keys:
            continue
        rows = found.measurements.rows((detector, head))
        rows = rows[np.isin(ids[rows["object"]], list(chosen))]
        own = pd.DataFrame(
            {"object_id": ids[rows["object"]], "iou": rows["iou"], "score": rows["score"]}
        )
        own = own.sort_values(["object_id", "iou"], kind="stable")
        place = own.groupby("object_id").cumcount()
        count = own.groupby("object_id")["iou"].transform("size")
        # Every n-th, so that PROPOSALS_EACH or fewer are left.
        own = own[place % np.maximum(1, np.ceil(count / PROPOSALS_EACH)).astype(int) == 0]
        frames.append(own.assign(detector=detector, head=head))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _series(keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Each head's label and look, the figures' own, with a lighter colour for dark pages."""
    series = {
        one.key: one for one in heads_of(pd.DataFrame(list(keys), columns=["detector", "head"]))
    }
    return [
        {
            "detector": key[0],
            "head": key[1],
            "label": series[key].label.replace(r"\$", "$"),
            "colour": series[key].look.colour,
            "dark": _lighter(series[key].look.colour),
            "dash": _dash(series[key].look.line_style),
            "marker": series[key].look.marker,
            "hollow": series[key].look.hollow,
        }
        for key in keys
    ]


def _dash(style: Any) -> str | None:
    return None if style == "-" else " ".join(f"{2 * length:g}" for length in style[1])


def _lighter(colour: str) -> str:
    """The colour for a dark page: mixed with white, the more the darker it is."""
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.array(to_rgb(colour))
    dark = 1 - float(rgb @ [0.2126, 0.7152, 0.0722])
    return to_hex(tuple(rgb + (1 - rgb) * (0.25 + 0.6 * max(0.0, dark - 0.6) / 0.4)))
