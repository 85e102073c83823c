from __future__ import annotations

import argparse
import hashlib
import re
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import _api as torchvision_weights
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
)

from rethink_heads.detectors.external import as_detector, open_model
from rethink_heads.detectors.torchvision.opening import from_module, open_torchvision
from rethink_heads.errors import UserError
from tests.detectors.torchvision.small_models import WIDTH, OwnPredictor, small_model

SMALLEST = "fasterrcnn_mobilenet_v3_large_320_fpn"
FIVE = ("a", "b", "c", "d", "e")
CLASS_WEIGHT = "roi_heads.box_predictor.cls_score.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights of the smallest builder for five classes."""
    torch.manual_seed(5)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=6
    )
    return model.state_dict()


def predictor(outputs: int) -> nn.Module:
    """A small model's predictor that says how many classes it has."""
    made = OwnPredictor(outputs, outputs)
    made.cls_score = nn.Linear(WIDTH, outputs)
    return made


def write_plain(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "plain.pth")
    return folder / "plain.pth"


def write_as_training_script(state: dict[str, Tensor], folder: Path) -> Path:
    """As torchvision's own training script writes it, from several GPUs."""
    state = {f"module.{name}": value for name, value in state.items()}
    content = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.02, data="coco")}
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def test_files_of_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_as_training_script(state, tmp_path)
    detector = open_torchvision(SMALLEST, str(path), FIVE)
    assert detector.class_names == FIVE
    assert not detector.model.training
    found = detector.model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_file_of_classes_without_names_asks_for_them(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write_plain(state, tmp_path)
    with pytest.raises(UserError, match=r"the 5 classes of the detector are called.*--class-names"):
        open_torchvision(SMALLEST, str(path))
    with pytest.raises(UserError, match="2 class names for a detector of 5 classes"):
        open_torchvision(SMALLEST, str(path), ("a", "b"))


def test_other_precisions_are_computed_in_float32(state: dict[str, Tensor], tmp_path: Path) -> None:
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        converted = {
            f"model.{name}": value.to(kind) if value.is_floating_point() else value
            for name, value in state.items()
        }
        # A module of a training framework may hold more than the model.
        path = write_plain(converted | {"metric": torch.ones(2)}, tmp_path)
        found = open_torchvision(SMALLEST, str(path), FIVE).model.state_dict()[CLASS_WEIGHT]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, converted[f"model.{CLASS_WEIGHT}"].float())


NAN = torch.full((6, 1024), torch.nan)
MISFITS: list[tuple[dict[str, Tensor | None], str]] = [
    ({"rpn.head.bbox_pred.bias": None}, "lacks weights of .*: rpn.head.bbox_pred.bias;"),
    ({"extra": torch.ones(1)}, "has weights that .* lacks: extra;"),
    (
        {"rpn.head.bbox_pred.bias": torch.ones(8)},
        "other sizes than .*: rpn.head.bbox_pred.bias 8 instead of 60;",
    ),
    ({CLASS_WEIGHT: None}, f"has no {CLASS_WEIGHT}"),
    ({CLASS_WEIGHT: NAN}, rf"not finite numbers \({CLASS_WEIGHT}\): its training diverged"),
    ({CLASS_WEIGHT: NAN.double().fill_(1e300)}, rf"not finite numbers \({CLASS_WEIGHT}\)"),
    (
        {CLASS_WEIGHT: torch.zeros(10**8, 0)},
        rf"{CLASS_WEIGHT} has the shape \(100000000, 0\), which is no layer's",
    ),
    (
        {CLASS_WEIGHT: torch.ones(6, 1024, dtype=torch.int8)},
        rf"no floating-point numbers: {CLASS_WEIGHT} of torch\.int8",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISFITS)
def test_weights_that_do_not_fit_are_named(
    changes: dict[str, Tensor | None], message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = {n: value for n, value in (state | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        open_torchvision(SMALLEST, str(write_plain(changed, tmp_path)), FIVE)


def test_the_number_of_keypoints_is_the_files(tmp_path: Path) -> None:
    model = keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, num_keypoints=3
    )
    path = write_plain(model.state_dict(), tmp_path)
    detector = open_torchvision("keypointrcnn_resnet50_fpn", str(path))
    assert detector.class_names == ("person",)
    assert detector.model.roi_heads.keypoint_predictor.out_channels == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fasterrcnn_resnet50", "no detector 'fasterrcnn_resnet50'; .*fasterrcnn_resnet50_fpn"),
        ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn has no second stage.*rcnn_resnet50_fpn"),
        ("resnet50", "no detector 'resnet50'"),
    ],
)
def test_names_that_are_no_two_stage_detector(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_torchvision(name, "random")


@pytest.mark.parametrize("weights", ["IMAGENET", "nowhere/model.pth", "ResNet50_Weights.COCO_V1"])
def test_unknown_weights_name_those_that_there_are(weights: str) -> None:
    with pytest.raises(UserError, match=r"is neither a file nor .*DEFAULT, COCO_V1.*random"):
        open_torchvision(SMALLEST, weights)


def test_weights_must_be_given() -> None:
    with pytest.raises(UserError, match="needs weights: give --weights DEFAULT, COCO_V1"):
        open_torchvision(SMALLEST)


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")]
)
def test_a_failing_download_is_said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision_weights, "load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"cannot be had from https.*check the network"):
        open_torchvision(SMALLEST, "COCO_V1")


def test_a_published_file_is_known_by_its_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights of that file were trained without eps in batch normalisation, which only the builder knows."""
    published = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    name = Path(published.url).name
    made = open_torchvision("fasterrcnn_resnet50_fpn", "random").model.state_dict()
    # As of frozen batch normalisation, and small enough for eps to count.
    made = {k: v for k, v in made.items() if not k.endswith("num_batches_tracked")}
    made["backbone.body.bn1.running_var"] = torch.full((64,), 1e-4)
    path = tmp_path / "renamed.pth"
    torch.save(made, path)
    monkeypatch.setattr(
        torchvision_weights, "load_state_dict_from_url", lambda *_, **__: dict(made)
    )
    own = fasterrcnn_resnet50_fpn(weights=published).eval()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(published.value, "url", f"https://there/models/fasterrcnn-{digest}.pth")
    for weights in ("DEFAULT", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1", str(path)):
        detector = open_torchvision("fasterrcnn_resnet50_fpn", weights)
        assert detector.class_names == tuple(published.meta["categories"][1:])
        assert backbone_difference(detector.model, own) < 1e-5
    assert caplog.records == []
    other = tmp_path / name
    torch.save(made | {"backbone.body.bn1.weight": torch.ones(64)}, other)
    detector = open_torchvision("fasterrcnn_resnet50_fpn", str(other))
    assert detector.model.backbone.body.bn1.eps == 1e-5
    assert re.search(rf"{name} does not say the eps .* 1e-5 is assumed", caplog.text)


def test_what_a_user_declared_safe_stays_so(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = str(write_as_training_script(state, tmp_path))
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        open_torchvision(SMALLEST, path, FIVE)
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
    open_torchvision(SMALLEST, path, FIVE)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def backbone_difference(first: nn.Module, second: nn.Module) -> float:
    """The norm of the difference between two models' features, relative to the second's."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = (model.backbone(image)["0"] for model in (first, second))
    return ((found - expected).norm() / expected.norm()).item()


def test_random_weights_are_the_same_each_time_and_for_any_classes() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (open_torchvision(SMALLEST, "random", FIVE).model.state_dict() for _ in "12")
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first["roi_heads.box_predictor.cls_score.weight"]) == 6
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_random_weights_leave_the_settings_as_they_were() -> None:
    detector = open_model(f"torchvision:{SMALLEST}", "random")
    own = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    assert detector.model.transform.min_size == own.transform.min_size
    momenta = [
        [m.momentum for m in each.modules() if isinstance(m, nn.BatchNorm2d)]
        for each in (detector.model, own)
    ]
    assert momenta[0] == momenta[1]
    assert detector.class_names[0] == "person"
    assert len(detector.class_names) == 90


@pytest.mark.parametrize(
    ("outputs", "count", "last"),
    [(91, 90, "toothbrush"), (81, 80, "toothbrush"), (21, 20, "tvmonitor")],
)
def test_live_models_are_named_by_their_number(outputs: int, count: int, last: str) -> None:
    model = small_model(predictor=predictor(outputs))
    detector = as_detector(model)
    assert detector.heads == ("box",)
    assert len(detector.class_names) == count
    assert last in detector.class_names
    assert ("N/A" in detector.class_names) == (count == 90)


def test_live_models_whose_classes_nothing_names() -> None:
    with pytest.raises(UserError, match="the 6 classes of the detector are called"):
        from_module(small_model(predictor=predictor(7)))
    with pytest.raises(UserError, match="the classes of the detector are called"):
        from_module(small_model(predictor=OwnPredictor()))
    assert from_module(small_model(), ("a", "b", "c")).class_names == ("a", "b", "c")
