"""What ``python:MODULE:FUNCTION`` is given, and in which state the detector that it makes is opened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink_heads.detectors.opening.models import open_model
from rethink_heads.errors import UserError

MODULE = """
import torch
from torch import nn

from tests.detectors.opening.colours import Colours
from tests.detectors.opening.test_checking import Normalised


class InADict(Normalised):
    def __init__(self):
        super().__init__()
        self.dropouts = {"head": {"first": nn.Dropout(0.5)}}

    def extract(self, image):
        return self.dropouts["head"]["first"](super().extract(image))


class Module(nn.Module, Colours):
    def __init__(self):
        nn.Module.__init__(self)
        self.layer = nn.Linear(3, 2)


def hidden():
    return InADict()


def given(device):
    made = Colours()
    made.device = device
    made.layer.to(device)
    made.was_given = device
    return made


def given_both(weights=None, device=None):
    made = given(device)
    made.weights = weights
    return made


def module():
    return Module()


def stays():
    return Colours()


def raising():
    made = Colours()
    made.layer.forward = None
    return made
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "some_detectors.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("some_detectors", None)
    yield
    sys.modules.pop("some_detectors", None)


def test_every_module_is_put_into_evaluation_mode() -> None:
    detector: Any = open_model("python:some_detectors:hidden")
    held = [detector.layer, detector.layers[0], detector.dropouts["head"]["first"]]
    assert [each.training for each in held] == [False, False, False]
    assert detector.layers[0].num_batches_tracked == 0


@pytest.mark.parametrize("function", ["given", "given_both"])
def test_a_function_that_takes_a_device_is_given_it(
    function: str, caplog: pytest.LogCaptureFixture
) -> None:
    detector: Any = open_model(f"python:some_detectors:{function}", device="cpu")
    assert detector.was_given == torch.device("cpu")
    assert caplog.text == ""


def test_weights_and_device_together() -> None:
    detector: Any = open_model("python:some_detectors:given_both", "some.pth", device="cpu")
    assert (detector.weights, detector.was_given) == ("some.pth", torch.device("cpu"))
    with pytest.raises(UserError, match="takes no argument `weights`"):
        open_model("python:some_detectors:given", "some.pth")


def test_a_plain_object_that_stays_elsewhere_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert open_model("python:some_detectors:stays", device="meta").device == torch.device("cpu")
    assert "python:some_detectors:stays computes on cpu, not on meta" in caplog.text
    assert "give the function an argument `device`" in caplog.text
    caplog.clear()
    open_model("python:some_detectors:stays", device="cpu")
    open_model("python:some_detectors:module", device="cpu")
    assert caplog.text == ""


def test_an_exception_of_its_code_is_one_sentence() -> None:
    says = r"`predict` of python:some_detectors:raising failed: TypeError: .*colours\.py, line \d+"
    with pytest.raises(UserError, match=says):
        open_model("python:some_detectors:raising")
