"""A sweep trains what is missing, loses nothing, and ends in tables and a figure that say what was measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed
import yaml

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import hash_path, load_detector
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import AP_NAMES, compare_precision, precision_table
from rethink_heads.evaluation.measures import evaluate
from rethink_heads.files import write_torch
from rethink_heads.runs import Run
from rethink_heads.structures import fuse
from rethink_heads.sweeps.description import load_sweep
from rethink_heads.sweeps.plan import make_plan
from rethink_heads.sweeps.runner import Precision, SweepResult, prepare, run_sweep, write_results
from rethink_heads.training.train import train as train_for_real
from tests.report.test_cells import read_latex, read_markdown
from tests.sweeps.conftest import SETTINGS, TEST_IMAGES, FakeTraining, MakePlan
from tests.tiny_coco import CLASSES
from tests.torchrun import torchrun
from tests.training.recorded import assert_same_weights, recording, weights

KEYS = [
    f"{label}-{seed}"
    for label in ("single-fc", "single-conv", "double-head-ext")
    for seed in (0, 1)
]


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.p*") if path.is_file()}


@pytest.mark.usefixtures("colour_detections", "drawn")
def test_a_sweep_from_beginning_to_end(make: MakePlan, train: FakeTraining) -> None:
    plan = make()
    result = run_sweep(plan, "cpu", train)
    assert train.trained == KEYS
    assert not result.failures
    table = result.table
    assert list(table["seed"]) == ["0", "1", "mean"] * 3
    assert list(table["reading"].unique()) == ["fc", "conv", "double-ext"]
    check_values(
        plan.output,
        table,
        CocoDataset(*split_paths(plan.trainings["single-fc", 0].config.data, "test")),
    )
    check_files(plan.output, result)

    # All that was done is found again, and the files are the same.
    before, again = times(plan.output), FakeTraining()
    with patch.object(RCNN, "detect", side_effect=AssertionError("detected again")):
        second = run_sweep(make(), "cpu", again)
    assert again.trained == []
    pd.testing.assert_frame_equal(second.table, table)
    kept = ("detector.pt", ".parquet")
    after = times(plan.output)
    assert {p: t for p, t in before.items() if p.name.endswith(kept)} == {
        p: t for p, t in after.items() if p.name.endswith(kept)
    }


def check_values(output: Path, table: pd.DataFrame, dataset: CocoDataset) -> None:
    """AP is that of evaluation; intervals and differences are those of the statistics, mean and spread numpy's."""
    rows = table.set_index(["point", "seed"])
    detector = load_detector(output / "double-head-ext-1" / "checkpoints" / "detector.pt")
    expected = evaluate(detector, dataset, progress=False)["double-ext"]
    assert expected["AP"] > 0
    for name in AP_NAMES:
        mine = rows.loc[("double-head-ext", "1"), name]
        assert mine == pytest.approx(expected[name], abs=1e-12, nan_ok=True)
    frames = [
        pd.read_parquet(output / f"{label}-1" / "measurements" / "default" / "detections.parquet")
        for label in ("double-head-ext", "single-fc")
    ]
    merged = pd.concat(frames)
    intervals = precision_table(frames[1], dataset).set_index("metric")
    for end in ("low", "high"):
        assert np.isfinite(intervals.loc["AP", f"value_{end}"])
        for name in AP_NAMES:
            np.testing.assert_equal(
                rows.loc[("single-fc", "1"), f"{name}_{end}"], intervals.loc[name, f"value_{end}"]
            )
    pair = compare_precision(
        merged, dataset, ("double-head-ext-1", "double-ext"), ("single-fc-1", "fc")
    )
    ordering = pd.read_csv(output / "ordering.csv", dtype={"seed": str})
    row = ordering[(ordering["worse"] == "single-fc") & (ordering["seed"] == "1")].iloc[0]
    wanted = pair.set_index("metric").loc["AP"]
    assert row["difference"] == pytest.approx(wanted["difference"], abs=1e-12)
    assert row["difference_low"] == pytest.approx(wanted["difference_low"], abs=1e-12)
    assert row["difference_high"] == pytest.approx(wanted["difference_high"], abs=1e-12)
    values = [rows.loc[("single-conv", seed), "AP"] for seed in ("0", "1")]
    assert rows.loc[("single-conv", "mean"), "AP"] == pytest.approx(np.mean(values))
    assert rows.loc[("single-conv", "mean"), "AP_sd"] == pytest.approx(np.std(values, ddof=1))
    config = Run.open(output / "single-conv-0").config
    built = build_detector(config, CLASSES)
    assert rows.loc[("single-conv", "0"), "parameters"] == sum(
        p.numel() for p in built.parameters()
    )


def check_files(output: Path, result: SweepResult) -> None:
    """The CSV holds the table; Markdown and LaTeX hold its numbers, in percent."""
    for path in result.files:
        assert path.stat().st_size > 0
    names = {path.name for path in result.files}
    assert names >= {"table.csv", "table.md", "table.tex", "figure.png", "figure.pdf"}
    assert names >= {"ordering.csv", "ordering.md", "ordering.tex", "sweep.yaml"}
    pd.testing.assert_frame_equal(
        pd.read_csv(output / "table.csv", dtype={"seed": str}), result.table, check_dtype=False
    )
    text = (output / "table.md").read_text()
    header, *rows = read_markdown(text)
    assert header == ["point", "weights, M", "of heads, M", "seed", *AP_NAMES]
    for shown, row in zip(rows, result.table.to_dict("records"), strict=True):
        assert shown[0] == row["title"]
        assert shown[3] == row["seed"]
        for cell, name in zip(shown[4:], AP_NAMES, strict=True):
            value = "-" if np.isnan(row[name]) else f"{100 * row[name]:.1f}"
            assert cell.split()[0] == value
        ends = [f"[{100 * row['AP_low']:.1f},", f"{100 * row['AP_high']:.1f}]"]
        assert shown[4].split()[1:] == (
            ends if row["seed"] != "mean" else ["±", f"{100 * row['AP_sd']:.1f}"]
        )
    assert f"{TEST_IMAGES} images of instances_val.json" in text
    assert "nothing of how far another training would" in text
    assert [header, *rows] == read_latex((output / "table.tex").read_text())
    ordering = read_markdown((output / "ordering.md").read_text())
    assert ordering[0] == ["better", "worse", "seed 0", "seed 1", "mean", "verdict"]
    assert [row[:2] for row in ordering[1:]] == [
        ["Double-Head-Ext", "Single-FC"],
        ["Double-Head-Ext", "Single-Conv"],
    ]
    assert ordering == read_latex((output / "ordering.tex").read_text())
    said = "The paper: Double-Head-Ext > Single-FC, Single-Conv (the first as remembered). Ours"
    assert said in (output / "ordering.md").read_text()
    record = yaml.safe_load((output / "sweep.yaml").read_text())
    assert record["points"][0]["runs"] == [str(output / key) for key in KEYS[:2]]


@pytest.mark.usefixtures("colour_detections")
def test_an_interrupted_training_goes_on(make: MakePlan) -> None:
    """In the middle of a training, and with the library's own."""
    plan = make(seeds=[0])
    last = plan.trainings["double-head-ext", 0]
    with recording(stop_at=1) as first, pytest.raises(KeyboardInterrupt):
        run_sweep(plan, "cpu")
    assert first.iterations == [0]
    assert [t.state for t in plan.trainings.values()] == ["interrupted", "to do", "to do"]
    with recording() as second:
        result = run_sweep(plan, "cpu")
    assert second.iterations == [1, 0, 1, 0, 1]
    assert not result.failures
    alone = Run.create(plan.output.parent / "alone", last.config)
    train_for_real(alone.config, alone, "cpu")
    assert_same_weights(weights(Run.open(last.path)), weights(alone))


@pytest.mark.usefixtures("colour_detections")
def test_a_failed_point_stops_no_other(make: MakePlan, train: FakeTraining) -> None:
    plan = make(seeds=[0])
    train.fails_at = "single-conv-0"
    result = run_sweep(plan, "cpu", train)
    assert result.failures == {"single-conv-0": "CUDA out of memory"}
    assert list(result.table["point"]) == ["single-fc", "double-head-ext"]
    assert list(result.ordering["worse"]) == ["single-fc"]
    assert "Missing: single-conv (seed 0)." in (plan.output / "table.md").read_text()
    kept = plan.output / "failures" / "single-conv-0.txt"
    assert "RuntimeError: CUDA out of memory\nand more words" in kept.read_text()
    again = FakeTraining()
    assert not run_sweep(plan, "cpu", again).failures
    assert again.trained == ["single-conv-0"]
    assert not kept.exists()


def test_nothing_to_show(make: MakePlan, train: FakeTraining) -> None:
    plan = make(seeds=[0])

    def fail(*args: object) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(UserError, match=r"no point .* could be read; single-fc-0: no memory"):
        run_sweep(plan, "cpu", fail)
    assert not (plan.output / "table.csv").exists()


@pytest.mark.usefixtures("colour_detections")
def test_a_changed_setting_is_refused_before_anything_is_trained(
    make: MakePlan, train: FakeTraining
) -> None:
    plan = make(seeds=[0])
    for each in prepare(plan):
        train(each.path, each.config)
    shutil.rmtree(plan.output / "single-fc-0")
    with pytest.raises(UserError, match=r"single-conv-0 .*\(training\.max_iterations\).*--output"):
        run_sweep(make("training.max_iterations=3", seeds=[0]), "cpu", train)
    assert not (plan.output / "single-fc-0").exists()
    # What has no part in the training may change.
    run_sweep(make("training.workers=1", seeds=[0]), "cpu", train)


@pytest.mark.usefixtures("colour_detections")
def test_new_weights_and_a_damaged_precision_are_read_again(
    make: MakePlan, train: FakeTraining, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make(seeds=[0])
    first = run_sweep(plan, "cpu", train).table
    (plan.output / "precision" / "single-fc-0.parquet").write_bytes(b"nothing")
    pd.testing.assert_frame_equal(run_sweep(plan, "cpu", train).table, first)
    training = plan.trainings["single-fc", 0]
    train(training.path, training.config.model_copy(update={"seed": 0}))
    content = torch.load(training.path / "checkpoints" / "detector.pt", weights_only=True)
    content["state"]["roi_heads.heads.fc.predictor.cls_score.bias"] += torch.tensor([0.0, 3.0, 1.0])
    path = training.path / "checkpoints" / "detector.pt"
    write_torch(content, path, hash_path(path))
    second = run_sweep(plan, "cpu", train).table
    assert first["AP"].iloc[0] != second["AP"].iloc[0]
    assert first["AP"].iloc[1:].tolist() == second["AP"].iloc[1:].tolist()
    # Undefined precision leaves a table and no figure.
    estimates = [name for name in first if name.split("_")[0] in AP_NAMES]
    written = write_results(
        plan, first.assign(**dict.fromkeys(estimates, np.nan)), pd.DataFrame(), {}
    )
    assert plan.output / "table.csv" in written
    assert "no figure: no AP to draw" in caplog.text


def test_fusion_rules_read_one_detector(make: MakePlan, train: FakeTraining) -> None:
    """The scores detected under each rule are those of the rule, and the table tells the rules apart."""
    # Three images.
    plan = make("data.test_split=train", sweep="fusion", seeds=[0])
    result = run_sweep(plan, "cpu", train)
    assert train.trained == ["double-ext-0"]
    assert list(result.table["fusion"]) == ["complementary"] * 3 + ["max", "mean", "complementary"]
    precision = Precision(plan, "cpu")
    found = {}
    for point in plan.points:
        rows = precision.detections(point, 0)
        found[point.label] = rows[rows["head"] == precision.reads[point.label].reading]
    detector = load_detector(plan.output / "double-ext-0" / "checkpoints" / "detector.pt")
    image = precision.dataset[0].image
    boxes = detector.propose(image)[1]
    features = detector.extract(image)
    pooled = detector.pool(features, boxes)
    scores = {
        name: output.scores for name, output in detector.predict(features, pooled, boxes).items()
    }
    first = precision.dataset.image_ids[0]
    for rule in ("max", "mean", "complementary"):
        expected = fuse(scores["fc"], scores["conv"], rule).flatten()
        rows = found[rule][found[rule]["image_id"] == first]
        assert len(rows)
        nearest = np.abs(rows["score"].to_numpy()[:, None] - expected.detach().numpy()).min(axis=1)
        assert nearest.max() < 1e-6
    assert found["max"]["score"].max() != found["mean"]["score"].max()
    text = (plan.output / "table.md").read_text()
    assert "All points of a seed are read from one trained detector." in text
    assert "One training a point: the spread of trainings is not known." in text


def test_a_reading_that_is_not_trained_is_refused(
    make: MakePlan, train: FakeTraining, tmp_path: Path
) -> None:
    path = tmp_path / "read.yaml"
    path.write_text("name: r\ntitle: R\nbase: {head: double}\nread_only: {reading: [double, fc]}\n")
    with pytest.raises(
        UserError, match=r"point fc: a detector of head 'double'.*'fc'; it has double"
    ):
        run_sweep(make(sweep=path), "cpu", train)
    assert train.trained == []


def test_a_device_that_is_not_there_is_told_before_any_training(
    make: MakePlan, train: FakeTraining
) -> None:
    plan = make(seeds=[0])
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        run_sweep(plan, "gpu", train)
    assert not train.trained
    assert not plan.output.exists()


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no distributed package"
)
def test_two_processes_make_the_table_of_one(data: Path, tmp_path: Path) -> None:
    description, output = tmp_path / "two.yaml", tmp_path / "out"
    points = "[{label: single-fc, head: fc}, {label: single-conv, head: conv}]"
    description.write_text(f"name: two\ntitle: Two structures\npoints: {points}\n")
    # Read on the three images that are trained on.
    settings = [*SETTINGS, "data.test_split=train"]
    options = ["--preset", "shapes-tiny", "--data", data, "--output", output, "--seed", 3]
    done = torchrun("rethink_heads", "sweep", description, *options, "--device", "cpu", *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("## Two structures") == 1
    assert done.stderr.count("training: iteration 2/2") == 2
    assert "GLOBAL_RANK" not in done.stderr
    together = (output / "table.csv").read_bytes()

    for kept in [output / "precision", *output.glob("*/measurements")]:
        shutil.rmtree(kept)
    plan = make_plan(
        load_sweep(description), output, "shapes-tiny", settings, seeds=(3,), data=str(data)
    )
    assert [each.state for each in plan.trainings.values()] == ["done", "done"]
    result = run_sweep(plan, "cpu", None)  # type: ignore[arg-type]
    assert result.failures == {}
    assert (output / "table.csv").read_bytes() == together
    assert set(pd.read_csv(output / "table.csv")["point"]) == {"single-fc", "single-conv"}
