"""Detectors from detectron2's configurations and weight files, and the sentences for what cannot be opened."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import MetadataCatalog
from torch import Tensor

from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import from_module, open_detectron2, read_config
from rethink_heads.errors import UserError
from tests.detectors.detectron2.predictors import FASTER, SMALL_MODEL, write_config

NAMES = ("cat", "dog", "bird")
SMALL = SMALL_MODEL | {
    "MODEL.ROI_HEADS.NUM_CLASSES": len(NAMES),
    "DATASETS.TEST": ("nobody_s_data",),
    "DATASETS.TRAIN": (),
}
IMAGE = torch.randint(
    0, 256, (3, 60, 80), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("opening")


@pytest.fixture(scope="module")
def config(folder: Path) -> str:
    """A small detector's configuration; nothing registered says its classes' names."""
    return str(write_config(folder, FASTER, SMALL))


@pytest.fixture(scope="module")
def random(config: str) -> Detectron2Detector:
    return open_detectron2(config, "random", NAMES)


def state_of(detector: Detectron2Detector) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in detector.model.state_dict().items()}


def said(detector: Detectron2Detector) -> Tensor:
    """Scores of two boxes."""
    boxes = torch.tensor([[3.0, 4, 30, 40], [10, 5, 70, 55]])
    with torch.inference_mode():
        features = detector.extract(IMAGE)
        return detector.predict(features, detector.pool(features, boxes), boxes)["fc"].scores


def test_random_weights_are_the_same_each_time_and_move_no_random_state(
    config: str, random: Detectron2Detector
) -> None:
    before = torch.get_rng_state()
    again = open_detectron2(config, "random", NAMES)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(said(again), said(random))
    assert (random.min_size, random.max_size, random.channel_order) == (192, 256, "BGR")
    assert random.class_names == NAMES


@pytest.mark.parametrize("is_old", [False, True])
def test_weights_of_a_file_are_those_of_the_model(
    is_old: bool, config: str, random: Detectron2Detector, tmp_path: Path
) -> None:
    """Files of the model within a module of a training framework, and of detectron2's releases before 0.4."""
    state: dict[str, Any] = state_of(random)
    path = tmp_path / "model_final.pth"
    if is_old:
        state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
        state["pixel_mean"] = torch.zeros(3, 1, 1)
        state["backbone.bottom_up.stem.conv1.norm.num_batches_tracked"] = torch.tensor(3)
        torch.save({"model": state}, path)
    else:
        held = {f"model.{name}": value for name, value in state.items()}
        torch.save({"state_dict": held | {"loss.weight": torch.ones(3)}}, path)
    opened = open_detectron2(config, str(path), NAMES)
    torch.testing.assert_close(said(opened), said(random), rtol=0, atol=0)


def _without(state: dict[str, Any]) -> None:
    del state["backbone.fpn_lateral2.weight"]


def _with_more(state: dict[str, Any]) -> None:
    state["roi_heads.mask_head.deconv.weight"] = torch.zeros(1)


def _backbone_only(state: dict[str, Any]) -> None:
    for name in list(state):
        if not name.startswith("backbone"):
            del state[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "lacks weights of its model: backbone.fpn_lateral2.weight; give the config"),
        (_with_more, "has weights that its model lacks: roi_heads.mask_head.deconv.weight;"),
        (_backbone_only, "no weights of RoI heads"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Any, message: str, config: str, random: Detectron2Detector, tmp_path: Path
) -> None:
    state = state_of(random)
    change(state)
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=message):
        open_detectron2(config, str(tmp_path / "model.pth"), NAMES)


def test_the_configuration_s_own_weights_may_lie_beside_it(
    random: Detectron2Detector, tmp_path: Path
) -> None:
    path = write_config(tmp_path, FASTER, SMALL | {"MODEL.WEIGHTS": "model_final.pth"})
    torch.save(state_of(random), tmp_path / "model_final.pth")
    assert torch.equal(said(open_detectron2(str(path), None, NAMES)), said(random))


@pytest.mark.parametrize(
    ("settings", "weights", "message"),
    [
        ({}, None, "names the weights of a backbone only: give --weights FILE"),
        ({"MODEL.WEIGHTS": ""}, None, "names no weights: give --weights FILE"),
        ({}, "nowhere.pth", "no such file: nowhere.pth"),
        ({}, "http://127.0.0.1:9/model.pkl", r"127.0.0.1:9/model.pkl cannot be downloaded \(.+\)"),
    ],
)
def test_weights_that_are_not_there(
    settings: dict[str, Any], weights: str | None, message: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, FASTER, SMALL | settings)
    with pytest.raises(UserError, match=message):
        open_detectron2(str(path), weights, NAMES)


BAD_CONFIGS = {
    "unknown-key": ("MODEL: {NO_SUCH: 1}", "a setting that detectron2 does not know .*NO_SUCH"),
    "wrong-type": ("MODEL: {RESNETS: {DEPTH: deep}}", "no configuration of detectron2 .*DEPTH"),
    "code": ("SEED: !!python/object/apply:eval ['print(1)']", "only plain values are read"),
    "no-mapping": ("just words", "no configuration of detectron2"),
    "no-yaml": ("{[", "no configuration of detectron2"),
    "retinanet": (
        "MODEL: {META_ARCHITECTURE: RetinaNet}",
        "config.yaml describes a RetinaNet, which is no two-stage detector",
    ),
    "of-a-project": ("MODEL: {ROI_HEADS: {NAME: OurHeads}}", "cannot build .*python:MODULE"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_bad_configurations_are_refused(kind: str, tmp_path: Path, capsys: Any) -> None:
    text, message = BAD_CONFIGS[kind]
    path = tmp_path / "config.yaml"
    path.write_text(text if kind in ("no-mapping", "no-yaml") else f"VERSION: 2\n{text}\n")
    with pytest.raises(UserError, match=message):
        open_detectron2(str(path), "random", [str(i) for i in range(80)])
    assert capsys.readouterr().out == ""


def test_layers_that_need_compiling_are_said_to(tmp_path: Path) -> None:
    """Deformable convolutions, where detectron2 is a bare checkout."""
    if importlib.util.find_spec("detectron2._C"):
        pytest.skip("detectron2 is compiled")
    deformable = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, True, True]}
    path = write_config(tmp_path, FASTER, SMALL | deformable)
    with pytest.raises(UserError, match="part of a compiled detectron2 only"):
        open_detectron2(str(path), "random", NAMES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody.yaml", "no configuration 'nobody.yaml': .*one of detectron2's model zoo"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_2x.yaml", "model zoo"),
        ("double_head_R50_FPN", "did you mean double_head_R_50_FPN.yaml"),
        ("config.py", "config.py is Python code, which is not run"),
    ],
)
def test_configurations_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_detectron2(name, "random")


def test_class_names_come_from_who_knows_them(
    config: str, random: Detectron2Detector, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"what the 3 classes .* --class-names"):
        open_detectron2(config, "random")
    with pytest.raises(UserError, match=r"what the 3 classes .* --class-names"):
        from_module(random.model)
    assert from_module(random.model, NAMES).class_names == NAMES
    MetadataCatalog.get("three_animals_of_a_test").thing_classes = list(NAMES)
    try:
        named = SMALL | {"DATASETS.TEST": ("three_animals_of_a_test",)}
        opened = open_detectron2(str(write_config(tmp_path, FASTER, named)), "random")
        assert opened.class_names == NAMES
    finally:
        MetadataCatalog.remove("three_animals_of_a_test")
    own = SMALL | {"MODEL.RETHINK_HEADS.CLASS_NAMES": ["x", "y", "z"]}
    opened = open_detectron2(str(write_config(tmp_path, FASTER, own)), "random")
    assert opened.class_names == ("x", "y", "z")
    assert "nobody_s_data" not in MetadataCatalog.list()


def test_coco_s_names_serve_where_the_data_set_is_not_known(tmp_path: Path) -> None:
    unknown = {"MODEL.ROI_HEADS.NUM_CLASSES": 80}
    opened = open_detectron2(str(write_config(tmp_path, FASTER, SMALL | unknown)), "random")
    assert len(opened.class_names) == 80
    assert opened.class_names[:2] == ("person", "bicycle")
    assert from_module(opened.model).class_names == opened.class_names


def test_nothing_is_said_on_the_way(config: str, capfd: Any, recwarn: Any) -> None:
    open_detectron2(config, "random", NAMES).detect(IMAGE)
    assert capfd.readouterr() == ("", "")
    assert [str(each.message) for each in recwarn] == []


def test_class_names_beside_the_configuration(tmp_path: Path) -> None:
    cfg = read_config("fc_head_R_50_FPN")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    (tmp_path / "class_names.txt").write_text("disc\nsquare\nring\n")
    assert open_detectron2(str(path), "random").class_names == ("disc", "square", "ring")
