"""What a machine is, and the rates that it reaches at the operations that heads are made of."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch.nn import functional as F

from benchmarks.timing import seconds

REPEATS = 5
COPIED_FLOATS = 64 * 2**20


def description(device: torch.device, threads: int) -> dict[str, str]:
    """The machine, the versions, the date and the command, for the head of a table."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": f"{threads} of {len(os.sched_getaffinity(0))} cores",
        "torch": f"{torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}",
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {name.strip(): value.strip() for name, value in known.items()}
    flags = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
    has = [text for flag, text in flags.items() if flag in values.get("flags", "").split()]
    name = values.get("model name", platform.machine())
    return f"{name} ({', '.join(has)})" if has else name


def rates(device: torch.device) -> dict[str, float]:
    """Measured rates: GFLOP/s of matrix products and of 3x3 convolutions, GB/s of copying.

    The products are fc6's (2048 RoIs of 12,544 values by 1024) and a square one; the convolution is a conv-head's (256
    channels, 128 maps of 7 x 7). Each is the median of several.
    """
    found: dict[str, float] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        found[f"fc6 {name} (GFLOP/s)"] = _product(2048, 12544, 1024, dtype, device)
        found[f"square product {name} (GFLOP/s)"] = _product(2048, 2048, 2048, dtype, device)
        found[f"3x3 convolution {name} (GFLOP/s)"] = _convolution(dtype, device)
    source = torch.ones(COPIED_FLOATS, device=device)
    target = torch.empty_like(source)
    taken = _median(lambda: target.copy_(source))
    found["copy (GB/s, read and written)"] = (
        2 * source.numel() * source.element_size() / taken / 1e9
    )
    return found


def best_rate(found: dict[str, float], precision: str) -> float:
    """FLOP/s of the best of the measured products and convolutions of a precision."""
    return 1e9 * max(rate for name, rate in found.items() if precision in name)


def bandwidth(found: dict[str, float]) -> float:
    """Bytes/s of copying, read and written."""
    return 1e9 * found["copy (GB/s, read and written)"]


def _product(
    rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device
) -> float:
    a = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    return 2 * rows * inner * columns / _median(lambda: F.linear(a, weight)) / 1e9


def _convolution(dtype: torch.dtype, device: torch.device) -> float:
    x = torch.randn(128, 256, 7, 7, device=device).to(dtype)
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(device, dtype)
    x, layer = x.to(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)
    return 2 * 128 * 49 * 256 * 256 * 9 / _median(lambda: layer(x)) / 1e9


@torch.inference_mode()
def _median(work: Callable[[], object]) -> float:
    work()
    return statistics.median(seconds(work) for _ in range(REPEATS))
