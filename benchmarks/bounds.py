"""What an object's proposals cost in operations and bytes, and the least time that they take at a machine's rates.

Multiplications and additions count apart: a product of (m, k) and (k, n) is 2 m k n operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

RESOLUTION, SAMPLING_RATIO = 7, 2
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Work:
    """What N proposals cost.

    Attributes:
        gathered: operations of RoIAlign box by box: each sample of each cell from four feature cells.
        factored: operations of pooling by factors, zeros left out: along rows once for each x-interval, then along
            columns, where each output cell is a sum over ``2 x SAMPLING_RATIO`` rows.
        pooled_bytes: of the pooled features, float32.
        head: operations of the head's products and convolutions.
    """

    gathered: float
    factored: float
    pooled_bytes: float
    head: float


def work(head: nn.Module, channels: int, proposals: int, intervals: int, rows: int) -> Work:
    """What an object's proposals cost.

    Args:
        head: RoI features (N, C, 7, 7) to logits and deltas.
        channels: C.
        proposals: N.
        intervals: x-intervals that the proposals are made of.
        rows: of the features that they lie over, on their level.
    """
    cells = RESOLUTION**2 * channels
    taps = 2 * SAMPLING_RATIO
    return Work(
        gathered=2.0 * proposals * cells * taps**2,
        factored=2.0 * taps * (proposals * cells + intervals * RESOLUTION * rows * channels),
        pooled_bytes=float(proposals * cells * FLOAT_BYTES),
        head=float(proposals * operations(head, channels)),
    )


def operations(head: nn.Module, channels: int) -> int:
    """Operations of a head's products and convolutions for one RoI."""
    parameter = next(head.parameters())
    roi = torch.zeros(1, channels, RESOLUTION, RESOLUTION, device=parameter.device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        head(roi)
    return int(counter.get_total_flops())


def executed(asked: Callable[[], object]) -> int:
    """Operations of the matrix products and convolutions that some work really does, zeros among them included."""
    counter = FlopCounterMode(display=False)
    with counter:
        asked()
    return int(counter.get_total_flops())


def pooling_bound(of: Work, float32_rate: float, bandwidth: float) -> float:
    """Least seconds of pooling alone: its operations, or writing its result, whichever takes longer."""
    return max(of.factored / float32_rate, of.pooled_bytes / bandwidth)


def head_bound(of: Work, float32_rate: float, head_rate: float) -> float:
    """Least seconds of pooling and head where the pooled features never leave the cache."""
    return of.factored / float32_rate + of.head / head_rate
