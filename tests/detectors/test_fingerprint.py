"""A detector's fingerprint follows all that it holds and nothing else; the files that a user's detector is known by."""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rethink_heads.detectors.fingerprint import fingerprint, source_files
from tests.detectors.colours import Colours


class WithBuffers(nn.Module):
    """Its state has what a plain ``state_dict`` of tensors does not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("pixel_mean", torch.zeros(3), persistent=False)
        self.unregistered = {"late": nn.Linear(1, 1)}
        nn.init.ones_(self.unregistered["late"].weight)
        nn.init.ones_(self.unregistered["late"].bias)
        self.extra = {"scale": 1}

    def get_extra_state(self) -> dict[str, int]:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


class Holding(Colours):
    """A detector that holds everything somewhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = {"fc": nn.Linear(3, 2), "conv": [nn.Linear(3, 2)]}
        self.parts = SimpleNamespace(inner=(Slotted(), {"anchors": torch.arange(4)}))
        self.table = np.arange(6.0).reshape(2, 3)
        self.names = np.array(["a", {"b": 1}], dtype=object)
        self.buffered = WithBuffers()
        self.min_size, self.rule, self.levels = 800, "nearest", {3, 4}
        self.later = functools.partial(round, ndigits=2)
        self.method = self.parts.inner[0].__sizeof__
        self.itself = [self]
        self.log = logging.getLogger("colours")


def set_at(expression: str) -> Callable[[Any], None]:
    return lambda detector: exec(expression, {"torch": torch, "nn": nn}, {"d": detector})


CHANGES = {
    "a weight": "d.layer.weight.data[1, 2] += 2**-10",
    "a bias": "d.layer.bias.data[1] += 2**-10",
    "a weight's type": "d.layer.bfloat16()",
    "a module in a dict": "d.branches['fc'].weight.data.add_(1)",
    "a module in a list in a dict": "d.branches['conv'][0].bias.data.add_(1)",
    "an attribute of an object": "d.parts.inner[0].scale = 2.0",
    "a tensor in an object": "d.parts.inner[1]['anchors'][2] = 9",
    "an array": "d.table[1, 2] = 0",
    "an array of objects": "d.names[1]['b'] = 2",
    "a persistent buffer": "d.buffered.mean += 1",
    "another buffer": "d.buffered.pixel_mean += 1",
    "extra state": "d.buffered.extra['scale'] = 2",
    "a module that is not registered": "d.buffered.unregistered['late'].weight.data.add_(1)",
    "a number": "d.min_size = 400",
    "a number's type": "d.min_size = 800.0",
    "a text": "d.rule = 'linear'",
    "a set": "d.levels = {3, 5}",
    "a partial function": "d.later.keywords['ndigits'] = 3",
    "a key": "d.branches['box'] = d.branches.pop('conv')",
    "an attribute's name": "d.max_size = d.__dict__.pop('min_size')",
    "a value of the class": "d.__class__.class_names = ('green', 'red')",
    "a configuration": "d.configuration = 'min_size: 800'",
}


@pytest.mark.parametrize("what", CHANGES)
def test_it_follows_all_that_a_detector_holds(what: str) -> None:
    class Own(Holding):
        class_names = ("red", "green")

    detector = Own()
    before = fingerprint(detector)
    assert fingerprint(copy.deepcopy(detector)) == before
    set_at(CHANGES[what])(detector)
    assert fingerprint(detector) != before


def test_a_changed_configuration_counts_and_an_own_fingerprint_wins() -> None:
    detector, other = (
        type("Adapter", (Colours,), {"configuration": property(lambda self, size=size: size)})()
        for size in ("400", "800")
    )
    assert fingerprint(detector) != fingerprint(other)
    detector.fingerprint = "of its own"
    assert fingerprint(detector) == "of its own"


def test_order_of_insertion_does_not_matter_but_that_of_sequences_does() -> None:
    first, second, third = Holding(), Holding(), Holding()
    second.branches = dict(reversed(second.branches.items()))
    second.__dict__ = dict(reversed(second.__dict__.items()))
    assert fingerprint(second) == fingerprint(first)
    third.parts.inner = third.parts.inner[::-1]
    assert fingerprint(third) != fingerprint(first)


ROOT = Path(__file__).parents[2]


def test_it_is_the_same_in_another_process() -> None:
    code = "from tests.detectors.test_fingerprint import *; print(fingerprint(Holding()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        # The folder alone: other checkouts on the path may have a package `tests` of their own.
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == fingerprint(Holding())


def test_unusual_tensors_have_one(caplog: pytest.LogCaptureFixture) -> None:
    made: dict[str, Callable[[], Tensor]] = {
        "empty": lambda: torch.zeros(0, 4),
        "scalar": lambda: torch.tensor(2),
        "half": lambda: torch.ones(2, dtype=torch.bfloat16),
        "complex": lambda: torch.ones(2, dtype=torch.complex64).conj(),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "strided": lambda: torch.arange(12).view(3, 4).t(),
        "flags": lambda: torch.tensor([True, False]),
        "no values": lambda: torch.zeros(3, device="meta"),
    }
    found = []
    for each in made.values():
        one, two = SimpleNamespace(table=each()), SimpleNamespace(table=each())
        assert fingerprint(one) == fingerprint(two)
        found.append(fingerprint(one))
    assert len(set(found)) == len(made)
    assert caplog.text == ""


def test_deep_nesting_ends() -> None:
    nested: list[Any] = [torch.zeros(1)]
    for _ in range(5000):
        nested = [nested]
    assert len(fingerprint(SimpleNamespace(nested=nested))) == 64


def test_a_detector_without_weights_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    detector = Colours()
    weights = detector.layer.weight.detach().numpy()
    del detector.layer
    first = fingerprint(detector)
    assert "holds no torch modules, tensors or arrays: whether its weights" in caplog.text
    caplog.clear()
    detector.scale = 2  # type: ignore[attr-defined]
    assert fingerprint(detector) != first
    caplog.clear()
    detector.weights = [weights]  # type: ignore[attr-defined]
    fingerprint(detector)
    assert caplog.text == ""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module, one that it imports, one that nobody imports, and an environment."""
    installed = tmp_path / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "an_installed_module.py").write_text("")
    (tmp_path / "a_part_of_mine.py").write_text("")
    (tmp_path / "a_stray_module.py").write_text("")
    text = "import a_part_of_mine, an_installed_module\n"
    (tmp_path / "a_detector_of_mine.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(installed), *sys.path])
    names = ("a_detector_of_mine", "a_part_of_mine", "an_installed_module")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("a_detector_of_mine")
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_and_what_it_imports_beside_it(project: Path) -> None:
    found = source_files("python:a_detector_of_mine:make")
    assert found == [project / "a_detector_of_mine.py", project / "a_part_of_mine.py"]


def test_this_package_in_the_same_folder_is_left_out(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rethink_heads.detectors.fingerprint.OWN", project)
    assert source_files("python:a_detector_of_mine:make") == [project / "a_detector_of_mine.py"]


def test_a_configuration_and_what_has_no_file(tmp_path: Path) -> None:
    (tmp_path / "r50.yaml").touch()
    assert source_files(f"detectron2:{tmp_path / 'r50.yaml'}") == [tmp_path / "r50.yaml"]
    assert source_files("detectron2:COCO-Detection/a_name_of_the_zoo.yaml") == []
    assert source_files("torchvision:fasterrcnn_resnet50_fpn") == []
