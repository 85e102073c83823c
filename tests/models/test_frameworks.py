"""Detectors of several frameworks on the same objects of real images: one figure, one paired table."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink_heads.files import read_csv
from tests import command_line
from tests.models.conftest import compared, invoke, kept

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


@pytest.mark.parametrize(
    ("third", "head"),
    [
        ("tv2=torchvision:fasterrcnn_mobilenet_v3_large_fpn", "fc"),
        ("d2=detectron2:c4.yaml", "conv"),
    ],
)
def test_detectors_of_several_frameworks(
    third: str, head: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = third.partition("=")[0]
    if name == "d2":
        pytest.importorskip("detectron2.config", reason="detectron2 is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "c4.yaml").write_text(SMALL_C4)
    (tmp_path / "small_v2.py").write_text(SMALL_V2)
    sample = shared_data / "coco-sample"
    models = [f"--model={model}" for model in (*TWO_OF_TORCHVISION, third)]
    data = ["--annotations", sample / "annotations" / "instances_val2017.json"]
    data += ["--images", sample / "val2017"]
    weights = ["--weights", "random", "--weights", "none", "--weights", "random"]
    found, _ = invoke("correlate", *models, *weights, *data, *FEW)
    heads = {"tv": "fc", "mixed": "conv-fc", name: head}
    first, *others = (kept(tmp_path, each) for each in heads)
    assert len(first.objects) == 2
    for other in others:
        assert other.objects.equals(first.objects)
    assert set(command_line.heads(found, "correlations")) == set(heads.items())
    shared = tmp_path / "runs" / "-".join(heads)
    assert (compared(shared, "figures") / "correlations.png").is_file()
    table = read_csv(compared(shared, "tables") / "correlate_comparisons.csv")
    assert len(set(table[["a", "b"]].itertuples(index=False, name=None))) == 3
    assert table["objects"].max() == 2
