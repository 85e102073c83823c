"""What the adapter needs of a detectron2 model, and what of a model stands beside its weights."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import detectron2
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.box_regression import Box2BoxTransformRotated
from detectron2.modeling.roi_heads import RROIHeads, StandardROIHeads
from torch import nn

from rethink_heads.detectors.base import supports
from rethink_heads.detectors.detectron2 import opening
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import open_detectron2
from rethink_heads.errors import UserError
from tests.detectors.detectron2.predictors import (
    FASTER,
    NAMES,
    SMALL_MODEL,
    THREE_CLASSES,
    built,
    noise,
    write_config,
)
from tests.detectors.detectron2.small_detectors import small_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return built()


def test_a_cascade_is_refused_in_one_sentence(tmp_path: Path) -> None:
    cascade = THREE_CLASSES | {
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    }
    path = write_config(tmp_path, FASTER, cascade)
    with pytest.raises(UserError, match=r"^the RoI heads are CascadeROIHeads, .*StandardROIHeads"):
        open_detectron2(str(path), "random", NAMES)


def test_the_model_is_in_evaluation_and_its_weights_stay(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    detector = Detectron2Detector(model.train(), NAMES, 64, 128)
    detector.detect(noise())
    assert not any(module.training for module in detector.model.modules())
    after = detector.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("head", "part", "says"),
    [
        (None, "backbone.fpn_output2", "the detector's backbone gave features that are not"),
        (None, "roi_heads.box_predictor", "box predictor gave logits or deltas that are not"),
        ("double", "roi_heads.heads", "head '.*' gave scores or boxes that are not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_no_empty_answer(
    head: str | None, part: str, says: str
) -> None:
    classes = {"MODEL__ROI_HEADS__NUM_CLASSES": len(NAMES)}
    diverged = built() if head is None else small_model(head, **classes)
    for parameter in diverged.get_submodule(part).parameters():
        nn.init.constant_(parameter, torch.nan)
    with pytest.raises(UserError, match=says):
        Detectron2Detector(diverged, NAMES, 64, 128).detect(noise())


def own(kind: type, *steps: str) -> type:
    """A class that does what its base does, with steps of its own."""
    own_steps = {step: lambda self, *given, **named: None for step in steps}
    return type(f"Own{kind.__name__}", (kind,), own_steps)


ROTATED = Box2BoxTransformRotated((10.0, 10.0, 5.0, 5.0, 1.0))


@pytest.mark.parametrize(
    ("place", "attribute", "value", "says"),
    [
        *(
            ("", "__class__", own(GeneralizedRCNN, step), f"has a {step} of its own")
            for step in ("inference", "preprocess_image", "forward")
        ),
        # detectron2's own, whose boxes come about as those of its base.
        ("", "__class__", PanopticFPN, None),
        ("roi_heads", "__class__", own(StandardROIHeads, "_forward_mask"), None),
        (
            "roi_heads",
            "__class__",
            own(StandardROIHeads, "_forward_box"),
            "OwnStandardROIHeads, which replaces `_forward_box`",
        ),
        ("roi_heads", "__class__", RROIHeads, "has RROIHeads, which gives rotated boxes"),
        (
            "roi_heads.box_predictor",
            "box2box_transform",
            ROTATED,
            "has Box2BoxTransformRotated, which gives rotated",
        ),
        (
            "roi_heads",
            "box_predictor",
            nn.Identity(),
            "box predictor Identity has no `predict_probs`",
        ),
    ],
)
def test_models_and_heads_with_steps_of_their_own_are_refused(
    place: str, attribute: str, value: Any, says: str | None, model: nn.Module
) -> None:
    part = model.get_submodule(place)
    before = getattr(part, attribute)
    setattr(part, attribute, value)
    try:
        if says is None:
            assert Detectron2Detector(model, NAMES).heads == ("fc",)
            return
        with pytest.raises(UserError, match=says):
            Detectron2Detector(model, NAMES)
    finally:
        setattr(part, attribute, before)


def test_boxes_of_other_than_4_coordinates_are_refused(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detectron2Detector(model, NAMES, 64, 128)
    predictor = type(model.roi_heads.box_predictor)
    monkeypatch.setattr(predictor, "predict_boxes", lambda *_: [torch.zeros(1, 15)])
    boxes = torch.tensor([[3.0, 4, 40, 50]])
    with torch.inference_mode():
        features = detector.extract(noise())
        pooled = detector.pool(features, boxes)
        with pytest.raises(UserError, match="gives 15 coordinates for 3 classes"):
            detector.predict(features, pooled, boxes)


def test_another_module_is_refused() -> None:
    with pytest.raises(UserError, match="a Linear is no two-stage detector of detectron2"):
        Detectron2Detector(nn.Linear(1, 1), NAMES)


@pytest.mark.parametrize("names", [(), NAMES[:2], (*NAMES, "d")])
def test_class_names_must_fit_in_number(model: nn.Module, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"{len(names)} class names for a detector of 3 classes"):
        Detectron2Detector(model, names)


def test_an_order_of_channels_that_is_unknown_is_refused(model: nn.Module) -> None:
    assert Detectron2Detector(model, NAMES).channel_order == model.input_format == "BGR"
    with pytest.raises(UserError, match=r"channel order 'YUV-BT.601'"):
        Detectron2Detector(model, NAMES, channel_order="YUV-BT.601")


def test_without_an_rpn_only_what_needs_one_is_missing() -> None:
    """detectron2's Fast R-CNN, which is given proposals with its images."""
    given_proposals = built(MODEL__PROPOSAL_GENERATOR__NAME="PrecomputedProposals")
    detector = Detectron2Detector(given_proposals, NAMES, 64, 128)
    found = {name: supports(detector, name) for name in ("propose", "detect")}
    assert found == {"propose": False, "detect": False}
    assert supports(detector, "output_maps")
    assert supports(detector, "weight_maps")
    boxes = torch.tensor([[3.0, 4, 40, 50]])
    with torch.inference_mode():
        features = detector.extract(noise())
        output = detector.predict(features, detector.pool(features, boxes), boxes)["fc"]
    assert output.scores.shape == (1, 3)


BOXES = torch.tensor([[3.0, 4, 40, 50], [10, 5, 70, 55]])


@pytest.fixture
def detector() -> Detectron2Detector:
    return Detectron2Detector(built(), NAMES, 64, 128)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_size", 100),
        ("max_size", 200),
        ("channel_order", "RGB"),
        ("class_names", ("c", "b", "a")),
        ("model.roi_heads.box_predictor.test_score_thresh", 0.3),
    ],
)
def test_the_configuration_changes_with_each_setting(
    name: str, value: Any, detector: Detectron2Detector
) -> None:
    before = detector.configuration
    place, _, attribute = name.rpartition(".")
    setattr(operator.attrgetter(place)(detector) if place else detector, attribute, value)
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


def test_random_weights_are_made_on_the_cpu(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are spread by what the detector says of an image, which depends on the device in its last digits."""
    devices = []
    monkeypatch.setattr(
        opening, "spread_outputs", lambda made, *_: devices.append(made.device.type)
    )
    path = write_config(tmp_path, FASTER, THREE_CLASSES)
    opened = open_detectron2(str(path), "random", NAMES, "meta")
    assert devices == ["cpu"]
    assert opened.device.type == "meta"
