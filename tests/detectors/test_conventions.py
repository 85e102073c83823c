"""The parts that conventions choose between, each against its rule, and training under them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.config import (
    DETECTRON2,
    MASKRCNN_BENCHMARK,
    MMDETECTION,
    ConventionsConfig,
    ModelConfig,
    load_preset,
)
from rethink_heads.detectors.coordinates import ImageFeatures, clip_boxes, to_edges, to_pixels
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.detectors.rcnn.roi_heads import pyramid_level
from rethink_heads.detectors.rcnn.rpn import box_coder, build_rpn, cell_anchors
from rethink_heads.detectors.rcnn.transform import ImageTransform, resized_size
from rethink_heads.errors import UserError
from tests.tiny_coco import SMALL_SETTINGS

CONVENTIONS = {
    "torchvision": ConventionsConfig(),
    "maskrcnn-benchmark": MASKRCNN_BENCHMARK,
    "mmdetection": MMDETECTION,
    "detectron2": DETECTRON2,
}


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        # 800 / 427 = 1.8735 of 640 is 1199.06; 800 / 426 of 640 is 1201.88.
        ("torchvision", (427, 640), (800, 1199)),
        ("maskrcnn-benchmark", (427, 640), (800, 1199)),
        ("mmdetection", (427, 640), (800, 1199)),
        ("torchvision", (640, 426), (1201, 800)),
        ("maskrcnn-benchmark", (640, 426), (1201, 800)),
        ("mmdetection", (640, 426), (1202, 800)),
        # The longer side decides: 1333 / 640 of 333 is 693.6.
        ("torchvision", (333, 640), (693, 1333)),
        ("maskrcnn-benchmark", (333, 640), (694, 1333)),
        ("mmdetection", (333, 640), (694, 1333)),
        # maskrcnn-benchmark rounds the shorter side, then the longer follows from it: 1332 of 1333.
        ("maskrcnn-benchmark", (640, 301), (1333, 627)),
        ("maskrcnn-benchmark", (500, 500), (800, 800)),
        ("detectron2", (427, 640), (800, 1199)),
        ("detectron2", (640, 426), (1202, 800)),
        ("detectron2", (333, 640), (694, 1333)),
        ("detectron2", (500, 500), (800, 800)),
    ],
)
def test_sizes_of_the_resized_image(
    rule: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(size, 800, 1333, rule) == expected


@pytest.mark.parametrize("rule", ["torchvision", "mmdetection"])
def test_an_image_of_which_nothing_would_be_left_is_refused(rule: str) -> None:
    config = load_preset(
        "shapes-tiny",
        "fc",
        [f"model.conventions.size_rule={rule}", "model.min_size=32", "model.max_size=32"],
    )
    transform = ImageTransform(config.model)
    image = torch.rand(3, 10, 900)
    with pytest.raises(
        UserError, match=r"an image of 900x10 px is too thin .* 32x0 px; leave it out"
    ):
        transform([image])
    sizes = transform([image[..., :300]])[0].image_sizes
    assert sizes == [(1, 32)]


sides = st.floats(1.0, 300.0, width=32)
corners = st.floats(0.0, 300.0, width=32)


@given(corners, corners, sides, sides, st.integers(50, 900), st.integers(50, 900))
def test_boxes_come_back_from_the_resized_image(
    x: float, y: float, width: float, height: float, new_height: int, new_width: int
) -> None:
    boxes = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)
    for box_ends in ("edge", "pixel"):
        features = ImageFeatures({}, (new_height, new_width), (400, 600), box_ends)
        resized = features.to_resized(boxes)
        torch.testing.assert_close(features.to_original(resized), boxes, rtol=0, atol=1e-9)
        # By pixels: first and last pixel are scaled.
        if box_ends == "pixel":
            ratio = new_width / 600
            assert math.isclose(float(resized[0, 2]), (x + width - 1) * ratio + 1, abs_tol=1e-9)
            assert ((resized[:, 2:] - resized[:, :2]) >= 1 - 1e-9).all()


def test_a_box_less_than_a_pixel_wide_is_one_pixel() -> None:
    thin = torch.tensor([[10.0, 20.0, 10.25, 30.0]])
    assert torch.equal(to_edges(to_pixels(thin)), torch.tensor([[10.0, 20.0, 11.0, 30.0]]))


@given(st.lists(st.floats(-50, 150, width=32), min_size=4, max_size=4))
def test_clipping_by_pixels(values: list[float]) -> None:
    x1, y1, x2, y2 = values
    boxes = torch.tensor([[min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]])
    height, width = 60, 90
    found = clip_boxes(to_edges(boxes), (height, width), "pixel")
    limits = torch.tensor([width, height, width, height]) - 1.0
    torch.testing.assert_close(found, to_edges(boxes.clamp(min=0).minimum(limits)))
    assert (found[:, 2:] > found[:, :2]).all()


@pytest.mark.parametrize("rule", list(CONVENTIONS))
def test_levels_of_boxes(rule: str) -> None:
    """A level's least box is on it; a little less is on the level below; an empty box is on the finest."""
    side = torch.tensor([0.0, 20, 111.9, 112, 223.9, 224, 447.9, 448, 2000])
    boxes = torch.stack([side * 0, side * 0, side, side], dim=1)
    assert pyramid_level(boxes, rule).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    # Half the canonical size: each box one level further on.
    assert pyramid_level(boxes, rule, 112).tolist() == [0, 0, 1, 2, 2, 3, 3, 3, 3]


def test_anchors_of_a_cell() -> None:
    """The originals' published corners, by first and last pixel: 16 pixels a cell, 128 a side."""
    found = cell_anchors("maskrcnn-benchmark", 16, 128, [0.5, 1.0, 2.0])
    expected = [[-83.0, -39, 100, 56], [-55, -55, 72, 72], [-35, -79, 52, 96]]
    assert found.tolist() == [[-84.0, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]
    # Those corners count from 1.
    assert (found + 1).tolist() == expected
    wide = cell_anchors("mmdetection", 4, 32, [0.5, 1.0])
    root = 16 * math.sqrt(2)
    torch.testing.assert_close(
        wide, torch.tensor([[-root, -root / 2, root, root / 2], [-16, -16, 16, 16]])
    )


@pytest.mark.parametrize("box_ends", ["edge", "pixel"])
def test_proposals_ranked_by_logits(box_ends: str) -> None:
    """Of two boxes that overlap the one of the higher logit stays, though both probabilities round to 1."""
    order = {"proposal_order": "logit", "box_ends": box_ends, "least_proposal_side": 1e-30}
    rpn = build_rpn(ModelConfig(conventions=ConventionsConfig(**order), rpn_proposals_test=4))
    rpn.eval()
    boxes = torch.tensor(
        [
            [0.0, 0, 20, 20],
            [1, 1, 20, 20],
            [60, 10, 130, 30],
            # Beside the image, so that nothing is left of it; and on the second level, where it overlaps nothing.
            [100, 10, 130, 30],
            [0, 0, 20, 20],
        ]
    )
    logits = torch.tensor([[30.0], [40], [-3], [50], [20]])
    assert (logits[:2].sigmoid() == 1).all()
    kept, scores = rpn.filter_proposals(boxes[None], logits, [(50, 90)], [4, 1])
    expected = [[1.0, 1, 20, 20], [0, 0, 20, 20], [60, 10, 90, 30]]
    ranks = [40.0, 20, -3]
    if box_ends == "pixel":
        # Of the box beside the image the last column is left.
        expected, ranks = [[89.0, 10, 90, 30], *expected], [50.0, *ranks]
    assert kept[0].tolist() == expected
    assert scores[0].tolist() == ranks


def test_deltas_limited_in_both_directions() -> None:
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    shrinking = torch.tensor([[0.0, 0.0, -100.0, -2.0]])
    usual = box_coder((10.0, 10.0, 5.0, 5.0), "growth").decode_single(shrinking, boxes)
    limited = box_coder((10.0, 10.0, 5.0, 5.0), "both").decode_single(shrinking, boxes)
    assert float(usual[0, 2] - usual[0, 0]) < 1e-5
    assert math.isclose(float(limited[0, 2] - limited[0, 0]), 1.6, rel_tol=1e-4)
    assert math.isclose(float(limited[0, 3] - limited[0, 1]), 100 * math.exp(-0.4), rel_tol=1e-4)
    assert shrinking[0, 2] == -100


@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_training_under_every_convention(name: str) -> None:
    """Losses are finite and lessen when the same step is taken again and again."""
    config = load_preset("shapes-tiny", "double-ext", SMALL_SETTINGS)
    model = config.model.model_copy(update={"conventions": CONVENTIONS[name]})
    torch.manual_seed(0)
    detector = build_detector(config.model_copy(update={"model": model}), ("red", "green"))
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 48, 64, generator=generator), torch.rand(3, 40, 60)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[12.0, 8, 40, 36]]), "labels": torch.tensor([0])},
    ]
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)
    totals = []
    for _ in range(8):
        losses = detector(images, targets)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert set(losses) >= {"loss_objectness", "fc_classification", "conv_regression"}
    assert all(math.isfinite(total) for total in totals)
    assert totals[-1] < 0.8 * totals[0]
    assert torch.equal(targets[0]["boxes"], torch.tensor([[5.0, 5, 30, 30]]))
