"""A small data set and a working folder with a module of detectors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.own_detectors import MODULE
from tests.tiny_coco import write_coco


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data", images=6)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of detectors, which no other test sees."""
    (tmp_path / "my_detectors.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("my_detectors", None)
    yield tmp_path
    sys.modules.pop("my_detectors", None)
