"""The RPN's training against loops over what is stated."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from rethink_heads.config import (
    MASKRCNN_BENCHMARK,
    ConventionsConfig,
    ModelConfig,
)
from rethink_heads.detectors.rcnn.rpn import AnchorRPN, build_rpn, inside
from tests.heads.reference import iou

SIZES = [(96, 128), (80, 100)]
FRAME = (96, 128)
STRIDES = (4, 8, 16, 32, 64)
OBJECTS: list[list[list[float]]] = [[[10.0, 12, 52, 60], [70, 20, 120, 90]], [[-3.0, 30, 44, 79]]]
ANCHOR_SIZES = [8, 16, 32, 64, 128]


def small_rpn(**settings: Any) -> AnchorRPN:
    torch.manual_seed(0)
    model = ModelConfig(fpn_channels=4, anchor_sizes=ANCHOR_SIZES, **settings)
    rpn = build_rpn(model).double().train()
    for parameter in rpn.head.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return rpn


def step(rpn: AnchorRPN, objects: list[list[list[float]]] = OBJECTS) -> dict[str, Any]:
    """The losses of one step, and what they were computed of."""
    generator = torch.Generator().manual_seed(1)
    pyramid = {
        str(level): torch.randn(
            len(SIZES), 4, *(-(-side // stride) for side in FRAME), generator=generator
        ).double()
        for level, stride in enumerate(STRIDES)
    }
    images = ImageList(torch.zeros(len(SIZES), 3, *FRAME, dtype=torch.float64), list(SIZES))
    targets = [{"boxes": torch.tensor(boxes).reshape(-1, 4).double()} for boxes in objects]
    seen: dict[str, Any] = {}
    assign = rpn.assign_targets_to_anchors

    def assigning(anchors: list[Tensor], given: Any) -> Any:
        found = assign(anchors, given)
        seen.update(anchors=anchors, labels=found[0])
        return found

    with patch.object(rpn, "assign_targets_to_anchors", assigning):
        _, losses = rpn(images, pyramid, targets)
    return {**seen, **{name: float(value.detach()) for name, value in losses.items()}}


def leaves(anchor: list[float], size: tuple[int, int], one: int) -> bool:
    """maskrcnn-benchmark's rule, straddle threshold 0, on the indices of an anchor's first and last pixels.

    Where boxes end at edges (``one`` is 0) an anchor that ends with the image's last pixel is still inside.
    """
    height, width = size
    x1, y1, x2, y2 = anchor[0], anchor[1], anchor[2] - one, anchor[3] - one
    if one:
        return not (x1 >= 0 and y1 >= 0 and x2 < width and y2 < height)
    return not (x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height)


def label_of(overlaps: list[float], best_of_objects: list[float]) -> float:
    """1 from IoU 0.7 on and for the anchors that an object overlaps most, 0 under 0.3, -1 between."""
    if any(v == best for v, best in zip(overlaps, best_of_objects, strict=True)):
        return 1.0
    return 1.0 if max(overlaps) >= 0.7 else 0.0 if max(overlaps) < 0.3 else -1.0


@pytest.mark.parametrize(
    ("box_ends", "anchor", "expected"),
    [
        ("edge", [0.0, 0, 128, 96], True),
        ("edge", [-0.5, 0, 20, 20], False),
        ("edge", [0.0, -1, 20, 20], False),
        ("edge", [0.0, 0, 128.5, 20], False),
        ("edge", [0.0, 0, 20, 97], False),
        # The last pixel's index is an edge less 1: 127.5 lies before the image's end, 128 does not.
        ("pixel", [0.0, 0, 128.5, 96], True),
        ("pixel", [0.0, 0, 129, 96], False),
        ("pixel", [0.0, 0, 20, 97], False),
    ],
)
def test_an_anchor_that_leaves_the_image(
    box_ends: str, anchor: list[float], expected: bool
) -> None:
    assert inside(torch.tensor([anchor]), FRAME, box_ends).tolist() == [expected]
    assert leaves(anchor, FRAME, one=int(box_ends == "pixel")) is not expected


@pytest.mark.parametrize("cross_boundary", [True, False])
@pytest.mark.parametrize("conventions", [ConventionsConfig(), MASKRCNN_BENCHMARK], ids=str)
def test_what_anchors_are_trained_on(conventions: ConventionsConfig, cross_boundary: bool) -> None:
    one = int(conventions.box_ends == "pixel")
    found = step(small_rpn(conventions=conventions, rpn_cross_boundary_anchors=cross_boundary))
    left_out = 0
    for image, size in enumerate(SIZES):
        anchors = found["anchors"][image].tolist()
        overlaps = [[iou(anchor, box) for box in OBJECTS[image]] for anchor in anchors]
        best = [max(column) for column in zip(*overlaps, strict=True)]
        for anchor, own, label in zip(
            anchors, overlaps, found["labels"][image].tolist(), strict=True
        ):
            leaving = leaves(anchor, size, one)
            left_out += leaving
            expected = -1.0 if leaving and not cross_boundary else label_of(own, best)
            assert label == expected, anchor
    # Most of these images' large anchors, so that the setting decides something.
    assert left_out > 500


def test_an_image_that_no_anchor_fits_in_keeps_them() -> None:
    rpn = small_rpn(rpn_cross_boundary_anchors=False)
    anchors = [torch.tensor([[-4.0, -4, 4, 4], [0, -4, 8, 4]], dtype=torch.float64)]
    target = {"boxes": torch.tensor([[0.0, 0, 8, 3]]), "size": torch.tensor((3, 90))}
    labels, _ = rpn.assign_targets_to_anchors(anchors, [target])
    assert labels[0].tolist() == [0.0, 1.0]


def test_an_image_without_objects_has_no_positive_anchor() -> None:
    found = step(small_rpn(rpn_cross_boundary_anchors=False), [OBJECTS[0], []])
    labels = found["labels"][1]
    assert set(labels.tolist()) == {0.0, -1.0}
    assert math.isfinite(found["loss_objectness"])
