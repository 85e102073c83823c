"""The second stage's final detections against plain loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rethink_heads.config import Config, ConventionsConfig, load_preset
from rethink_heads.detectors.base import HeadOutput
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.detectors.rcnn.roi_heads import BoxRoIHeads
from tests.heads.reference import iou

CLASSES = ("a", "b", "c")
SMALL = ["fpn_channels=4", "fc_width=8", "conv_width=8", "conv_bottleneck=4", "backbone=tiny"]


def stage(*overrides: str) -> BoxRoIHeads:
    """The second stage of a detector of the paper's settings, but for its size."""
    every = [f"model.{value}" for value in (*SMALL, *overrides)]
    config: Config = load_preset("coco-r50", "double-ext", [*every, "model.pretrained=false"])
    return build_detector(config, CLASSES).roi_heads.train()


def near(boxes: Tensor, count: int, spread: float, seed: int) -> Tensor:
    """Boxes (count, 4) moved by a few pixels from given ones in turn."""
    generator = torch.Generator().manual_seed(seed)
    chosen = boxes.repeat(-(-count // len(boxes)), 1)[:count]
    return chosen + spread * torch.randn(count, 4, generator=generator, dtype=boxes.dtype)


def detected(
    scores: list[list[float]], boxes: list[list[list[float]]], least: float
) -> list[tuple[int, list[float], float]]:
    """(label, box, score), best first: above 0.05, of two of a class that overlap by more than 0.5 the better, 100."""
    every = sorted(
        (
            (label, boxes[row][label], scores[row][label])
            for row in range(len(scores))
            for label in range(len(scores[row]))
            if scores[row][label] > 0.05
        ),
        key=lambda each: -each[2],
    )
    kept: list[tuple[int, list[float], float]] = []
    for label, box, score in every:
        if min(box[2] - box[0], box[3] - box[1]) < least:
            continue
        if all(other != label or iou(box, better) <= 0.5 for other, better, _ in kept):
            kept.append((label, box, score))
    return kept[:100]


@pytest.mark.parametrize("least", [0.01, 0.0])
def test_final_detections(least: float) -> None:
    """Of clusters of boxes, some of which have no width, and more of which stay than are kept."""
    generator = torch.Generator().manual_seed(3)
    corners = 900 * torch.rand(60, 2, generator=generator, dtype=torch.float64)
    sides = 20 + 60 * torch.rand(60, 2, generator=generator, dtype=torch.float64)
    clusters = torch.cat([corners, corners + sides], dim=1)
    boxes = near(clusters, 300, 5.0, 4)[:, None].expand(-1, len(CLASSES), -1).clone()
    boxes[::9, :, 2] = boxes[::9, :, 0] + 0.005
    scores = torch.rand(300, len(CLASSES), generator=generator, dtype=torch.float64) ** 4
    roi_heads = stage()
    roi_heads.conventions = ConventionsConfig(least_detection_side=least)
    found = roi_heads.suppress(HeadOutput(scores, boxes))
    expected = detected(scores.tolist(), boxes.tolist(), least)
    assert len(expected) == 100
    assert found.labels.tolist() == [label for label, _, _ in expected]
    assert found.scores.tolist() == [score for _, _, score in expected]
    assert found.boxes.tolist() == [box for _, box, _ in expected]
