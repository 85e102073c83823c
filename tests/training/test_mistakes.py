"""What goes wrong during training: one sentence, nothing lost; and a signal ends the whole command."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from rethink_heads.errors import UserError
from rethink_heads.runs import Run
from rethink_heads.training.module import DetectionModule
from rethink_heads.training.train import WholeFiles, train
from tests.training.recorded import tiny_config


def test_a_truncated_image_is_one_sentence_from_a_loaders_process(
    data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for image in (copy / "train").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    config = tiny_config(copy, "fc", "training.workers=1")
    with pytest.raises(UserError) as caught:
        train(config, Run.create(tmp_path / "run", config), "cpu")
    message = str(caught.value)
    assert message.startswith("cannot read image")
    assert "Traceback" not in message
    assert "\n" not in message


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*/last\.ckpt: No space left on device"):
        WholeFiles().save_checkpoint({}, path)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_under_tensorboard_is_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writing thread would tell it as a traceback, which pytest turns into a warning and so into a failure."""
    config = tiny_config(data, "fc", "training.max_iterations=25", "training.checkpoint_every=50")
    monkeypatch.setattr(RecordWriter, "write", full)
    run = Run.create(tmp_path / "run", config)
    with pytest.raises(UserError) as caught:
        train(config, run, "cpu")
    message = f"cannot write {run.path / 'logs'}: No space left on device; free some space or"
    assert str(caught.value).startswith(message)


def test_logs_that_cannot_be_made_are_named(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, "fc")
    run = Run.create(tmp_path / "run", config)
    (run.path / "logs").write_text("not a folder")
    with pytest.raises(UserError, match=rf"^cannot write {run.path}/logs\S*: (Not a dir|File ex)"):
        train(config, run, "cpu")


def test_full_shared_memory_says_how_to_do_without(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")

    config = tiny_config(data, "fc")
    monkeypatch.setattr(DetectionModule, "training_step", fails)
    with pytest.raises(UserError, match=r"/dev/shm\) is full: .* training\.workers=0"):
        train(config, Run.create(tmp_path / "run", config), "cpu")


def test_workers_beyond_reason_are_refused(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, "fc", "training.workers=1000")
    with pytest.raises(UserError, match=r"training\.workers=1000 is too many processes"):
        train(config, Run.create(tmp_path / "run", config), "cpu")


SECONDS = 120.0


def processes_of_group(group: int) -> list[int]:
    """Those that still run in a process group; of Linux only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_training(data: Path, tmp_path: Path, name: str) -> None:
    config = tiny_config(data, "fc", "training.workers=1", "training.max_iterations=100000")
    run = Run.create(tmp_path / "run", config)
    command = [sys.executable, "-m", "rethink_heads", "train", "--run", str(run.path)]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    last = time.monotonic() + SECONDS
    while not run.last_checkpoint.exists() and time.monotonic() < last:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    assert len(processes_of_group(process.pid)) >= 2
    number = getattr(signal, name)
    if name == "SIGHUP":
        # As a terminal that is closed sends it: to all.
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stderr = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 128 + number
    assert stderr.splitlines()[-1] == f"stopped by {name}; run the same command again to go on"
    assert "Traceback" not in stderr
    assert f"training stopped by {name}: " in run.log_path.read_text().splitlines()[-1]
    while processes_of_group(process.pid) and time.monotonic() < last:
        time.sleep(0.1)
    assert processes_of_group(process.pid) == []
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".")]
