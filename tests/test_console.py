"""Texts that cannot be printed, streams that are closed or full, messages of any length, and lines of progress."""

from __future__ import annotations

import errno
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from rethink_heads.console import (
    LONGEST_ERROR,
    LONGEST_WORD,
    ProgressReport,
    duration,
    prepare_streams,
    print_error,
    redirect_stdout,
)
from rethink_heads.exit_handling import reporting_errors
from rethink_heads.report.output import print_table

# The package's streams without the package's models: what a command does first, and a print.
PRINTS = (
    "import sys; from rethink_heads.console import prepare_streams, redirect_stdout; prepare_streams();"
    "\nwith redirect_stdout(): print('inside')"
    "\nprint('0.5 ± 0.1 \\ud800'); sys.stdout.flush(); print('done', file=sys.stderr)"
)


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", "1 +- 2 d\\xf6g \\ud800"),
        ("latin-1", "1 ± 2 dög \\ud800"),
        ("utf-8", "1 ± 2 dög \\ud800"),
    ],
)
def test_what_an_encoding_lacks_is_spelled_out(
    encoding: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    prepare_streams()
    print("1 ± 2 dög \ud800")
    print_table("a ± b", {"dög": ["\ud800"]})
    sys.stdout.flush()
    assert written.getvalue().decode(encoding).splitlines()[0] == printed


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_before_the_start(closed: str, tmp_path: Path) -> None:
    command = f'{sys.executable} -c "$1" {closed}; echo $? > code'
    shell = ["bash", "-c", command, "bash", PRINTS]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "code").read_text().strip() == "0"
    assert "Traceback" not in done.stderr
    assert ("done" in done.stderr) == (closed == ">&-")


class Full(io.RawIOBase):
    """A stream on a full disk."""

    full = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "refused")
        return len(data)


def test_results_that_cannot_be_written_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the end of the command, not silently when the interpreter ends."""
    disk = Full()
    stream = io.TextIOWrapper(io.BufferedWriter(disk), encoding="utf-8")

    @reporting_errors
    def command() -> None:
        monkeypatch.setattr(sys, "stdout", stream)
        print("a result")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: No space left on device; free some space")
    disk.full = False
    stream.close()


def test_errors_are_one_line_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("error: a\nb\x1b[31m")
    print_error(f"error: {'long ' * 300}; give another")
    print_error(f"error: no {'x' * 300_000}.yaml in {'y' * 9999}.d; give another")
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "error: a b [31m"
    assert len(second) == LONGEST_ERROR
    assert second.startswith("error: long long")
    assert second.endswith("; give another")
    # Values are cut one by one.
    assert re.fullmatch(r"error: no x+ \.\.\. x+\.yaml in y+ \.\.\. y+\.d; give another", third)
    assert len(third) < 2 * LONGEST_WORD + 50


def test_what_libraries_print_is_kept_from_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with redirect_stdout():
        print("from Python")
        subprocess.run(["echo", "from outside"], check=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "from outside" in err
    assert "from Python" in err


def test_a_line_every_tenth(capsys: pytest.CaptureFixture[str]):
    with ProgressReport("measuring", 40, "images", counted="objects") as report:
        for _ in range(40):
            report.advance(counted=3)
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("measuring: 4/40 images (10%), 12 objects, ")
    assert "objects/s" in lines[0]
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("measuring: 40/40 images (100%), 120 objects, ")
    assert " took " in lines[-1]


def test_earlier_work_is_counted_but_not_timed(capsys: pytest.CaptureFixture[str]):
    with ProgressReport("measuring", 4, "images", start=3) as report:
        report.advance()
        assert report.done == 4
        assert report.counted == 1
    with ProgressReport("measuring", 2, "images", enabled=False) as report:
        report.advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "measuring: 3/4 images done by an earlier run"
    assert lines[1].startswith("measuring: 4/4 images (100%)")


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressReport("measuring", 2, "images", counted="objects") as report:
        report.advance(counted=5)
        report.advance(counted=5)
    shown = capsys.readouterr().err
    assert "measuring" in shown
    assert "2/2" in shown
    assert "objects/s" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_in_words(seconds: float, words: str):
    assert duration(seconds) == words
