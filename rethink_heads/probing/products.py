"""Matrix products by whichever library of torch's is quick on the processor at hand.

torch gives float32 products to MKL, which is quick on Intel's processors, and convolutions to oneDNN, which is quick on
others too. On two cores of an AMD EPYC with AVX-512 a product of 6272 x 256 x 1024 ran at 217 GFLOP/s, and as a 1x1
convolution at 497. In bfloat16 oneDNN does both.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

_PROCESSORS = Path("/proc/cpuinfo")
_INTEL = "GenuineIntel"


@functools.cache
def mkl_is_slow() -> bool:
    """Whether float32 products go to MKL on a processor that is not Intel's; False where its maker is not known."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        return "vendor_id" in (text := _PROCESSORS.read_text()) and _INTEL not in text
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
