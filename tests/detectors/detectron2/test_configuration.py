"""What of detectron2's models stands beside their weights, and parts that users bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import detectron2
from torch import Tensor, nn

from rethink_heads.detectors.detectron2 import opening
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import open_detectron2
from tests.detectors.detectron2.predictors import (
    FASTER,
    NAMES,
    OF_THREE,
    SMALL_MODEL,
    built,
    noise,
    write_config,
)

BOXES = torch.tensor([[3.0, 4, 40, 50], [10, 5, 70, 55]])


@pytest.fixture
def detector() -> Detectron2Detector:
    return Detectron2Detector(built(), NAMES, 64, 128)


def _set(path: str, value: Any) -> Callable[[Detectron2Detector], None]:
    """A change of one attribute of a module within the model, or of the detector itself."""
    place, _, name = path.rpartition(".")
    return lambda one: setattr(one.model.get_submodule(place) if place else one, name, value)


def _pixels(detector: Detectron2Detector) -> None:
    detector.model.pixel_mean.add_(50)


def _transform(detector: Detectron2Detector) -> None:
    detector.model.roi_heads.box_predictor.box2box_transform.weights = (1.0, 1.0, 1.0, 1.0)


def _eps(detector: Detectron2Detector) -> None:
    detector.model.backbone.bottom_up.stem.conv1.norm.eps = 0.0


def _anchors(detector: Detectron2Detector) -> None:
    next(detector.model.proposal_generator.anchor_generator.cell_anchors.buffers()).add_(1)


CHANGES: dict[str, Callable[[Detectron2Detector], None]] = {
    "score": _set("roi_heads.box_predictor.test_score_thresh", 0.3),
    "nms": _set("roi_heads.box_predictor.test_nms_thresh", 0.4),
    "detections": _set("roi_heads.box_predictor.test_topk_per_image", 7),
    "size": _set("min_size", 100),
    "most": _set("max_size", 200),
    "channels": _set("channel_order", "RGB"),
    "names": _set("class_names", ("c", "b", "a")),
    "mean": _pixels,
    "transform": _transform,
    "rpn": _set("proposal_generator.nms_thresh", 0.5),
    "proposals": _set("proposal_generator.post_nms_topk", {True: 10, False: 10}),
    "anchors": _anchors,
    "samples": _set("roi_heads.box_pooler.level_poolers.0.sampling_ratio", 2),
    "eps": _eps,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_configuration_changes_with_each_setting(
    change: str, detector: Detectron2Detector
) -> None:
    before = detector.configuration
    CHANGES[change](detector)
    assert detector.configuration != before


def test_the_configuration_is_the_same_for_the_same_detector(detector: Detectron2Detector) -> None:
    before = detector.configuration
    assert Detectron2Detector(built(), NAMES, 64, 128).configuration == before
    detector.detect(noise())
    with torch.no_grad():
        next(detector.model.parameters()).add_(1)
    assert detector.configuration == before
    assert detectron2.__version__ in before
    assert " at 0x" not in before


class InPlace(nn.Sequential):
    """A box head whose first layer works in place."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Hardtanh(-0.01, 0.01, inplace=True), nn.Flatten(), nn.Linear(49 * channels, 32)
        )


def test_predict_leaves_the_roi_features_as_they_were(detector: Detectron2Detector) -> None:
    heads = detector.model.roi_heads
    heads.box_head = InPlace(SMALL_MODEL["MODEL.FPN.OUT_CHANNELS"])
    changed = Detectron2Detector(detector.model, NAMES, 64, 128)
    with torch.inference_mode():
        features = changed.extract(noise())
        pooled = changed.pool(features, BOXES)
        pooled["box"] *= 100
        before = pooled["box"].clone()
        changed.predict(features, pooled, BOXES)
    assert before.abs().max() > 0.01
    assert torch.equal(pooled["box"], before)


class OwnPooler(nn.Module):
    """detectron2's, with one number for the cells along both sides."""

    output_size = 7

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *given: Any) -> Tensor:
        return self.pooler(*given)


def test_a_pooler_may_say_one_number_of_cells(detector: Detectron2Detector) -> None:
    heads = detector.model.roi_heads
    expected = detector.weight_maps()["fc"]
    heads.box_pooler = OwnPooler(heads.box_pooler)
    changed = Detectron2Detector(detector.model, NAMES, 64, 128)
    assert torch.equal(changed.weight_maps()["fc"], expected)
    with torch.inference_mode():
        assert changed.pool(changed.extract(noise()), BOXES)["box"].shape[-2:] == (7, 7)


def test_random_weights_are_made_on_the_cpu(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are spread by what the detector says of an image, which depends on the device in its last digits."""
    devices = []
    monkeypatch.setattr(
        opening, "spread_outputs", lambda made, *_: devices.append(made.device.type)
    )
    path = write_config(tmp_path, FASTER, OF_THREE)
    opened = open_detectron2(str(path), "random", NAMES, "meta")
    assert devices == ["cpu"]
    assert opened.device.type == "meta"
