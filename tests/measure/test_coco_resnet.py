"""The measuring path on real images: a ResNet-50 detector from scratch, the full grid, brute force."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from rethink_heads.config import Config, MeasuringConfig, ModelConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.runner import measure
from rethink_heads.measure.store import Measurements

IMAGES = 2
OBJECTS_PER_IMAGE = 2

Box = tuple[float, float, float, float]


def brute_force_grid(box: Box, width: int, height: int) -> list[Box]:
    """Every proposal from its centre and size, one at a time, clipped to the image."""
    x1, y1, x2, y2 = box
    steps = [-1 + i / 5 for i in range(11)]
    shifts = [0.8 * math.copysign(abs(t) ** 3, t) for t in steps]
    factors = [2 ** (0.75 * math.copysign(abs(t) ** 2.75, t)) for t in steps]
    boxes = []
    for a, p, b, q in itertools.product(shifts, factors, shifts, factors):
        cx, w = (x1 + x2) / 2 + a * (x2 - x1), (x2 - x1) * p
        cy, h = (y1 + y2) / 2 + b * (y2 - y1), (y2 - y1) * q
        left, right = max(cx - w / 2, 0), min(cx + w / 2, width)
        top, bottom = max(cy - h / 2, 0), min(cy + h / 2, height)
        if right - left >= 1e-3 and bottom - top >= 1e-3:
            boxes.append((left, top, right, bottom))
    return boxes


@pytest.fixture(scope="module")
def dataset(shared_data: Path) -> CocoDataset:
    root = shared_data / "coco-sample"
    whole = CocoDataset(root / "annotations/instances_val2017.json", root / "val2017")
    return whole.subset(IMAGES)


@pytest.fixture(scope="module")
def detector(dataset: CocoDataset) -> RCNN:
    torch.manual_seed(0)
    model = ModelConfig(
        backbone="resnet50", pretrained=False, norm="batch", fc_width=32, min_size=160, max_size=240
    )
    built = build_detector(Config(preset="test", head="fc", model=model), dataset.class_names)
    nn.init.normal_(built.roi_heads.heads["fc"].predictor.cls_score.weight, std=0.05)
    return built.eval()


@pytest.fixture(scope="module")
def measured(
    detector: RCNN, dataset: CocoDataset, tmp_path_factory: pytest.TempPathFactory
) -> Measurements:
    config = MeasuringConfig(objects_per_image=OBJECTS_PER_IMAGE, rows_per_bin=2000)
    folder = tmp_path_factory.mktemp("measured")
    return measure(detector, dataset, "resnet50", config, 0, folder, {}, progress=False)


def annotation(dataset: CocoDataset, object_id: int) -> tuple[Box, int, int, int]:
    """Box, image width and height, and image id, straight from the JSON."""
    content = json.loads(dataset.annotations_path.read_text())
    found = next(a for a in content["annotations"] if a["id"] == object_id)
    image = next(i for i in content["images"] if i["id"] == found["image_id"])
    x, y, w, h = found["bbox"]
    return (x, y, x + w, y + h), image["width"], image["height"], image["id"]


def test_the_last_bin_equals_the_detectors_own_forward(
    measured: Measurements, detector: RCNN, dataset: CocoDataset
) -> None:
    """Scores and regressed IoUs about the object's own box, by torchvision's pooling, layers and coder."""
    object_id = int(measured.objects["object_id"].iloc[0])
    box, width, height, image_id = annotation(dataset, object_id)
    sample = dataset[dataset.image_ids.index(image_id)]
    label = int(sample.labels[sample.object_ids.tolist().index(object_id)])
    proposals = torch.tensor(brute_force_grid(box, width, height), dtype=torch.float32)
    target = torch.tensor([box], dtype=torch.float64)
    near = proposals[box_iou(proposals.double(), target)[:, 0] >= 0.95]
    with torch.inference_mode():
        images, _ = detector.transform([sample.image.float() / 255])
        pyramid = detector.backbone(images.tensors)
        new_height, new_width = images.image_sizes[0]
        scale = torch.tensor([new_width / width, new_height / height] * 2)
        resized = near * scale
        pooled = detector.roi_heads.box_roi_pool(pyramid, [resized])
        logits, deltas = detector.roi_heads.heads["fc"](pooled)
        decoded = detector.roi_heads.box_coder.decode(deltas, [resized])[:, label + 1] / scale
    regressed = decoded.clamp(min=0).minimum(torch.tensor([width, height] * 2)).double()
    moments = dict(zip(VALUE_COLUMNS, measured.moments(("resnet50", "fc"))[0, -1], strict=True))
    assert moments["n"] == len(near) > 50
    scores = logits.softmax(-1)[:, label + 1].double()
    ious = box_iou(regressed, target)[:, 0]
    assert moments["sum_score"] == pytest.approx(scores.sum().item(), rel=1e-4)
    assert moments["sum_score_score"] == pytest.approx((scores**2).sum().item(), rel=1e-4)
    assert moments["sum_regressed_iou"] == pytest.approx(ious.sum().item(), rel=1e-4)
    assert moments["sum_regressed_iou_regressed_iou"] == pytest.approx(
        (ious**2).sum().item(), rel=1e-4
    )
