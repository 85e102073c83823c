"""A data set of boxes alone, and detections made by shaking them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.results import DETECTION_TYPES, in_order
from rethink_heads.evaluation.average_precision import AP_NAMES
from rethink_heads.evaluation.detections import keys_of
from rethink_heads.evaluation.matching import GroundTruth, HeadDetections
from rethink_heads.files import write_parquet
from rethink_heads.measure.detections import DETECTIONS_NAME

CLASSES = ("cat", "dog", "owl")
SIDE = 300
# Widths of small, medium and large objects.
WIDTHS = (12, 60, 150)


def make_dataset(folder: Path, images: int = 10, seed: int = 0, crowds: bool = True) -> CocoDataset:
    """Images of up to six objects of three classes and of all sizes, some crowds; one image without objects."""
    generator = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, images):
        for _ in range(generator.integers(1, 7)):
            width, height = generator.choice(WIDTHS) * generator.uniform(0.8, 1.2, 2)
            corner = generator.uniform(0, SIDE - 190, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 10 * int(generator.integers(1, len(CLASSES) + 1)),
                    "bbox": [*corner.tolist(), float(width), float(height)],
                    "area": float(width * height),
                    "iscrowd": int(crowds and generator.random() < 0.15),
                }
            )
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 10 * n, "name": name} for n, name in enumerate(CLASSES, 1)],
        "annotations": annotations,
    }
    return as_dataset(folder, content)


def as_dataset(folder: Path, content: dict[str, Any]) -> CocoDataset:
    """Write what a COCO file holds, with empty files for images, which no one here reads."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        (folder / "images" / image["file_name"]).touch()
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return CocoDataset(path, folder / "images")


def make_detections(
    dataset: CocoDataset, seed: int = 0, detector: str = "run", head: str = "fc", shake: float = 0.1
) -> pd.DataFrame:
    """Shaken copies of most objects, some of another class, some twice, and boxes on nothing; some equal scores."""
    generator = np.random.default_rng(seed)
    content = json.loads(dataset.annotations_path.read_text())
    wanted = set(dataset.image_ids)
    rows: list[tuple[int, int, np.ndarray, float]] = []
    classes = len(dataset.category_ids)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in wanted:
            continue
        label = dataset.category_ids.index(annotation["category_id"])
        for _ in range(generator.choice([0, 1, 1, 2, 3])):
            x, y, w, h = annotation["bbox"]
            box = np.array([x, y, x + w, y + h])
            box = box + generator.normal(scale=shake, size=4) * [w, h, w, h]
            right = generator.random() < 0.75
            found = label if right else int(generator.integers(classes))
            rows.append((annotation["image_id"], found, box, generator.normal(0.6, 0.2)))
    for image_id in dataset.image_ids:
        corner = generator.uniform(0, SIDE / 2, 2)
        box = np.concatenate([corner, corner + generator.uniform(5, 80, 2)])
        rows.append((image_id, int(generator.integers(classes)), box, generator.normal(0.4, 0.2)))
    boxes = np.array([box for _, _, box, _ in rows])
    # Two decimals, so that there are ties.
    scores = np.clip([score for *_, score in rows], 0.05, 0.99).round(2)
    frame = pd.DataFrame(
        {
            "image_id": [image for image, *_ in rows],
            "detector": detector,
            "head": head,
            "label": [label for _, label, *_ in rows],
            "x1": boxes[:, 0],
            "y1": boxes[:, 1],
            "x2": np.maximum(boxes[:, 2], boxes[:, 0] + 1),
            "y2": np.maximum(boxes[:, 3], boxes[:, 1] + 1),
            "score": scores,
        }
    )
    return in_order(frame.astype(DETECTION_TYPES))


def untied(frame: pd.DataFrame) -> pd.DataFrame:
    """The same without equal scores within an image."""
    place = frame.groupby(["image_id", "head"]).cumcount()
    return in_order(frame.assign(score=frame["score"] + 1e-5 * place))


def as_results(frame: pd.DataFrame, dataset: CocoDataset) -> list[dict[str, Any]]:
    """Detections in COCO's result format."""
    return [
        {
            "image_id": row.image_id,
            "category_id": dataset.category_ids[row.label],
            "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
            "score": row.score,
        }
        for row in frame.itertuples()
    ]


def keep_detections_in(frame: pd.DataFrame, folder: Path) -> Path:
    """Write detections as detecting does."""
    write_parquet(frame.astype(DETECTION_TYPES), folder / DETECTIONS_NAME, {"a": "b"})
    return folder


def head_of(frame: pd.DataFrame, truth: GroundTruth) -> HeadDetections:
    """A frame's detections, which are one head's, or none at all."""
    (key,) = keys_of(frame) or [("", "")]
    return truth.detections_of(frame, key)


def hotcoco_evaluation(frame: pd.DataFrame, dataset: CocoDataset) -> hotcoco.COCOeval:
    """hotcoco's own evaluation of a dataset's usable objects, all images at once."""
    content = json.loads(dataset.annotations_path.read_text())
    usable = set(GroundTruth(dataset).ids.tolist())
    kept = [a for a in content["annotations"] if a["id"] in usable]
    truth = hotcoco.COCO({**content, "annotations": kept})
    return hotcoco.COCOeval(truth, truth.load_res(as_results(frame, dataset)), "bbox")


def pycocotools_precision(
    path: Path, results: list[dict[str, Any]], image_ids: list[int] | None = None
) -> dict[str, float]:
    """pycocotools' six average precisions, nan where there is nothing to find."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        found = truth.loadRes(results) if results else COCO()
        if not results:
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(AP_NAMES, evaluation.stats[:6], strict=True))
    return {name: float("nan") if value < 0 else float(value) for name, value in values.items()}
