"""Mistakes with detectors that a user brings: one sentence each, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import fails


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
    fails("correlate", "--model", model, "--data", data, says=says)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("command", "made", "says"),
    [
        (("evaluate",), "not_finite", "gave scores that are not finite numbers"),
        (
            ("correlate", "--stage", "detections"),
            "from_one",
            "gave the label 2, where 0 to 1 are expected: 2 classes",
        ),
    ],
)
def test_what_is_wrong_on_an_image_names_detector_and_image(
    command: tuple[str, ...], made: str, says: str, data: Path, here: Path
) -> None:
    says = f"error: own on image 1: `detect` (colour) {says}"
    fails(*command, "--model", f"own=python:my_detectors:{made}", "--data", data, says=says)
    assert not list((here / "runs").rglob("meta.json"))


def test_options_that_do_not_go_together(data: Path) -> None:
    fails("correlate", "--weights", "x.pth", says="--weights belongs to --model")
    fails("correlate", "--model", "python:my_detectors:full", says="there is no data for")
    model = ("--model", "python:my_detectors:minimal", "--data", data)
    fails("correlate", *model, "--weights", "x.pth", says="takes no argument `weights`")
    two = ("--model", "a=python:my_detectors:full", "--model", "b=python:my_detectors:full")
    weights = ("--weights", "x", "--weights", "y", "--weights", "z", "--data", data)
    fails("correlate", *two, *weights, says="3 times --weights for 2 models")
    says = "two of the detectors are called 'my_detectors-minimal'"
    fails("correlate", *model, *model[:2], says=says)
    says = "no head 'fc' here: my_detectors-minimal has colour"
    fails("correlate", *model, "--head", "fc", says=says)
