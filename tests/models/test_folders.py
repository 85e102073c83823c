"""The folders of detectors that a user brings: made once, opened by name, never mixed up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rethink_heads.cli import app
from rethink_heads.runs import ExternalConfig, Run
from tests.command_line import all_sizes, fails
from tests.models.conftest import FEW, invoke, kept, model, runner
from tests.tiny_coco import write_coco


def test_the_folder_is_opened_again_by_its_name_alone(data: Path, here: Path) -> None:
    first, _ = invoke("correlate", model("full", "mine"), "--data", data)
    folder = Run.open(here / "runs" / "mine")
    assert isinstance(folder.config, ExternalConfig)
    assert folder.config.detector.heads == ["colour"]
    again, said = invoke("correlate", "--run", here / "runs" / "mine")
    assert again == first
    assert "measuring" not in said
    drawn = runner.invoke(app, ["figures", "--run", str(here / "runs" / "mine")])
    assert drawn.exit_code == 0, drawn.stderr
    assert (here / "runs" / "mine" / "figures" / "figure2.png").is_file()
    message = fails("export", "--run", here / "runs" / "mine", "--output", here / "out")
    assert "there is nothing to train or export" in message


def test_another_detector_or_other_weights_under_the_same_name_are_refused(
    data: Path, here: Path
) -> None:
    invoke("correlate", model("full", "mine"), "--data", data, *FEW)
    message = fails("correlate", model("sharp", "mine"), "--data", data, *FEW)
    assert "name this detector otherwise: --model NAME=python:my_detectors:sharp" in message
    (here / "sharpness.txt").write_text("1.0")
    (here / "my_factor.py").write_text("FACTOR = 1.0\n")
    weights = ("--weights", here / "sharpness.txt")
    message = fails("correlate", model("full", "mine"), *weights)
    assert "runs/mine belongs to python:my_detectors:full with no weights" in message


def test_what_is_chosen_for_one_call_does_not_stick(data: Path, here: Path) -> None:
    few, _ = invoke("correlate", model("full"), "--data", data, "--max-images", "2", *FEW)
    assert all_sizes(few)["objects"] == 2
    whole, _ = invoke("correlate", model("full"), "--data", data)
    assert all_sizes(whole)["objects"] == 6
    assert all_sizes(whole)["proposals"] > 6 * 14_000 // 2
    write_coco(data, "train", images=3)
    train, _ = invoke("correlate", model("full"), "--data", data, "--split", "train", *FEW)
    assert all_sizes(train)["objects"] == 3
    again, _ = invoke("correlate", model("full"), "--data", data)
    assert again == whole


def test_what_is_there_is_shown_again_and_how_to_measure_all_is_said(
    data: Path, here: Path
) -> None:
    few = (model("full", "mine"), "--data", data, "--max-images", "2", *FEW)
    first, _ = invoke("correlate", *few)
    found, said = invoke("correlate", "--run", here / "runs" / "mine")
    assert found == first
    assert "2 of 6 images; measuring.images=none measures all" in said
    whole, _ = invoke("regress", "--run", here / "runs" / "mine", "measuring.images=none")
    assert {row["objects"] for row in whole["tables"]["regressed_iou"] if row["size"] == "all"} == {
        6
    }
    # Its own settings' measurements come first.
    again, said = invoke("regress", "--run", here / "runs" / "mine")
    assert again == whole
    assert "measures all" not in said


def test_a_call_that_fails_leaves_no_folder(data: Path, here: Path) -> None:
    call = ("correlate", model("full", "mine"), "--data", data)
    fails(*call, "--class-map", "typo.yaml")
    fails(*call, "--head", "nohead")
    fails("correlate", model("full", "mine"), "--annotations", "no.json", "--images", data)
    fails("correlate", model("full", "mine"), "--data", here / "nowhere")
    assert not (here / "runs").exists()
    found, _ = invoke(*call, *FEW)
    assert all_sizes(found)["objects"] == 6


@pytest.mark.parametrize("changed", ["module", "weights", "imported"])
def test_what_has_changed_is_measured_again(changed: str, data: Path, here: Path) -> None:
    weights = here / "sharpness.txt"
    weights.write_text("1.0")
    (here / "my_factor.py").write_text("FACTOR = 1.0\n")
    call = ("correlate", model("full"), "--weights", weights, "--data", data, *FEW)
    first, _ = invoke(*call)
    if changed == "module":
        text = (here / "my_detectors.py").read_text()
        (here / "my_detectors.py").write_text(text.replace("manual_seed(0)", "manual_seed(1)"))
        sys.modules.pop("my_detectors")
    elif changed == "imported":
        (here / "my_factor.py").write_text("FACTOR = 5.25\n")
        sys.modules.pop("my_detectors")
        sys.modules.pop("my_factor")
    else:
        weights.write_text("9.0")
    second, said = invoke(*call)
    sys.modules.pop("my_factor")
    assert "made again" in said
    assert all_sizes(first)["pcc"] != all_sizes(second)["pcc"]


def test_comparisons_of_other_measurements_go_beside_each_other(data: Path, here: Path) -> None:
    models = (model("full", "a"), model("sharp", "b"), "--data", data)
    invoke("evaluate", *models)
    tables = here / "runs" / "a-b" / "tables"
    before = (tables / "ap.csv").read_bytes()
    invoke("evaluate", *models, "--max-images", "2")
    assert (tables / "ap.csv").read_bytes() == before
    assert len(list(tables.glob("*/ap.csv"))) == 1


def test_a_comparison_does_not_take_the_name_of_a_detector(data: Path, here: Path) -> None:
    invoke("correlate", model("minimal", "a-b"), "--data", data, *FEW)
    invoke("correlate", model("full", "a"), model("sharp", "b"), "--data", data, *FEW)
    assert (here / "runs" / "a-b-compared" / "tables").is_dir()
    assert kept(here, "a-b").detectors == ("a-b",)
    assert "belongs to another detector" in fails(
        "correlate", model("full", "a-b-compared"), "--data", data
    )


def test_many_long_names_make_a_folder_that_can_be_written(data: Path, here: Path) -> None:
    names = [f"{letter * 60}" for letter in "abcde"]
    models = [model("full", name) for name in names]
    invoke("correlate", *models, "--data", data, *FEW)
    (shared,) = (path for path in (here / "runs").iterdir() if path.name not in names)
    assert len(shared.name) <= 100
    assert (shared / "tables").is_dir()


def test_a_model_is_opened_from_another_folder_too(
    data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = invoke("correlate", model("full", "mine"), "--data", data, *FEW)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(here)])
    sys.modules.pop("my_detectors")
    again, _ = invoke("correlate", "--run", "../runs/mine", *FEW)
    assert again == first
