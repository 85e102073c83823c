"""detectron2's files of weights, against an implementation of our own in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rethink_heads.config import DETECTRON2, ModelConfig
from rethink_heads.detectors.checkpoints.frameworks import DETECTRON2_LAYOUT
from rethink_heads.detectors.checkpoints.importing import Imported, import_detector
from rethink_heads.errors import UserError
from tests.detectors import reference_arithmetic
from tests.detectors import reference_detectron2 as reference
from tests.detectors.foreign_states import CLASSES, State, detectron2_state

NAMES = ("cat", "dog", "cow")
SIZES = [8, 16, 32, 64, 128]
PROPOSALS, SHORTER, LONGEST = 40, 100, 160
HEIGHT, WIDTH = 71, 110
SMALL = [
    f"model.min_size={SHORTER}",
    f"model.max_size={LONGEST}",
    f"model.anchor_sizes={SIZES}",
    f"model.rpn_proposals_test={PROPOSALS}",
]


@pytest.fixture(scope="module")
def state() -> State:
    return {name: value.double() for name, value in detectron2_state().items()}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    path = tmp_path_factory.mktemp("file") / "model_final.pth"
    torch.save({"model": detectron2_state(), "iteration": 9}, path)
    return import_detector(path, class_names=NAMES, overrides=SMALL)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """RGB pixels (height, width, 3): smooth, with a patch of noise."""
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    smooth = np.array(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    smooth[20:40, 30:70] = random.integers(0, 256, (20, 40, 3))
    return smooth


@pytest.fixture(scope="module")
def image(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture(scope="module")
def levels(state: State, pixels: np.ndarray) -> list[Tensor]:
    """P2 to P6 in double precision."""
    batch, _ = reference.network_input(pixels, SHORTER, LONGEST)
    return reference.pyramid(state, batch)


@pytest.fixture(scope="module")
def size(pixels: np.ndarray) -> tuple[int, int]:
    return reference.network_input(pixels, SHORTER, LONGEST)[1]


def test_network_input(imported: Imported, pixels: np.ndarray, image: Tensor) -> None:
    expected, size = reference.network_input(pixels, SHORTER, LONGEST)
    batch, features = imported.detector._transformed(image)
    assert features.size == size == (100, 155)
    assert (batch.tensors - expected).abs().max() < 1e-4


def test_pyramid(imported: Imported, image: Tensor, levels: list[Tensor]) -> None:
    with torch.inference_mode():
        found = imported.detector.extract(image).pyramid
    for level, expected in zip(found.values(), levels, strict=True):
        assert expected.std() > 0.01
        assert (level - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_proposals_and_detections(
    imported: Imported, state: State, levels: list[Tensor], size: tuple[int, int], image: Tensor
) -> None:
    ratio = torch.tensor([size[1] / WIDTH, size[0] / HEIGHT] * 2).double()
    proposals = reference.propose(state, levels, size, SIZES, PROPOSALS)
    with torch.inference_mode():
        _, found = imported.detector.propose(image)
    assert len(found) == PROPOSALS
    torch.testing.assert_close(found.double(), proposals / ratio, rtol=1e-4, atol=2e-3)
    scores, regressed = reference.read(state, levels, proposals, size)
    boxes, kept, labels = reference_arithmetic.detections(scores, regressed, one=0)
    detections = imported.detector.detect(image)["fc"]
    assert len(kept) > 10
    assert torch.equal(detections.labels, labels)
    torch.testing.assert_close(detections.scores.double(), kept, rtol=1e-4, atol=0)
    torch.testing.assert_close(detections.boxes.double(), boxes / ratio, rtol=1e-4, atol=2e-3)


def test_background_comes_first_and_has_no_deltas(imported: Imported) -> None:
    predictor = imported.detector.roi_heads.heads.branch("fc").predictor
    file = detectron2_state()
    logits = file["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(predictor.cls_score.weight[0], logits[CLASSES])
    assert torch.equal(predictor.cls_score.weight[1:], logits[:CLASSES])
    assert not predictor.bbox_pred.weight[:4].any()
    deltas = file["roi_heads.box_predictor.bbox_pred.weight"]
    assert torch.equal(predictor.bbox_pred.weight[4:], deltas)
    assert imported.config.model.conventions == DETECTRON2
    assert (imported.config.head, imported.extras) == ("fc", ("iteration",))


def test_one_box_for_all_classes(tmp_path: Path) -> None:
    shared = dict(detectron2_state())
    for part in ("weight", "bias"):
        name = f"roi_heads.box_predictor.bbox_pred.{part}"
        shared[name] = shared[name][4:8]
        expected = torch.cat([shared[name]] * CLASSES)
        assert torch.equal(DETECTRON2_LAYOUT.adapt(name, shared)[4:], expected)
    assert DETECTRON2_LAYOUT.settings(shared)["classes"] == CLASSES


@pytest.mark.parametrize(
    ("head", "heads"),
    [
        (None, ("fc", "conv", "double", "double-ext")),
        ("double", ("double",)),
        ("double-reverse", ("double-reverse",)),
    ],
)
def test_our_double_head(head: str | None, heads: tuple[str, ...], tmp_path: Path) -> None:
    state = detectron2_state(own_heads=True)
    torch.save(state, tmp_path / "file.pth")
    found = import_detector(tmp_path / "file.pth", head=head, class_names=NAMES)
    assert found.detector.heads == heads
    assert found.left_out == ()
    model = found.config.model
    assert (model.conv_width, model.conv_bottleneck, model.conv_blocks) == (16, 4, 1)
    assert (model.fc_width, model.non_local, model.roi_resolution) == (24, False, 7)
    ours = found.detector.state_dict()
    for name, value in state.items():
        if name.startswith("roi_heads"):
            assert torch.equal(ours[name], value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.res4.0.conv1.weight": (1, 1)}, "no feature pyramid"),
        ({"roi_heads.box_predictor.0.cls_score.weight": (1, 1)}, "Cascade R-CNN"),
        ({"roi_heads.box_predictor.bbox_pred.weight": (8, 24)}, "8 outputs for 3 classes"),
        ({"backbone.bottom_up.res4.6.conv2.weight": (1, 1)}, "7 bottlenecks in .*res4"),
        ({"roi_heads.heads.attention.weight": (1, 1)}, r"\(none\) are those of no head"),
    ],
)
def test_detectors_without_a_counterpart(changes: dict[str, tuple[int, ...]], message: str) -> None:
    changed = {name: torch.zeros(shape) for name, shape in changes.items()}
    with pytest.raises(UserError, match=message):
        DETECTRON2_LAYOUT.settings({**detectron2_state(), **changed})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roi_heads.box_head.conv1.weight", "corresponds to 1 weight of it: .*conv1"),
        (
            "proposal_generator.anchor_generator.cell_anchors.0",
            r"anchors .*cell_anchors\.0.*give model\.anchor_sizes",
        ),
    ],
)
def test_weights_without_a_counterpart(name: str, message: str, tmp_path: Path) -> None:
    torch.save({"model": {**detectron2_state(), name: torch.zeros(3, 4)}}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message):
        import_detector(tmp_path / "file.pth", class_names=NAMES)


def test_what_older_versions_keep_beside_the_weights() -> None:
    """The colours' mean and deviation are settings; the anchors are those of the settings, or it is said."""
    mean = torch.tensor([103.0, 116, 123]).reshape(3, 1, 1)
    kept = {"pixel_mean": mean, "pixel_std": torch.ones(3, 1, 1)}
    found = DETECTRON2_LAYOUT.settings({**detectron2_state(), **kept})
    assert (found["image_mean"], found["image_std"]) == ((103.0, 116.0, 123.0), (1.0, 1.0, 1.0))
    levels = [reference.anchors(1, 1, 4, size) for size in (32, 64, 128, 256, 512)]
    anchors = {
        f"proposal_generator.anchor_generator.cell_anchors.{level}": each.float()
        for level, each in enumerate(levels)
    }
    DETECTRON2_LAYOUT.check_anchors(anchors, ModelConfig())
    for name in (*kept, *anchors, "roi_heads.mask_head.mask_fcn1.weight"):
        assert DETECTRON2_LAYOUT.ignored.fullmatch(name), name
