"""``--detections``: a ground-truth file and results files, without a model or images, or beside a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.average_precision import AP_NAMES
from rethink_heads.statistics import bootstrap
from tests.command_line import call_json, fails, heads, rows
from tests.made_detections import as_results, make_dataset, make_detections, pycocotools_precision
from tests.results_files import Detector, make_results, make_truth, write_json
from tests.test_evaluate import make_run

SHARED = Path(__file__).parents[2] / "shared" / "data"


def precision(result: Any, detector: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows(result, "ap", detector=detector)}


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of as few images as there are here."""
    monkeypatch.setattr(bootstrap, "FEWEST_IMAGES", 2)


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    return make_dataset(tmp_path / "data", images=12)


@pytest.fixture
def files(tmp_path: Path, dataset: CocoDataset) -> list[Path]:
    """Results of two detectors."""
    return [
        write_json(
            as_results(make_detections(dataset, seed, shake=shake), dataset),
            tmp_path / f"{name}.json",
        )
        for seed, (name, shake) in enumerate((("near", 0.05), ("far", 0.2)))
    ]


def test_files_have_pycocotools_precision_and_are_compared(
    dataset: CocoDataset, files: list[Path], tmp_path: Path
) -> None:
    truth, near, far = dataset.annotations_path, *files
    asked = ("--detections", near, "--detections", f"other={far}", "--annotations", truth)
    output = tmp_path / "results"
    found = call_json(
        "evaluate", *asked, "--errors", "--calibration", "--output", output, "--seed", 3
    )
    assert heads(found, "ap") == [("near", "detections"), ("other", "detections")]
    for path, name in ((near, "near"), (far, "other")):
        expected = pycocotools_precision(truth, json.loads(path.read_text()))
        assert precision(found, name) == pytest.approx(expected, abs=1e-12)
    (difference,) = rows(found, "ap_comparisons", metric="AP")
    assert (difference["a"], difference["b"]) == ("near/detections", "other/detections")
    assert difference["difference_low"] < difference["difference"] < difference["difference_high"]
    names = {Path(path).name for path in found["files"]}
    assert {"ap.csv", "ap_comparisons.csv", "average_precision.png", "reliability.csv"} <= names
    assert all(Path(path).is_relative_to(output) for path in found["files"])
    assert {len(each["detections"]) for each in found["provenance"].values()} == {64}
    assert found["provenance"]["near"]["detections"] != found["provenance"]["other"]["detections"]


def test_without_draws_there_are_no_intervals(dataset: CocoDataset, files: list[Path]) -> None:
    asked = ("--detections", files[0], "--annotations", dataset.annotations_path)
    whole, quick = (
        call_json("evaluate", *asked, "--errors", "--calibration", *more)
        for more in ((), ("--draws", 0))
    )
    assert precision(quick, "near") == precision(whole, "near")
    for table in ("ap", "detection_errors", "calibration"):
        assert any(
            row[key] is not None for row in rows(whole, table) for key in row if "_low" in key
        )
        assert all(row[key] is None for row in rows(quick, table) for key in row if "_low" in key)


@pytest.mark.parametrize(
    ("command", "figure"),
    [
        (("evaluate", "--errors", "--calibration"), "average_precision"),
        (("correlate", "--stage", "detections"), "stage_correlation"),
        (("diagnose", "--draws", "0"), "lost_precision"),
    ],
)
def test_nothing_imports_torch(
    command: tuple[str, ...],
    figure: str,
    dataset: CocoDataset,
    files: list[Path],
    tmp_path: Path,
) -> None:
    """With all tables and figures; torch takes longer to import than all of it."""
    program = (
        "import sys\n"
        "from rethink_heads.cli import app\n"
        "try:\n    app()\n"
        "finally:\n    print('torch imported' if 'torch' in sys.modules else 'without torch')\n"
    )
    options = ("--annotations", dataset.annotations_path, "--max-images", 9)
    options += ("--output", tmp_path / "out", "--detections", files[0], "--detections", files[1])
    done = subprocess.run(
        [sys.executable, "-c", program, *command, *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "without torch"
    assert (tmp_path / "out" / "figures" / f"{figure}.pdf").is_file()


def test_a_file_s_correlation_is_that_of_the_run_it_came_from(tmp_path: Path) -> None:
    run = make_run(tmp_path, "both", seed=0, images=6)
    saved = tmp_path / "saved.json"
    head = ("--run", run.path, "--head", "fc")
    call_json("evaluate", *head, "--save-detections", saved)
    stage = ("correlate", "--stage", "detections")
    mixed = call_json(*stage, *head, "--detections", saved, "--as-written")
    assert heads(mixed, "stage_correlation") == [("both", "fc"), ("saved", "detections")]
    ours, theirs = (rows(mixed, "stage_correlation", detector=name) for name in ("both", "saved"))
    for row, other in zip(ours, theirs, strict=True):
        assert row["n"] == other["n"]
        assert row["pcc"] == pytest.approx(other["pcc"], abs=1e-9)
    differences = rows(mixed, "stage_comparisons", size="all")
    assert all(row["difference"] == pytest.approx(0, abs=1e-9) for row in differences)
    assert mixed["provenance"]["later stages"].keys() == {"both", "saved"}
    data = Path(str(run.config.data.source)) / "annotations" / "instances_val.json"
    alone = call_json(*stage, "--detections", saved, "--annotations", data, "--as-written")
    for row, other in zip(theirs, rows(alone, "stage_correlation"), strict=True):
        assert row["pcc"] == other["pcc"]
    fails(*stage[:1], "--detections", saved, says="files have final detections alone")


def test_saved_detections_of_a_run_have_its_precision(tmp_path: Path) -> None:
    """And a file stands beside the run that it came from."""
    run = make_run(tmp_path, "both", seed=0, images=6)
    saved = tmp_path / "saved.json"
    found = call_json("evaluate", "--run", run.path, "--save-detections", saved)
    data = Path(str(run.config.data.source)) / "annotations" / "instances_val.json"
    for head in ("fc", "double-ext"):
        path = tmp_path / f"saved.{head}.json"
        again = call_json(
            "evaluate", "--detections", f"again={path}", "--annotations", data, "--as-written"
        )
        expected = {row["metric"]: row["value"] for row in rows(found, "ap", head=head)}
        assert precision(again, "again") == expected
    path = tmp_path / "saved.fc.json"
    mixed = call_json(
        "evaluate", "--run", run.path, "--head", "fc", "--detections", path, "--as-written"
    )
    assert heads(mixed, "ap") == [("both", "fc"), ("saved.fc", "detections")]
    (difference,) = rows(mixed, "ap_comparisons", metric="AP")
    assert difference["difference"] == 0
    assert mixed["files"] == []


def test_a_file_has_another_name_than_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "both", seed=0)
    path = write_json([], tmp_path / "both.json")
    says = "both.json and a detector are both called 'both'"
    fails("evaluate", "--run", run.path, "--detections", path, says=says)


def test_yolo_folders_from_the_command_line(tmp_path: Path) -> None:
    labels, found = tmp_path / "labels", tmp_path / "found"
    labels.mkdir()
    found.mkdir()
    for number in range(6):
        (labels / f"{number}.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0.2 0.2 0.1 0.1\n")
        (found / f"{number}.txt").write_text("1 0.5 0.5 0.2 0.4 0.9\n")
    asked = ("evaluate", "--annotations", labels, "--detections", found, "--draws", 0)
    fails(*asked, "--image-size", "640x480", says="give --label-names FILE")
    fails(*asked, "--label-names", "ant,bee", says="--image-size WIDTHxHEIGHT or a file")
    sizes = ("--image-size", "640x480", "--label-names", "ant,bee")
    assert precision(call_json(*asked, *sizes), "found")["AP"] == 0.5


def test_the_doctor_speaks_before_anything_is_counted(tmp_path: Path) -> None:
    truth = make_truth(seed=1, images=60)
    entries = make_results(truth)
    data = write_json(truth, tmp_path / "truth.json")
    right = write_json(entries, tmp_path / "right.json")
    for entry in entries:
        x, y, w, h = entry["bbox"]
        entry["bbox"], entry["score"] = [x, y, x + w, y + h], 100 * entry["score"]
    wrong = write_json(entries, tmp_path / "wrong.json")
    says = "give --box-format xyxy --score-scale percent, or --as-written"
    fails("evaluate", "--detections", wrong, "--annotations", data, says=says)
    both = ("--detections", wrong, "--detections", right, "--annotations", data, "--draws", 0)
    found = call_json(
        "evaluate",
        *both,
        *("--box-format", "xyxy", "--box-format", "none"),
        *("--score-scale", "percent", "--score-scale", "none"),
    )
    assert precision(found, "wrong") == pytest.approx(precision(found, "right"))
    as_written = call_json(
        "evaluate", "--detections", wrong, "--annotations", data, "--as-written", "--draws", 0
    )
    assert precision(as_written, "wrong")["AP"] < 0.1
    assert "xyxy" in found["provenance"]["wrong"]["reading"]


def test_options_that_do_not_fit_are_refused(
    dataset: CocoDataset, files: list[Path], tmp_path: Path
) -> None:
    file, truth = ("--detections", files[0]), ("--annotations", dataset.annotations_path)
    fails("evaluate", *file, says="--detections needs the ground truth")
    fails("evaluate", "--box-format", "xyxy", says="--box-format belongs to --detections")
    fails(
        "evaluate", *file, *truth, "--box-format", "xywh2", says="--box-format 'xywh2' is none of"
    )
    fails("evaluate", *file, *truth, "--box-frame", "long", says="--box-frame 'long' is none of")
    fails(
        "evaluate",
        *file,
        *truth,
        *("--score-scale", "logit") * 3,
        says="3 times --score-scale for 1",
    )
    fails("evaluate", "--detections", tmp_path / "no.json", *truth, says="no such results file")
    fails(
        "evaluate",
        *("--detections", f"a={files[0]}", "--detections", f"a={files[1]}"),
        *truth,
        says="two of the files are called 'a'",
    )


@pytest.mark.parametrize(
    ("name", "split"), [("coco-sample", "val2017"), ("bccd", "val")], ids=["coco", "bccd"]
)
def test_real_ground_truth(name: str, split: str, tmp_path: Path) -> None:
    """80 classes of 90 ids, ids of images without order; detections counted from 0 in both are found out."""
    found = sorted((SHARED / name / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        pytest.skip(f"{name} is not there")
    truth = json.loads(found[0].read_text())
    entries = make_results(truth, Detector(random=10))
    healthy = write_json(entries, tmp_path / "healthy.json")
    expected = pycocotools_precision(found[0], entries)
    ap = precision(
        call_json("evaluate", "--detections", healthy, "--annotations", found[0], "--draws", 0),
        "healthy",
    )
    assert ap == pytest.approx(expected, abs=1e-9)
    assert list(ap) == list(AP_NAMES)
    ids = sorted(category["id"] for category in truth["categories"])
    images = [image["id"] for image in truth["images"]]
    for entry in entries:
        entry["category_id"] = ids.index(entry["category_id"])
        entry["image_id"] = images.index(entry["image_id"])
    counted = write_json(entries, tmp_path / "counted.json")
    asked = ("evaluate", "--detections", counted, "--annotations", found[0])
    said = fails(*asked, says="--category-ids contiguous")
    assert "--image-ids order" in said
