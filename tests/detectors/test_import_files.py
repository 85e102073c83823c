"""Checkpoint files that can be imported, round trips, and one clear sentence for those that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rethink_heads.cli import app
from rethink_heads.config import MASKRCNN_BENCHMARK, MMDETECTION, ModelConfig
from rethink_heads.detectors.checkpoints.conversion import import_detector
from rethink_heads.detectors.checkpoints.frameworks import DETECTRON2_LAYOUT, LAYOUTS
from rethink_heads.detectors.checkpoints.layouts import backbone_of, our_state
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.detectors.rcnn.detector import load_detector, save_detector
from rethink_heads.errors import UserError
from rethink_heads.runs import Run
from tests.detectors.foreign_states import (
    CLASSES,
    State,
    detectron2_state,
    maskrcnn_benchmark_state,
    mmdetection_state,
)
from tests.detectors.reference_arithmetic import area_anchors
from tests.tiny_coco import write_annotations, write_coco

NAMES = ("cat", "dog", "cow")
STATES = {"maskrcnn-benchmark": maskrcnn_benchmark_state, "mmdetection": mmdetection_state}


@pytest.fixture(scope="module", params=list(STATES))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def state(layout: str) -> State:
    return STATES[layout]()


@pytest.fixture(scope="module")
def file(layout: str, state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "weights.pth"
    torch.save({"model" if layout == "maskrcnn-benchmark" else "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def detector(file: Path, tmp_path_factory: pytest.TempPathFactory) -> RCNN:
    """Imported, saved as ours, and read again."""
    imported = import_detector(file, class_names=NAMES)
    path = tmp_path_factory.mktemp("run") / "detector.pt"
    save_detector(imported.detector, imported.config, path)
    return load_detector(path)


def test_the_saved_detector_has_the_frameworks_conventions(layout: str, detector: RCNN) -> None:
    known = {"maskrcnn-benchmark": MASKRCNN_BENCHMARK, "mmdetection": MMDETECTION}[layout]
    assert detector.roi_heads.conventions == detector.transform.conventions == known
    stride = detector.backbone.body.layer2[0].conv1.stride
    assert stride == ((2, 2) if layout == "maskrcnn-benchmark" else (1, 1))
    assert detector.class_names == NAMES


def settings_of(layout: str, state: State) -> dict[str, object]:
    return dict(LAYOUTS[layout].settings(state))


def test_lacking_unknown_and_misshapen_weights_are_named(
    layout: str, state: State, detector: RCNN
) -> None:
    rpn, fc6 = {
        "maskrcnn-benchmark": ("rpn.head.conv", "roi_heads.box.feature_extractor.fc7"),
        "mmdetection": ("rpn_head.rpn_conv", "roi_head.bbox_head.fc_branch.1"),
    }[layout]
    changed = dict(state)
    del changed[f"{rpn}.weight"]
    changed["roi_heads.box.attention.weight"] = torch.zeros(3)
    changed[f"{fc6}.weight"] = torch.zeros(5, 5)
    with pytest.raises(UserError) as raised:
        our_state(LAYOUTS[layout], changed, detector.state_dict(), settings_of(layout, state))
    message = str(raised.value)
    assert f"it lacks 1 weight: {rpn}.weight" in message
    assert "corresponds to 1 weight of it: roi_heads.box.attention.weight" in message
    assert f"have another shape: {fc6}.weight (5, 5) for (24, 24)" in message


def test_what_no_detector_needs_is_left_out(layout: str, state: State, detector: RCNN) -> None:
    mask = {
        "maskrcnn-benchmark": "roi_heads.mask.predictor.conv5_mask.weight",
        "mmdetection": "roi_head.mask_head.conv_logits.weight",
    }[layout]
    extended = {**state, mask: torch.zeros(2)}
    for name in list(extended):
        if name.endswith("num_batches_tracked") and "backbone" not in name:
            del extended[name]  # as in files of PyTorch 0.4
    ours, left_out = our_state(
        LAYOUTS[layout], extended, detector.state_dict(), settings_of(layout, state)
    )
    assert mask in left_out
    assert set(ours) == set(detector.state_dict())


def test_files_without_attention_or_of_other_depth(layout: str) -> None:
    if layout == "maskrcnn-benchmark":
        found = settings_of(layout, maskrcnn_benchmark_state(non_local=False, blocks=3))
        assert (found["conv_blocks"], found["non_local"]) == (3, False)
        own = {"roi_heads.box.feature_extractor.cls_nonlocal.0.g.weight": torch.zeros(1)}
        with pytest.raises(UserError, match="blocks of its own for one task"):
            settings_of(layout, {**maskrcnn_benchmark_state(), **own})
    else:
        assert settings_of(layout, mmdetection_state(blocks=1))["conv_blocks"] == 1
    names = {f"backbone.layer3.{block}.conv3.weight": torch.zeros(1) for block in range(23)}
    assert backbone_of(names) == "resnet101"
    with pytest.raises(UserError, match="36 bottlenecks in layer3"):
        backbone_of(
            {f"backbone.layer3.{block}.conv3.weight": torch.zeros(1) for block in range(36)}
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "detectron"}, "unknown layout 'detectron'; the layouts are"),
        ({"backbone": "resnet101"}, "has the weights of resnet50, not of resnet101"),
        ({"head": "conv"}, "with head double.*, not conv"),
        ({"class_names": ("cat", "dog")}, "weights for 3 classes, but the data has 2"),
        ({}, "weights for 3 classes and no names for them; give the data .* with --data"),
        ({"class_names": NAMES, "overrides": ["model.fpn=1"]}, "unknown setting 'model.fpn'"),
    ],
)
def test_options_that_contradict_the_file(
    file: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        import_detector(file, **options)  # type: ignore[arg-type]


def test_the_other_layouts_name(file: Path, layout: str) -> None:
    other = next(name for name in LAYOUTS if name != layout)
    with pytest.raises(
        UserError, match=f"have not the names of {other}; they are those of {layout}"
    ):
        import_detector(file, layout=other)


def test_anchors_that_are_not_the_settings(tmp_path: Path) -> None:
    anchors = {"rpn.anchor_generator.cell_anchors.0": torch.tensor([[-22.0, -10, 25, 13]])}
    torch.save({"model": {**maskrcnn_benchmark_state(), **anchors}}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"anchors .*cell_anchors\.0.*give model\.anchor_sizes"):
        import_detector(tmp_path / "file.pth", class_names=NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"neck.lateral_convs.0.conv.weight": torch.zeros(())}, "a single number for neck.lateral"),
        ({"weight": torch.zeros(1)}, "of none of the layouts maskrcnn-benchmark, mmdetection"),
    ],
)
def test_weights_of_no_layout(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message):
        import_detector(tmp_path / "file.pth")


def test_class_names_in_both_generations_of_mmdetection(tmp_path: Path) -> None:
    weights = {"state_dict": {"a": torch.zeros(1)}}
    for meta in ({"CLASSES": NAMES}, {"dataset_meta": {"classes": list(NAMES)}}):
        torch.save({**weights, "meta": meta}, tmp_path / "file.pth")
        assert read_checkpoint(tmp_path / "file.pth").class_names == NAMES


def test_the_command_makes_a_run_that_can_be_measured(tmp_path: Path) -> None:
    file, run, data = (str(tmp_path / name) for name in ("file.pth", "run", "data"))
    torch.save({"model": maskrcnn_benchmark_state(), "iteration": 3}, file)
    content = write_coco(Path(data))
    content["categories"] = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    write_annotations(Path(data), content)
    small = ["model.min_size=48", "model.max_size=64", "model.rpn_proposals_test=5"]
    command = ["import", file, "--run", run, "--data", data, "--json", *small]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "left out of the file" in done.stderr
    (said,) = json.loads(done.stdout)["tables"]["run"]
    assert (said["layout"], said["backbone"]) == ("maskrcnn-benchmark", "resnet50")
    assert (said["classes"], said["heads"]) == (3, ["fc", "conv", "double", "double-ext"])
    assert Run.open(Path(run)).config.model.conventions == MASKRCNN_BENCHMARK
    measure = ["correlate", "--run", run, "--grid-steps", "3", "--json"]
    measured = CliRunner().invoke(app, measure)
    assert measured.exit_code == 0, measured.output
    # The same file again is no mistake; other settings for the same folder are.
    assert CliRunner().invoke(app, command).exit_code == 0
    other = CliRunner().invoke(app, [*command, "model.conventions.stride_in_1x1=false"])
    assert other.exit_code == 2
    assert "holds a run with other settings (model.conventions)" in other.stderr
    # Nor does another file of the same settings take the detector's place.
    weights = maskrcnn_benchmark_state()
    weights["roi_heads.box.predictor.cls_score.bias"] += 1
    torch.save({"model": weights}, file)
    other = CliRunner().invoke(app, command)
    assert other.exit_code == 2
    assert "has a detector with other weights than" in other.stderr


def test_the_command_on_no_file(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["import", str(tmp_path / "none.pth")])
    assert missing.exit_code == 2
    assert "error: no such file" in missing.stderr


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
    levels = [area_anchors(1, 1, 4, size) for size in (32, 64, 128, 256, 512)]
    anchors = {
        f"proposal_generator.anchor_generator.cell_anchors.{level}": each.float()
        for level, each in enumerate(levels)
    }
    DETECTRON2_LAYOUT.check_anchors(anchors, ModelConfig())
    for name in (*kept, *anchors, "roi_heads.mask_head.mask_fcn1.weight"):
        assert DETECTRON2_LAYOUT.ignored.fullmatch(name), name
