"""A report on the screen and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rethink_heads.report.output import Report, print_json


def report() -> Report:
    made = Report("correlate", {"seed": "0"})
    made.lines("The answer.")
    made.table("By size", pd.DataFrame({"head": ["fc"], "pcc": ["0.5 [-]"]}), "A legend.")
    made.table("By bin", pd.DataFrame({"bin": ["0"], "pcc": ["-"]}), full=True)
    made.data(pcc=pd.DataFrame({"head": ["fc"], "pcc": [np.nan]}), run=[{"path": Path("a")}])
    made.files = [Path("a.csv")]
    return made


def test_the_screen_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    report().end(more="figures: elsewhere")
    printed = capsys.readouterr().out
    assert printed.startswith("The answer.\nBy size\nhead")
    assert "PCC" in printed
    assert "A legend.\n[-]: no interval" in printed
    assert "By bin" not in printed
    assert "-: undefined" not in printed
    assert printed.endswith(
        "--full prints more tables; figures: elsewhere; --json has all numbers.\n"
    )
    report().end(full=True)
    printed = capsys.readouterr().out
    assert "By bin" in printed
    assert "-: undefined" in printed


def test_json_has_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    report().end(as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "command": "correlate",
        "tables": {"pcc": [{"head": "fc", "pcc": None}], "run": [{"path": "a"}]},
        "files": ["a.csv"],
        "provenance": {"seed": "0"},
    }


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": np.float64(0.5), "c": (np.int64(1), float("inf"))})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": 0.5, "c": [1, None]}
