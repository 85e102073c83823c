"""Command lines with detectors that a user brings: classes matched with the data's, and mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import all_sizes, fails, heads, rows
from tests.models.conftest import FEW, invoke, kept, model


def test_classes_are_matched_by_name_and_by_a_map(data: Path, here: Path) -> None:
    options = (model("other_names", "other"), "--data", data, *FEW)
    _, said = invoke("correlate", *options)
    greens = 3
    assert "Classes of the data that other lacks" in said
    assert "red" in said
    assert f"other: {greens} objects of classes that it lacks are left out" in said
    assert set(kept(here, "other").objects["class_name"]) == {"green"}
    (here / "map.yaml").write_text("red: scarlet\n")
    found, said = invoke("correlate", *options, "--class-map", "map.yaml")
    assert all_sizes(found)["objects"] == 6
    assert "classes that the data lacks, whose detections do not count: blue" in said
    (here / "wrong.yaml").write_text("red: crimson\n")
    fails("correlate", *options, "--class-map", "wrong.yaml", says="crimson")
    # The map was of the other call.
    found, _ = invoke("correlate", *options)
    assert all_sizes(found)["objects"] == greens


def test_detectors_of_different_classes_are_compared_on_what_both_have(
    data: Path, here: Path
) -> None:
    models = (model("full", "a"), model("other_names", "b"), "--data", data)
    found, said = invoke("correlate", *models, *FEW)
    assert "compared on the classes that all have; some lack red" in said
    assert [row["objects"] for row in rows(found, "correlations", size="all")] == [3, 3]
    one, _ = invoke("correlate", *models, "--objects-per-image", "1", *FEW)
    assert [row["objects"] for row in rows(one, "correlations", size="all")] == [3, 3]
    staged, _ = invoke("correlate", *models, "--stage", "all", *FEW)
    by_detector = {}
    for row in rows(staged, "stage_correlation"):
        if row["size"] == "all":
            by_detector.setdefault(row["stage"], []).append((row["objects"], row["n"]))
    assert all(first == second for first, second in by_detector.values())
    assert set(by_detector) == {"predefined", "rpn", "detections"}
    evaluated, _ = invoke("evaluate", *models)
    assert len(heads(evaluated, "ap")) == 2
    # One map for each detector: none for the first.
    (here / "map.json").write_text('{"red": "scarlet"}')
    maps = ("--class-map", "none", "--class-map", "map.json")
    found, _ = invoke("correlate", *models, *FEW, *maps)
    assert [row["objects"] for row in rows(found, "correlations", size="all")] == [6, 6]
    # Alone, the first has all its classes.
    alone, _ = invoke("correlate", model("full", "a"), "--data", data, *FEW)
    assert all_sizes(alone)["objects"] == 6


def test_which_class_is_which_is_kept_beside_the_measurements(data: Path, here: Path) -> None:
    invoke("correlate", model("other_names", "other"), "--data", data, *FEW)
    (path,) = (here / "runs" / "other" / "measurements").glob("*/classes.csv")
    rows = [line.split(",")[:2] for line in path.read_text().splitlines()]
    assert rows == [
        ["dataset_class", "detector_class"],
        ["red", ""],
        ["green", "Green"],
        ["", "blue"],
        ["", "scarlet"],
    ]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("resnet50", "unknown model 'resnet50'; give one of torchvision:NAME, detectron2:CONFIG"),
        ("python:my_detectors", "does not name a function: give python:MODULE:FUNCTION"),
        ("python:no_such:make", "there is no module no_such"),
        ("../up=python:my_detectors:full", "cannot be the name of a folder"),
    ],
)
def test_mistakes_in_a_model_are_one_sentence(
    model: str, says: str, data: Path, here: Path
) -> None:
    assert says in fails("correlate", "--model", model, "--data", data)
    assert not (here / "runs").exists()


def test_options_that_do_not_go_together(data: Path) -> None:
    assert "--weights belongs to --model" in fails("correlate", "--weights", "x.pth")
    assert "there is no data for" in fails("correlate", "--model", "python:my_detectors:full")
    model = ("--model", "python:my_detectors:minimal", "--data", data)
    assert "takes no argument `weights`" in fails("correlate", *model, "--weights", "x.pth")
    two = ("--model", "a=python:my_detectors:full", "--model", "b=python:my_detectors:full")
    three = ("--weights", "x", "--weights", "y", "--weights", "z")
    message = fails("correlate", *two, *three, "--data", data)
    assert "3 times --weights for 2 models" in message
    same = ("--model", "python:my_detectors:full", "--model", "python:my_detectors:full")
    message = fails("correlate", *same, "--data", data)
    assert "two of the detectors are called 'my_detectors-full'" in message
    assert "no head 'fc' here: my_detectors-minimal has colour" in fails(
        "correlate", *model, "--head", "fc"
    )
