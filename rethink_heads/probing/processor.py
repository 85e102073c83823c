"""What the processor at hand is quick at: decided from what it says of itself, so that results do not follow timing."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

_PROCESSORS = Path("/proc/cpuinfo")
_INTEL, _MATRIX_UNITS = "GenuineIntel", "amx_bf16"


@functools.cache
def mkl_is_slow() -> bool:
    """Whether float32 products go to MKL on a processor that is not Intel's; False where its maker is not known."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    text = _description()
    return "vendor_id" in text and _INTEL not in text


@functools.cache
def has_matrix_units() -> bool:
    """Whether there are units for products of bfloat16 (AMX), beside which all else takes long."""
    return _MATRIX_UNITS in _description()


def _description() -> str:
    try:
        return _PROCESSORS.read_text()
    except OSError:
        return ""
