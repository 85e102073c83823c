"""torchvision's detectors behind our interface say what they say, whatever rules, sizes or numbers they have."""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from rethink_heads.detectors.answers import check_detector
from rethink_heads.detectors.base import HeadOutput, supports
from rethink_heads.detectors.torchvision.adapter import TorchvisionDetector
from rethink_heads.detectors.torchvision.opening import open_torchvision
from rethink_heads.errors import UserError
from tests.detectors.torchvision.small_models import (
    CELLS,
    CHANNELS,
    CLASSES,
    WIDTH,
    OneLevel,
    OwnPredictor,
    RowsHead,
    small_model,
)
from tests.heads.reference import kept_detections

BUILDERS = {
    "fasterrcnn_resnet50_fpn_v2": "conv-fc",
    "maskrcnn_resnet50_fpn": "fc",
}

ModelResults = tuple[dict[str, Tensor], Tensor, Tensor]


@pytest.fixture(scope="module", params=BUILDERS)
def detector(request: pytest.FixtureRequest) -> TorchvisionDetector:
    """A whole architecture on small images with fewer proposals, for the time that it takes."""
    found = open_torchvision(request.param, "random")
    assert found.heads == (BUILDERS[request.param],)
    found.model.transform.min_size, found.model.transform.max_size = (192,), 256
    found.model.rpn._post_nms_top_n = {"training": 200, "testing": 200}
    # torchvision's Mask R-CNN goes on to a mask of each.
    found.model.roi_heads.detections_per_img = 30
    return found


def own_forward(model: nn.Module, image: Tensor) -> ModelResults:
    """The model's own results, the proposals that they came from in pixels of the image, and the (x, y) scale."""
    caught: dict[str, Tensor] = {}

    def keep(_: nn.Module, given: tuple, found: tuple) -> None:
        height, width = given[0].image_sizes[0]
        size = torch.tensor([width, height], dtype=torch.float64)
        caught["scale"] = size / torch.tensor([image.shape[2], image.shape[1]])
        caught["proposals"] = found[0][0]

    hook = model.rpn.register_forward_hook(keep)
    with torch.inference_mode():
        results = model([image / 255])[0]
    hook.remove()
    proposals = (caught["proposals"].double() / caught["scale"].repeat(2)).float()
    return results, proposals, caught["scale"]


def through(detector: TorchvisionDetector, image: Tensor, boxes: Tensor) -> HeadOutput:
    with torch.inference_mode():
        features = detector.extract(image)
        outputs = detector.predict(features, detector.pool(features, boxes), boxes)
    (output,) = outputs.values()
    return output


def assert_own_results(detector: TorchvisionDetector, image: Tensor, own: ModelResults) -> None:
    """What predict says of the model's proposals, by torchvision's rules, and detect are the model's own results."""
    results, proposals, scale = own
    output = through(detector, image, proposals)
    # torchvision measures the sides in the resized image.
    boxes, scores, labels = kept_detections(
        output.scores,
        output.boxes,
        (0.01 / scale).tolist(),
        most=detector.model.roi_heads.detections_per_img,
    )
    assert len(scores) == len(results["scores"]) > 5
    np.testing.assert_allclose(scores, results["scores"].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(labels + 1, results["labels"].numpy())
    # Relative to the sides of the image, of which coordinates near 0 are differences.
    sides = np.array([image.shape[2], image.shape[1]] * 2)
    np.testing.assert_allclose(
        boxes / sides, results["boxes"].numpy() / sides, atol=1e-6, rtol=1e-4
    )
    ((head, found),) = detector.detect(image).items()
    assert (head,) == detector.heads
    torch.testing.assert_close(found.boxes, results["boxes"])
    torch.testing.assert_close(found.scores, results["scores"])
    assert torch.equal(found.labels + 1, results["labels"])


def test_a_whole_model_gives_its_own_results(
    detector: TorchvisionDetector, photograph: Tensor
) -> None:
    own = own_forward(detector.model, photograph)
    spread = through(detector, photograph, own[1]).scores.amax(1)
    assert len(spread.unique()) > 100
    assert 0.01 < spread.std() < 1
    assert_own_results(detector, photograph, own)
    with torch.inference_mode():
        proposals = detector.propose(photograph)[1]
    torch.testing.assert_close(proposals, own[1], rtol=1e-5, atol=1e-4)


BOXES = torch.tensor([[10.0, 10.0, 60.0, 80.0], [5.0, 30.0, 120.0, 110.0]])


@pytest.fixture(scope="module")
def image() -> Tensor:
    return image_of()


def image_of(height: int = 120, width: int = 170) -> Tensor:
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 6, 8, generator=random)
    return (F.interpolate(coarse, (height, width)) * 255).to(torch.uint8)[0]


LIVE = {
    "box": (RowsHead, None),
    "fc": (lambda: TwoMLPHead(CHANNELS * CELLS**2, WIDTH), (WIDTH, CELLS)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(CHANNELS, WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (WIDTH, CELLS),
    ),
}


@pytest.mark.parametrize("kind", LIVE)
def test_a_users_own_model_gives_its_own_results(kind: str) -> None:
    make, shape = LIVE[kind]
    model = small_model(make())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    detector = TorchvisionDetector(model, CLASSES)
    assert detector.heads == (kind,)
    assert all(supports(detector, method) for method in ("propose", "detect", "output_maps"))
    check_detector(detector)
    image = image_of()
    own = own_forward(model, image)
    assert_own_results(detector, image, own)
    with torch.inference_mode():
        pooled = detector.pool(detector.extract(image), own[1][:4])
        maps = detector.output_maps(pooled)
    assert {part: tuple(value.shape) for part, value in maps.items()} == (
        {} if shape is None else {kind: (4, shape[0], shape[1], shape[1])}
    )
    assert set(detector.weight_maps()) == {"fc"} & {kind}
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_image_has_its_own_scales_whatever_was_shown_before() -> None:
    # Of 2 x 160 pixels after resizing: torchvision infers another scale from its single row of cells.
    ordinary, narrow = image_of(), image_of(20, 1600)
    for first, second in ((narrow, ordinary), (ordinary, narrow)):
        own = own_forward(small_model().eval(), second)
        detector = TorchvisionDetector(small_model(), CLASSES)
        own_forward(detector.model, first)
        detector.model.roi_heads.box_roi_pool.scales = [1.0]
        assert_own_results(detector, second, own)


class LevelsOfMyOwn:
    def __call__(self, boxes: list[Tensor]) -> Tensor:
        return torch.zeros(len(boxes[0]), dtype=torch.int64)


@torch.inference_mode()
def test_scales_that_a_user_has_set_stay() -> None:
    detector = TorchvisionDetector(small_model(), CLASSES)
    pooler = detector.model.roi_heads.box_roi_pool
    pooler.scales, pooler.map_levels = [1 / 16], LevelsOfMyOwn()
    boxes = torch.tensor([[3.0, 2.0, 60.0, 18.0]])
    features = detector.extract(image_of())
    expected = pooler(features.pyramid, [features.to_resized(boxes)], [features.size])
    torch.testing.assert_close(detector.pool(features, boxes)["box"], expected)
    assert pooler.scales == [1 / 16]


def test_predict_leaves_the_roi_features_as_they_were() -> None:
    detector = TorchvisionDetector(small_model(RowsHead()), CLASSES)
    boxes = torch.tensor([[10.0, 10.0, 60.0, 80.0]])
    with torch.inference_mode():
        features = detector.extract(image_of())
        pooled = detector.pool(features, boxes)
        before = pooled["box"].clone()
        detector.predict(features, pooled, boxes)
    assert bool((before < 0).any())
    assert torch.equal(pooled["box"], before)


@pytest.mark.parametrize("part", ["backbone", "roi_heads.box_head"])
def test_numbers_that_are_not_finite_are_no_empty_answer(part: str) -> None:
    detector = TorchvisionDetector(small_model(), CLASSES)
    assert len(detector.detect(image_of())["box"].scores) > 0
    for parameter in detector.model.get_submodule(part).parameters():
        nn.init.constant_(parameter, torch.nan)
    says = (
        "the detector's (backbone gave features|box predictor gave logits or deltas) that are not"
    )
    with pytest.raises(UserError, match=says):
        detector.detect(image_of())


class OwnRules(RoIHeads):
    def postprocess_detections(self, *given: object) -> tuple[list, list, list]:
        raise NotImplementedError


class OwnForward(FasterRCNN):
    def forward(self, images: Any, targets: Any = None) -> Any:
        return super().forward([1 - each for each in images], targets)


class OwnResults(FasterRCNN):
    def eager_outputs(self, losses: Any, detections: Any) -> Any:
        return super().eager_outputs(losses, detections)


class OwnParts(FasterRCNN):
    def said(self) -> str:
        return "nothing of what it makes of an image"


def small_with(place: str, name: str, value: Any) -> FasterRCNN:
    """A small model with another attribute."""
    model = small_model()
    setattr(model.get_submodule(place), name, value)
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: RetinaNet(OneLevel(), 3), "RetinaNet is no two-stage detector"),
        (lambda: nn.DataParallel(small_model()), "DataParallel is no two-stage"),
        (
            lambda: small_with("roi_heads", "__class__", OwnRules),
            "OwnRules has a postprocess_detections of its own",
        ),
        (lambda: small_with("", "roi_heads", nn.Identity()), "Identity is no RoIHeads"),
        (
            lambda: small_with("", "__class__", OwnForward),
            "this OwnForward .* has a forward of its own",
        ),
        (
            lambda: small_with("", "__class__", OwnResults),
            "this OwnResults .* has a eager_outputs of its own",
        ),
        (lambda: small_with("", "forward", lambda images: []), "has a forward of its own"),
        (lambda: small_model().half(), r"FasterRCNN are in float16, .* by its method float\(\)"),
        (lambda: small_model().bfloat16(), "FasterRCNN are in bfloat16, "),
        (
            lambda: small_with("", "backbone", OneLevel().half()),
            "FasterRCNN are in float16 and float32, ",
        ),
    ],
)
def test_models_that_are_refused(model: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        TorchvisionDetector(model(), CLASSES)


def test_a_subclass_that_changes_no_step_is_taken() -> None:
    model = small_with("", "__class__", OwnParts)
    assert TorchvisionDetector(model, CLASSES).heads == ("box",)


def test_class_names_must_fit_in_number() -> None:
    model = small_model(predictor=OwnPredictor(4))
    detector = TorchvisionDetector(model, ("a", "b"))
    boxes = torch.tensor([[10.0, 10.0, 60.0, 80.0]])
    with pytest.raises(UserError, match="2 class names for a detector of 3 classes"):
        through(detector, image_of(), boxes)
    model.roi_heads.box_predictor.cls_score = nn.Linear(WIDTH, 4)
    with pytest.raises(UserError, match="2 class names for a detector of 3 classes"):
        TorchvisionDetector(model, ("a", "b"))


def test_one_box_for_all_classes_is_refused() -> None:
    model = small_model(predictor=OwnPredictor(4, 1))
    detector = TorchvisionDetector(model, CLASSES)
    with pytest.raises(UserError, match="4 box deltas for 4 classes with background"):
        through(detector, image_of(), torch.tensor([[10.0, 10.0, 60.0, 80.0]]))


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
    ("name", "value"),
    [
        ("roi_heads.score_thresh", 0.3),
        ("roi_heads.nms_thresh", 0.4),
        ("roi_heads.detections_per_img", 7),
        ("transform.min_size", (200,)),
        ("transform.image_mean", [0.0, 0.0, 0.0]),
        ("roi_heads.box_coder.weights", (1.0, 1.0, 1.0, 1.0)),
        ("rpn._post_nms_top_n", {"training": 1, "testing": 2}),
        ("rpn.anchor_generator.aspect_ratios", ((0.5, 1.0, 3.0),)),
        ("roi_heads.box_roi_pool.sampling_ratio", 0),
        ("roi_heads.box_predictor.outputs", 3),
    ],
)
def test_the_configuration_changes_with_each_setting(name: str, value: Any) -> None:
    detector = TorchvisionDetector(small_model(), CLASSES)
    before = detector.configuration
    assert TorchvisionDetector(small_model(), CLASSES).configuration == before
    place, _, attribute = name.rpartition(".")
    setattr(operator.attrgetter(place)(detector.model), attribute, value)
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
    # A buffer that no state dict has is none of the weights.
    before = detector.configuration
    detector.model.backbone.register_buffer("shift", torch.ones(2), persistent=False)
    assert detector.configuration != before
