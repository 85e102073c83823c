"""Every analysis of a user's own detector, of several at once, and of several frameworks on real images."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.cli import app
from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.external import open_model
from rethink_heads.files import read_csv
from rethink_heads.measure.runner import measure
from rethink_heads.measure.store import Measurements
from rethink_heads.statistics.by_iou import pearson
from rethink_heads.statistics.comparison import compare
from tests.command_line import all_sizes, fails, heads, rows
from tests.models.conftest import FEW, compared, invoke, kept, model, runner

ANALYSES = ("correlate", "regress", "sensitivity")
COMPARED = ["image_id", "object_id", "bin", "n", "sum_score", "sum_iou_score", "sum_regressed_iou"]


def test_a_users_own_detector_is_measured_as_by_the_library(data: Path, here: Path) -> None:
    found, _ = invoke("correlate", model("full"), "--data", data, *FEW)
    dataset = CocoDataset(data / "annotations" / "instances_val.json", data / "val")
    detector = open_model("python:my_detectors:full")
    config = MeasuringConfig(grid_steps=3, proposals_per_object=None)
    expected = measure(detector, dataset, "direct", config, 0, here / "direct", {})
    ours = kept(here, "my_detectors-full").to_frame()
    theirs = expected.to_frame()
    pd.testing.assert_frame_equal(ours[COMPARED], theirs[COMPARED], check_exact=True)
    row = pearson(expected).query("size == 'all'").iloc[0]
    assert all_sizes(found)["pcc"] == row["pcc"]
    assert all_sizes(found)["head"] == "colour"


@pytest.mark.parametrize("command", ANALYSES)
def test_what_a_minimal_detector_lacks_is_said_and_nothing_else_is_lost(
    command: str, data: Path
) -> None:
    found, said = invoke(command, model("minimal"), "--data", data, *FEW)
    assert "it has no `output_maps`, so it goes without the spatial correlation of" in said
    assert "it shows no RoI features" in said
    if command == "sensitivity":
        assert rows(found, "spatial_correlation") == []
        assert {row["kind"] for row in rows(found, "responses")} == {"displacement_score"}
    else:
        assert (
            len(rows(found, {"correlate": "correlations", "regress": "regressed_iou"}[command])) > 0
        )


def test_stages_that_a_detector_lacks_are_left_out(data: Path) -> None:
    minimal = (model("minimal"), "--data", data)
    found, said = invoke("correlate", *minimal, "--stage", "all", *FEW)
    assert {row["stage"] for row in rows(found, "stage_correlation")} == {"predefined"}
    assert "it has no `propose`, so it goes without the correlation on its own proposals" in said
    assert "it has no `detect`" in said
    assert "there are no boxes at the stage rpn" in said
    says = "there is nothing to correlate at the stages rpn"
    fails("correlate", *minimal, "--stage", "rpn", *FEW, says=says)
    says = "my_detectors-minimal cannot be evaluated: it has no `detect`"
    fails("evaluate", *minimal, says=says)


def test_every_stage_and_precision_of_a_full_detector(data: Path) -> None:
    full = (model("full"), "--data", data)
    found, said = invoke("correlate", *full, "--stage", "all", *FEW)
    stages = {row["stage"] for row in rows(found, "stage_correlation")}
    assert stages == {"predefined", "rpn", "detections"}
    assert "goes without" not in said
    evaluated, _ = invoke("evaluate", *full)
    (ap,) = rows(evaluated, "ap", metric="AP")
    assert ap["head"] == "colour"
    assert 0 <= ap["value"] <= 1


def test_detectors_give_one_figure_and_one_table_of_all_pairs(data: Path, here: Path) -> None:
    made = {"a": "full", "b": "sharp", "c": "minimal", "d": "full"}
    models = [*(model(each, name) for name, each in made.items()), "--data", data]
    invoke("correlate", *models, *FEW)
    shared = here / "runs" / "a-b-c-d"
    assert (compared(shared, "figures") / "correlations.png").is_file()
    table = read_csv(compared(shared, "tables") / "correlate_comparisons.csv")
    pairs = set(table[["a", "b"]].itertuples(index=False, name=None))
    assert pairs == {(f"{a}/colour", f"{b}/colour") for a, b in combinations("abcd", 2)}
    # The same detector twice.
    same = table[(table["a"] == "a/colour") & (table["b"] == "d/colour")]
    assert set(same["difference"].dropna()) == {0.0}
    merged = Measurements.merge([kept(here, name) for name in "abcd"])
    expected = compare(merged, "pcc", ("a", "colour"), ("b", "colour"))
    ours = table[(table["statistic"] == "pcc") & (table["b"] == "b/colour")]
    assert ours["difference"].to_list() == pytest.approx(
        expected["difference"].to_list(), nan_ok=True, abs=0
    )
    for command, figure in (("regress", "gain"), ("sensitivity", "decay")):
        found, _ = invoke(command, *models, *FEW)
        assert (compared(shared, "tables") / f"{command}_comparisons.csv").is_file()
        assert any(path.endswith(f"{figure}.png") for path in found["files"])


def test_detectors_without_detections_are_left_out_of_precision(data: Path, here: Path) -> None:
    models = [model("full", "a"), model("sharp", "b"), model("minimal", "c"), "--data", data]
    found, said = invoke("evaluate", *models)
    assert "c is left out: it has no `detect`" in said
    assert heads(found, "ap") == [("a", "colour"), ("b", "colour")]
    assert len(rows(found, "ap_comparisons")) > 0
    assert (here / "runs" / "a-b" / "tables" / "ap_comparisons.csv").is_file()


def test_comparisons_are_drawn_again_to_the_byte(data: Path, here: Path) -> None:
    models = [model("full", "a"), model("sharp", "b"), "--data", data]
    for command in (("correlate",), ("regress",), ("correlate", "--stage", "all")):
        invoke(*command, *models)
    invoke("evaluate", *models)
    shared = here / "runs" / "a-b"
    before = {path.name: path.read_bytes() for path in (shared / "figures").glob("*.png")}
    assert {"correlations.png", "gain.png", "stage_correlation.png"} <= set(before)
    assert "average_precision.png" in before
    done = runner.invoke(app, ["figures", "--redraw", str(shared), "--output", str(here / "again")])
    assert done.exit_code == 0, done.stderr
    for name, content in before.items():
        assert (here / "again" / "figures" / name).read_bytes() == content


def test_results_are_printed_although_the_files_of_a_comparison_cannot_be_written(
    data: Path, here: Path
) -> None:
    models = [model("full", "a"), model("sharp", "b"), "--data", data]
    (here / "runs").mkdir()
    (here / "runs" / "a-b").write_text("in the way")
    done = runner.invoke(app, ["correlate", *map(str, models), *FEW])
    assert done.exit_code == 2
    assert "Correlation of score and IoU" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: cannot write")


FEW_IMAGES = ("--max-images", "2", "--objects-per-image", "1", "--grid-steps", "3")
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
    found, _ = invoke("correlate", *models, *weights, *data, *FEW_IMAGES)
    by_name = {"tv": "fc", "mixed": "conv-fc", name: head}
    first, *others = (kept(tmp_path, each) for each in by_name)
    assert len(first.objects) == 2
    for other in others:
        assert other.objects.equals(first.objects)
    assert set(heads(found, "correlations")) == set(by_name.items())
    shared = tmp_path / "runs" / "-".join(by_name)
    assert (compared(shared, "figures") / "correlations.png").is_file()
    table = read_csv(compared(shared, "tables") / "correlate_comparisons.csv")
    assert len(set(table[["a", "b"]].itertuples(index=False, name=None))) == 3
    assert table["objects"].max() == 2
