"""Runs commands in this process on detectors that were never trained, and reads what ``--json`` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from rethink_heads.cli import app
from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.detectors.rcnn.detector import save_detector
from rethink_heads.runs import Run
from tests.tiny_coco import CLASSES, SMALL_SETTINGS


def untrained_run(path: Path, config: Config, seed: int = 0) -> Run:
    """A run with an untrained detector, as if trained."""
    run = Run.create(path, config)
    torch.manual_seed(seed)
    save_detector(build_detector(config, CLASSES), config, run.detector_path)
    return run


def small_run(path: Path, head: str, data: object, *settings: str, seed: int = 0) -> Run:
    """An untrained run of few weights, whose data are a folder; its detections take few scores to be kept."""
    own = [*SMALL_SETTINGS, f"data.source={data}", "model.score_threshold=0.01", *settings]
    return untrained_run(path, load_preset("shapes-tiny", head, own), seed)


def call(*arguments: object, code: int = 0) -> str:
    """Run a command and return its standard output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def call_json(*arguments: object) -> dict[str, Any]:
    """Run a command with ``--json`` and return its result."""
    found: dict[str, Any] = json.loads(call(*arguments, "--json"))
    return found


def fails(*arguments: object, says: str = "") -> str:
    """Run a command that must fail with one sentence, and return the sentence."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == errors[0]
    assert says in errors[0]
    return errors[0]


def refuse(*args: object, **kwargs: object) -> None:
    """Stands in the place of work that must not be done, or not again."""
    raise AssertionError("this is not to be done")


def rows(result: dict[str, Any], table: str, **equal: object) -> list[dict[str, Any]]:
    """The rows of a table whose columns equal the values given."""
    found = result["tables"][table]
    return [row for row in found if all(row[name] == value for name, value in equal.items())]


def heads(result: dict[str, Any], table: str) -> list[tuple[str, str]]:
    """(detector, head) of a table's rows, each once."""
    return list(dict.fromkeys((row["detector"], row["head"]) for row in rows(result, table)))


def all_sizes(result: dict[str, Any]) -> dict[str, Any]:
    """The correlations of the only head over all sizes."""
    (row,) = rows(result, "correlations", size="all")
    return row
