"""A signal ends the whole command: exit code, one line, the log, and the processes that load data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rethink_heads.runs import Run
from tests.training.recorded import tiny_config

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
