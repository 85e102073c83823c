"""Ground truth without images and results files of detectors of any quality, in the layouts that people have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Entry = dict[str, Any]


@dataclass(frozen=True)
class Detector:
    """How a detector errs.

    Attributes:
        noise: of a box's sides and centre, in units of the object's.
        recall: share of the objects that it finds.
        confusion: share of another class.
        random: boxes an image that are anywhere.
        clips: whether boxes are cut at the border.
    """

    noise: float = 0.08
    recall: float = 0.9
    confusion: float = 0.1
    random: int = 4
    clips: bool = True


def make_truth(
    seed: int = 0,
    images: int = 30,
    classes: int = 6,
    gaps: bool = True,
    objects: int = 6,
    large: bool = False,
) -> dict[str, Any]:
    """COCO's content: images of different sizes with ids of no order, some of them empty.

    Args:
        seed: of all that is random.
        images, classes: how many.
        gaps: whether the category ids leave numbers out, as COCO's 80 of 90.
        objects: the most an image.
        large: whether each object fills most of its image.
    """
    generator = np.random.default_rng(seed)
    ids = sorted(generator.choice(10**6, images, replace=False).tolist())
    numbers = [1 + n + n // 3 for n in range(classes)] if gaps else list(range(1, classes + 1))
    listed, annotations = [], []
    for image_id in generator.permutation(ids).tolist():
        width, height = (int(side) for side in generator.integers(200, 640, 2))
        listed.append(
            {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height}
        )
        # Some images are empty, not the first.
        for _ in range(int(generator.integers(not annotations, objects + 1))):
            low, high = (0.7, 0.95) if large else (0.08, 0.5)
            w, h = generator.uniform(low, high, 2) * (width, height)
            x, y = generator.uniform(0, 1, 2) * (width - w, height - h)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(generator.choice(numbers)),
                    "bbox": [round(float(v), 2) for v in (x, y, w, h)],
                    "area": round(float(w * h), 2),
                    "iscrowd": int(generator.random() < 0.03),
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in numbers]
    return {"images": listed, "annotations": annotations, "categories": categories}


def make_results(
    truth: dict[str, Any], detector: Detector | None = None, seed: int = 0
) -> list[Entry]:
    """What a detector finds, as COCO's results JSON has it."""
    detector = detector or Detector()
    generator = np.random.default_rng([seed, 1])
    numbers = [category["id"] for category in truth["categories"]]
    entries: list[Entry] = []

    def add(image: Entry, box: np.ndarray, category: int, score: float) -> None:
        corners = np.concatenate([box[:2], box[:2] + np.maximum(box[2:], 1.0)])
        if detector.clips:
            limit = np.array([image["width"], image["height"]] * 2, float)
            corners = np.clip(corners, 0, limit)
            corners[:2] = np.minimum(corners[:2], limit[:2] - 1)
            corners[2:] = np.maximum(corners[2:], corners[:2] + 1)
        x1, y1, x2, y2 = corners.round(2).tolist()
        entries.append(
            {
                "image_id": image["id"],
                "category_id": category,
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "score": round(float(np.clip(score, 0.01, 0.999)), 4),
            }
        )

    for image in truth["images"]:
        size = np.array([image["width"], image["height"]], float)
        for found in truth["annotations"]:
            if found["image_id"] != image["id"] or generator.random() > detector.recall:
                continue
            box = np.array(found["bbox"])
            shift = generator.normal(0, detector.noise, 2) * box[2:]
            sides = box[2:] * np.exp(generator.normal(0, detector.noise, 2))
            other = generator.random() < detector.confusion
            category = int(generator.choice(numbers)) if other else found["category_id"]
            centre = box[:2] + box[2:] / 2 + shift
            add(image, np.hstack([centre - sides / 2, sides]), category, generator.normal(0.7, 0.2))
        for _ in range(detector.random):
            sides = generator.uniform(0.05, 0.6, 2) * size
            corner = generator.uniform(0, 1, 2) * (size - sides)
            category = int(generator.choice(numbers))
            add(image, np.hstack([corner, sides]), category, generator.uniform(0.01, 0.4))
    return entries


def write_json(content: Any, path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path
