"""A conv-head on many proposals of one object: block by block, with its channels last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import record_function

from rethink_heads.heads.conv import ConvHead
from rethink_heads.probing.blocks import POOLED_AT_ONCE, LevelRoIs
from rethink_heads.probing.conv_blocks import EXACT, Mixing, steps_of

# On two cores 64 to 128 RoIs took the same time within 10%, more of them longer: their maps leave the cache. Those of
# non-local blocks do so earlier.
MOST_ON_CPU, MOST_ON_CPU_MIXING = 128, 64
# Maps of the head's width that are held at once: a block's output and what the next makes of it; and what a 3x3
# convolution makes of a quarter of the width, transformed and multiplied.
MAPS_AT_ONCE = 4
MAPS_OF_MIXING = 1


class ConvProbe:
    """The blocks of a conv-head and the average over the RoI.

    Args:
        head: in evaluation mode; its weights are copied.
        resolution: side S of the RoI features, in cells.
        dtype: of the blocks' arithmetic. A CPU's products and convolutions keep their sums in float32 either way, and
            pooling and averaging are in float32, since bfloat16 would round what they are about.
    """

    def __init__(self, head: ConvHead, resolution: int, dtype: torch.dtype) -> None:
        self.dtype, self.cells = dtype, resolution**2
        self.pooled_dtype = self.hidden_dtype = dtype if dtype in EXACT else torch.float32
        self.width = head.predictor.cls_score.in_features
        self.channels = int(next(head.blocks.parameters()).shape[1])
        self.steps, factors = steps_of(head.blocks, resolution, dtype)
        self.shares = (1 / factors / self.cells).to(self.hidden_dtype)
        mixes = any(isinstance(step, Mixing) for step in self.steps)
        self.maps = MAPS_AT_ONCE + (MAPS_OF_MIXING if mixes else 0)
        self.most_on_cpu = MOST_ON_CPU_MIXING if mixes else MOST_ON_CPU

    def most(self, device: torch.device, memory: int) -> int:
        """RoIs to take at once where ``memory`` bytes may be held."""
        pooled = POOLED_AT_ONCE * self.channels * self.pooled_dtype.itemsize
        maps = self.maps * self.width * self.dtype.itemsize
        fits = memory // ((pooled + maps) * self.cells)
        return int(max(1, min(fits, self.most_on_cpu) if device.type == "cpu" else fits))

    def at_once(self, level: LevelRoIs, memory: int) -> Tensor | None:
        """None: the hidden maps are as many as the RoIs' cells however the first block is computed.

        Its 3x3 convolution and its shortcut are linear and could be pooled by factors like fc6. On two cores that was
        15% quicker in float32, slower in bfloat16, and held half a gigabyte more: not worth its code.
        """
        return None

    def of_block(self, block: Tensor) -> Tensor:
        """Maps RoI features (N, S, S, C) to (N, width)."""
        with record_function("convolutions"):
            count, x = len(block), block.to(self.dtype).flatten(0, 2)
            for step in self.steps:
                x = step(x)
            maps = x.view(count, self.cells, self.width)
            return maps.sum(dim=1, dtype=self.hidden_dtype) * self.shares
