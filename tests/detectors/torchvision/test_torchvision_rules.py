"""Live modules that do something by rules, sizes or numbers of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from rethink_heads.detectors.torchvision.adapter import TorchvisionDetector
from rethink_heads.errors import UserError
from tests.detectors.torchvision.small_models import CELLS, CHANNELS, CLASSES, WIDTH, small_model

BOXES = torch.tensor([[10.0, 10.0, 60.0, 80.0], [5.0, 30.0, 120.0, 110.0]])


@pytest.fixture(scope="module")
def image() -> Tensor:
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 6, 8, generator=random)
    return (F.interpolate(coarse, (120, 170)) * 255).to(torch.uint8)[0]


class OwnForward(FasterRCNN):
    def forward(self, images: Any, targets: Any = None) -> Any:
        return super().forward([1 - each for each in images], targets)


class OwnResults(FasterRCNN):
    def eager_outputs(self, losses: Any, detections: Any) -> Any:
        return super().eager_outputs(losses, detections)


class OwnParts(FasterRCNN):
    def said(self) -> str:
        return "nothing of what it makes of an image"


@pytest.mark.parametrize(("kind", "step"), [(OwnForward, "forward"), (OwnResults, "eager_outputs")])
def test_a_model_with_steps_of_its_own_is_refused(kind: type[FasterRCNN], step: str) -> None:
    model = small_model()
    model.__class__ = kind
    with pytest.raises(UserError, match=f"this {kind.__name__} .* has a {step} of its own"):
        TorchvisionDetector(model, CLASSES)
    model.__class__ = OwnParts
    assert TorchvisionDetector(model, CLASSES).heads == ("box",)
    model.forward = lambda images: []  # type: ignore[method-assign]
    with pytest.raises(UserError, match="has a forward of its own"):
        TorchvisionDetector(model, CLASSES)


class OwnPooler(nn.Module):
    """torchvision's, with one number for the cells along both sides."""

    output_size = CELLS

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *given: Any) -> Tensor:
        return self.pooler(*given)


def test_a_pooler_may_say_one_number_of_cells(image: Tensor) -> None:
    model = small_model(TwoMLPHead(CHANNELS * CELLS**2, WIDTH))
    model.roi_heads.box_roi_pool = OwnPooler(model.roi_heads.box_roi_pool)
    detector = TorchvisionDetector(model, CLASSES)
    assert detector.weight_maps()["fc"].shape == (WIDTH * CHANNELS, CELLS, CELLS)
    with torch.inference_mode():
        pooled = detector.pool(detector.extract(image), BOXES)
    assert pooled["box"].shape == (2, CHANNELS, CELLS, CELLS)


def test_a_model_in_float64_says_what_it_says_in_float64(image: Tensor) -> None:
    model = small_model().double()
    detector = TorchvisionDetector(model, CLASSES)
    with torch.inference_mode():
        expected = model([image.double() / 255])[0]
        features, proposals = detector.propose(image)
        output = detector.predict(features, detector.pool(features, BOXES), BOXES)["box"]
    found = detector.detect(image)["box"]
    assert len(found.scores) > 5
    torch.testing.assert_close(found.boxes, expected["boxes"].float())
    torch.testing.assert_close(found.scores, expected["scores"].float())
    # What comes out of the model's precision is in that of the boxes that are given to it.
    for each in (proposals, output.scores, output.boxes, found.boxes, found.scores):
        assert each.dtype == torch.float32
    single = TorchvisionDetector(copy.deepcopy(model).float(), CLASSES)
    with torch.inference_mode():
        features = single.extract(image)
        near = single.predict(features, single.pool(features, BOXES), BOXES)["box"]
    torch.testing.assert_close(output.scores, near.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda model: model.half(), "float16"),
        (lambda model: model.bfloat16(), "bfloat16"),
        (lambda model: model.backbone.half(), "float16 and float32"),
    ],
)
def test_other_precisions_are_refused(change: Callable[[FasterRCNN], Any], named: str) -> None:
    model = small_model()
    change(model)
    with pytest.raises(UserError, match=f"FasterRCNN are in {named}, .* by its method float()"):
        TorchvisionDetector(model, CLASSES)


def _set(path: str, value: Any) -> Callable[[nn.Module], None]:
    """A change of one attribute of a module within."""
    place, _, name = path.rpartition(".")
    return lambda model: setattr(model.get_submodule(place), name, value)


def _coder(model: nn.Module) -> None:
    model.roi_heads.box_coder.weights = (1.0, 1.0, 1.0, 1.0)


def _buffer(model: nn.Module) -> None:
    model.backbone.register_buffer("shift", torch.ones(2), persistent=False)


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "score": _set("roi_heads.score_thresh", 0.3),
    "nms": _set("roi_heads.nms_thresh", 0.4),
    "detections": _set("roi_heads.detections_per_img", 7),
    "size": _set("transform.min_size", (200,)),
    "mean": _set("transform.image_mean", [0.0, 0.0, 0.0]),
    "coder": _coder,
    "proposals": _set("rpn._post_nms_top_n", {"training": 1, "testing": 2}),
    "ratios": _set("rpn.anchor_generator.aspect_ratios", ((0.5, 1.0, 3.0),)),
    "samples": _set("roi_heads.box_roi_pool.sampling_ratio", 0),
    "own": _set("roi_heads.box_predictor.outputs", 3),
    "buffer": _buffer,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_configuration_changes_with_each_setting(change: str) -> None:
    detector = TorchvisionDetector(small_model(), CLASSES)
    before = detector.configuration
    assert TorchvisionDetector(small_model(), CLASSES).configuration == before
    CHANGES[change](detector.model)
    assert detector.configuration != before


def test_the_configuration_is_not_of_weights_and_of_what_was_seen(image: Tensor) -> None:
    detector = TorchvisionDetector(small_model(), CLASSES)
    before = detector.configuration
    detector.detect(image)
    assert detector.configuration == before
    assert " at 0x" not in before
    with torch.no_grad():
        next(detector.model.parameters()).add_(1)
    assert detector.configuration == before
    detector.class_names = tuple(reversed(CLASSES))
    assert detector.configuration != before
