"""All heads of our detector asked about many boxes at once against its own `pool` and `predict`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rethink_heads.boxes import outer_boxes
from rethink_heads.config import (
    DETECTRON2,
    MASKRCNN_BENCHMARK,
    MMDETECTION,
    Config,
    ConventionsConfig,
    ModelConfig,
    load_preset,
)
from rethink_heads.detectors.random_weights import spread_outputs
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.heads import STRUCTURES
from rethink_heads.measure.responses import Responder
from rethink_heads.proposals import grid

CLASSES = ("a", "b", "c")
SIZE = (120, 170)
SCORE_ERROR, BOX_ERROR = 1e-5, 1e-3
# The largest differences found for the detectors here were 0.014 and 0.22 px, the least correlation 0.99991.
BFLOAT16_SCORE_ERROR, BFLOAT16_BOX_ERROR, BFLOAT16_CORRELATION = 0.021, 0.33, 0.9998
CONVENTIONS = {
    "torchvision": ConventionsConfig(),
    "maskrcnn-benchmark": MASKRCNN_BENCHMARK,
    "mmdetection": MMDETECTION,
    "detectron2": DETECTRON2,
    "new runs": load_preset("shapes-tiny").model.conventions,
}


def small_detector(head: str, **model: object) -> RCNN:
    """A tiny detector as if trained: nothing in it is zero or one, and scores and boxes differ from box to box."""
    torch.manual_seed(0)
    settings = {
        "backbone": "tiny",
        "pretrained": False,
        "norm": "batch",
        "fpn_channels": 8,
        "fc_width": 16,
        "conv_width": 16,
        "conv_bottleneck": 8,
        "conv_blocks": 1,
        "min_size": 300,
        "max_size": 430,
        "non_local_groups": 2,
    }
    detector = build_detector(
        Config(preset="test", head=head, model=ModelConfig.model_validate(settings | model)),
        CLASSES,
    )
    for module in detector.roi_heads.heads.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Conv2d) and not module.weight.any():
            # What ends a non-local block, which starts as the identity.
            nn.init.normal_(module.weight, std=0.1)
    detector.eval()
    spreads = {"cls_score": 1.2, "bbox_pred": 0.5}
    spread_outputs(
        detector,
        detector,
        {
            f"roi_heads.heads.{branch}.predictor.{layer}": spread
            for branch in detector.branches
            for layer, spread in spreads.items()
        },
    )
    return detector


def image() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randint(0, 256, (3, 12, 17), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(10, 1).repeat_interleave(10, 2)


def boxes_of_all_levels() -> Tensor:
    """Grids about a small object and a large one in the corner, and boxes that share nothing with each other."""
    generator = torch.Generator().manual_seed(6)
    scattered = torch.rand(40, 4, generator=generator) * 80
    scattered[:, 2:] += scattered[:, :2]
    small = grid(torch.tensor([40.0, 50, 61, 66]), SIZE, 5).boxes
    large = grid(torch.tensor([0.0, 3, 150, 119]), SIZE, 3).boxes
    x = torch.tensor([[5.0, 6], [7, 160], [0, 170]])
    return torch.cat([small, scattered, large, outer_boxes(x, x * 0.7)])


Responses = dict[str, tuple[Tensor, Tensor]]


def one_by_one(detector: RCNN, boxes: Tensor) -> list[Responses]:
    """By class."""
    features = detector.extract(image())
    outputs = detector.predict(features, detector.pool(features, boxes), boxes)
    return [
        {head: (out.scores[:, label], out.boxes[:, label]) for head, out in outputs.items()}
        for label in range(len(CLASSES))
    ]


def assert_equal(
    found: Responses,
    expected: Responses,
    score_error: float = SCORE_ERROR,
    box_error: float = BOX_ERROR,
) -> None:
    assert list(found) == list(expected)
    for head, (scores, boxes) in expected.items():
        torch.testing.assert_close(found[head][0], scores, rtol=0, atol=score_error)
        torch.testing.assert_close(found[head][1], boxes, rtol=0, atol=box_error)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        *((head, {}) for head in STRUCTURES),
        *(("double-ext", {"conventions": CONVENTIONS[name]}) for name in CONVENTIONS),
        ("double-ext", {"non_local": True, "conv_enlargement": 1.0, "sampling_ratio": 0}),
        ("double-conv", {"non_local": True, "fusion": "max", "roi_resolution": 5}),
        ("double-ext", {"fusion": "max", "roi_resolution": 3, "sampling_ratio": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
@torch.inference_mode()
def test_equals_pool_and_predict(head: str, settings: dict[str, object]) -> None:
    detector = small_detector(head, **settings)
    boxes = boxes_of_all_levels()
    respond = Responder(detector, 512)
    features = detector.extract(image())
    for label, expected in enumerate(one_by_one(detector, boxes)):
        assert all(scores.std() > 0.01 for scores, _ in expected.values())
        assert_equal(respond(features, boxes, label), expected)
    sample = boxes[torch.randperm(len(boxes), generator=torch.Generator().manual_seed(1))[:50]]
    for some in (sample, sample[:1]):
        assert_equal(respond(features, some, 1), one_by_one(detector, some)[1])


@pytest.mark.parametrize("memory_mb", [1, 5])
@torch.inference_mode()
def test_memory_changes_nothing(memory_mb: int) -> None:
    detector = small_detector("double-ext", non_local=True)
    boxes = boxes_of_all_levels()
    found = Responder(detector, memory_mb)(detector.extract(image()), boxes, 0)
    assert_equal(found, one_by_one(detector, boxes)[0])


@pytest.mark.parametrize("head", ["double-ext", "double-conv"])
@torch.inference_mode()
def test_bfloat16_is_close(head: str) -> None:
    detector = small_detector(head, non_local=True)
    boxes, features = boxes_of_all_levels(), detector.extract(image())
    for label, expected in enumerate(one_by_one(detector, boxes)):
        found = Responder(detector, 512, "bfloat16")(features, boxes, label)
        assert_equal(found, expected, BFLOAT16_SCORE_ERROR, BFLOAT16_BOX_ERROR)
        for name, (scores, _) in expected.items():
            assert not torch.equal(found[name][0], scores)
            both = torch.stack([found[name][0], scores])
            assert float(torch.corrcoef(both)[0, 1]) > BFLOAT16_CORRELATION


@torch.inference_mode()
def test_new_weights_need_a_new_responder() -> None:
    """As documented: one that is made again answers with the weights as they are then."""
    detector = small_detector("double-ext")
    boxes, features = boxes_of_all_levels()[:60], detector.extract(image())
    before = Responder(detector, 512)(features, boxes, 1)
    for parameter in detector.roi_heads.heads.parameters():
        parameter.mul_(1.1)
    after = Responder(detector, 512)(features, boxes, 1)
    assert_equal(after, one_by_one(detector, boxes)[1])
    for name, (scores, regressed) in after.items():
        assert (scores - before[name][0]).abs().max() > 100 * SCORE_ERROR
        assert (regressed - before[name][1]).abs().max() > 100 * BOX_ERROR
