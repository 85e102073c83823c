"""What the adapter needs of a detectron2 model, and the sentences for models that have something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.box_regression import Box2BoxTransformRotated
from detectron2.modeling.roi_heads import RROIHeads, StandardROIHeads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from rethink_heads.detectors.base import supports
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import open_detectron2
from rethink_heads.errors import UserError
from tests.detectors.detectron2.predictors import (
    FASTER,
    NAMES,
    OF_THREE,
    built,
    noise,
    write_config,
)
from tests.detectors.detectron2.small_detectors import small_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return built()


def test_a_cascade_is_refused_in_one_sentence(tmp_path: Path) -> None:
    cascade = OF_THREE | {
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


@pytest.mark.parametrize("part", ["backbone.fpn_output2", "roi_heads.box_predictor"])
def test_numbers_that_are_not_finite_are_no_empty_answer(part: str) -> None:
    diverged = built()
    for parameter in diverged.get_submodule(part).parameters():
        nn.init.constant_(parameter, torch.nan)
    says = (
        "the detector's (backbone gave features|box predictor gave logits or deltas) that are not"
    )
    with pytest.raises(UserError, match=says):
        Detectron2Detector(diverged, NAMES, 64, 128).detect(noise())


def test_our_heads_numbers_that_are_not_finite_are_told() -> None:
    diverged = small_model("double", MODEL__ROI_HEADS__NUM_CLASSES=len(NAMES))
    for parameter in diverged.roi_heads.heads.parameters():
        nn.init.constant_(parameter, torch.nan)
    with pytest.raises(UserError, match=r"head '.*' gave scores or boxes that are not finite"):
        Detectron2Detector(diverged, NAMES, 64, 128).detect(noise())


class _OwnSteps(StandardROIHeads):
    def _forward_box(self, features: Any, proposals: Any) -> Any:
        return super()._forward_box(features, proposals)


class _OwnMasks(StandardROIHeads):
    def _forward_mask(self, features: Any, instances: Any) -> Any:
        return super()._forward_mask(features, instances)


def test_heads_with_other_steps_are_refused_others_not(model: nn.Module) -> None:
    try:
        model.roi_heads.__class__ = _OwnMasks
        assert Detectron2Detector(model, NAMES).heads == ("fc",)
        model.roi_heads.__class__ = _OwnSteps
        with pytest.raises(UserError, match=r"_OwnSteps, which replaces `_forward_box`"):
            Detectron2Detector(model, NAMES)
    finally:
        model.roi_heads.__class__ = StandardROIHeads


class _OwnInference(GeneralizedRCNN):
    def inference(self, *given: Any, **named: Any) -> Any:
        return super().inference(*given, **named)


class _OwnPixels(GeneralizedRCNN):
    def preprocess_image(self, batched_inputs: Any) -> Any:
        return super().preprocess_image(batched_inputs)


class _OwnForward(GeneralizedRCNN):
    def forward(self, batched_inputs: Any) -> Any:
        return super().forward(batched_inputs)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (_OwnInference, "inference"),
        (_OwnPixels, "preprocess_image"),
        (_OwnForward, "forward"),
    ],
)
def test_a_model_with_steps_of_its_own_is_refused(
    kind: type[nn.Module], step: str, model: nn.Module
) -> None:
    try:
        model.__class__ = kind
        with pytest.raises(UserError, match=f"this {kind.__name__} .* has a {step} of its own"):
            Detectron2Detector(model, NAMES)
        # detectron2's own, whose boxes come about as those of its base.
        model.__class__ = PanopticFPN
        assert Detectron2Detector(model, NAMES).heads == ("fc",)
    finally:
        model.__class__ = GeneralizedRCNN


def test_rotated_boxes_are_refused(model: nn.Module) -> None:
    predictor, heads = model.roi_heads.box_predictor, model.roi_heads
    before = predictor.box2box_transform
    rotated = Box2BoxTransformRotated((10.0, 10.0, 5.0, 5.0, 1.0))
    try:
        heads.__class__ = RROIHeads
        with pytest.raises(UserError, match=r"has RROIHeads, which gives rotated boxes"):
            Detectron2Detector(model, NAMES)
        heads.__class__ = StandardROIHeads
        predictor.box2box_transform = rotated
        with pytest.raises(UserError, match=r"has Box2BoxTransformRotated, which gives rotated"):
            Detectron2Detector(model, NAMES)
    finally:
        heads.__class__, predictor.box2box_transform = StandardROIHeads, before


def test_a_predictor_that_does_not_answer_for_boxes_is_refused(model: nn.Module) -> None:
    before = model.roi_heads.box_predictor
    try:
        model.roi_heads.box_predictor = nn.Identity()
        with pytest.raises(UserError, match="box predictor Identity has no `predict_probs`"):
            Detectron2Detector(model, NAMES)
    finally:
        model.roi_heads.box_predictor = before


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


def test_channels_come_in_the_order_that_is_said(model: nn.Module) -> None:
    image = noise()
    fed = {order: Detectron2Detector(model, NAMES, 0, 0, order) for order in ("BGR", "RGB")}
    seen = {order: detector._resized(image) for order, detector in fed.items()}
    torch.testing.assert_close(seen["RGB"], image.float())
    torch.testing.assert_close(seen["BGR"], image.flip(0).float())
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


@pytest.fixture(scope="module")
def features_of_noise(model: nn.Module) -> tuple[Detectron2Detector, Any]:
    detector = Detectron2Detector(model, NAMES, 64, 128)
    with torch.inference_mode():
        return detector, detector.extract(noise())


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(*[st.floats(0, 50, width=32)] * 2, *[st.floats(1, 60, width=32)] * 2)),
    st.randoms(use_true_random=False),
)
def test_what_is_said_of_a_box_does_not_depend_on_the_others(
    features_of_noise: tuple[Detectron2Detector, Any], corners: list[Any], random: Any
) -> None:
    detector, features = features_of_noise
    boxes = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in corners]).reshape(-1, 4)
    order = list(range(len(boxes)))
    random.shuffle(order)

    def said(asked: torch.Tensor) -> Any:
        with torch.inference_mode():
            return detector.predict(features, detector.pool(features, asked), asked)["fc"]

    together, shuffled = said(boxes), said(boxes[order])
    torch.testing.assert_close(together.scores[order], shuffled.scores)
    torch.testing.assert_close(together.boxes[order], shuffled.boxes, rtol=1e-5, atol=1e-3)
    limits = torch.tensor([80.0, 60, 80, 60])
    assert ((together.boxes >= 0) & (together.boxes <= limits)).all()
    assert (together.scores.sum(dim=1) <= 1 + 1e-5).all()
