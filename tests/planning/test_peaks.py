"""Peaks of memory are those since the moment that was asked for."""

from __future__ import annotations

import sys

import pytest
import torch

from rethink_heads.planning.peaks import device_peak_mb, peak_mb, start_again

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_is_forgotten() -> None:
    start = start_again(CPU)
    block = bytearray(b"1") * (200 * 2**20)
    del block
    assert peak_mb() - start > 190
    after = start_again(CPU)
    assert after - start < 50
    assert peak_mb() - after < 50
    assert device_peak_mb(CPU) is None
