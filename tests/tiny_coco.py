"""A data set in COCO format of a few small images, and settings of a detector to go with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Content = dict[str, list[dict[str, Any]]]

CLASSES = ("red", "green")
COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40)}
WIDTH, HEIGHT = 64, 48
# A detector of some thousand weights, and 81 proposals an object.
SMALL_SETTINGS = [
    "model.fpn_channels=4",
    "model.fc_width=8",
    "model.conv_width=8",
    "model.conv_bottleneck=4",
    "model.conv_blocks=1",
    "model.min_size=48",
    "model.max_size=64",
    "model.rpn_proposals_train=20",
    "model.rpn_proposals_test=5",
    "model.rois_per_image=8",
    "measuring.grid_steps=3",
    "measuring.proposals_per_object=none",
]


def write_coco(folder: Path, split: str = "val", images: int = 1) -> Content:
    """Write a split of noise images with one red or green box each; return what its JSON holds."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    content: Content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
    }
    random = np.random.default_rng(0)
    for number in range(1, images + 1):
        pixels = random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        category = 1 + number % len(CLASSES)
        x, y, width, height = (int(value) for value in random.integers(8, 24, 4))
        pixels[y : y + height, x : x + width] = COLOURS[CLASSES[category - 1]]
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
        image = {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        box = {"bbox": [x, y, width, height], "category_id": category}
        content["images"].append(image)
        content["annotations"].append({"id": number, "image_id": number, **box})
    write_annotations(folder, content, split)
    return content


def write_annotations(folder: Path, content: object, split: str = "val") -> None:
    """Write the JSON of a split."""
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content))
