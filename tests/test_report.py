"""``rethink-heads report``: from files alone, from a run, and what it says where nothing can be written."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.measure.store import Measurements
from tests.command_line import call, call_json, fails, small_run
from tests.made_detections import as_results, make_dataset, make_detections
from tests.report.page_reader import read_page
from tests.results_files import write_json
from tests.tiny_coco import write_coco


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    """Arguments that name two files of detections and their ground truth."""
    dataset = make_dataset(tmp_path / "data", images=24)
    given: list[object] = ["--annotations", dataset.annotations_path, "--draws", 20]
    for seed, name in enumerate(("old", "new")):
        results = as_results(make_detections(dataset, seed), dataset)
        given += ["--detections", write_json(results, tmp_path / f"{name}.json")]
    return given


def test_files_alone_become_a_page(
    files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rethink-heads", "report"])
    output = call("report", *files, "--title", "Old and new")
    assert "report.html" in output
    assert "rethink-heads correlate measures them, with a detector" in output
    header, tables = read_page(tmp_path / "report.html")
    assert header["title"] == "Old and new"
    assert [one["detector"] for one in header["series"]] == ["old", "new"]
    assert {"ap", "lost_precision", "fates", "by_class", "confusion", "ap_comparisons"} <= set(
        tables
    )
    assert set(tables["object_heads"]["fate"]) >= {"found", "missed"}
    assert "pcc" not in tables
    assert ["command", "rethink-heads report"] in header["provenance"]


def test_the_page_is_what_diagnose_says(files: list[object], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    found = call_json("report", *files, "--output", path, "--crops-mb", 0)
    diagnosed = call_json("diagnose", *files)
    assert found["files"] == [str(path)]
    tables = read_page(path)[1]
    for name in ("ap", "lost_precision", "fates"):
        expected = pd.DataFrame(diagnosed["tables"][name])
        assert len(expected) > 0
        pd.testing.assert_frame_equal(tables[name], expected, check_dtype=False, rtol=1e-13)


def test_a_run_has_its_measurements_and_stages_in_the_page(tmp_path: Path) -> None:
    write_coco(tmp_path / "data", "val", images=4)
    run = small_run(tmp_path / "run", "double-ext", tmp_path / "data")
    call("report", "--run", run.path, "--draws", 10, "--measured-only")
    header, tables = read_page(run.path / "report.html")
    assert "pcc" not in tables
    assert "recall_ladder" in tables
    call("correlate", "--run", run.path, "--max-images", 3)
    call(
        "report", "--run", run.path, "--head", "fc", "--draws", 10, "--output", tmp_path / "fc.html"
    )
    header, tables = read_page(tmp_path / "fc.html")
    assert [one["head"] for one in header["series"]] == ["fc"]
    assert {"pcc", "score_by_iou", "proposals", "score_density"} <= set(tables)
    assert header["crops"]
    measured = tables["object_heads"]["score"].notna().sum()
    assert 0 < measured < len(tables["objects"])


def test_what_is_missing_is_measured_first(tmp_path: Path) -> None:
    write_coco(tmp_path / "data", "val", images=3)
    run = small_run(tmp_path / "run", "fc", tmp_path / "data")
    call("report", "--run", run.path, "--draws", 10)
    _, tables = read_page(run.path / "report.html")
    assert {"pcc", "regressed_iou", "correlation_maps", "proposals"} <= set(tables)
    assert {"predefined", "rpn"} <= set(tables["stages"]["stage"])
    assert [*Measurements.load(run.measurements()).keys] == [("run", "fc")]


def test_where_no_page_can_be_written_it_is_said_first(files: list[object], tmp_path: Path) -> None:
    fails("report", *files, "--output", tmp_path, says="is a folder; give a file")
    (tmp_path / "file").touch()
    fails("report", *files, "--output", tmp_path / "file" / "page.html", says="is not a folder")
    fails("report", *files, "--crops-mb", "nan", says="--crops-mb nan is out of bounds")
