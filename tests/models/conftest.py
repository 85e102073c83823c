"""A small data set, a working folder with a module of detectors, and commands that are run on them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rethink_heads.cli import app
from rethink_heads.measure.store import Measurements
from tests.models.own_detectors import MODULE
from tests.tiny_coco import write_coco

FEW = ("--grid-steps", "3", "measuring.proposals_per_object=none")

runner = CliRunner()


class Warnings(logging.Handler):
    """What is logged: pytest takes it away from standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def invoke(*arguments: object) -> tuple[dict, str]:
    """Run a command with --json; return its result and what it said, in one line."""
    warnings = Warnings()
    logging.getLogger("rethink_heads").addHandler(warnings)
    try:
        done = runner.invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    finally:
        logging.getLogger("rethink_heads").removeHandler(warnings)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), " ".join([*done.stderr.split(), *warnings.lines])


def model(made: str, name: str | None = None) -> str:
    """The option for a detector of the module."""
    text = f"python:my_detectors:{made}"
    return f"--model={text if name is None else f'{name}={text}'}"


def kept(here: Path, name: str) -> Measurements:
    """The only measurements in a model's folder."""
    (folder,) = (here / "runs" / name / "measurements").iterdir()
    return Measurements.load(folder)


def compared(folder: Path, kind: str) -> Path:
    """The only folder of tables, or of figures, of a comparison."""
    within = folder / kind
    (inner,) = [each for each in within.iterdir() if each.is_dir()] or [within]
    return inner


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
