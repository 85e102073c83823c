from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from rethink_heads.detectors.base import HeadOutput, supports
from rethink_heads.detectors.checking import check_detector
from rethink_heads.detectors.torchvision.adapter import TorchvisionDetector
from rethink_heads.detectors.torchvision.opening import open_torchvision
from rethink_heads.errors import UserError
from tests.detectors.torchvision.own_rules import kept_detections
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

BUILDERS = {
    "fasterrcnn_resnet50_fpn_v2": "conv-fc",
    "fasterrcnn_mobilenet_v3_large_fpn": "fc",
    "maskrcnn_resnet50_fpn": "fc",
}
IMAGES = 2
MOST = {"maskrcnn_resnet50_fpn": 30}
"""Detections kept, where torchvision goes on to masks of each."""

OwnResults = tuple[dict[str, Tensor], Tensor, Tensor]


@pytest.fixture(scope="module", params=BUILDERS)
def detector(request: pytest.FixtureRequest) -> TorchvisionDetector:
    """A whole architecture on small images with fewer proposals, for the time that it takes."""
    found = open_torchvision(request.param, "random")
    assert found.heads == (BUILDERS[request.param],)
    found.model.transform.min_size, found.model.transform.max_size = (192,), 256
    found.model.rpn._post_nms_top_n = {"training": 200, "testing": 200}
    found.model.roi_heads.detections_per_img = MOST.get(request.param, 100)
    return found


@pytest.fixture(scope="module")
def images(shared_data: Path) -> list[Tensor]:
    paths = sorted((shared_data / "coco-sample" / "val2017").glob("*.jpg"))[:IMAGES]
    pixels = [np.array(Image.open(path).convert("RGB")) for path in paths]
    return [torch.from_numpy(each).permute(2, 0, 1) for each in pixels]


@pytest.fixture(scope="module")
def own(detector: TorchvisionDetector, images: list[Tensor]) -> list[OwnResults]:
    return [own_forward(detector.model, image) for image in images]


def own_forward(model: nn.Module, image: Tensor) -> OwnResults:
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


def assert_same(
    output: HeadOutput, results: dict[str, Tensor], scale: Tensor, image: Tensor, most: int = 100
) -> None:
    """What is left of the output by torchvision's rules is the model's own result, to 1e-4 relative."""
    kept = kept_detections(output, (scale[0].item(), scale[1].item()), most=most)
    assert len(kept) == len(results["scores"]) > 5
    scores, labels, boxes = (np.array(values) for values in zip(*kept, strict=True))
    np.testing.assert_allclose(scores, results["scores"].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(labels + 1, results["labels"].numpy())
    # Relative to the sides of the image, of which coordinates near 0 are differences.
    sides = np.array([image.shape[2], image.shape[1]] * 2)
    np.testing.assert_allclose(
        boxes / sides, results["boxes"].numpy() / sides, atol=1e-6, rtol=1e-4
    )


def test_the_models_own_proposals_give_its_own_results(
    detector: TorchvisionDetector, images: list[Tensor], own: list[OwnResults]
) -> None:
    for image, (results, proposals, scale) in zip(images, own, strict=True):
        output = through(detector, image, proposals)
        spread = output.scores.amax(1)
        assert len(spread.unique()) > 100
        assert 0.01 < spread.std() < 1
        most = detector.model.roi_heads.detections_per_img
        assert_same(output, results, scale, image, most)


def test_detect_is_the_models_own_forward_pass(
    detector: TorchvisionDetector, images: list[Tensor], own: list[OwnResults]
) -> None:
    for image, (results, proposals, _) in zip(images, own, strict=True):
        ((head, found),) = detector.detect(image).items()
        assert (head,) == detector.heads
        torch.testing.assert_close(found.boxes, results["boxes"])
        torch.testing.assert_close(found.scores, results["scores"])
        assert torch.equal(found.labels + 1, results["labels"])
        with torch.inference_mode():
            torch.testing.assert_close(detector.propose(image)[1], proposals, rtol=1e-5, atol=1e-4)


def test_maps_are_those_of_an_independent_computation(
    detector: TorchvisionDetector, images: list[Tensor]
) -> None:
    height, width = images[0].shape[1:]
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.3, 0.1, 0.9, 0.5]])
    boxes = boxes * torch.tensor([width, height, width, height])
    with torch.inference_mode():
        pooled = detector.pool(detector.extract(images[0]), boxes)
        maps = detector.output_maps(pooled)
    values = pooled["box"].double()
    head = detector.model.roi_heads.box_head
    if detector.heads == ("conv-fc",):
        for block in list(head)[:4]:
            layer, norm = block[0], block[1]
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            values = F.conv2d(values, layer.weight.double(), padding=1)
            values = (values * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        close_in_norm(maps.pop("conv"), values)
    first = next(layer for layer in head.modules() if isinstance(layer, nn.Linear))
    assert set(maps) == {"fc"}
    assert maps["fc"].shape == (2, first.out_features, 7, 7)
    # By the columns of the weights that meet each cell.
    columns = first.weight.detach().double().reshape(first.out_features, -1, 49)
    cells = values.reshape(2, -1, 49)
    for cell in range(49):
        expected = cells[:, :, cell] @ columns[:, :, cell].T
        close_in_norm(maps["fc"][:, :, cell // 7, cell % 7], expected)
    (weights,) = detector.weight_maps().values()
    assert torch.equal(weights.reshape(first.out_features, -1), first.weight)


def close_in_norm(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert expected.norm() > 0


def test_no_boxes_have_the_right_shapes(detector: TorchvisionDetector) -> None:
    image = torch.zeros(3, 100, 150, dtype=torch.uint8)
    output = through(detector, image, torch.zeros(0, 4))
    classes = len(detector.class_names)
    assert output.scores.shape == (0, classes)
    assert output.boxes.shape == (0, classes, 4)


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
    results, proposals, scale = own_forward(model, image)
    assert_same(through(detector, image, proposals), results, scale, image)
    found = detector.detect(image)[kind]
    torch.testing.assert_close(found.boxes, results["boxes"])
    torch.testing.assert_close(found.scores, results["scores"])
    with torch.inference_mode():
        pooled = detector.pool(detector.extract(image), proposals[:4])
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
        own_results, proposals, scale = own_forward(small_model().eval(), second)
        detector = TorchvisionDetector(small_model(), CLASSES)
        own_forward(detector.model, first)
        assert_same(through(detector, second, proposals), own_results, scale, second)
        detector.model.roi_heads.box_roi_pool.scales = [1.0]
        found = detector.detect(second)["box"]
        torch.testing.assert_close(found.boxes, own_results["boxes"])
        torch.testing.assert_close(found.scores, own_results["scores"])


@torch.inference_mode()
def test_features_of_two_images_are_pooled_alike_in_any_order() -> None:
    detector = TorchvisionDetector(small_model(TwoMLPHead(CHANNELS * CELLS**2, WIDTH)), CLASSES)
    boxes = torch.tensor([[3.0, 2.0, 60.0, 18.0], [20.0, 5.0, 90.0, 15.0]])
    ordinary, narrow = (detector.extract(image_of(*size)) for size in ((120, 170), (20, 1600)))
    alone = [detector.pool(each, boxes)["box"] for each in (narrow, ordinary)]
    scales = []
    for features, expected in ((ordinary, alone[1]), (narrow, alone[0])):
        assert torch.equal(detector.pool(features, boxes)["box"], expected)
        scales += detector.model.roi_heads.box_roi_pool.scales
    assert scales[0] != scales[1]


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


def test_zeroed_cells_change_what_is_predicted() -> None:
    detector = TorchvisionDetector(small_model(), CLASSES)
    boxes = torch.tensor([[10.0, 10.0, 60.0, 80.0]])
    with torch.inference_mode():
        features = detector.extract(image_of())
        pooled = detector.pool(features, boxes)
        zeroed = {name: torch.zeros_like(value) for name, value in pooled.items()}
        full, none = (detector.predict(features, each, boxes)["box"] for each in (pooled, zeroed))
    assert not torch.allclose(full.scores, none.scores)


class OwnRules(RoIHeads):
    def postprocess_detections(self, *given: object) -> tuple[list, list, list]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: RetinaNet(OneLevel(), 3), "RetinaNet is no two-stage detector"),
        (lambda: nn.DataParallel(small_model()), "DataParallel is no two-stage"),
        (lambda: with_roi_heads(OwnRules), "OwnRules has a postprocess_detections of its own"),
        (lambda: with_roi_heads(None), "Identity is no RoIHeads"),
    ],
)
def test_what_is_no_two_stage_detector_is_refused(model: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        TorchvisionDetector(model(), CLASSES)


def with_roi_heads(kind: type[RoIHeads] | None) -> nn.Module:
    model = small_model()
    if kind is None:
        model.roi_heads = nn.Identity()
    else:
        model.roi_heads.__class__ = kind
    return model


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
