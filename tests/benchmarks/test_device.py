"""The script for a GPU on a CPU, from its tests to its tables; how tests are counted and the quickest way is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device import CPU_NOTE, WAYS, count_tests, quickest

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    # Of its tests those of pooling, which are quick; by hand it runs them all.
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTEST_ADDOPTS": "-k pooling",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [ROOT / "benchmarks" / "device.sh", "--cpu", "--tiny", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "device.json").read_text())
    assert (found["device"], found["note"], found["left_out"]) == ("cpu", CPU_NOTE, [])
    assert found["tests"] == {"tests": 2, "failures": 0, "errors": 0, "skipped": 0, "failed": []}
    # A CPU has no fp16 step.
    trained = {(row["head"], row["precision"]) for row in found["training"]}
    assert trained == {
        (head, precision)
        for head in ("fc", "conv", "double-ext")
        for precision in ("32-true", "bf16-mixed")
    }
    measured = {(row["head"], row["way"]) for row in found["measuring"]}
    assert measured == {(head, way.name) for head, ways in WAYS.items() for way in ways}
    assert all(row["seconds"] > 0 and row["taken"] for row in found["measuring"])
    in_float32 = [row for row in found["measuring"] if row["precision"] == "float32"]
    assert max(row["score_difference"] for row in in_float32) < 1e-5
    # The table begins by saying of what it is.
    for text in ((tmp_path / "device.md").read_text(), done.stdout[done.stdout.index(CPU_NOTE) :]):
        assert text.startswith(CPU_NOTE)
        assert "quickest, conv-head, bfloat16, 20 proposals" in text


@pytest.mark.parametrize("word", ["--gpu", "-x"])
def test_unknown_options_are_told(word: str) -> None:
    done = subprocess.run(
        [ROOT / "benchmarks" / "device.sh", word], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"unknown option {word}" in done.stderr


def test_tests_are_counted_and_those_that_fell_named(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite tests="4" failures="1" errors="1" skipped="1">'
        '<testcase name="good"/><testcase name="bad"><failure/></testcase>'
        '<testcase name="worse"><error/></testcase><testcase name="left"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    assert count_tests(tmp_path / "tests.xml") == {
        "tests": 4,
        "failures": 1,
        "errors": 1,
        "skipped": 1,
        "failed": ["bad", "worse"],
    }


def test_the_quickest_way_was_taken() -> None:
    """A way that memory did not suffice for is none."""
    same = {"head": "fc", "precision": "float32", "proposals": 81}
    rows = [
        same | {"way": "a", "seconds": 3.0, "taken": True},
        same | {"way": "b", "seconds": 2.0, "taken": True},
        same | {"way": "c", "seconds": 1.0, "taken": False},
        same | {"way": "a", "seconds": 4.0, "taken": True, "proposals": 20},
    ]
    assert [(row["way"], row["proposals"]) for row in quickest(rows)] == [("b", 81), ("a", 20)]
