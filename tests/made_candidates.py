"""Candidates made by hand, in which every fate of an object occurs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rethink_heads.data.coco import CocoDataset
from rethink_heads.measure.candidates import Candidates, Source
from rethink_heads.measure.store import Key
from rethink_heads.suppression import Suppression
from tests.made_detections import CLASSES, SIDE, as_dataset

SOURCES = (
    Source("one", ("fc", "conv"), Suppression(most=12)),
    Source("two", ("fc",), Suppression(0.1, 0.4, 9)),
)


def crowded_dataset(folder: Path, images: int = 40, seed: int = 0) -> CocoDataset:
    """Images of a few objects of all sizes, many with a twin of the same class beside them, some crowds."""
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, object]] = []

    def add(image_id: int, category: int, box: list[float], crowd: bool) -> None:
        annotations.append(
            {
                "id": 1000 + len(annotations),
                "image_id": image_id,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
        )

    for image_id in range(1, images):
        for _ in range(generator.integers(1, 4)):
            width, height = generator.choice([16, 50, 120]) * generator.uniform(0.8, 1.2, 2)
            x, y = generator.uniform(0, SIDE - 170, 2)
            category = 10 * int(generator.integers(1, len(CLASSES) + 1))
            add(image_id, category, [x, y, width, height], generator.random() < 0.1)
            if generator.random() < 0.4:
                dx = width * generator.uniform(0.05, 0.3)
                other = 10 * int(generator.integers(1, len(CLASSES) + 1))
                twin = category if generator.random() < 0.7 else other
                add(image_id, twin, [x + dx, y, width, height], False)
    generator.shuffle(annotations)
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
            for i in range(images, 0, -1)
        ],
        "categories": [{"id": 10 * n, "name": name} for n, name in enumerate(CLASSES, 1)],
        "annotations": annotations,
    }
    return as_dataset(folder, content)


def make_candidates(dataset: CocoDataset, seed: int = 0) -> Candidates:
    """Proposals about the objects, shaken more or less, and what the heads of SOURCES make of them; all classes."""
    generator = np.random.default_rng(seed)
    annotations = json.loads(dataset.annotations_path.read_text())["annotations"]
    keys = [(source.name, head) for source in SOURCES for head in source.heads]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("images", "proposals", "labels")}
    corners: list[np.ndarray] = []
    ranks: dict[str, list[np.ndarray]] = {source.name: [] for source in SOURCES}
    scores: dict[Key, list[np.ndarray]] = {key: [] for key in keys}
    boxes: dict[Key, list[np.ndarray]] = {key: [] for key in keys}
    for image_id in sorted(dataset.image_ids):
        proposals, truths, labels = [], [], []
        for annotation in annotations:
            if annotation["image_id"] != image_id:
                continue
            x, y, w, h = annotation["bbox"]
            truth = np.array([x, y, x + w, y + h])
            for _ in range(generator.integers(0, 9)):
                # Some well and some badly placed.
                shake = generator.choice([0.03, 0.12, 0.3])
                proposals.append(_shaken(truth, shake, generator))
                truths.append(truth)
                labels.append(dataset.category_ids.index(annotation["category_id"]))
        for _ in range(3):
            corner = generator.uniform(0, SIDE / 2, 2)
            proposals.append(np.concatenate([corner, corner + generator.uniform(10, 90, 2)]))
            truths.append(proposals[-1])
            labels.append(int(generator.integers(len(CLASSES))))
        count, classes = len(proposals), len(CLASSES)
        columns["images"].append(np.full(count * classes, image_id))
        columns["proposals"].append(np.repeat(np.arange(count), classes))
        columns["labels"].append(np.tile(np.arange(classes), count))
        corners.append(np.repeat(np.array(proposals), classes, axis=0))
        owner = generator.integers(len(SOURCES), size=count)
        for number, source in enumerate(SOURCES):
            rank = np.where(owner == number, (owner == number).cumsum() - 1, -1)
            ranks[source.name].append(np.repeat(rank, classes))
        for key in keys:
            sharp = generator.choice([0.5, 2.0, 4.0], size=count)[:, None]
            logits = generator.normal(size=(count, classes + 1))
            logits[np.arange(count), labels] += generator.choice([-1.0, 0.5, 2.0], size=count)
            likely = np.exp(sharp * logits)
            scores[key].append((likely / likely.sum(axis=1, keepdims=True))[:, :-1].ravel())
            regressed = [
                _shaken(truth, generator.choice([0.02, 0.15, 0.4]), generator)
                for truth in truths
                for _ in range(classes)
            ]
            boxes[key].append(np.array(regressed))
    return Candidates(
        SOURCES,
        *(np.concatenate(columns[name]) for name in ("images", "proposals", "labels")),
        np.concatenate(corners).astype(np.float32),
        {name: np.concatenate(parts) for name, parts in ranks.items()},
        # Two decimals, so that there are ties.
        {key: np.concatenate(parts).round(2).astype(np.float32) for key, parts in scores.items()},
        {key: np.concatenate(parts).astype(np.float32) for key, parts in boxes.items()},
    )


def _shaken(box: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
    sides = np.tile(box[2:] - box[:2], 2)
    shaken = np.clip(box + generator.normal(scale=scale, size=4) * sides, 0, SIDE)
    return np.concatenate([np.minimum(shaken[:2], shaken[2:] - 1), shaken[2:]])
