"""The scripts in analyses/: each on made-up measurements, sweeps or detections, as a program too."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rethink_heads.config import load_preset
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.voc import VOC_CLASSES
from rethink_heads.errors import UserError
from rethink_heads.files import write_csv, write_parquet, write_text
from rethink_heads.measure.detections import DETECTIONS_NAME
from rethink_heads.measure.stage_boxes import STAGES_NAME
from rethink_heads.measure.store import Measurements
from rethink_heads.paper import AnalysisInputs, MissingInputError, TableSet, analyses, paper_heads
from rethink_heads.plots.style import COLUMN_WIDTH, PAGE_WIDTH, NothingToDrawError
from rethink_heads.report.results import compute, read_tables
from rethink_heads.results import read_detections, read_inputs
from rethink_heads.runs import Run
from rethink_heads.statistics.by_iou import pearson, score_by_iou
from rethink_heads.statistics.sensitivity import correlation_map
from rethink_heads.sweeps.description import load_sweep
from tests.synthetic_measurements import synthetic_measurements

FOLDER = Path(__file__).resolve().parents[1] / "analyses"
SWEEPS = {
    "head_structures": "structures",
    "depth": "depth",
    "balance_weights": "balance",
    "loss_weights": "weights",
    "fusion": "fusion",
    "backbones": "backbone",
    "enlargement": "enlargement",
}
RUN_FIGURES = ("figure2", "figure3", "figure4")
OPTIONS = {"replicates": 20, "seed": 0}


@pytest.fixture(scope="module")
def measurements() -> Measurements:
    return synthetic_measurements(images=3, objects_per_size=1)


@pytest.fixture(scope="module")
def inputs(measurements: Measurements) -> AnalysisInputs:
    return AnalysisInputs(measurements, _stages(), options=OPTIONS)


def _stages() -> pd.DataFrame:
    """Boxes whose score is the IoU and some noise, for both heads at both later stages."""
    random = np.random.default_rng(0)
    frames = []
    for head in ("fc", "conv"):
        for stage in ("rpn", "detections"):
            iou = random.uniform(0, 1, 90)
            number = np.arange(90)
            columns = {
                "image_id": number % 3,
                "object_id": number % 9,
                "class_name": "thing",
                "size": np.array(["small", "medium", "large"])[number % 3],
                "detector": "demo",
                "head": head,
                "stage": stage,
                "score": np.clip(iou + random.normal(0, 0.2, 90), 0, 1),
                "iou": iou,
                "regressed_iou": iou,
                "true_positive_iou": np.nan,
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def sweep_rows(name: str, seeds: tuple[str, ...] = ("0", "1")) -> pd.DataFrame:
    """A table as a sweep leaves it, with made-up numbers."""
    random = np.random.default_rng(0)
    rows = []
    for point in load_sweep(name).expand():
        head = point.head or "double"
        for seed in seeds:
            value = float(random.uniform(0.3, 0.4))
            estimates = {"AP": value, "AP_low": value - 0.02, "AP_high": value + 0.02}
            keys = {"point": point.label, "title": point.title, **point.values}
            rows.append({**keys, "head": head, "reading": head, "seed": seed, **estimates})
    return pd.DataFrame(rows)


def test_there_is_a_script_for_every_figure_and_table() -> None:
    assert set(analyses()) == {*RUN_FIGURES, *SWEEPS, "voc"}
    assert set(analyses()) == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_short_and_say_what_they_define(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    about = ast.get_docstring(ast.parse(text)) or ""
    for word in ("Measured: ", "Computed: ", f"python analyses/{path.name}"):
        assert word in about
    # On the library alone, and on nothing of another script.
    assert "sys.path" not in text


def test_figure2_is_the_papers_panels_of_what_was_measured(
    inputs: AnalysisInputs, measurements: Measurements
) -> None:
    tables = analyses()["figure2"].complete(inputs)
    pd.testing.assert_frame_equal(tables["score_by_iou"], score_by_iou(measurements, **OPTIONS))
    figure = analyses()["figure2"].draw(tables)
    assert [ax.get_title() for ax in figure.axes] == ["Small", "Medium", "Large", "", "", ""]
    assert figure.get_figwidth() == PAGE_WIDTH


def test_figure3_has_a_panel_for_each_stage_that_was_measured(
    inputs: AnalysisInputs, measurements: Measurements
) -> None:
    figure3 = analyses()["figure3"]
    tables = figure3.complete(inputs)
    predefined = tables["stages"][tables["stages"]["stage"] == "predefined"]
    expected = pearson(measurements, **OPTIONS)
    pd.testing.assert_series_equal(predefined["pcc"].reset_index(drop=True), expected["pcc"])
    figure = figure3.draw(tables)
    assert len(figure.axes) == 3
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [
        "small",
        "medium",
        "large",
    ]
    alone = figure3.draw(figure3.complete(replace(inputs, stages=None)))
    assert len(alone.axes) == 1
    assert alone.get_figwidth() == COLUMN_WIDTH


def test_figure4_holds_the_mean_maps(inputs: AnalysisInputs, measurements: Measurements) -> None:
    tables = analyses()["figure4"].complete(inputs)
    maps = tables["correlation_maps"]
    for (detector, head, kind), cosines in correlation_map(measurements).items():
        rows = maps[
            (maps["detector"] == detector) & (maps["head"] == head) & (maps["kind"] == kind)
        ]
        found = rows.pivot(index="cell_a", columns="cell_b", values="cosine")
        np.testing.assert_array_equal(found, cosines)
    assert len(analyses()["figure4"].draw(tables).axes) == 3 + 1  # and the colour bar


@pytest.mark.parametrize("name", SWEEPS)
def test_tables_of_sweeps_are_drawn(name: str) -> None:
    sweep = SWEEPS[name]
    frame, ordering = sweep_rows(sweep), pd.DataFrame({"better": ["a"], "worse": ["b"]})
    sweeps = {sweep: frame, f"{sweep}_ordering": ordering}
    tables = analyses()[name].complete(AnalysisInputs(sweeps=sweeps))
    pd.testing.assert_frame_equal(tables[name], frame)
    figure = analyses()[name].draw(tables)
    assert figure.get_figwidth() == COLUMN_WIDTH
    assert any("AP" in text.get_text() for text in figure.findobj(match=_is_text))


def _is_text(artist: object) -> bool:
    return hasattr(artist, "get_text")


def _dataset(folder: Path, classes: tuple[str, ...]) -> CocoDataset:
    """Two images with one object each."""
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    images, annotations = [], []
    for number in (1, 2):
        Image.new("RGB", (64, 64)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        box = {"bbox": [8, 8, 40, 40], "category_id": 1, "area": 1600, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, **box})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return CocoDataset(folder / "instances.json", folder)


def _detections() -> pd.DataFrame:
    """Both objects found exactly by one run, the first only by the other."""
    box = {"label": 0, "x1": 8.0, "y1": 8.0, "x2": 48.0, "y2": 48.0, "score": 0.9}
    keys = [("voc-double-ext", "double-ext", 1), ("voc-double-ext", "double-ext", 2)]
    keys.append(("voc-fc", "fc", 1))
    return pd.DataFrame(
        [{"image_id": image, "detector": d, "head": h, **box} for d, h, image in keys]
    )


def test_voc_holds_three_precisions_of_every_run(tmp_path: Path) -> None:
    voc = analyses()["voc"]
    detected = (_detections(), _dataset(tmp_path, VOC_CLASSES))
    tables = voc.complete(AnalysisInputs(detected=detected, options=OPTIONS))
    assert list(tables["voc"].columns) == [
        "detector",
        "head",
        *(f"{metric}{end}" for metric in ("AP", "AP50", "AP75") for end in ("", "_low", "_high")),
    ]
    by_head = tables["voc"].set_index("head")
    assert by_head.loc["double-ext", "AP50"] == pytest.approx(1)
    # Recall reaches a half: 51 of COCO's 101 points of recall.
    assert by_head.loc["fc", "AP50"] == pytest.approx(51 / 101)
    assert voc.draw(tables).get_figwidth() == COLUMN_WIDTH


def test_voc_is_not_for_other_data(tmp_path: Path) -> None:
    detected = (_detections(), _dataset(tmp_path, ("disc", "ring")))
    with pytest.raises(MissingInputError, match="VOC07"):
        analyses()["voc"].complete(AnalysisInputs(detected=detected, options=OPTIONS))


def test_what_lacks_something_says_what() -> None:
    skipped: dict[str, str] = {}
    assert compute(AnalysisInputs(), skipped) == {}
    assert set(skipped) == set(analyses())
    assert "rethink-heads correlate --run" in skipped["figure2"]
    assert "rethink-heads sweep depth" in skipped["depth"]
    assert "rethink-heads evaluate" in skipped["voc"]
    with pytest.raises(NothingToDrawError, match="no table score_by_iou"):
        analyses()["figure2"].draw(TableSet())


def test_heads_trained_apart_are_the_papers_pair() -> None:
    def heads(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
        frame = pd.DataFrame(pairs, columns=["detector", "head"])
        return list(paper_heads(frame).itertuples(index=False, name=None))

    apart = [("a", "fc"), ("b", "conv")]
    both = [("c", "fc"), ("c", "conv"), ("c", "double")]
    assert heads(*apart, *both) == apart
    assert heads(*both) == both[:2]
    assert heads(("a", "fc"), *both) == [("a", "fc"), *both[:2]]
    assert heads(("a", "fc"), ("d", "double")) == [("a", "fc"), ("d", "double")]
    assert paper_heads(pd.DataFrame()).empty


@pytest.fixture(scope="module")
def run(measurements: Measurements, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder with measurements and nothing else."""
    path = tmp_path_factory.mktemp("runs") / "demo"
    made = Run.create(path, load_preset("shapes-tiny", "double-ext"))
    measurements.save(made.measurements())
    return made


def script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> int:
    """Run a script as ``python analyses/NAME.py`` does; return its exit code."""
    path = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    return int(stop.value.code or 0)


def test_a_script_writes_its_tables_and_its_figure(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(monkeypatch, "figure2", "--run", run.path, "--output", tmp_path) == 0
    written = ["tables/score_by_iou.csv", "tables/regressed_iou.csv"]
    written += ["figures/figure2.png", "figures/figure2.pdf"]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in written]
    assert set(read_tables(tmp_path / "tables")) == {"score_by_iou", "regressed_iou"}
    assert all((tmp_path / name).is_file() for name in written)


def test_a_script_reads_a_sweeps_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(sweep_rows("fusion", seeds=("0",)), tmp_path / "table.csv")
    write_text(tmp_path / "sweep.yaml", "name: fusion\n")
    assert script(monkeypatch, "fusion", "--sweep", tmp_path) == 0
    assert (tmp_path / "figures" / "fusion.pdf").is_file()


def test_a_scripts_mistakes_are_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(monkeypatch, "depth", "--run", run.path) == 2
    assert capsys.readouterr().err == (
        "error: it needs a sweep: rethink-heads sweep depth, then --sweep FOLDER here\n"
    )
    assert script(monkeypatch, "figure2", "--run", tmp_path / "none") == 2
    assert "no such run" in capsys.readouterr().err
    assert script(monkeypatch, "figure2", "--help") == 0
    assert "score and the regressed" in capsys.readouterr().out


def test_later_stages_and_detections_are_found_where_all_runs_have_them(
    run: Run, measurements: Measurements, tmp_path: Path
) -> None:
    alone = read_inputs([run], ["default"], [], 0)
    assert alone.stages is None
    with pytest.raises(MissingInputError, match="evaluate"):
        _ = alone.detections
    dataset = _dataset(tmp_path, VOC_CLASSES)
    paths = {"test_annotations": dataset.annotations_path, "test_images": tmp_path}
    config = load_preset("shapes-tiny", "double-ext").with_data(**paths)
    whole = Run.create(tmp_path / "whole", config)
    measurements.save(whole.measurements())
    write_parquet(_stages(), whole.measurements() / STAGES_NAME, {})
    made_of = {"data": dataset.fingerprint, "images": str(len(dataset))}
    write_parquet(_detections(), whole.measurements() / DETECTIONS_NAME, made_of)
    found = read_inputs([whole], ["default"], [], 3)
    assert found.stages is not None
    assert len(found.stages) == len(_stages())
    detections, data = found.detections
    assert len(detections) == len(_detections())
    assert data.class_names == VOC_CLASSES
    assert found.options == {"seed": 3}


@pytest.mark.parametrize("run_of_all_images_first", [True, False])
def test_detections_of_the_first_images_go_with_these_images(
    measurements: Measurements, tmp_path: Path, run_of_all_images_first: bool
) -> None:
    """Objects of images that a run was not applied to are not missed by it."""
    dataset = _dataset(tmp_path, VOC_CLASSES)
    assert len(dataset) > 1
    paths = {"test_annotations": dataset.annotations_path, "test_images": tmp_path}
    config = load_preset("shapes-tiny", "double-ext").with_data(**paths)
    runs = []
    for name, images in (("all", len(dataset)), ("some", 1)):
        runs.append(Run.create(tmp_path / name, config))
        measurements.select().save(runs[-1].measurements())
        seen = _detections()[_detections()["image_id"].isin(dataset.image_ids[:images])]
        made_of = {"data": dataset.fingerprint, "images": str(images)}
        path = runs[-1].measurements() / DETECTIONS_NAME
        write_parquet(seen.assign(detector=name), path, made_of)
    chosen = runs if run_of_all_images_first else runs[1:]
    detections, data = _detected(chosen)
    assert data.image_ids == dataset.image_ids[:1]
    assert set(detections["image_id"]) <= set(data.image_ids)
    write_parquet(_detections(), runs[0].measurements() / DETECTIONS_NAME, {"data": "other"})
    assert read_detections(runs, ["default"] * 2) is None


def _detected(runs: list[Run]) -> tuple[pd.DataFrame, CocoDataset]:
    found = read_detections(runs, ["default"] * len(runs))
    assert found is not None
    return found


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a finished sweep: it has no sweep\.yaml"):
        read_inputs([], [], [tmp_path], 0)
