"""One writer at a time: others wait and say for whom, and what a killed one left is removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from rethink_heads import locking
from rethink_heads.locking import Holder, hold, results_folder

HOLDER = """
import os, sys, time
from pathlib import Path
from rethink_heads.files import atomic_path
from rethink_heads.locking import hold
folder, forks = Path(sys.argv[1]), sys.argv[2] == "forks"
with hold(folder), atomic_path(folder / "tables" / "ap.csv") as half:
    half.write_text("half of a table")
    if forks and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("holds", flush=True)
    sys.stdin.readline()
    half.write_text("whole table")
"""


@contextlib.contextmanager
def another(folder: Path, forks: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder and writes a table, until it is sent a line or killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), forks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_second_command_waits_says_for_whom_and_finds_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "QUIET_SECONDS", 0.0)
    table = tmp_path / "tables" / "ap.csv"
    with another(tmp_path) as holder:
        asked: list[bool] = []

        def is_done() -> bool:
            # The holder goes on when it was waited for a while.
            asked.append(table.is_file())
            if len(asked) == 5 and holder.stdin is not None:
                holder.stdin.write("\n")
                holder.stdin.flush()
            return asked[-1]

        with hold(tmp_path, lambda: True):
            # A result that is there is not waited for.
            assert files_in(tmp_path)[:2] == [".writer.json", ".writer.lock"]
        with hold(tmp_path, is_done):
            assert table.read_text() == "whole table"
        (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path} is being written by process {holder.pid} on ")
    assert " since 2" in line
    assert f"(-c {tmp_path}" in line
    assert asked[:5] == [False] * 5
    assert files_in(tmp_path) == ["tables/ap.csv"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("forks", ["", "forks"])
def test_what_a_killed_command_left_is_removed_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, forks: str
) -> None:
    (tmp_path / ".hidden").write_text("the user's")
    with another(tmp_path, forks) as holder:
        said = Holder.read(tmp_path)
        assert said is not None
        assert (said.pid, said.has_ended) == (holder.pid, False)
        # Its forked child, as a data worker is, lives on.
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert said.has_ended
        # Of another machine's processes nothing is known.
        assert not dataclasses.replace(said, host="elsewhere").has_ended
        assert len(files_in(tmp_path)) == 4
        with hold(tmp_path):
            assert files_in(tmp_path) == [".hidden", ".writer.json", ".writer.lock"]
    assert f"removed what process {holder.pid} on " in caplog.text
    assert files_in(tmp_path) == [".hidden"]


def test_leftovers_in_every_folder_of_a_run(tmp_path: Path) -> None:
    names = [
        ".config-1-a-unfinished.yaml",
        "checkpoints/.detector-1-a-unfinished.pt",
        "measurements/default/.moments-0-1-a-unfinished.npy",
        "measurements/default/parts/.7-1-a-unfinished",
        "measurements/default/detections-parts/.7-1-a-unfinished",
        "tables/.ap-1-a-unfinished.csv",
        "figures/val-1/.figure2-1-a-unfinished.png",
        "precision/.fc-0-1-a-unfinished.parquet",
    ]
    others = ["measurements/default/parts/7", "inner/.ap-1-a-unfinished.csv"]
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with hold(tmp_path), hold(tmp_path / "." / ""):
        assert (tmp_path / ".writer.lock").is_file()
    assert files_in(tmp_path) == sorted(others)


def test_a_folder_in_which_nothing_was_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with hold(tmp_path / "runs" / "a"):
            assert (tmp_path / "runs" / "a").is_dir()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Where nothing can be written it can still be read.
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with hold(tmp_path):
        assert files_in(tmp_path) == []


def test_measurements_are_guarded_by_their_runs_lock(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a" / "measurements" / "default"
    assert results_folder(folder) == folder
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").write_text("")
    assert results_folder(folder) == tmp_path / "runs" / "a"
