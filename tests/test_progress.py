"""Progress lines where standard error is no terminal."""

from __future__ import annotations

import pytest

from rethink_heads.progress import ProgressReport, duration


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
