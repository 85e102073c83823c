"""Detectors of several frameworks on the same objects of real images: one figure, one paired table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from rethink_heads.cli import app
from rethink_heads.files import read_csv
from rethink_heads.measure.store import Measurements
from rethink_heads.statistics.comparison import compare
from tests import json_tables
from tests.models.commands import compared, kept

FEW = ("--max-images", "2", "--objects-per-image", "1", "--grid-steps", "3")
SMALL_C4 = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  RESNETS: {DEPTH: 50}
INPUT: {MIN_SIZE_TEST: 160, MAX_SIZE_TEST: 240}
DATASETS: {TRAIN: [coco_2017_train], TEST: [coco_2017_val]}
"""
TWO_OF_TORCHVISION = (
    "tv=torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "mixed=python:small_v2:make",
)
SMALL_V2 = """\
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2


def make():
    torch.manual_seed(0)
    return fasterrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=91, min_size=160, max_size=240
    )
"""


def compare_three(third: str, data: Path, here: Path) -> dict:
    (here / "small_v2.py").write_text(SMALL_V2)
    models = [f"--model={model}" for model in (*TWO_OF_TORCHVISION, third)]
    options = ["--weights", "random", "--weights", "none", "--weights", "random"]
    options += ["--annotations", str(data / "annotations" / "instances_val2017.json")]
    options += ["--images", str(data / "val2017"), *FEW, "--json"]
    done = CliRunner().invoke(app, ["correlate", *models, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict, here: Path, heads: dict[str, str]) -> None:
    """Three detectors, the same objects of each, one figure and a table of each pair."""
    parts = {name: kept(here, name) for name in heads}
    first, *others = parts.values()
    assert len(first.objects) == 2
    for other in others:
        assert other.objects.equals(first.objects)
    assert set(json_tables.heads(found, "correlations")) == set(heads.items())
    shared = here / "runs" / "-".join(heads)
    with Image.open(compared(shared, "figures") / "correlations.png") as figure:
        assert min(figure.size) > 300
    table = read_csv(compared(shared, "tables") / "correlate_comparisons.csv")
    merged = Measurements.merge(list(parts.values()))
    keys = list(heads.items())
    for a, b in ((keys[0], keys[1]), (keys[0], keys[2]), (keys[1], keys[2])):
        expected = compare(merged, "pcc", a, b)
        rows = table[
            (table["statistic"] == "pcc")
            & (table["a"] == "/".join(a))
            & (table["b"] == "/".join(b))
        ]
        assert rows["difference"].to_list() == pytest.approx(
            expected["difference"].to_list(), abs=0, nan_ok=True
        )
    assert table["objects"].max() == 2


def test_three_kinds_of_heads_of_torchvision(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    third = "tv2=torchvision:fasterrcnn_mobilenet_v3_large_fpn"
    found = compare_three(third, shared_data / "coco-sample", tmp_path)
    check(found, tmp_path, {"tv": "fc", "mixed": "conv-fc", "tv2": "fc"})


def test_torchvision_beside_detectron2(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2.config", reason="detectron2 is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "c4.yaml").write_text(SMALL_C4)
    found = compare_three("d2=detectron2:c4.yaml", shared_data / "coco-sample", tmp_path)
    check(found, tmp_path, {"tv": "fc", "mixed": "conv-fc", "d2": "conv"})
