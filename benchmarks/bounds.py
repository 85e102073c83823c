"""What an object's proposals cost in operations and bytes, and the least time that they take at a machine's rates.

Multiplications and additions count apart: a product of (m, k) and (k, n) is 2 m k n operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        factored: operations of pooling by factors, zeros left out: along rows once for each x-interval, then along
            columns, where each output cell is a sum over ``2 x SAMPLING_RATIO`` rows.
        pooled_bytes: of the pooled features, float32.
        head: operations of the head's products and convolutions, of the deltas only those of one class.
    """

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
        factored=2.0 * taps * (proposals * cells + intervals * RESOLUTION * rows * channels),
        pooled_bytes=float(proposals * cells * FLOAT_BYTES),
        head=float(proposals * operations(head, channels)),
    )


def operations(head: nn.Module, channels: int) -> int:
    """Operations of a head's products and convolutions for one RoI: all classes' logits, but one class's deltas."""
    parameter = next(head.parameters())
    roi = torch.zeros(1, channels, RESOLUTION, RESOLUTION, device=parameter.device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        head(roi)
    deltas = head.get_submodule("predictor.bbox_pred")
    assert isinstance(deltas, nn.Linear)
    others = 2 * deltas.in_features * (deltas.out_features - 4)
    return int(counter.get_total_flops()) - others


def executed(asked: Callable[[], object]) -> int:
    """Operations of the matrix products and convolutions that some work really does, zeros among them included."""
    # In place it is not among those that torch counts.
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm})
    with counter:
        asked()
    return int(counter.get_total_flops())


def _addmm(_: Sequence[int], left: Sequence[int], right: Sequence[int], **__: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def pooling_bound(of: Work, float32_rate: float, bandwidth: float) -> float:
    """Least seconds of pooling alone: its operations, or writing its result, whichever takes longer."""
    return max(of.factored / float32_rate, of.pooled_bytes / bandwidth)


def head_bound(of: Work, rate: float) -> float:
    """Least seconds of pooling and head in one precision where the pooled features never leave the cache."""
    return (of.factored + of.head) / rate
