"""Several processes on this machine that talk over the loopback interface alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def torchrun(
    *command: object, processes: int = 2, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a module, given by its name and arguments, in several processes of one thread each."""
    # The two dashes: torchrun has options of its own that begin as the module's do.
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}", "-m"]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, "--", *map(str, command)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
