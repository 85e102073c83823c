"""Which files a user's detector is known by."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink_heads.detectors.fingerprint import source_files


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
    import rethink_heads.detectors.fingerprint as module

    monkeypatch.setattr(module, "OWN", project)
    assert source_files("python:a_detector_of_mine:make") == [project / "a_detector_of_mine.py"]


def test_a_configuration_and_what_has_no_file(tmp_path: Path) -> None:
    (tmp_path / "r50.yaml").touch()
    assert source_files(f"detectron2:{tmp_path / 'r50.yaml'}") == [tmp_path / "r50.yaml"]
    assert source_files("detectron2:COCO-Detection/a_name_of_the_zoo.yaml") == []
    assert source_files("torchvision:fasterrcnn_resnet50_fpn") == []
