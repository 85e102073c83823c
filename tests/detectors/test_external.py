"""External detectors: what ``python:MODULE:FUNCTION`` is given, how what it makes is opened, and measuring it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.answers import check_detector
from rethink_heads.detectors.base import CAPABILITIES, supports
from rethink_heads.detectors.external import as_detector, model_name, open_model
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.errors import UserError
from rethink_heads.measure.runner import measure
from tests.detectors.colours import Colours
from tests.tiny_coco import write_coco

MODULE = """
import torch
from torch import nn

from tests.detectors.colours import Colours
from tests.detectors.test_answers import Normalised


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


def exits():
    raise SystemExit("no GPU here")


def fatal():
    class Fatal(BaseException):
        pass

    raise Fatal("beyond repair")


def needs(num_classes, weights=None):
    return Colours()


def nothing():
    Colours()


def several():
    return Colours(), {"epoch": 3}


def a_class():
    return Colours


def diverged():
    made = Colours()
    made.layer.bias.data.fill_(float("nan"))
    return made


def elsewhere():
    made = Colours()
    made.device = "cuda:99"
    return made


class Unready(Colours):
    @property
    def heads(self):
        raise RuntimeError("not yet loaded")

    @heads.setter
    def heads(self, _):
        pass


class Stubborn(Module):
    def train(self, mode=True):
        return super().train(True)


def mute():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    raise Mute


def two_stages():
    from tests.detectors.torchvision.small_models import small_model

    return small_model()


def parallel():
    return nn.DataParallel(two_stages())


def compiled():
    return nn.DataParallel(torch.compile(two_stages()))


def averaged():
    return torch.optim.swa_utils.AveragedModel(two_stages())


class Lightning(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.ModuleDict({"detector": two_stages()})


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
    if function == "given":
        with pytest.raises(UserError, match="takes no argument `weights`"):
            open_model("python:some_detectors:given", "some.pth")
    else:
        detector = open_model("python:some_detectors:given_both", "some.pth", device="cpu")
        assert (detector.weights, detector.was_given) == ("some.pth", torch.device("cpu"))


def test_a_plain_object_that_stays_elsewhere_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert open_model("python:some_detectors:stays", device="meta").device == torch.device("cpu")
    assert "python:some_detectors:stays computes on cpu, not on meta" in caplog.text
    assert "give the function an argument `device`" in caplog.text
    caplog.clear()
    open_model("python:some_detectors:stays", device="cpu")
    open_model("python:some_detectors:module", device="cpu")
    assert caplog.text == ""


MISTAKES = {
    "exits": r"exits failed: SystemExit: no GPU here \(.*some_detectors\.py, line \d+\)$",
    "fatal": "fatal failed: Fatal: beyond repair",
    "needs": r"cannot be called without what it needs \(.*'num_classes'\): give a function",
    "nothing": "what is given is None .*does the function return the detector",
    "several": r"a tuple of Colours, dict \(give the detector alone\) is neither",
    "a_class": r"the class Colours \(give an object of it\) is neither",
    "diverged": r"some_detectors:diverged has weights that are not finite numbers \(bias\)",
    "elsewhere": "`device` of python:some_detectors:elsewhere is cuda:99, which cannot be used here",
    "Unready": "failed: RuntimeError: not yet loaded",
    "Lightning": r"Lightning is no detector itself but holds one, a FasterRCNN: give .* `net\.detector`",
    "Stubborn": "a Stubborn that python:some_detectors:Stubborn makes stays in training mode",
    "mute": "mute failed: Mute: it cannot say why",
    "torch": "some_detectors has no function torch",
}


@pytest.mark.parametrize("function", MISTAKES)
def test_functions_that_make_no_detector_are_one_sentence(function: str) -> None:
    with pytest.raises(UserError, match=MISTAKES[function]) as raised:
        open_model(f"python:some_detectors:{function}", class_names=None)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("builtins:print", "print is neither|is None|is built in"),
        ("builtins:exit", "exit failed: SystemExit|is built in"),
        ("some_detectors.py:stays", r"names a file: .* example python:some_detectors:stays"),
        ("folder/some_detectors.py:stays", "names a file"),
        ("exiting:make", r"cannot import exiting: SystemExit: 4 \(.*exiting\.py, line 1\)"),
    ],
)
def test_names_that_are_no_function_of_the_users(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "exiting.py").write_text("raise SystemExit(4)\n")
    with pytest.raises(UserError, match=says):
        open_model(f"python:{name}")


@pytest.mark.parametrize("wrapper", ["parallel", "compiled", "averaged"])
def test_wrappers_of_pytorch_are_taken_off(wrapper: str) -> None:
    detector: Any = open_model(f"python:some_detectors:{wrapper}", class_names=("a", "b", "c"))
    plain: Any = open_model("python:some_detectors:two_stages", class_names=("a", "b", "c"))
    assert type(detector.model) is type(plain.model)
    assert not detector.model.training
    own = plain.model.state_dict()
    assert all(torch.equal(value, own[n]) for n, value in detector.model.state_dict().items())


def test_a_detector_that_keeps_to_the_protocol_passes_and_is_itself() -> None:
    detector = Colours()
    check_detector(detector)
    assert as_detector(detector) is detector
    assert not any(supports(detector, method) for method in CAPABILITIES)


def test_what_is_no_detector() -> None:
    with pytest.raises(
        UserError, match="Linear is neither a detector of torchvision or detectron2"
    ):
        as_detector(nn.Linear(1, 1))


def test_measuring_from_python_needs_a_detector_and_data_alone(tmp_path: Path) -> None:
    write_coco(tmp_path, images=4)
    dataset = CocoDataset(tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    few = MeasuringConfig(grid_steps=3)
    passing = measure(Colours(), dataset, config=few)
    kept = measure(Colours(), dataset, config=few, folder=tmp_path / "kept")
    pd.testing.assert_frame_equal(passing.to_frame(), kept.to_frame())
    assert passing.provenance == kept.provenance
    assert kept.provenance["weights"] == fingerprint(Colours())
    assert not (tmp_path / "kept" / "parts").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("torchvision:fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"),
        ("detectron2:configs/COCO-Detection/r50.yaml", "r50"),
        ("python:my_package.module:make_detector", "module-make_detector"),
    ],
)
def test_names_of_models(model: str, name: str) -> None:
    assert model_name(model) == name
