"""``correlate --stage`` on an untrained detector: tables, JSON, files, mistakes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.measure.stage_boxes import load_stages
from rethink_heads.runs import Run
from tests.command_line import call, call_json, fails, refuse, small_run
from tests.tiny_coco import write_coco


def make_run(folder: Path, head: str, seed: int) -> Run:
    own = ("model.score_threshold=0.0", "measuring.rows_per_bin=1")
    return small_run(folder / f"{head}-{seed}", head, folder / "data", *own, seed=seed)


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


def test_later_stages_of_one_run(double: Run) -> None:
    """Without the predefined proposals, which are not measured then; files go into the run."""
    found = call_json("correlate", "--run", double.path, "--head", "fc", "--head", "conv", "--stage", "rpn",
                    "--stage", "detections")  # fmt: skip
    rows = pd.DataFrame(found["tables"]["stage_correlation"])
    assert set(rows["stage"]) == {"rpn", "detections"}
    assert set(rows["head"]) == {"fc", "conv"}
    assert not (double.measurements() / "meta.json").exists()
    boxes, provenance = load_stages(double.measurements())
    own = boxes[(boxes["stage"] == "rpn") & (boxes["head"] == "fc")]
    assert rows.query("stage == 'rpn' and head == 'fc' and size == 'all'")["n"].item() == len(own)
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


def test_all_stages_of_two_runs(
    apart: list[Run], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [word for run in apart for word in ("--run", run.path)]
    output = call("correlate", *runs, "--stage", "all")
    for word in ("predefined", "rpn", "detections", "images, before NMS", "classes, after NMS"):
        assert word in output
    assert "fc-1/fc - conv-2/conv" in output
    both = folder / "fc-1-conv-2"
    assert f"tables and figures are in {both / 'tables'} and {both / 'figures'};" in output
    table = pd.read_csv(both / "tables" / "stage_correlation.csv")
    assert table["stage"].unique().tolist() == ["predefined", "rpn", "detections"]
    compared = pd.read_csv(both / "tables" / "stage_comparisons.csv")
    assert set(compared["a"]) == {"fc-1/fc"}
    # The second time the boxes are read.
    monkeypatch.setattr(RCNN, "propose", refuse)
    call("correlate", *runs, "--stage", "rpn")


def test_a_folder_for_the_tables_of_runs_is_refused(double: Run, tmp_path: Path) -> None:
    fails("correlate", "--run", double.path, "--output", tmp_path / "out", says="their own folder")


def test_a_range_of_iou_has_files_of_its_own(double: Run) -> None:
    found = call_json("correlate", "--run", double.path, "--stage", "rpn", "--iou-range", 0, 0.5)
    assert {row["iou_high"] for row in found["tables"]["stage_correlation"]} == {0.5}
    assert "rank_levels" not in found["tables"]
    assert (double.tables() / "stage_correlation_iou_0_0.5.csv").is_file()


def test_the_predefined_stage_is_the_command_without_stage(apart: list[Run]) -> None:
    few = ("--run", apart[0].path)
    assert call_json("correlate", *few, "--stage", "predefined") == call_json("correlate", *few)


def test_stages_that_cannot_be_looked_at(double: Run) -> None:
    says = "unknown stage 'nms'; the stages are predefined, rpn, detections, or all of them"
    fails("correlate", "--run", double.path, "--stage", "nms", says=says)
    for stage, given in (("rpn", "--precision=bfloat16"), ("all", "measuring.precision=bfloat16")):
        says = "the later stages are read in float32 only"
        fails("correlate", "--run", double.path, "--stage", stage, given, says=says)
