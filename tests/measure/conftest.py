"""A toy detector and a toy dataset: small enough for loops over every proposal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, roi_align

from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import HeadOutput, RoIFeatures
from rethink_heads.detectors.coordinates import enlarge
from rethink_heads.measure.store import Measurements

CLASSES = ("disc", "square", "ring")
CHANNELS, RESOLUTION, WIDTH = 4, 3, 6

# image id -> (width, height, boxes xywh); object ids count up from 10
IMAGES: dict[int, tuple[int, int, list[list[float]]]] = {
    7: (64, 48, [[10, 8, 20, 16], [40.5, 20.25, 23.5, 27.75]]),  # the second in a corner
    3: (40, 56, []),
    12: (120, 110, [[5, 4, 100, 98], [50, 60, 9, 8], [0, 30, 40, 42]]),
}


class ToyDetector:
    """Random weights: a convolution, RoIAlign, for each branch a hidden map and linear readings."""

    class_names = CLASSES
    heads = ("fc", "conv", "double")
    branches = ("fc", "conv")
    device = torch.device("cpu")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)

        def weights(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.stem = weights(CHANNELS, 3, 3, 3) / 3
        self.hidden = {
            name: weights(WIDTH, CHANNELS, RESOLUTION, RESOLUTION) for name in self.branches
        }
        self.cls = {name: weights(len(CLASSES) + 1, WIDTH) for name in self.branches}
        self.reg = {name: weights(4 * len(CLASSES), WIDTH) / 4 for name in self.branches}
        self.extracted = 0

    def extract(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        self.extracted += 1
        features = torch.nn.functional.conv2d(image[None].float() / 255, self.stem, padding=1)
        return features, (image.shape[1], image.shape[2])

    def pool(self, features: tuple[Tensor, tuple[int, int]], boxes: Tensor) -> RoIFeatures:
        return {
            name: roi_align(features[0], [enlarge(boxes, factor)], RESOLUTION, 1.0, 2, aligned=True)
            for name, factor in (("fc", 1.0), ("conv", 1.3))
        }

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        return {
            name: torch.einsum("ncij,ocij->noij", pooled, self.hidden[name])
            for name, pooled in roi_features.items()
        }

    def predict(
        self,
        features: tuple[Tensor, tuple[int, int]],
        roi_features: RoIFeatures,
        boxes: Tensor,
    ) -> dict[str, HeadOutput]:
        outputs = {}
        sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)[:, None]
        for name, output_map in self.output_maps(roi_features).items():
            hidden = output_map.sum((2, 3)).tanh()
            scores = (hidden @ self.cls[name].T).softmax(-1)[:, 1:]
            deltas = (hidden @ self.reg[name].T).view(len(boxes), len(CLASSES), 4)
            regressed = clip_boxes_to_image(
                boxes[:, None] + 0.3 * deltas.tanh() * sizes, features[1]
            )
            outputs[name] = HeadOutput(scores, regressed)
        outputs["double"] = HeadOutput(outputs["fc"].scores, outputs["conv"].boxes)
        return outputs

    def weight_maps(self) -> dict[str, Tensor]:
        return {"fc": self.hidden["fc"].flatten(0, 1)}

    def detect(self, image: Tensor) -> dict[str, object]:
        raise AssertionError("measuring must not run the detector's own detection")


def write_dataset(folder: Path, image_ids: tuple[int, ...] = tuple(IMAGES)) -> CocoDataset:
    """The toy images in the given order, as a COCO folder."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    for image_id in image_ids:
        width, height, boxes = IMAGES[image_id]
        generator = torch.Generator().manual_seed(image_id)
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
        name = f"{image_id}.png"
        Image.fromarray(pixels.numpy()).save(folder / "images" / name)
        content["images"].append(
            {"id": image_id, "file_name": name, "width": width, "height": height}
        )
        for index, box in enumerate(boxes):
            content["annotations"].append(
                {
                    "id": 10 * image_id + index,
                    "image_id": image_id,
                    "category_id": 1 + index % len(CLASSES),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return CocoDataset(path, folder / "images")


def assert_same(first: Measurements, second: Measurements) -> None:
    """Equal to the bit, whatever their provenance."""
    pd.testing.assert_frame_equal(first.objects, second.objects)
    assert first.keys == second.keys
    assert {*first.names} == {*second.names}
    for name in first.names:
        found, expected = first.array(name), second.array(name)
        np.testing.assert_array_equal(found, expected, err_msg=str(name), strict=True)


@pytest.fixture
def toy_detector() -> ToyDetector:
    return ToyDetector()


@pytest.fixture
def toy_dataset(tmp_path: Path) -> CocoDataset:
    """Three images: 2, 0 and 3 objects; small, medium and large ones."""
    return write_dataset(tmp_path / "data")


@pytest.fixture
def reversed_dataset(tmp_path: Path) -> CocoDataset:
    """The same images, in the opposite order."""
    return write_dataset(tmp_path / "reversed", tuple(reversed(IMAGES)))


@pytest.fixture
def one_empty_image(tmp_path: Path) -> CocoDataset:
    """An image without objects before one with some."""
    return write_dataset(tmp_path / "empty", (3, 7))
