"""detectron2's configuration files, read without detectron2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rethink_heads.config import DETECTRON2, ConventionsConfig
from rethink_heads.detectors.checkpoints.conversion import import_detector
from rethink_heads.detectors.checkpoints.detectron2_settings import SettingsFile, read_settings
from rethink_heads.errors import UserError
from tests.detectors.foreign_states import detectron2_state

NAMES = ("cat", "dog", "cow")
SIZES = [8, 16, 32, 64, 128]


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def zoo(folder: Path, **model: Any) -> Path:
    """A configuration over a base, as in detectron2's ``configs/``."""
    base = {
        "MODEL": {
            "ANCHOR_GENERATOR": {"SIZES": [[s] for s in SIZES], "ASPECT_RATIOS": [[0.5, 1, 2]]},
            "RPN": {"PRE_NMS_TOPK_TEST": 50, "POST_NMS_TOPK_TEST": 50},
            "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 7},
        },
        "INPUT": {"MIN_SIZE_TRAIN": "(640, 672)", "FORMAT": "BGR"},
    }
    write(folder / "base.yaml", base)
    (folder / "coco").mkdir(exist_ok=True)
    above = {"_BASE_": "../base.yaml", "MODEL": model, "INPUT": {"MIN_SIZE_TEST": 96}}
    return write(folder / "coco" / "config.yaml", above)


def read(path: Path) -> SettingsFile:
    said = read_settings(path)
    assert said is not None
    return said


def test_settings_over_a_base(tmp_path: Path) -> None:
    pooler = {"POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2}
    path = zoo(
        tmp_path,
        PIXEL_MEAN=[1.0, 2, 3],
        PIXEL_STD="(4.0, 5.0, 6.0)",
        RESNETS={"STRIDE_IN_1X1": False},
        ROI_BOX_HEAD=pooler,
    )
    said = read(path)
    assert said.model["image_mean"] == (1.0, 2.0, 3.0)
    assert said.model["image_std"] == (4.0, 5.0, 6.0)
    assert said.model["anchor_sizes"] == SIZES
    assert (said.model["roi_resolution"], said.model["sampling_ratio"]) == (7, 2)
    assert (said.model["min_size"], said.model["max_size"]) == (96, 1333)
    conventions = ConventionsConfig.model_validate(DETECTRON2.model_dump() | dict(said.conventions))
    assert (conventions.stride_in_1x1, conventions.roi_align_aligned) == (False, False)
    assert (said.head, said.class_names, said.remarks) == (None, None, ())


def test_the_levels_of_ours_are_read(tmp_path: Path) -> None:
    levels = [f"p{level}" for level in range(2, 7)]
    path = zoo(tmp_path, RPN={"IN_FEATURES": levels}, ROI_HEADS={"IN_FEATURES": levels[:4]})
    assert read(path).model["anchor_sizes"] == SIZES


def test_settings_of_our_heads(tmp_path: Path) -> None:
    node = {
        "HEAD": "double-head-ext",
        "CONV_ENLARGEMENT": 1.5,
        "W_FC": -1.0,
        "W_CONV": 3.0,
        "CLASS_NAMES": list(NAMES),
    }
    said = read(zoo(tmp_path, ROI_HEADS={"NAME": "RethinkROIHeads"}, RETHINK_HEADS=node))
    assert (said.head, said.class_names) == ("double-ext", NAMES)
    assert (said.model["conv_enlargement"], said.model["w_conv"]) == (1.5, 3.0)
    assert said.model["w_fc"] is None
    # What was trained before there was the key does not have it.
    assert "roi_level_from" not in said.conventions
    node["ROI_LEVEL_FROM"] = "proposal"
    said = read(zoo(tmp_path, ROI_HEADS={"NAME": "RethinkROIHeads"}, RETHINK_HEADS=node))
    assert said.conventions["roi_level_from"] == "proposal"


def test_settings_beside_the_weights_are_read(tmp_path: Path) -> None:
    path = zoo(tmp_path, PIXEL_STD=[2.0, 2.0, 2.0])
    torch.save({"model": detectron2_state()}, path.parent / "model_final.pth")
    found = import_detector(path.parent / "model_final.pth", class_names=NAMES)
    assert found.settings_path == path
    assert found.config.model.image_std == (2.0, 2.0, 2.0)
    assert found.config.model.min_size == 96
    # A run's config.yaml is no configuration of detectron2.
    write(path, {"model": {"min_size": 3}})
    again = import_detector(path.parent / "model_final.pth", class_names=NAMES)
    assert again.settings_path is None
    with pytest.raises(UserError, match="it has no MODEL"):
        import_detector(path.parent / "model_final.pth", class_names=NAMES, settings=path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"FPN": {"FUSE_TYPE": "avg"}}, r"sets MODEL\.FPN\.FUSE_TYPE to avg"),
        (
            {"ROI_HEADS": {"IN_FEATURES": ["p3", "p4", "p5"]}},
            r"sets MODEL\.ROI_HEADS\.IN_FEATURES to \('p3', 'p4', 'p5'\); a detector here has \('p2',",
        ),
        (
            {"RPN": {"IN_FEATURES": "('p3', 'p4', 'p5', 'p6', 'p2')"}},
            r"sets MODEL\.RPN\.IN_FEATURES to \('p3', .* here has \('p2', 'p3', 'p4', 'p5', 'p6'\)",
        ),
        ({"RPN": {"NMS_THRESH": 0.6}}, r"sets MODEL\.RPN\.NMS_THRESH to 0\.6"),
        ({"ROI_BOX_HEAD": {"POOLER_TYPE": "ROIPool"}}, "ROIPool; a detector here has ROIAlignV2"),
        ({"ANCHOR_GENERATOR": {"SIZES": [[32, 64]]}}, "one size for each of 5 levels"),
        ({"PIXEL_MEAN": "(1.0, x)"}, "PIXEL_MEAN is no list"),
        (
            {"ROI_HEADS": {"NAME": "RethinkROIHeads"}, "RETHINK_HEADS": {"HEAD": "triple"}},
            "HEAD to triple; the heads are",
        ),
    ],
)
def test_settings_without_a_counterpart(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_settings(zoo(tmp_path, **model))


def test_what_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such configuration"):
        read_settings(tmp_path / "none.yaml")
    for text, message in (("a: [", "line 1, is not YAML"), ("- 1", "expected names and values")):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_settings(tmp_path / "bad.yaml")
    for sizes in (None, 7, [32, 64, 128, 256, 512]):
        path = write(tmp_path / "sizes.yaml", {"MODEL": {"ANCHOR_GENERATOR": {"SIZES": sizes}}})
        with pytest.raises(UserError, match=r"ANCHOR_GENERATOR\.SIZES.* one size for each of 5"):
            read_settings(path)
    circle = write(tmp_path / "circle.yaml", {"_BASE_": "circle.yaml"})
    with pytest.raises(UserError, match="is its own _BASE_"):
        read_settings(circle)


def test_other_numbers_of_proposals_are_told(tmp_path: Path) -> None:
    said = read(zoo(tmp_path, RPN={"PRE_NMS_TOPK_TEST": 70}))
    assert len(said.remarks) == 1
    assert "70 proposals of a level before NMS and 50 of an image" in said.remarks[0]
