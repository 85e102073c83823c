"""This process's memory, and that of its GPU: held now, and at most since a moment."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

MIB = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_again(device: torch.device) -> float:
    """Have the peaks count from now on, where the system can; return MiB that this process holds now.

    Where the system cannot (it is not Linux), its peak stays that since the process began, which is returned.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return peak_mb()


def peak_mb() -> float:
    """This process's peak in MiB since :func:`start_again`."""
    try:
        return _status("VmHWM")
    except OSError:
        # The system counts in KiB, on macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024


def device_peak_mb(device: torch.device) -> float | None:
    """A GPU's peak in MiB since :func:`start_again`; None of a CPU."""
    return torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else None


def _status(name: str) -> float:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) / 1024
    raise OSError(f"no {name}")
