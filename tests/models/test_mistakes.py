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
