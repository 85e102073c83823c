"""Conversion against detectron2 itself: its detectors as ours, ours as its."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from rethink_heads.config import DETECTRON2, Config, load_preset
from rethink_heads.detectors.checkpoints.conversion import (
    ImportedDetector,
    import_detector,
    to_detectron2,
)
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import open_detectron2, read_config
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import save_detector

# A file's name in detectron2's zoo or among ours, its head here, and what makes it quick.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml": ("fc", {}),
    "double_head_ext_R_50_FPN": (
        "double-ext",
        {
            "MODEL.RESNETS.DEPTH": 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
            "MODEL.RETHINK_HEADS.CONV_WIDTH": 64,
            "MODEL.RETHINK_HEADS.CONV_BOTTLENECK": 16,
            "MODEL.RETHINK_HEADS.CONV_ENLARGEMENT": 1.4,
            "MODEL.RETHINK_HEADS.FUSION": "max",
        },
    ),
}
QUICK = {
    "INPUT.MIN_SIZE_TEST": 192,
    "INPUT.MAX_SIZE_TEST": 256,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 200,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 200,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.02,
}


@dataclass(frozen=True)
class Pair:
    """A detector of detectron2's, and ours made of its files."""

    theirs: Detectron2Detector
    ours: ImportedDetector


@pytest.fixture(scope="module", params=list(FILES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("theirs")
    head, changes = FILES[request.param]
    cfg = read_config(request.param)
    values = QUICK | changes
    cfg.merge_from_list([item for each in values.items() for item in each])
    path = folder / "config.yaml"
    path.write_text(cfg.dump(), encoding="utf-8")
    theirs = open_detectron2(str(path), "random")
    state = theirs.model.state_dict()
    if head == "fc":
        # As in the model zoo.
        arrays = {name: value.numpy() for name, value in state.items()}
        content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
        file = folder / "model_final.pkl"
        file.write_bytes(pickle.dumps(content))
    else:
        file = folder / "model_final.pth"
        torch.save({"model": state, "iteration": 3}, file)
    imported = import_detector(file)
    assert imported.settings_path == path
    assert imported.config.head == head
    return Pair(theirs, imported)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-4 of each value or, where one is next to nothing, to 1e-7 of the largest."""
    least = 1e-7 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=least)


def test_every_head_detects_what_its_adapter_does(pair: Pair, photograph: Tensor) -> None:
    expected = pair.theirs.detect(photograph)
    found = pair.ours.detector.detect(photograph)
    assert tuple(found) == tuple(expected) == pair.ours.detector.heads
    for head, each in expected.items():
        assert torch.equal(found[head].labels, each.labels)
        assert_same(found[head].scores, each.scores)
        assert_same(found[head].boxes, each.boxes)


@pytest.fixture(scope="module", params=["fc", "double-ext", "double-conv"])
def trained_here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RCNN, Config, Detectron2Detector]:
    """A detector of ours with torchvision's conventions, and detectron2's made of its export."""
    small = ["model.backbone=resnet18", "model.pretrained=false", "model.fpn_channels=32"]
    heads = ["model.fc_width=48", "model.conv_width=64", "model.conv_bottleneck=16"]
    config = load_preset("coco-r50", request.param, [*small, *heads, "model.non_local=true"])
    torch.manual_seed(4)
    detector = build_detector(config, ("cat", "dog", "cow"), pretrained=False).eval()
    for name, parameter in detector.named_parameters():
        if "predictor" in name or "cls_logits" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("ours") / "exported"
    to_detectron2(detector, config).write(folder)
    names = (folder / "class_names.txt").read_text().split()
    return detector, config, open_detectron2(str(folder / "config.yaml"), class_names=names)


def test_what_comes_back_from_detectron2_is_as_it_computes(
    trained_here: tuple[RCNN, Config, Detectron2Detector], photograph: Tensor, tmp_path: Path
) -> None:
    """Imported again with the exported settings, it is detectron2's detector and no longer ours."""
    detector, config, theirs = trained_here
    to_detectron2(detector, config).write(tmp_path / "exported")
    small = ["model.min_size=192", "model.max_size=256", "model.rpn_proposals_test=100"]
    again = import_detector(
        tmp_path / "exported" / "model.pth", class_names=("cat", "dog", "cow"), overrides=small
    )
    save_detector(again.detector, again.config, tmp_path / "detector.pt")
    conventions = again.config.model.conventions
    assert (conventions.channel_order, conventions.roi_align_aligned) == ("rgb", False)
    assert conventions.anchors == DETECTRON2.anchors
    assert again.config.model.image_mean == pytest.approx([123.675, 116.28, 103.53])
    with torch.inference_mode():
        features = again.detector.extract(photograph)
        boxes = torch.tensor([[10.0, 20, 200, 220], [50, 60, 90, 120], [0, 0, 20, 30]])
        found = again.detector.predict(features, again.detector.pool(features, boxes), boxes)
        quick = Detectron2Detector(theirs.model, ("cat", "dog", "cow"), 192, 256, "RGB")
        other = quick.extract(photograph)
        expected = quick.predict(other, quick.pool(other, boxes), boxes)
    assert set(found) == set(expected)
    for head, each in expected.items():
        assert_same(found[head].scores, each.scores)
        assert_same(found[head].boxes, each.boxes)
