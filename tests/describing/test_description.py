"""describe and its command: one table a preset, in seconds, without a detector in memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from rethink_heads.bounds import HEADS
from rethink_heads.cli import app
from rethink_heads.config import load_preset
from rethink_heads.describing.description import Description, describe
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.errors import UserError

runner = CliRunner()
CPU_SECONDS = 60


@pytest.fixture(scope="module")
def tiny() -> Description:
    return describe("shapes-tiny")


@pytest.fixture(scope="module")
def coco() -> Description:
    before = time.process_time()
    description = describe("coco-r50")
    assert time.process_time() - before < CPU_SECONDS
    return description


def test_all_heads_of_a_preset_in_one_table(tiny: Description) -> None:
    summary = tiny.summary()
    assert tuple(summary["head"]) == HEADS
    assert (tiny.frame, tiny.images, tiny.rois_per_image) == ((192, 192), 4, 32)
    for row in summary.to_dict("records"):
        real = build_detector(load_preset("shapes-tiny", row["head"]), ["c"] * tiny.classes)
        assert row["parameters"] == sum(p.numel() for p in real.parameters())
        assert row["trained"] == sum(p.numel() for p in real.parameters() if p.requires_grad)
        shared = row["backbone"] + row["fpn"] + row["rpn"]
        assert row["parameters"] == shared + row["branches"]
        memory = tiny.memory.set_index(["head", "precision"]).loc[(row["head"], "32-true")]
        state = real.state_dict().values()
        assert memory["weights"] == sum(v.numel() * v.element_size() for v in state)
        assert memory["gradients"] == memory["momentum"] == 4 * row["trained"]
        assert memory["total"] == row["memory 32-true"] == memory.drop("total").sum()


def test_the_papers_figures(coco: Description) -> None:
    assert (coco.classes, coco.images, coco.rois_per_image) == (80, 8, 512)
    # 800 px and 4:3 of it, in both directions, padded to multiples of 32.
    assert coco.frame == (1088, 1088)
    weights = coco.parts.groupby(["head", "block"])["weights"].first() / 2**20
    assert weights["fc", "fc6"] + weights["fc", "fc7"] == 13.25
    assert round(weights["conv", "widening block"], 2) == 1.06
    assert round(weights["double-ext", "bottleneck block 2"], 2) == 1.06
    assert weights["double", "non-local block 1"] == 2.0
    summary = coco.summary().set_index("head")
    # torchvision's own Faster R-CNN on ResNet-50 with FPN has 41,755,286 parameters with 91 classes, ours 80 + 1, and
    # its frozen normalisation, 53,120 numbers, as buffers.
    classes = 1025 * 5 * (91 - 81)
    backbone = coco.parts.query("head == 'fc' and part == 'backbone'")["parameters"].item()
    assert backbone == 23_508_032
    assert summary.loc["fc", "parameters"] == 41_755_286 - classes + 53_120
    assert summary.loc["double", "branches"] == (
        summary.loc["fc", "branches"] + summary.loc["conv", "branches"]
    )


def test_what_takes_memory(coco: Description) -> None:
    saved = coco.memory.set_index(["head", "precision"])
    heads = saved["heads"].xs("32-true", level="precision")
    assert heads["fc"] < heads["double-fc"] < heads["conv"] < heads["double"] < heads["double-conv"]
    for part in ("backbone", "fpn", "rpn"):
        assert saved[part].groupby("precision").nunique().tolist() == [1, 1]
    # The widening block alone, by hand: of each RoI's 49 cells, the input (once), three normalisations' inputs, and
    # two ReLUs' outputs, in float32; a few numbers by channel aside.
    wide = describe("coco-r50", ["conv"], ["model.conv_blocks=0", "model.conv_enlargement=1"])
    one_roi = 49 * 4 * (256 + (256 + 1024 + 1024) + (256 + 1024))
    found = wide.memory.query("precision == '32-true'")["heads"].item()
    assert found == pytest.approx(8 * 512 * one_roi, rel=0.02)


def test_a_preset_with_a_head_in_its_name_is_that_head_alone(coco: Description) -> None:
    one = describe("coco-r50-double-head-ext")
    assert list(one.summary()["head"]) == ["double-ext"]
    both = coco.summary().query("head == 'double-ext'").reset_index(drop=True)
    pd.testing.assert_frame_equal(one.summary(), both)


def test_overrides_classes_and_frame() -> None:
    def of(
        *overrides: str, classes: int | None = None, frame: tuple[int, int] | None = None
    ) -> Any:
        description = describe("bccd-small", ["single-fc"], overrides, classes, frame)
        return description, description.summary().iloc[0]

    base, row = of()
    assert base.classes == 3
    wider, more = of("model.fc_width=512")
    assert more["branches"] > row["branches"]
    _, bigger = of(classes=80, frame=(640, 640))
    assert bigger["memory 32-true"] > row["memory 32-true"]
    assert bigger["branches"] - row["branches"] == 77 * 5 * 257
    assert wider.frame == base.frame == (320, 320)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["coco-r5"], "unknown preset 'coco-r5'"),
        (["coco-r50", "--head", "triple"], "head"),
        (["coco-r50-fc", "--head", "conv"], "is of head fc, not of head conv"),
        (["shapes-tiny", "--frame", "big"], "cannot read --frame big as HEIGHTxWIDTH"),
        (
            ["shapes-tiny", "--frame", "0x9"],
            "a frame's side of 0 is out of bounds: give 1 to 20,000",
        ),
        (["shapes-tiny", "model.widths=3"], "unknown setting 'model.widths'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], says: str) -> None:
    result = runner.invoke(app, ["describe", *arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_preset_of_ones_own_needs_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {backbone: tiny, pretrained: false}\n")
    with pytest.raises(UserError, match="how many classes mine has: give --classes N"):
        describe(path, ["fc"])
    assert describe(path, ["fc"], ["model.min_size=64"], 7, (64, 64)).classes == 7


def test_the_command_prints_and_writes_the_tables(tmp_path: Path) -> None:
    arguments = ["describe", "shapes-tiny-double-head", "--output", str(tmp_path / "tables")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "widening block" in result.stdout
    assert "double" in result.stdout
    summary = pd.read_csv(tmp_path / "tables" / "summary.csv")
    expected = describe("shapes-tiny", ["double"])
    pd.testing.assert_frame_equal(summary, expected.summary(), check_dtype=False)
    parts = pd.read_csv(tmp_path / "tables" / "parts.csv")
    pd.testing.assert_frame_equal(parts, expected.parts, check_dtype=False)
    result = runner.invoke(app, ["describe", "shapes-tiny-double-head", "--json"])
    content = json.loads(result.stdout)
    assert content["summary"] == json.loads(expected.summary().to_json(orient="records"))
    assert content["frame"] == [192, 192]
