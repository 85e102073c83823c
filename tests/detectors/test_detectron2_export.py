"""Our detectors as detectron2's files and back again, and what is said of what it computes otherwise."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from rethink_heads.bounds import HEADS
from rethink_heads.cli import app
from rethink_heads.config import DETECTRON2, MASKRCNN_BENCHMARK, MMDETECTION, Config, load_preset
from rethink_heads.detectors.checkpoints.conversion import (
    differences,
    import_detector,
    to_detectron2,
)
from rethink_heads.detectors.checkpoints.detectron2_settings import FPN_NORMS
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import save_detector
from rethink_heads.errors import UserError
from rethink_heads.runs import Run
from tests.detectors.foreign_states import detectron2_state

NAMES = ("cat", "dog", "cow")
SMALL = [
    "model.pretrained=false",
    "model.fpn_channels=4",
    "model.fc_width=6",
    "model.conv_width=8",
    "model.conv_bottleneck=2",
]


def made(head: str, overrides: list[str], seed: int = 0) -> tuple[RCNN, Config]:
    """A small detector whose weights and statistics are all random."""
    config = load_preset("coco-r50", head, [*SMALL, *overrides])
    detector = build_detector(config, NAMES, pretrained=False)
    generator = torch.Generator().manual_seed(seed)
    for value in detector.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return detector.eval(), config


def back(folder: Path, head: str | None = None) -> tuple[dict[str, Tensor], Config]:
    found = import_detector(folder / "model.pth", head=head, class_names=NAMES)
    assert found.settings_path == folder / "config.yaml"
    assert found.left_out == ()
    return found.detector.state_dict(), found.config


DRAWN = st.fixed_dictionaries(
    {
        "backbone": st.sampled_from(["resnet18", "resnet34"]),
        "conv_blocks": st.integers(0, 2),
        "non_local": st.booleans(),
        "roi_resolution": st.sampled_from([3, 7]),
        "conventions.roi_level_from": st.sampled_from(["proposal", "enlarged"]),
        "rpn_cross_boundary_anchors": st.booleans(),
        "canonical_size": st.sampled_from([96, 224]),
        "fpn_norm": st.sampled_from(["none", "group", "batch"]),
    }
)


# A ResNet is built twice for each.
@settings(max_examples=4, deadline=None)
@given(head=st.sampled_from(HEADS), drawn=DRAWN, seed=st.integers(0, 2**16))
def test_weights_come_back_bit_for_bit(head: str, drawn: dict[str, object], seed: int) -> None:
    overrides = [f"model.{name}={value}" for name, value in drawn.items()]
    detector, config = made(head, overrides, seed)
    with tempfile.TemporaryDirectory() as folder:
        exported = to_detectron2(detector, config)
        exported.write(Path(folder) / "exported")
        again, settings_again = back(Path(folder) / "exported")
    ours = detector.state_dict()
    # detectron2's own pooler knows no other canonical size.
    standard = head == "fc" and config.model.canonical_size == 224
    assert exported.roi_heads == ("StandardROIHeads" if standard else "RethinkROIHeads")
    assert exported.settings["MODEL"]["FPN"]["NORM"] == FPN_NORMS[config.model.fpn_norm]
    if standard:
        # detectron2's box head has no deltas for background; nothing reads ours.
        for part in ("weight", "bias"):
            name = f"roi_heads.heads.fc.predictor.bbox_pred.{part}"
            assert not again[name][:4].any()
            again[name][:4] = ours[name][:4]
    assert list(again) == list(ours)
    for name, value in ours.items():
        assert torch.equal(again[name], value), name
    assert settings_again.head == head
    kept = ("backbone", "fc_width", "roi_resolution", "sampling_ratio", "fpn_channels", "max_size")
    kept += ("canonical_size", "fpn_norm", "trainable_layers", "nms_threshold")
    kept += ("anchor_sizes", "anchor_ratios")
    for name in (*kept, "rpn_cross_boundary_anchors"):
        assert getattr(settings_again.model, name) == getattr(config.model, name), name
    if head != "fc":
        for name in ("conv_enlargement", "fusion", "l_fc", "w_conv"):
            assert getattr(settings_again.model, name) == getattr(config.model, name), name
        level_from = config.model.conventions.roi_level_from
        assert settings_again.model.conventions.roi_level_from == level_from


@pytest.mark.parametrize("own_heads", [False, True])
def test_a_files_weights_come_back_bit_for_bit(own_heads: bool, tmp_path: Path) -> None:
    state = detectron2_state(own_heads)
    torch.save({"model": state}, tmp_path / "file.pth")
    found = import_detector(tmp_path / "file.pth", class_names=NAMES)
    exported = to_detectron2(found.detector, found.config)
    assert set(exported.state) == set(state)
    for name, value in state.items():
        assert torch.equal(exported.state[name], value), name
    assert exported.differences == ()
    assert exported.roi_heads == ("RethinkROIHeads" if own_heads else "StandardROIHeads")


def test_what_detectron2_does_otherwise_is_said() -> None:
    usual = load_preset("coco-r50", "double")
    said = " ".join(differences(usual))
    for part in ("resizes float values", "nearest pixel", "P6 are 64 pixels", "ranks them"):
        assert part in said

    def under(conventions: object) -> tuple[str, ...]:
        model = usual.model.model_copy(update={"conventions": conventions})
        return differences(usual.model_copy(update={"model": model}))

    assert under(DETECTRON2) == ()
    assert any("index of their last pixel" in each for each in under(MASKRCNN_BENCHMARK))
    assert any("variances in the file are less" in each for each in under(MASKRCNN_BENCHMARK))
    assert any("OpenCV" in each for each in under(MMDETECTION))


def test_another_epsilon_is_folded_into_the_variance() -> None:
    zero = ["model.backbone=resnet18", "model.conventions.frozen_norm_epsilon=0.0"]
    detector, config = made("fc", zero)
    exported = to_detectron2(detector, config)
    ours = detector.state_dict()["backbone.body.bn1.running_var"].double()
    theirs = exported.state["backbone.bottom_up.stem.conv1.norm.running_var"].double()
    torch.testing.assert_close(theirs + 1e-5, ours, rtol=1e-6, atol=0)
    assert (theirs < ours).all()


def test_a_backbone_trained_with_batch_normalisation(tmp_path: Path) -> None:
    batch = ["model.backbone=resnet18", "model.norm=batch", "model.trainable_layers=5"]
    detector, config = made("conv", batch)
    exported = to_detectron2(detector, config)
    body = exported.settings["MODEL"]
    assert (body["RESNETS"]["NORM"], body["BACKBONE"]["FREEZE_AT"]) == ("BN", 0)
    exported.write(tmp_path / "exported")
    # Every list is written out: none refers to another.
    assert "&" not in (tmp_path / "exported" / "config.yaml").read_text()
    found = import_detector(tmp_path / "exported" / "model.pth", class_names=NAMES)
    # An imported backbone's normalisation is frozen and counts no batches.
    assert found.left_out
    assert all(name.endswith("num_batches_tracked") for name in found.left_out)
    again = found.detector.state_dict()
    for name, value in detector.state_dict().items():
        if not (name.startswith("backbone") and name.endswith("num_batches_tracked")):
            assert torch.equal(again[name], value), name


def test_a_backbone_that_detectron2_lacks() -> None:
    tiny, config = made("fc", ["model.backbone=tiny"])
    with pytest.raises(UserError, match=r"no backbone 'tiny'.*resnet18"):
        to_detectron2(tiny, config)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    detector, config = made("double-ext", ["model.backbone=resnet18", "model.fusion=max"])
    run = Run.create(tmp_path / "run", config)
    save_detector(detector, config, run.detector_path)
    return run


def test_the_command_and_back(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    command = ["export", "--run", str(run.path), "--to", "detectron2", "--output", str(folder)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    (said,) = result["tables"]["export"]
    files = [Path(path).name for path in result["files"]]
    assert files == ["model.pth", "config.yaml", "class_names.txt"]
    assert said["roi_heads"] == "RethinkROIHeads"
    assert all(sentence in done.stderr for sentence in said["differences"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    assert (folder / "class_names.txt").read_text() == "cat\ndog\ncow\n"
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["MODEL"]["RETHINK_HEADS"]["CLASS_NAMES"] == list(NAMES)
    assert written["MODEL"]["WEIGHTS"] == "model.pth"
    again = tmp_path / "again"
    restored = CliRunner().invoke(
        app, ["import", str(folder / "model.pth"), "--run", str(again), "--json"]
    )
    assert restored.exit_code == 0, restored.output
    assert "settings read from" in restored.stderr
    imported = Run.open(again)
    assert imported.config.model.fusion == "max"
    detector = imported.load()
    assert detector.class_names == NAMES
    for name, value in run.load().state_dict().items():
        assert torch.equal(detector.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--to": "caffe"}, "unknown framework 'caffe': give --to detectron2"),
        ({"--output": "{run}"}, "is not an empty folder"),
        ({"--run": "none"}, "no such run: none"),
    ],
)
def test_the_command_on_mistakes(
    changes: dict[str, str], message: str, run: Run, tmp_path: Path
) -> None:
    options = {"--run": str(run.path), "--to": "detectron2", "--output": str(tmp_path / "new")}
    options |= {name: value.format(run=run.path) for name, value in changes.items()}
    done = CliRunner().invoke(app, ["export", *(part for item in options.items() for part in item)])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "new").exists()
