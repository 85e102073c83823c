"""An fc-head on many proposals of one object: linear layers, the first of them by factors where that is less work.

Products go to whichever library of torch's is quick on the processor at hand. torch gives float32 products to MKL,
which is quick on Intel's processors, and convolutions to oneDNN, which is quick on others too. On two cores of an AMD
EPYC with AVX-512 a product of 6272 x 256 x 1024 ran at 217 GFLOP/s, and as a 1x1 convolution at 497. In bfloat16 oneDNN
does both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from rethink_heads.fastpath.pooling import POOLED_AT_ONCE, LevelRoIs

# A multiplication by factors takes as long as that of the plain matrix product divided by this. Measured on two cores
# with AVX-512 and AMX at the paper's sizes: as quick as plain products at 91 x 91 cells in float32, at 70 x 70 in
# bfloat16. The third is of float32 where plain products are convolutions, as factors cannot be: on two other cores
# with AVX-512 they were as quick at 0.5 times as many multiplications.
FACTORED_RATE, FACTORED_RATE_BFLOAT16, FACTORED_RATE_BESIDE_CONVOLUTIONS = 0.85, 0.5, 0.5
# What the region's cells make of some units of the layer is that large: 7 to 14 MB were the quickest, 26 MB up to 1.6
# times slower.
FACTORED_BYTES = 14 * 10**6
LEAST_UNITS = 16
# Hidden vectors that the layers after the first take at once: they stay in cache.
ROWS = 1024
# RoI features held at once on a CPU.
BLOCK_BYTES = 25 * 2**20
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
PROCESSORS = Path("/proc/cpuinfo")
INTEL = "GenuineIntel"


@functools.cache
def mkl_is_slow() -> bool:
    """Whether float32 products go to MKL on a processor that is not Intel's; False where its maker is not known."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        return "vendor_id" in (text := PROCESSORS.read_text()) and INTEL not in text
    except OSError:
        return False


def by_convolution(x: Tensor) -> bool:
    """Whether products with ``x`` are quicker as convolutions."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and mkl_is_slow()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: (N, C) by weights (O, C) to (N, O)."""
    if not (by_convolution(x) and len(x)):
        return F.linear(x, weight, bias)
    pixels = x.view(1, len(x), 1, -1).permute(0, 3, 1, 2)
    found = F.conv2d(pixels, weight[:, :, None, None], bias)
    return found.permute(0, 2, 3, 1).reshape(len(x), -1)


def product_of_blocks(block: Tensor, weight: Tensor) -> Tensor:
    """(N, S, S, C) by weights (O, S * S * C) to (N, O)."""
    if not (by_convolution(block) and len(block)):
        return F.linear(block.flatten(1), weight)
    kernel = weight.view(-1, *block.shape[1:]).permute(0, 3, 1, 2)
    return F.conv2d(block.permute(0, 3, 1, 2), kernel).flatten(1)


def products_by_place(x: Tensor, weights: Tensor) -> Tensor:
    """Each place by a matrix of its own: (N, R, C) by weights (R, O, C) to (N, R, O), in memory not always so."""
    if not (by_convolution(x) and len(x)):
        return torch.bmm(x.transpose(0, 1), weights.transpose(1, 2)).transpose(0, 1)
    count, places, channels = x.shape
    pixels = x.reshape(1, count, 1, places * channels).permute(0, 3, 1, 2)
    found = F.conv2d(pixels, weights.view(-1, channels, 1, 1), groups=places)
    return found.permute(0, 2, 3, 1).reshape(count, places, -1)


class FastFC:
    """The linear layers of an fc-head, each followed by ReLU, on the RoIs of one level.

    Args:
        layers: the head's hidden layers; the first takes RoI features flattened from (C, S, S).
        channels: channels C of the RoI features.
        resolution: side S of the RoI features.
        dtype: of the arithmetic. A CPU's products keep their sums in float32 either way.
    """

    def __init__(
        self, layers: Sequence[nn.Linear], channels: int, resolution: int, dtype: torch.dtype
    ) -> None:
        first = layers[0].weight.detach().to(dtype)
        self.width, self.pooled_dtype, self.hidden_dtype = first.shape[0], dtype, dtype
        by_position = first.view(self.width, channels, resolution, resolution)
        # In the order of the RoI features' memory, instead of bringing those into the layer's.
        self.first = by_position.permute(0, 2, 3, 1).reshape(self.width, -1).contiguous()
        # (C, S along x times S along y, width): from a cell of the map to every RoI position.
        by_channel = by_position.permute(1, 3, 2, 0).reshape(channels, resolution**2, self.width)
        self.by_channel = by_channel.contiguous()
        weights = [layer.weight.detach().to(dtype) for layer in layers]
        # A layer without a bias has one of zeros.
        biases = [
            weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(dtype)
            for layer, weight in zip(layers, weights, strict=True)
        ]
        self.first_bias = biases[0]
        self.others = list(zip(weights[1:], biases[1:], strict=True))

    def batch_size(self, device: torch.device, memory: int) -> int:
        """RoIs to take at once where ``memory`` bytes may be held."""
        row = POOLED_AT_ONCE * self.first[0].numel() + (1 + len(self.others)) * self.width
        fits = memory // (row * self.first.element_size())
        # Their features stay in cache.
        limit = BLOCK_BYTES // (self.first[0].numel() * self.first.element_size())
        return int(max(1, min(fits, limit) if device.type == "cpu" else fits))

    def from_features(self, pooled: Tensor) -> Tensor:
        """The last hidden layer's output (N, width) for RoI features (N, S, S, C)."""
        with record_function("linear"):
            return self._rest(product_of_blocks(pooled, self.first))

    def from_level(self, level: LevelRoIs, memory: int) -> Tensor | None:
        """The same (N, width) for all of a level's RoIs, by factors; None where plain products are less work.
        ``memory``: bytes that may be held beside the result.
        """
        if not self._factors_pay(level) or self._bytes_of_factors(level) > memory:
            return None
        with record_function("linear"):
            hidden = self._by_factors(level)
            for part in hidden.split(ROWS):
                part.copy_(self._rest(part))
            return hidden

    def _rest(self, hidden: Tensor) -> Tensor:
        """The first layer's bias and ReLU, and the layers after it."""
        hidden = hidden.add_(self.first_bias).relu_()
        for weight, bias in self.others:
            hidden = product(hidden, weight, bias).relu_()
        return hidden

    def _factors_pay(self, level: LevelRoIs) -> bool:
        """Whether the first layer by factors is less work than pooling and applying it. Measured on CPUs alone."""
        if level.region.is_cuda:
            return False
        height, width, channels = level.region.shape
        x, side, _ = level.x.shape
        factored = height * side**2 * width * self.width * (channels + x)
        factored += level.pairs * side * height * self.width
        plain = len(level) * side**2 * channels * (self.width + height)
        rate = FACTORED_RATE
        if level.region.dtype == torch.bfloat16:
            rate = FACTORED_RATE_BFLOAT16
        elif by_convolution(level.region):
            rate = FACTORED_RATE_BESIDE_CONVOLUTIONS
        return factored < rate * plain

    def _bytes_of_factors(self, level: LevelRoIs) -> int:
        height, width, _ = level.region.shape
        x, side, _ = level.x.shape
        units = self._units_at_once(level)
        # Along x before and after its places change.
        elements = units * height * side * (width * side + 2 * x)
        elements += (level.pairs + len(level)) * self.width + level.pairs * units
        return elements * level.region.element_size()

    def _by_factors(self, level: LevelRoIs) -> Tensor:
        """The first layer of the region's cells, then both axes contracted: all x-intervals with all y-intervals."""
        height, width, channels = level.region.shape
        (x, side, _), y = level.x.shape, len(level.y)
        x_weights = level.x.transpose(1, 2).reshape(x, width * side)
        y_weights = level.y.transpose(1, 2).reshape(y, height * side)
        region = level.region.view(height * width, channels)
        found = level.region.new_empty((x, y, self.width))
        step = self._units_at_once(level)
        for units in (slice(at, at + step) for at in range(0, self.width, step)):
            weights = self.by_channel[:, :, units].reshape(channels, -1)
            count = weights.shape[1] // side**2
            by_map_cell = torch.mm(region, weights).view(height, width * side, side * count)
            along_x = torch.matmul(x_weights, by_map_cell).view(height, x, side, count)
            columns = along_x.transpose(0, 1).reshape(x, height * side, count)
            found[:, :, units] = torch.matmul(y_weights, columns)
        return found.view(x * y, self.width)[level.x_index * y + level.y_index]

    def _units_at_once(self, level: LevelRoIs) -> int:
        """Units of the layer that are computed together: what the region's cells make of them stays in cache."""
        height, width, _ = level.region.shape
        bytes_a_unit = height * width * level.x.shape[1] ** 2 * level.region.element_size()
        return max(LEAST_UNITS, FACTORED_BYTES // bytes_a_unit // LEAST_UNITS * LEAST_UNITS)


def fast_fc(layers: Sequence[nn.Linear], sides: Sequence[int], dtype: torch.dtype) -> FastFC | None:
    """Linear layers, each with a ReLU after it, on flattened RoI features; None where their sizes do not fit.

    Args:
        layers: from the first one on, one or more.
        sides: of the RoI features along y and x.
        dtype: of the arithmetic.
    """
    height, width = sides
    inputs = layers[0].in_features
    square = height == width and inputs % (height * width) == 0
    if not square or len({layer.out_features for layer in layers}) > 1:
        return None
    return FastFC(layers, inputs // (height * width), height, dtype)


def is_unmodified(module: Any, kind: type) -> bool:
    """Whether a module is of a class itself, whose forward pass nothing has changed or listens to."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not any(getattr(module, name, None) for name in HOOKS)
    )
