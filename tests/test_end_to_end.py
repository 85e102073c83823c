"""The whole line on four images: train, evaluate, measure, analyse, draw; go on after a stop."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from torchvision.ops import box_iou

from rethink_heads import run_options
from rethink_heads.commands.objects import object_views, rank
from rethink_heads.config import load_preset
from rethink_heads.measure.store import Measurements
from rethink_heads.options import DetectorOptions, StudyOptions
from rethink_heads.runs import Run
from rethink_heads.statistics.by_iou import object_correlations
from rethink_heads.study import study
from rethink_heads.training.module import DetectionModule
from tests.command_line import all_sizes, call, call_json, heads, refuse, rows
from tests.measure.conftest import assert_same
from tests.report.page_reader import read_page
from tests.tiny_coco import SMALL_SETTINGS, write_coco

IMAGES = 4
SETTINGS = [
    *SMALL_SETTINGS,
    "training.max_iterations=5",
    "training.batch_size=2",
    "training.warmup_iterations=2",
    "training.milestones=[4]",
    "training.validate_every=5",
    "training.checkpoint_every=2",
    "training.workers=0",
    # All proposals as rows, so that a test can compute from them what the moments say.
    "measuring.rows_per_bin=100",
    "measuring.images=none",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of four images a split and a preset for it."""
    made = tmp_path_factory.mktemp("whole")
    for split in ("train", "val"):
        write_coco(made / "data", split, IMAGES)
    config = load_preset("shapes-tiny", "double-ext", [*SETTINGS, f"data.source={made / 'data'}"])
    (made / "small.yaml").write_text(config.to_yaml())
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """What ``demo`` makes, with the small preset in the demo's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_options, "DEMO_PRESET", folder / "small.yaml")
        output = call("demo", "--run", folder / "runs" / "demo")
    assert "Correlation of score and IoU, proposals of IoU 0 to 1" in output
    assert "fc - conv" in output
    assert str(folder / "runs" / "demo" / "figures") in output
    assert f"Open {folder / 'runs' / 'demo' / 'report.html'} in a browser" in output
    return Run.open(folder / "runs" / "demo")


def files_of(run: Run) -> dict[Path, int]:
    kept = ("measurements", "tables", "figures", "checkpoints")
    paths = [path for name in kept for path in (run.path / name).rglob("*")]
    return {
        path: path.stat().st_mtime_ns
        for path in [*paths, run.path / "report.html"]
        if path.is_file()
    }


def test_the_demo_leaves_detector_measurements_tables_and_figures(run: Run) -> None:
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "detector.pt",
        "detector.sha256",
        "last.ckpt",
        "best.ckpt",
    }
    names = {path.name.split("-")[0] for path in run.measurements("default").iterdir()}
    measured = {"meta.json", "objects.parquet", "moments", "rows", "maps", "weights"}
    assert names == measured | {"detections.parquet", "candidates"}
    header, tables = read_page(run.path / "report.html")
    assert [one["head"] for one in header["series"]] == ["fc", "conv"]
    assert {"pcc", "lost_precision", "recall_ladder", "objects", "boxes"} <= set(tables)
    for path in run.tables_dir.iterdir():
        assert not pd.read_csv(path).empty
    for name in ("figure2", "figure3", "figure4"):
        png, pdf = (run.figures_dir / f"{name}.{kind}" for kind in ("png", "pdf"))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert pdf.read_bytes().startswith(b"%PDF")
        assert min(png.stat().st_size, pdf.stat().st_size) > 5000
    assert not [path for path in run.path.rglob(".*")]


def test_a_second_demo_uses_what_is_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DetectionModule, "training_step", refuse)
    monkeypatch.setattr(np, "savez", refuse)
    before = files_of(run)
    call("demo", "--run", run.path)
    assert files_of(run) == before


def test_correlate_of_one_head(run: Run) -> None:
    result = call_json("correlate", "--run", run.path, "--head", "fc")
    assert heads(result, "correlations") == [("demo", "fc")]
    by_size = {row["size"]: row for row in rows(result, "correlations")}
    assert list(by_size) == ["small", "medium", "large", "all"]
    found = Measurements.load(run.measurements()).rows((run.name, "fc"))
    assert by_size["all"]["pcc"] == pytest.approx(
        pearsonr(found["iou"], found["score"])[0], abs=1e-9
    )
    # Of so few images there is no interval.
    assert by_size["all"]["pcc_low"] is by_size["all"]["pcc_high"] is None
    printed = call("correlate", "--run", run.path, "--head", "fc")
    assert f"{by_size['all']['pcc']:.3f} [-]" in printed
    assert "[-]: no interval: too few images bear on the value" in printed
    assert by_size["all"]["objects"] == IMAGES
    assert by_size["all"]["proposals"] == len(found)
    assert by_size["large"]["pcc"] is None
    assert by_size["large"]["objects"] == 0
    assert len(rows(result, "score_by_iou")) == 4 * 20
    assert len(result["provenance"]["weights"]) == 64


def test_correlate_of_two_heads_compares_them(run: Run) -> None:
    both = ("--run", run.path, "--head", "fc", "--head", "conv")
    whole = call_json("correlate", *both)
    half = call_json("correlate", *both, "--iou-range", "0.5", "1")
    assert set(heads(whole, "correlations")) == {("demo", "fc"), ("demo", "conv")}
    for result in (whole, half):
        pccs = {row["head"]: row["pcc"] for row in rows(result, "correlations", size="all")}
        (found,) = rows(result, "comparisons", statistic="pcc", size="all")
        assert (found["a"], found["b"]) == ("demo/fc", "demo/conv")
        assert found["difference"] == pytest.approx(pccs["fc"] - pccs["conv"])
        assert found["difference_low"] is found["difference_high"] is None
        assert not found["excludes_zero"]
    proposals = [rows(r, "correlations", size="all")[0]["proposals"] for r in (half, whole)]
    assert 0 < proposals[0] < proposals[1]


def test_regress(run: Run) -> None:
    result = call_json("regress", "--run", run.path, "--head", "conv")
    moments = Measurements.load(run.measurements()).select(heads=["conv"]).to_frame()
    assert len(rows(result, "regressed_iou", size="all")) == 20
    for error in rows(result, "error_components", size="all"):
        squares = moments["sum_{0}_{0}".format(error["component"])].sum()
        assert error["rms"] == pytest.approx((squares / moments["n"].sum()) ** 0.5)
    assert "Gain over the proposal" in call("regress", "--run", run.path, "--full")


def test_sensitivity(run: Run) -> None:
    result = call_json("sensitivity", "--run", run.path)
    kinds = {(row["head"], row["kind"]) for row in rows(result, "spatial_correlation")}
    assert kinds == {
        ("fc", "spatial_correlation"),
        ("conv", "spatial_correlation"),
        ("fc", "weight_correlation"),
    }
    assert all(-1 <= row["mean"] <= 1 for row in rows(result, "decay") if row["mean"] is not None)
    assert {row["kind"] for row in rows(result, "responses")} == {
        "displacement_score",
        "cell_score",
        "cell_iou",
    }
    (compared,) = rows(result, "comparisons", size="all")
    assert {compared["a"], compared["b"]} == {"demo/fc", "demo/conv"}
    assert {row["size"] for row in rows(result, "decay_comparisons")} >= {"all"}
    response_rows = rows(result, "response_comparisons", size="all")
    # Four quantities of the displacement, one of each kind of cell. Of the four heads three differ in their scores, and
    # two in their boxes.
    counts = pd.DataFrame(response_rows).groupby("kind").size().to_dict()
    assert counts == {"displacement_score": 4 * 3, "cell_score": 3, "cell_iou": 1}
    assert {("demo/fc", "demo/conv")} <= {(row["a"], row["b"]) for row in response_rows}
    assert re.search("displaced box, score +drop along x", call("sensitivity", "--run", run.path))
    assert "weights of fc6" in call("sensitivity", "--run", run.path, "--head", "fc")


def test_another_choice_is_measured_beside_the_default(run: Run) -> None:
    before = files_of(run)
    result = call_json("correlate", "--run", run.path, "--head", "fc", "--max-images", 2)
    assert all_sizes(result)["objects"] == 2
    added = {path.parent.name for path in set(files_of(run)) - set(before)}
    assert len(added) == 1
    assert next(iter(added)).startswith("val-")
    assert files_of(run).items() >= before.items()


def test_figures_need_no_detector_and_no_data(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(run.path, copy)
    for name in ("checkpoints", "tables", "figures"):
        shutil.rmtree(copy / name)
    written = call_json("figures", "--run", copy, "--measurements", "default")["files"]
    assert written
    for path in map(Path, written):
        assert path.read_bytes() == (run.path / path.relative_to(copy)).read_bytes()


@pytest.mark.usefixtures("tables_only")
def test_going_on_after_interruptions_gives_the_same_tables(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    """Stopped in training and again in measuring; the folder's name is that of the other run."""
    again = tmp_path / "demo"
    stopped_training = _stop_at(DetectionModule.training_step, 4)
    stopped_measuring = _stop_at(np.savez, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_options, "DEMO_PRESET", folder / "small.yaml")
        with patch.context() as stop:
            stop.setattr(DetectionModule, "training_step", stopped_training)
            call("demo", "--run", again, code=130)
        assert not Run.open(again).detector_path.exists()
        with patch.context() as stop:
            stop.setattr(np, "savez", stopped_measuring)
            call("demo", "--run", again, code=130)
        assert not Run.open(again).measurements().joinpath("meta.json").exists()
        call("demo", "--run", again)
    for path in run.tables_dir.glob("*.csv"):
        assert (again / "tables" / path.name).read_text() == path.read_text(), path.name
    first, second = (Measurements.load(Run.open(p).measurements()) for p in (run.path, again))
    assert_same(first, second)


def _stop_at(function: Any, number: int) -> Any:
    """The function, which is interrupted when it is called for the ``number``-th time."""
    calls = 0

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return stopping


def test_the_hardest_objects_are_listed_and_drawn(run: Run) -> None:
    found = call_json("objects", "--run", run.path, "--head", "fc", "--head", "conv", "--worst", 2)
    listed = found["tables"]["hardest"]
    assert [row["rank"] for row in listed] == [1, 2]
    assert listed[0]["pcc"] <= listed[1]["pcc"]
    assert {Path(path).name for path in found["files"]} == {
        "objects.csv",
        "objects.png",
        "objects.pdf",
    }
    table = pd.read_csv(next(path for path in found["files"] if path.endswith(".csv")))
    assert len(table) == 2 * IMAGES


def test_the_boxes_of_sampled_proposals_are_made_again(run: Run) -> None:
    options = StudyOptions(detectors=DetectorOptions(run=[run.path]), head=["fc", "conv"])
    opened = study(options)
    objects = object_correlations(opened.selected)
    for view in object_views(opened, objects, rank(objects, IMAGES), opened.keys):
        ious = box_iou(torch.from_numpy(view.boxes), torch.from_numpy(view.box)[None])[:, 0].numpy()
        rows = opened.selected.rows(opened.keys[0])
        there = opened.selected.objects.iloc[rows["object"]]["object_id"].to_numpy()
        own = rows[there == int(re.findall(r"object (\d+)", view.title)[0])]
        np.testing.assert_allclose(ious, own["iou"], atol=1e-6)
        assert set(view.scores) == set(opened.keys)


def test_objects_are_listed_though_their_figure_cannot_be_written(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("figures"))
    (copy / "figures").write_text("in the way")
    output = call("objects", "--run", copy, "--head", "fc", "--worst", 2, code=2)
    assert "The 2 objects that fc finds hardest" in output
    assert (copy / "tables" / "objects.csv").is_file()
