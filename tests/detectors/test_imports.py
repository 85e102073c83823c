"""Imported detectors against independent implementations of the frameworks that their files come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rethink_heads.config import DETECTRON2
from rethink_heads.detectors.checkpoints.conversion import ImportedDetector, import_detector
from tests.detectors import (
    reference_arithmetic,
    reference_detectron2,
    reference_maskrcnn_benchmark,
    reference_mmdetection,
)
from tests.detectors.foreign_states import (
    CHANNELS,
    State,
    detectron2_state,
    maskrcnn_benchmark_state,
    mmdetection_state,
)

SIZES = [8, 16, 32, 64, 128]
MIN_SIZE, MAX_SIZE, PROPOSALS = 100, 160, 40
OVERRIDES = [
    f"model.min_size={MIN_SIZE}",
    f"model.max_size={MAX_SIZE}",
    f"model.anchor_sizes={SIZES}",
    f"model.rpn_proposals_test={PROPOSALS}",
]
NAMES = ("cat", "dog", "cow")
# A resized frame of 100 x 155, its last rows and columns neither whole cells nor those of the padded batch.
HEIGHT, WIDTH = 71, 110


@dataclass(frozen=True)
class Case:
    """A file's weights in double precision, the detector made from it, and the framework's arithmetic."""

    state: State
    imported: ImportedDetector
    reference: ModuleType
    one: int

    @property
    def detector(self) -> torch.nn.Module:
        return self.imported.detector

    def read(self, levels: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> Any:
        """The reference's scores and boxes by reading, RoIs of the conv-head enlarged by 1.3."""
        factor = () if self.reference is reference_detectron2 else (1.3,)
        return self.reference.read(self.state, levels, boxes, size, *factor)

    @property
    def tolerances(self) -> tuple[dict[str, float], dict[str, float]]:
        """Of scores and of boxes: detectron2's reference is closer, as it resizes as we do."""
        if self.reference is reference_detectron2:
            return {"rtol": 1e-4, "atol": 0}, {"rtol": 1e-4, "atol": 2e-3}
        return {"rtol": 0, "atol": 2e-4}, {"rtol": 0, "atol": 2e-2}

    def offset(self, boxes: Tensor) -> Tensor:
        """Boxes of the framework by their edges."""
        return boxes + boxes.new_tensor([0, 0, self.one, self.one])


@pytest.fixture(scope="module", params=["maskrcnn-benchmark", "mmdetection", "detectron2"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = tmp_path_factory.mktemp("files") / "checkpoint.pth"
    if request.param == "mmdetection":
        state = mmdetection_state()
        torch.save({"meta": {"CLASSES": NAMES, "epoch": 12}, "state_dict": state}, path)
        reference, one = reference_mmdetection, 0
        imported = import_detector(path, overrides=OVERRIDES)
    elif request.param == "detectron2":
        state = detectron2_state()
        torch.save({"model": state, "iteration": 9}, path)
        reference, one = reference_detectron2, 0
        imported = import_detector(path, class_names=NAMES, overrides=OVERRIDES)
    else:
        state = maskrcnn_benchmark_state()
        named = {f"module.{name}": value for name, value in state.items()}
        torch.save({"model": named, "optimizer": {"state": {}}, "iteration": 180000}, path)
        reference, one = reference_maskrcnn_benchmark, 1
        imported = import_detector(path, class_names=NAMES, overrides=OVERRIDES)
    assert imported.layout == request.param
    doubled = {name: v.double() for name, v in state.items() if v.is_floating_point()}
    return Case(doubled, imported, reference, one)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """RGB pixels (height, width, 3) of smooth blobs with sharp edges."""
    random = np.random.default_rng(3)
    coarse = Image.fromarray(random.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    smooth = np.array(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    smooth[20:40, 30:70] = random.integers(0, 256, (20, 40, 3))
    return smooth


@pytest.fixture(scope="module")
def image(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture(scope="module")
def levels(case: Case, image: Tensor) -> list[Tensor]:
    """P2 to P6 by the reference, in double precision, from our input (which has a test of its own)."""
    batch, _ = case.detector._transformed(image)
    return case.reference.pyramid(case.state, batch.tensors.double())


def assert_within(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Equal to a share of the largest value expected, which is neither tiny nor that of one value alone."""
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.05
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= share * expected.abs().max()


def test_network_input(case: Case, pixels: np.ndarray, image: Tensor) -> None:
    expected, size = case.reference.network_input(pixels, MIN_SIZE, MAX_SIZE)
    batch, features = case.detector._transformed(image)
    assert features.size == size
    assert size in ((100, 154), (100, 155))
    assert (batch.tensors - expected).abs().max() < 1e-4


def test_backbone_and_pyramid(case: Case, image: Tensor, levels: list[Tensor]) -> None:
    with torch.inference_mode():
        found = case.detector.extract(image).pyramid
    assert list(found) == ["0", "1", "2", "3", "pool"]
    for level, expected in zip(found.values(), levels, strict=True):
        assert_within(level.double(), expected)


def test_heads_on_the_same_roi_features(case: Case) -> None:
    """Logits and deltas, background first with us, to 1e-5 in single precision."""
    rois = torch.randn(6, CHANNELS, 7, 7, generator=torch.Generator().manual_seed(2)).double()
    with torch.inference_mode():
        features = dict.fromkeys(case.detector.branches, rois.float())
        found = case.detector.roi_heads.heads(features)
    fc, conv = found["fc"], found.get("conv")
    if case.one:
        for name, ours in (("fc", fc), ("conv", conv)):
            theirs = getattr(case.reference, f"{name}_head")(case.state, rois)
            assert_within(ours[0].double(), theirs[0])
            assert_within(ours[1].double(), theirs[1])
    elif conv is None:
        logits, deltas = case.reference.fc_head(case.state, rois)
        assert_within(fc[0].double(), logits.roll(1, 1))
        assert_within(fc[1][:, 4:].double(), deltas)
        assert not fc[1][:, :4].any()
    else:
        logits = case.reference.fc_head(case.state, rois)
        assert_within(fc[0][:, 1:].double(), logits[:, :-1])
        assert_within(fc[0][:, 0].double(), logits[:, -1])
        assert_within(conv[1][:, 4:].double(), case.reference.conv_head(case.state, rois))
        assert not torch.cat([conv[1][:, :4], conv[0], fc[1]], dim=1).any()


def test_proposals(case: Case, levels: list[Tensor], pixels: np.ndarray, image: Tensor) -> None:
    _, size = case.reference.network_input(pixels, MIN_SIZE, MAX_SIZE)
    expected = case.reference.propose(case.state, levels, size, SIZES, PROPOSALS)
    with torch.inference_mode():
        _, found = case.detector.propose(image)
    ratio = torch.tensor([size[1] / WIDTH, size[0] / HEIGHT] * 2).double()
    torch.testing.assert_close(found.double(), case.offset(expected / ratio), rtol=0, atol=2e-3)
    assert len(found) == PROPOSALS


def test_scores_and_boxes_of_given_boxes(
    case: Case, levels: list[Tensor], pixels: np.ndarray, image: Tensor
) -> None:
    """Boxes from a pixel to the whole image, on every level, in pixels of the original image on both sides."""
    boxes = torch.tensor(
        [
            [10.0, 12, 60, 50],
            [0, 0, WIDTH, HEIGHT],
            [30.5, 20.25, 33, 24],
            [1, 2, 2, 3],
            [88, 40, 110, 71],
            [5, 5, 85, 15],
        ]
    )
    _, size = case.reference.network_input(pixels, MIN_SIZE, MAX_SIZE)
    ratio = torch.tensor([size[1] / WIDTH, size[0] / HEIGHT] * 2).double()
    theirs = (boxes.double() - torch.tensor([0, 0, case.one, case.one])) * ratio
    expected = case.read(levels, theirs, size)
    with torch.inference_mode():
        features = case.detector.extract(image)
        found = case.detector.predict(features, case.detector.pool(features, boxes), boxes)
    assert set(found) == set(expected)
    for name, (scores, regressed) in expected.items():
        torch.testing.assert_close(found[name].scores.double(), scores, **case.tolerances[0])
        torch.testing.assert_close(
            found[name].boxes.double(), case.offset(regressed / ratio), **case.tolerances[1]
        )


def test_detections(case: Case, levels: list[Tensor], pixels: np.ndarray, image: Tensor) -> None:
    _, size = case.reference.network_input(pixels, MIN_SIZE, MAX_SIZE)
    proposals = case.reference.propose(case.state, levels, size, SIZES, PROPOSALS)
    ratio = torch.tensor([size[1] / WIDTH, size[0] / HEIGHT] * 2).double()
    found = case.detector.detect(image)
    readings = case.read(levels, proposals, size)
    for name, (scores, regressed) in readings.items():
        boxes, kept, labels = reference_arithmetic.detections(scores, regressed, case.one)
        assert len(kept) > 10
        torch.testing.assert_close(found[name].scores.double(), kept, **case.tolerances[0])
        assert torch.equal(found[name].labels, labels)
        torch.testing.assert_close(
            found[name].boxes.double(), case.offset(boxes / ratio), **case.tolerances[1]
        )


def test_what_the_file_says_of_the_detector(case: Case) -> None:
    config = case.imported.config
    model = config.model
    if case.reference is reference_detectron2:
        assert (config.head, model.conventions) == ("fc", DETECTRON2)
        assert case.imported.extras == ("iteration",)
        return
    assert config.head == ("double-ext" if case.one else "double")
    assert (model.backbone, model.fpn_channels, model.roi_resolution) == ("resnet50", CHANNELS, 7)
    assert (model.fc_width, model.conv_width, model.conv_bottleneck) == (24, 16, 4)
    assert (model.conv_blocks, model.non_local) == ((2, True) if case.one else (4, False))
    assert case.detector.class_names == NAMES
    assert case.imported.extras == (("optimizer", "iteration") if case.one else ())
    assert all("num_batches_tracked" in n or ".W.0.bias" in n for n in case.imported.left_out)


@pytest.mark.parametrize("layout", ["maskrcnn-benchmark", "mmdetection"])
def test_a_plain_faster_rcnn_has_an_fc_head(layout: str, tmp_path: Path) -> None:
    rois = torch.randn(4, CHANNELS, 7, 7, generator=torch.Generator().manual_seed(4))
    if layout == "maskrcnn-benchmark":
        double = maskrcnn_benchmark_state()
        conv = (".nonlocal_conv.", ".shared_nonlocal.", ".cls_score.", ".bbox_pred.")
        kept = {
            name: value
            for name, value in double.items()
            if name.startswith(("backbone", "rpn")) or not any(part in name for part in conv)
        }
        plain = {name.replace("_fc.", "."): value for name, value in kept.items()}
        expected = reference_maskrcnn_benchmark.fc_head(double, rois)
    else:
        double = mmdetection_state()
        conv = (".res_block.", ".conv_branch.", ".fc_reg.")
        kept = {n: v for n, v in double.items() if not any(part in n for part in conv)}
        plain = {name.replace("fc_branch", "shared_fcs"): value for name, value in kept.items()}
        head = "roi_head.bbox_head"
        plain[f"{head}.fc_reg.weight"] = torch.randn(12, 24)
        plain[f"{head}.fc_reg.bias"] = torch.randn(12)
        hidden = rois.flatten(1)
        for layer in (0, 1):
            hidden = reference_arithmetic.linear(plain, f"{head}.shared_fcs.{layer}", hidden).relu()
        logits = reference_mmdetection.fc_head(double, rois).roll(1, 1)
        deltas = reference_arithmetic.linear(plain, f"{head}.fc_reg", hidden)
        expected = (logits, torch.cat([torch.zeros(4, 4), deltas], dim=1))
    torch.save(plain, tmp_path / "file.pth")
    imported = import_detector(tmp_path / "file.pth", class_names=NAMES)
    assert imported.config.head == "fc"
    assert imported.detector.heads == ("fc",)
    with torch.inference_mode():
        found = imported.detector.roi_heads.heads({"fc": rois})["fc"]
    for ours, theirs in zip(found, expected, strict=True):
        assert_within(ours, theirs)
