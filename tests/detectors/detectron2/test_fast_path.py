"""detectron2's fc-heads on many boxes at once, and its pooling by factors, against its own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.stages import pool
from rethink_heads.detectors.random_weights import spread_outputs
from rethink_heads.measure.responses import Responder
from rethink_heads.proposals import grid
from tests.detectors.detectron2.predictors import NAMES, built, noise
from tests.fastpath.rois import always

SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "class-agnostic": {"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True},
    "not aligned, adaptive, three layers": {
        "MODEL__ROI_BOX_HEAD__POOLER_TYPE": "ROIAlign",
        "MODEL__ROI_BOX_HEAD__POOLER_SAMPLING_RATIO": 0,
        "MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION": 4,
        "MODEL__ROI_BOX_HEAD__NUM_FC": 3,
    },
    "one level": {"MODEL__ROI_HEADS__IN_FEATURES": ["p3"]},
}
GENERAL: dict[str, dict[str, Any]] = {
    "convolutions": {"MODEL__ROI_BOX_HEAD__NUM_CONV": 1},
    "sigmoid": {"MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE": True},
    "RoIPool": {"MODEL__ROI_BOX_HEAD__POOLER_TYPE": "ROIPool"},
}
LEVELS = [(64, 80), (32, 40), (16, 20), (8, 10)]


def opened(settings: dict[str, Any]) -> Detectron2Detector:
    """A model whose scores and boxes differ from box to box."""
    torch.manual_seed(0)
    model = built(**settings)
    detector = Detectron2Detector(model, NAMES, 240, 320)
    spreads = {"cls_score": 1.2, "bbox_pred": 0.5}
    names = {f"roi_heads.box_predictor.{layer}": spread for layer, spread in spreads.items()}
    spread_outputs(detector, model, names)
    return detector


def boxes(size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    height, width = size
    scattered = torch.rand(30, 4, generator=generator) * height / 2
    scattered[:, 2:] += scattered[:, :2]
    small = grid(torch.tensor([0.3, 0.4, 0.5, 0.6]) * height, size, 5).boxes
    large = grid(torch.tensor([0.0, 3, width - 5, height - 1]), size, 3).boxes
    return torch.cat([small, scattered, large])


@pytest.mark.parametrize("name", SETTINGS)
@torch.inference_mode()
def test_equals_pool_and_predict(name: str) -> None:
    detector = opened(SETTINGS[name])
    image = noise(120, 160)
    respond, features, asked = Responder(detector, 64), detector.extract(image), boxes((120, 160))
    assert respond.fast_path is not None
    (output,) = detector.predict(features, detector.pool(features, asked), asked).values()
    for label in range(len(NAMES)):
        ((scores, regressed),) = respond(features, asked, label).values()
        assert scores.std() > 0.01
        torch.testing.assert_close(scores, output.scores[:, label], rtol=0, atol=1e-5)
        torch.testing.assert_close(regressed, output.boxes[:, label], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", GENERAL)
@torch.inference_mode()
def test_other_heads_go_the_general_way(name: str) -> None:
    detector = opened(GENERAL[name])
    respond, features, asked = Responder(detector, 64), detector.extract(noise()), boxes((60, 80))
    assert respond.fast_path is None
    (output,) = detector.predict(features, detector.pool(features, asked), asked).values()
    ((scores, _),) = respond(features, asked, 1).values()
    torch.testing.assert_close(scores, output.scores[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_pooling_by_factors_equals_detectron2s(kind: str, ratio: int) -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(1, 6, *size, generator=generator) for size in LEVELS]
    pooler = ROIPooler(5, tuple(1 / stride for stride in (4, 8, 16, 32)), ratio, kind)
    asked = boxes((256, 320))
    with always(True):
        found = pool(pooler, levels, asked)
    own = pooler(levels, [Boxes(asked)])
    assert found.is_contiguous()
    assert not torch.equal(found, own)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5)
