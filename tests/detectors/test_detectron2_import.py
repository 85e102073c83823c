"""detectron2's files of weights, and what is said of those without a counterpart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rethink_heads.config import ModelConfig
from rethink_heads.detectors.checkpoints.frameworks import DETECTRON2_LAYOUT
from rethink_heads.detectors.checkpoints.importing import import_detector
from rethink_heads.errors import UserError
from tests.detectors import reference_detectron2 as reference
from tests.detectors.foreign_states import CLASSES, detectron2_state

NAMES = ("cat", "dog", "cow")


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
