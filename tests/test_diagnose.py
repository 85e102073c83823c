"""``rethink-heads diagnose``: from files alone, from a run with stages and swaps, and both together."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rethink_heads.runs import Run
from tests.command_line import call, call_json, heads, rows, small_run
from tests.results_files import Detector, make_results, make_truth, write_json
from tests.tiny_coco import write_coco

CAUSES = {"ranking", "localization", "classification", "duplicates", "background", "misses"}


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, Any]:
    found = make_truth(seed=1)
    write_json(found, tmp_path / "truth.json")
    return found


def write_results(path: Path, truth: dict[str, Any], detector: Detector, seed: int = 0) -> Path:
    return write_json(make_results(truth, detector, seed), path)


def diagnose_files(folder: Path, *files: object, **options: object) -> dict[str, Any]:
    given = [argument for file in files for argument in ("--detections", file)]
    more = [argument for name, value in options.items() for argument in (f"--{name}", value)]
    return call_json(
        "diagnose", *given, "--annotations", folder / "truth.json", "--draws", 50, *more
    )


def test_shares_of_files_add_up_to_what_ap_lacks(tmp_path: Path, truth: dict[str, Any]) -> None:
    good = write_results(tmp_path / "good.json", truth, Detector(noise=0.02))
    poor = write_results(tmp_path / "poor.json", truth, Detector(noise=0.15, recall=0.6), seed=3)
    found = diagnose_files(tmp_path, f"good={good}", f"poor={poor}", output=tmp_path / "out")
    assert heads(found, "lost_precision") == [("good", "detections"), ("poor", "detections")]
    for name in ("good", "poor"):
        lost = rows(found, "lost_precision", detector=name)
        assert {row["cause"] for row in lost} == CAUSES
        (ap,) = (r["value"] for r in rows(found, "ap", detector=name) if r["metric"] == "AP")
        assert sum(row["share"] for row in lost) == pytest.approx(1 - ap, abs=1e-9)
        fates = rows(found, "fates", detector=name, size="all", class_name="all")
        objects = sum(1 for each in truth["annotations"] if not each["iscrowd"])
        assert sum(row["count"] for row in fates) == objects
    # The second is worse by the boxes, and by what it does not find.
    differences = {row["cause"]: row for row in rows(found, "lost_precision_comparisons")}
    assert differences["misses"]["difference"] < 0
    assert differences["misses"]["excludes_zero"]
    assert "recall_ladder" not in found["tables"]
    assert "swaps" not in found["tables"]
    written = {Path(path).name for path in found["files"]}
    assert {"object_fates.csv", "object_fates.parquet", "lost_precision.png"} <= written
    fates = pd.read_csv(tmp_path / "out" / "tables" / "object_fates.csv")
    assert len(fates) == 2 * objects


def test_the_objects_themselves_lose_nothing(tmp_path: Path, truth: dict[str, Any]) -> None:
    perfect = [
        {**{name: each[name] for name in ("image_id", "category_id", "bbox")}, "score": 1.0}
        for each in truth["annotations"]
        if not each["iscrowd"]
    ]
    found = diagnose_files(tmp_path, write_json(perfect, tmp_path / "perfect.json"))
    shares = {row["cause"]: row["share"] for row in rows(found, "lost_precision")}
    assert shares == pytest.approx(dict.fromkeys(CAUSES, 0), abs=1e-9)
    assert {row["fate"] for row in rows(found, "fates") if row["count"]} == {"found"}


def test_a_file_without_detections_misses_every_object(
    tmp_path: Path, truth: dict[str, Any]
) -> None:
    empty = write_json([], tmp_path / "empty.json")
    objects = sum(1 for each in truth["annotations"] if not each["iscrowd"])
    found = diagnose_files(tmp_path, empty)
    (misses,) = rows(found, "lost_precision", cause="misses")
    assert misses["share"] == pytest.approx(1, abs=1e-9)
    other = write_results(tmp_path / "other.json", truth, Detector())
    beside = diagnose_files(tmp_path, f"empty={empty}", other)
    for result in (found, beside):
        fates = rows(result, "fates", detector="empty", size="all", class_name="all")
        counts = {row["fate"]: row["count"] for row in fates if row["count"]}
        assert counts == {"missed": objects}
    assert rows(beside, "fate_comparisons", fate="missed", size="all", class_name="all")


@pytest.mark.parametrize(
    "detector",
    [
        Detector(noise=0.2, confusion=0.0),
        Detector(noise=0.01, recall=1.0, confusion=0.5),
        Detector(noise=0.01, recall=0.3, confusion=0.0),
    ],
    ids=["localization", "classification", "misses"],
)
def test_the_next_command_is_one_that_runs(
    detector: Detector,
    tmp_path: Path,
    truth: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(Path("my results.json"), truth, detector)
    printed = call(
        *("diagnose", "--detections", "mine=my results.json", "--box-format", "xywh"),
        *("--annotations", "truth.json", "--draws", 0),
    )
    assert len(printed.splitlines()) <= 40
    # Without draws no interval excludes zero.
    assert "loses" not in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("Next: "))
    given, _, _ = line.removeprefix("Next: rethink-heads ").partition(" shows ")
    assert given.startswith("report ")
    assert given.endswith(
        "--detections 'mine=my results.json' --box-format xywh --annotations truth.json"
    )
    assert call(*shlex.split(given))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_coco(tmp_path / "data", images=6)
    return small_run(tmp_path / "runs" / "both", "double-ext", tmp_path / "data")


def test_a_run_is_followed_through_its_stages(run: Run) -> None:
    found = call_json(
        "diagnose", "--run", run.path, "--head", "fc", "--head", "conv", "--draws", 50
    )
    keys = [(run.name, "fc"), (run.name, "conv")]
    for table in ("lost_precision", "fates", "recall_ladder"):
        assert heads(found, table) == keys
    swaps = [row for row in rows(found, "swaps") if row["metric"] == "AP"]
    assert len(swaps) == 4
    # A head with its own boxes, on its own detector's proposals, is the detector itself.
    own = {row["scores"]: row["value"] for row in swaps if row["scores"] == row["boxes"]}
    ap = {row["head"]: row["value"] for row in rows(found, "ap") if row["metric"] == "AP"}
    assert own == pytest.approx({f"{run.name}/{head}": ap[head] for head in ("fc", "conv")})
    printed = call("diagnose", "--run", run.path, "--draws", 50)
    assert printed.startswith("AP: ")
    assert "Next: rethink-heads" in printed
    assert len(printed.splitlines()) <= 48


def test_a_run_beside_a_file(tmp_path: Path, run: Run) -> None:
    saved = tmp_path / "saved.json"
    call("evaluate", "--run", run.path, "--head", "fc", "--save-detections", saved)
    found = call_json(
        "diagnose", "--run", run.path, "--head", "fc", "--detections", f"file={saved}", "--draws", 0
    )
    lost = rows(found, "lost_precision")
    shares = {
        name: {row["cause"]: row["share"] for row in lost if row["detector"] == name}
        for name in (run.name, "file")
    }
    assert shares["file"] == pytest.approx(shares[run.name], abs=1e-6)
    assert heads(found, "recall_ladder") == [(run.name, "fc")]
    assert heads(found, "fates") == [(run.name, "fc"), ("file", "detections")]
