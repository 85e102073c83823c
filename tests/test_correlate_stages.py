"""``correlate --stage`` on an untrained detector: tables, JSON, files, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

from rethink_heads.cli import app
from rethink_heads.config import load_preset
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.detectors.rcnn.checkpoints import save_detector
from rethink_heads.measure.stage_boxes import load_stages
from rethink_heads.runs import Run
from tests.tiny_coco import CLASSES, SMALL_SETTINGS, write_coco

runner = CliRunner()


def make_run(folder: Path, head: str, seed: int) -> Run:
    settings = [*SMALL_SETTINGS, f"data.source={folder / 'data'}", "model.score_threshold=0.0"]
    settings.append("measuring.rows_per_bin=1")
    config = load_preset("shapes-tiny", head, settings)
    made = Run.create(folder / f"{head}-{seed}", config)
    torch.manual_seed(seed)
    save_detector(build_detector(config, CLASSES), config, made.detector_path)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stages")
    write_coco(made / "data", images=3)
    return made


@pytest.fixture(scope="module")
def double(folder: Path) -> Run:
    return make_run(folder, "double-ext", 0)


@pytest.fixture(scope="module")
def apart(folder: Path) -> list[Run]:
    return [make_run(folder, "fc", 1), make_run(folder, "conv", 2)]


def correlate(*arguments: object) -> Result:
    result = runner.invoke(app, ["correlate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def as_json(*arguments: object) -> Any:
    return json.loads(correlate(*arguments, "--json").stdout)


def test_later_stages_of_one_run(double: Run) -> None:
    """Without the predefined proposals, which are not measured then; files go into the run."""
    found = as_json("--run", double.path, "--head", "fc", "--head", "conv", "--stage", "rpn",
                    "--stage", "detections")  # fmt: skip
    rows = pd.DataFrame(found["tables"]["stage_correlation"])
    assert set(rows["stage"]) == {"rpn", "detections"}
    assert set(rows["head"]) == {"fc", "conv"}
    assert not (double.measurements() / "meta.json").exists()
    boxes, provenance = load_stages(double.measurements())
    own = boxes[(boxes["stage"] == "rpn") & (boxes["head"] == "fc")]
    assert rows[(rows["stage"] == "rpn") & (rows["head"] == "fc") & (rows["size"] == "all")][
        "n"
    ].item() == len(own)
    assert found["provenance"]["later stages"][double.name] == provenance
    assert {one["level"] for one in found["tables"]["rank_levels"]} == {"image", "class"}
    written = {Path(name).relative_to(double.path).as_posix() for name in found["files"]}
    assert written == {
        "tables/stage_correlation.csv",
        "tables/stage_comparisons.csv",
        "tables/rank_levels.csv",
        "tables/rank_level_comparisons.csv",
        "figures/stage_correlation.png",
        "figures/stage_correlation.pdf",
    }
    table = pd.read_csv(double.tables() / "stage_correlation.csv")
    assert table["n"].tolist() == rows["n"].tolist()


def test_all_stages_of_two_runs(apart: list[Run], folder: Path) -> None:
    runs = [word for run in apart for word in ("--run", run.path)]
    result = correlate(*runs, "--stage", "all")
    for word in ("predefined", "rpn", "detections", "images, before NMS", "classes, after NMS"):
        assert word in result.stdout
    assert "fc-1/fc - conv-2/conv" in result.stdout
    both = folder / "fc-1-conv-2"
    assert f"tables and figures are in {both / 'tables'} and {both / 'figures'};" in result.stdout
    table = pd.read_csv(both / "tables" / "stage_correlation.csv")
    assert table["stage"].unique().tolist() == ["predefined", "rpn", "detections"]
    compared = pd.read_csv(both / "tables" / "stage_comparisons.csv")
    assert set(compared["a"]) == {"fc-1/fc"}
    # The second time the boxes are read.
    again = correlate(*runs, "--stage", "rpn")
    assert "matching proposals" in result.stderr
    assert "matching proposals" not in again.stderr


def test_a_range_of_iou_has_files_of_its_own(double: Run) -> None:
    found = as_json("--run", double.path, "--stage", "rpn", "--iou-range", 0, 0.5)
    assert {row["iou_high"] for row in found["tables"]["stage_correlation"]} == {0.5}
    assert "rank_levels" not in found["tables"]
    assert (double.tables() / "stage_correlation_iou_0_0.5.csv").is_file()


def test_the_predefined_stage_is_the_command_without_stage(apart: list[Run]) -> None:
    few = ("--run", apart[0].path)
    assert as_json(*few, "--stage", "predefined") == as_json(*few)


def test_an_unknown_stage_is_told(double: Run) -> None:
    result = runner.invoke(app, ["correlate", "--run", str(double.path), "--stage", "nms"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: unknown stage 'nms'; the stages are predefined, rpn, detections, or all of them\n"
    )


def test_later_stages_in_another_arithmetic_are_refused(double: Run) -> None:
    for stage in ("rpn", "all"):
        command = ["correlate", "--run", str(double.path), "--stage", stage]
        for given in (["--precision", "bfloat16"], ["measuring.precision=bfloat16"]):
            result = runner.invoke(app, [*command, *given])
            assert result.exit_code == 2, result.output
            assert "the later stages are read in float32 only" in result.stderr
