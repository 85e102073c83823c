"""A data set of boxes alone and final detections of it, made up, of any number of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.synthetic import CLASSES, DETECTOR, HEADS, Amount
from rethink_heads.data.coco import CocoDataset
from rethink_heads.files import atomic_path, write_parquet
from rethink_heads.measure.detections import DETECTION_TYPES, DETECTIONS_NAME, in_order

Array = npt.NDArray[np.float64]

ANNOTATIONS, IMAGES = "instances.json", "images"
SIDE = 640
# Widths of small, medium and large objects.
WIDTHS = (20, 60, 180)


def write_detections(folder: Path, amount: Amount, seed: int = 0) -> None:
    """Write a COCO file, empty files for images, and detections as detecting merges them."""
    folder.mkdir(parents=True)
    (folder / IMAGES).mkdir()
    for image in range(amount.images):
        (folder / IMAGES / f"{image}.png").touch()
    with atomic_path(folder / ANNOTATIONS) as path, open(path, "w", encoding="utf-8") as stream:
        _write_annotations(stream, amount, seed)
    frame = pd.concat(list(_frames(amount, seed)), ignore_index=True)
    write_parquet(frame, folder / DETECTIONS_NAME, {})


def open_dataset(folder: Path) -> CocoDataset:
    """What :func:`write_detections` wrote."""
    return CocoDataset(folder / ANNOTATIONS, folder / IMAGES)


def _objects(image: int, amount: Amount, seed: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """One image's objects: boxes (n, 4) x, y, width, height and labels (n,)."""
    generator = np.random.default_rng([seed, image, 0])
    first, after = (amount.objects * number // amount.images for number in (image, image + 1))
    count = max(1, after - first)
    sides = generator.choice(WIDTHS, count)[:, None] * generator.uniform(0.7, 1.4, (count, 2))
    corners = generator.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return np.hstack([corners, sides]), generator.integers(0, len(CLASSES), count)


def _write_annotations(stream: TextIO, amount: Amount, seed: int) -> None:
    """Record by record, so that they are never all in memory."""
    images = (
        {"id": image, "file_name": f"{image}.png", "width": SIDE, "height": SIDE}
        for image in range(amount.images)
    )
    categories = ({"id": label + 1, "name": name} for label, name in enumerate(CLASSES))
    parts = {"images": images, "categories": categories, "annotations": _records(amount, seed)}
    stream.write("{")
    for number, (name, records) in enumerate(parts.items()):
        stream.write(f'{", " if number else ""}"{name}": [')
        for place, record in enumerate(records):
            stream.write((",\n" if place else "\n") + json.dumps(record))
        stream.write("]")
    stream.write("}\n")


def _records(amount: Amount, seed: int) -> Iterator[dict[str, object]]:
    number = 0
    for image in range(amount.images):
        boxes, labels = _objects(image, amount, seed)
        for box, label in zip(boxes, labels.tolist(), strict=True):
            number += 1
            keys = {"id": number, "image_id": image, "category_id": label + 1, "iscrowd": 0}
            x, y, width, height = box.round(2).tolist()
            # An outline as long as COCO's are.
            outline = [x, y, x + width, y, x + width, y + height, x, y + height] * 6
            rest = {"area": float(box[2:].prod()), "segmentation": [outline]}
            yield {**keys, "bbox": [x, y, width, height], **rest}


def _frames(amount: Amount, seed: int) -> Iterator[pd.DataFrame]:
    for image in range(amount.images):
        boxes, labels = _objects(image, amount, seed)
        frames = [_found(image, head, boxes, labels, amount, seed) for head in HEADS]
        yield in_order(pd.concat(frames, ignore_index=True))


def _found(
    image: int,
    head: str,
    boxes: Array,
    labels: npt.NDArray[np.int64],
    amount: Amount,
    seed: int,
) -> pd.DataFrame:
    """One head's detections of an image: shaken copies of objects, some of another class; the rest low scores."""
    generator = np.random.default_rng([seed, image, 1, list(HEADS).index(head)])
    count = amount.proposals // 2
    of = generator.integers(0, len(labels), count)
    # The first of each object is near it, the others are farther and farther away.
    shake = 0.08 * (1 + np.arange(count) // len(labels)) * (1.2 if head == "fc" else 1.0)
    sides = boxes[of][:, [2, 3, 2, 3]]
    corners = np.hstack([boxes[of][:, :2], boxes[of][:, :2] + boxes[of][:, 2:]])
    corners = (
        corners + generator.normal(0, 1, corners.shape) * sides * np.minimum(shake, 1)[:, None]
    )
    low, high = (
        np.minimum(corners[:, :2], corners[:, 2:]),
        np.maximum(corners[:, :2], corners[:, 2:]),
    )
    other = generator.random(count) < 0.2
    classes = np.where(other, generator.integers(0, len(CLASSES), count), labels[of])
    columns = {
        "image_id": image,
        "detector": DETECTOR,
        "head": head,
        "label": classes,
        "x1": low[:, 0],
        "y1": low[:, 1],
        "x2": high[:, 0] + 1,
        "y2": high[:, 1] + 1,
        "score": np.clip(0.9 - 2 * shake + generator.normal(0, 0.1, count), 0.05, 0.99),
    }
    return pd.DataFrame(columns).astype(DETECTION_TYPES)
