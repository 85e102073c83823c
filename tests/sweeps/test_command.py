"""``rethink-heads sweep``: what it lists, prepares, trains and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rethink_heads import run_options
from rethink_heads.cli import app
from rethink_heads.runs import Run
from tests.sweeps.conftest import SETTINGS, FakeTraining


@pytest.fixture
def arguments(three: Path, data: Path, tmp_path: Path) -> list[str]:
    output = tmp_path / "out"
    options = ["--preset", "shapes-tiny", "--data", str(data), "--output", str(output)]
    return ["sweep", str(three), *options, "--seed", "0", *SETTINGS]


def call(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_a_dry_run_writes_nothing(arguments: list[str], tmp_path: Path) -> None:
    text, _ = call(*arguments, "--dry-run")
    assert "3 points, 3 trainings, 0 done" in text
    assert text.count("to do") == 3
    listed = json.loads(call(*arguments, "--dry-run", "--json")[0])
    assert [point["run"] for point in listed["tables"]["points"]] == [
        str(tmp_path / "out" / f"{label}-0")
        for label in ("single-fc", "single-conv", "double-head-ext")
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("colour_detections")
def test_prepare_then_train_apart_then_collect(arguments: list[str], tmp_path: Path) -> None:
    text, _ = call(*arguments, "--prepare")
    runs = [Path(line.removeprefix("rethink-heads train --run ")) for line in text.splitlines()]
    assert [path.name for path in runs] == ["single-fc-0", "single-conv-0", "double-head-ext-0"]
    train = FakeTraining()
    for path in runs:
        train(path, Run.open(path).config)
    assert call(*arguments, "--prepare")[0] == ""
    text, errors = call(*arguments)
    assert "training 1 of" not in errors
    assert "## Three structures" in text
    assert "the paper's order and ours" in text
    assert f"written: {tmp_path / 'out' / 'table.tex'}" in text
    found = json.loads(call(*arguments, "--json")[0])
    assert [row["point"] for row in found["tables"]["table"]] == [
        "single-fc",
        "single-conv",
        "double-head-ext",
    ]
    assert found["tables"]["failures"] == []
    used = [f"--use=single-fc={runs[0]}", "--output", str(tmp_path / "other"), "--dry-run"]
    assert "3 trainings, 1 done" in call(*arguments, *used)[0]


@pytest.mark.usefixtures("colour_detections")
def test_a_failed_point_is_told_at_the_end(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = FakeTraining()
    train.fails_at = "single-conv-0"
    monkeypatch.setattr(run_options, "train_run", train)
    text, errors = call(*arguments, code=2)
    assert "Double-Head-Ext" in text
    last = errors.splitlines()[-1]
    assert last.startswith("error: 1 of the sweep's parts failed, the table has the others")
    assert "single-conv-0: CUDA out of memory" in last
    assert (tmp_path / "out" / "table.csv").is_file()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--use", "single-fc"], "write LABEL=RUN"),
        (["--use", "single-fc=nothing"], "no such run: nothing"),
        (["model.fc_widht=3"], "did you mean 'model.fc_width'?"),
        (["--axis", "head=fc"], "sweep three has no axis 'head'; it has none"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], extra: list[str], says: str) -> None:
    text, errors = call(*arguments, *extra, code=2)
    assert text == ""
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert says in line
