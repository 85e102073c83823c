"""``rethink-heads evaluate`` on a detector that was never trained: what it prints, keeps and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.config import load_preset
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.detectors.rcnn.detector import load_detector
from rethink_heads.evaluation.measures import evaluate
from rethink_heads.measure.detections import load_detections
from rethink_heads.runs import Run
from tests.command_line import call, call_json, fails, heads, rows, untrained_run
from tests.tiny_coco import SMALL_SETTINGS, write_coco

IMAGES = 4
HEADS = ["fc", "conv", "double", "double-ext"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path, "double", seed=0)


def make_run(
    folder: Path,
    name: str,
    seed: int,
    images: int = IMAGES,
    head: str = "double-ext",
    settings: Sequence[str] = (),
) -> Run:
    data = folder / f"data-{images}"
    write_coco(data, images=images)
    own = [*SMALL_SETTINGS, f"data.source={data}", "model.score_threshold=0.3", *settings]
    return untrained_run(folder / "runs" / name, load_preset("shapes-tiny", head, own), seed)


def refuse(*args: object) -> None:
    raise AssertionError("nothing is to be detected again")


def test_precision_is_that_of_training(run: Run) -> None:
    found = call_json("evaluate", "--run", run.path)
    assert heads(found, "ap") == [(run.name, head) for head in HEADS]
    dataset = CocoDataset(*split_paths(run.config.data, "test"))
    expected = evaluate(load_detector(run.detector_path), dataset, progress=False)
    for head in HEADS:
        ap = {row["metric"]: row["value"] for row in rows(found, "ap", head=head)}
        assert ap == {
            metric: value if value == value else None for metric, value in expected[head].items()
        }
    ap = pd.read_csv(run.tables_dir / "ap.csv")
    assert ap["head"].unique().tolist() == HEADS
    assert (run.figures_dir / "average_precision.png").is_file()


def test_all_kinds_of_tables_without_detecting_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call_json("evaluate", "--run", run.path, "--head", "fc")
    assert first["files"] == []
    monkeypatch.setattr(RCNN, "detect", refuse)
    result = call_json("evaluate", "--run", run.path, "--errors", "--calibration")
    tables = {Path(path).name for path in result["files"] if path.endswith("csv")}
    names = ("ap", "detection_errors", "calibration")
    assert tables == {
        "reliability.csv",
        *(f"{name}.csv" for name in names),
        *(f"{name}_comparisons.csv" for name in names),
    }
    calibration = rows(result, "calibration", head="fc")
    assert [row["error"] for row in calibration] == ["d_ece", "laece", "overconfidence"]
    found = {row["error"]: row["count"] for row in rows(result, "detection_errors", head="fc")}
    assert found["fp"] == sum(found[kind] for kind in ("cls", "loc", "both", "dupe", "bkg"))
    # Six pairs of four heads, six metrics each.
    assert len(rows(result, "ap_comparisons")) == 36
    printed = call("evaluate", "--run", run.path, "--errors")
    assert printed.startswith("AP (average precision): ")
    assert "bkg: on background" in printed
    assert len(printed.splitlines()) <= 40
    assert "fc - double-ext" in call("evaluate", "--run", run.path, "--full")


def test_another_fusion_is_kept_apart(run: Run) -> None:
    call_json("evaluate", "--run", run.path)
    before = (run.measurements() / "detections.parquet").read_bytes()
    result = call_json("evaluate", "--run", run.path, "--fusion", "mean")
    assert rows(result, "runs")[0]["measurements"] == "fusion-mean"
    assert (run.measurements() / "detections.parquet").read_bytes() == before
    assert (run.tables("fusion-mean") / "ap.csv").is_file()
    complementary, mean = (
        load_detections(run.measurements(name))[0].set_index("head")
        for name in ("default", "fusion-mean")
    )
    # Only one reading fuses.
    for head in HEADS[:3]:
        pd.testing.assert_frame_equal(complementary.loc[[head]], mean.loc[[head]])
    assert complementary.loc["double-ext", "score"].max() > mean.loc["double-ext", "score"].max()
    # The run's own rule is the default.
    own = call_json("evaluate", "--run", run.path, "--fusion", "complementary")
    assert rows(own, "runs")[0]["measurements"] == "default"


def test_runs_are_compared_on_the_same_data(tmp_path: Path, run: Run) -> None:
    other = make_run(tmp_path, "other", seed=1)
    both = ["--run", run.path, "--run", other.path, "--head", "double"]
    result = call_json("evaluate", *both, "--compare", "--output", tmp_path / "out")
    assert heads(result, "ap") == [("double", "double"), ("other", "double")]
    assert rows(result, "ap_comparisons")[0]["a"] == "double/double"
    # As where it is not asked for, since their data are the same.
    assert call_json("evaluate", *both)["tables"] == result["tables"]
    assert (tmp_path / "out" / "tables" / "ap_comparisons.csv").is_file()
    assert not run.tables_dir.exists()
    elsewhere = make_run(tmp_path, "elsewhere", seed=1, images=2)
    apart = ["evaluate", "--run", run.path, "--run", elsewhere.path]
    fails(*apart, "--compare", says="were evaluated on different data")
    assert "ap_comparisons" not in call_json(*apart)["tables"]


def test_a_head_that_the_task_weights_left_untrained(tmp_path: Path) -> None:
    run = make_run(tmp_path, "weights", seed=0, images=1, settings=["model.l_fc=0"])
    assert heads(call_json("evaluate", "--run", run.path), "ap") == [("weights", "conv")]
    fails("evaluate", "--run", run.path, "--head", "fc", says="left fc untrained; it has conv")


def test_each_run_is_read_as_the_heads_it_has(tmp_path: Path) -> None:
    single = [make_run(tmp_path, name, seed=0, images=1, head=name) for name in ("fc", "conv")]
    runs = [word for one in single for word in ("--run", one.path)]
    found = call_json("evaluate", *runs, "--head", "fc", "--head", "conv")
    assert heads(found, "ap") == [("fc", "fc"), ("conv", "conv")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fusion", "sum"], "unknown fusion rule 'sum'; the rules are complementary, max, mean"),
        (["--head", "fc", "--fusion", "max"], "--fusion is for heads that fuse two classifiers"),
        (["--head", "fc", "--head", "double-fc"], "has no head 'double-fc'"),
        (["--output", Path(__file__) / "out"], "is not a folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_detected(
    run: Run, words: list[object], says: str
) -> None:
    fails("evaluate", "--run", run.path, *words, says=says)
    assert not run.measurements_dir.exists()
