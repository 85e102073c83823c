"""All heads of our detector asked about many boxes at once against its own `pool` and `predict`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rethink_heads.config import (
    DETECTRON2,
    MASKRCNN_BENCHMARK,
    MMDETECTION,
    ConventionsConfig,
    load_preset,
)
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.measure.responses import Responder
from rethink_heads.structures import STRUCTURES
from tests.detectors.small_rcnn import CLASSES, small_detector
from tests.fastpath.rois import boxes_of_all_levels, image

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


SIDES = {"min_size": 300, "max_size": 430, "anchor_sizes": [32, 64, 128, 256, 512]}
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
        ("double-ext", {"canonical_size": 84, "fpn_norm": "group"}),
        ("double", {"canonical_size": 500, "fpn_norm": "batch"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
@torch.inference_mode()
def test_equals_pool_and_predict(head: str, settings: dict[str, object]) -> None:
    detector = small_detector(head, **SIDES | settings)
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
    detector = small_detector("double-ext", **SIDES, non_local=True)
    boxes = boxes_of_all_levels()
    found = Responder(detector, memory_mb)(detector.extract(image()), boxes, 0)
    assert_equal(found, one_by_one(detector, boxes)[0])


@pytest.mark.parametrize("head", ["double-ext", "double-conv"])
@torch.inference_mode()
def test_bfloat16_is_close(head: str) -> None:
    detector = small_detector(head, **SIDES, non_local=True)
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
    detector = small_detector("double-ext", **SIDES)
    boxes, features = boxes_of_all_levels()[:60], detector.extract(image())
    before = Responder(detector, 512)(features, boxes, 1)
    for parameter in detector.roi_heads.heads.parameters():
        parameter.mul_(1.1)
    after = Responder(detector, 512)(features, boxes, 1)
    assert_equal(after, one_by_one(detector, boxes)[1])
    for name, (scores, regressed) in after.items():
        assert (scores - before[name][0]).abs().max() > 100 * SCORE_ERROR
        assert (regressed - before[name][1]).abs().max() > 100 * BOX_ERROR
