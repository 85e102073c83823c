"""3x3 convolutions of small maps as products frequency by frequency: a fifth of the multiplications.

A map of S x S cells convolved with a 3x3 kernel, zeros around it, is a cyclic convolution of length S + 1 along each
axis: of the S + 2 places that it reaches only the first and the last fall on each other, and neither is asked for. The
discrete Fourier transform makes it a product at each frequency. Of the (S + 1)^2 frequencies of real maps half
are the others' conjugates, and a complex product is three real ones (Karatsuba and Ofman, Multiplication of Multidigit
Numbers on Automata, 1963): for S = 7 these are 94 products of a map's channels instead of 441.

The transform is orthogonal up to a factor, so that rounding does not grow as it does with Winograd's: in float32 the
result is about as near to float64's as the plain convolution's. For S = 7 its factors are 0, 1 and roots of 2 and 1/2,
which bfloat16 holds to 1e-4.

Products go to whichever library of torch's is quick on the processor at hand. torch gives float32 products to MKL,
which is quick on Intel's processors, and convolutions to oneDNN, which is quick on others too. On two cores of an AMD
EPYC with AVX-512 a product of 6272 x 256 x 1024 ran at 217 GFLOP/s, and as a 1x1 convolution at 497. In bfloat16 oneDNN
does both.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL = 3
# Time of a multiplication in the products and in the transforms, in multiplications of the plain convolution. Measured
# on two cores at 256 channels of 7 x 7 cells: 1.4 to 2 and 1.5 to 3, the more in float32.
PRODUCT_COST, TRANSFORM_COST = 2.0, 3.0
# Of the transforms' factors in bfloat16.
LARGEST_ERROR = 2.0**-12
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


class Convolution:
    """A 3x3 convolution with its bias and ReLU, on maps (N * S * S, C) whose channels are last.

    Args:
        weight: (O, C, 3, 3) float64.
        bias: (O,) float64.
        resolution: S.
        dtype: of the arithmetic. A CPU's products and convolutions keep their sums in float32 or wider.
    """

    def __init__(self, weight: Tensor, bias: Tensor, resolution: int, dtype: torch.dtype) -> None:
        self.resolution = resolution
        self.bias = bias.to(dtype)
        self.by_frequency: Tensor | None = None
        if _pays(weight, resolution, dtype):
            into, kernel, back = (each.to(weight.device) for each in transforms(resolution))
            spectrum = torch.einsum("ft,oct->foc", kernel, weight.flatten(2))
            self.by_frequency = spectrum.to(dtype).contiguous()
            self.into, self.back = into.to(dtype), back.to(dtype)
        else:
            plain = weight.to(dtype)
            self.weight = plain.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (N * S * S, C) to (N * S * S, O)."""
        side, channels = self.resolution, x.shape[1]
        if self.by_frequency is None:
            maps = x.view(-1, side, side, channels).permute(0, 3, 1, 2)
            found = F.conv2d(maps, self.weight, self.bias, padding=KERNEL // 2).relu_()
            return found.permute(0, 2, 3, 1).reshape(len(x), -1)
        positions = side**2
        transformed = torch.matmul(self.into, x.view(-1, positions, channels))
        multiplied = products_by_place(transformed, self.by_frequency)
        count, _, outputs = multiplied.shape
        # The bias is in the product's own sum.
        found = torch.baddbmm(
            self.bias.expand(count, positions, outputs),
            self.back.expand(count, -1, -1),
            multiplied,
        )
        return found.relu_().view(-1, outputs)


@functools.cache
def transforms(resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """What makes a 3x3 convolution of S x S cells, zeros around them, into F products.

    Returns:
        Three float64 matrices: of the map into the frequencies (F, S * S), of the kernel (F, 9), and back (S * S, F).
        Of each complex frequency there are three rows, after those of the real ones.
    """
    length = resolution + 1
    real, one_of_pair = _frequencies(length)
    cells = [(y, x) for y in range(resolution) for x in range(resolution)]
    # What torch calls a convolution reads ahead: the kernel lies the other way round.
    taps = [(1 - y, 1 - x) for y in range(KERNEL) for x in range(KERNEL)]
    (map_real, _), (cos, sin) = (_waves(each, cells, length) for each in (real, one_of_pair))
    (kernel_real, _), (a, b) = (_waves(each, taps, length) for each in (real, one_of_pair))
    both = _whole(cos + sin)
    # (x + iy)(a + ib): a (x + y) - y (a + b) is real, a (x + y) + x (b - a) imaginary.
    into = torch.cat([map_real, both, cos, sin])
    kernel = torch.cat([kernel_real, a, b - a, a + b])
    # Real part times cosine and imaginary part times sine, for both of a pair.
    back = torch.cat([map_real, 2 * both, 2 * sin, -2 * cos]) / length**2
    return into, kernel, back.t().contiguous()


def _frequencies(length: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs (k, m): those that are their own conjugates, and one of each two that are each other's."""
    real, one_of_pair = [], []
    for k in range(length):
        for m in range(length):
            conjugate = (-k % length, -m % length)
            if conjugate == (k, m):
                real.append((k, m))
            elif (k, m) < conjugate:
                one_of_pair.append((k, m))
    return real, one_of_pair


def _waves(
    frequencies: list[tuple[int, int]], places: list[tuple[int, int]], length: int
) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of exp(-2 pi i (k y + m x) / length), each (frequencies, places)."""
    # Whole turns are left out first, so that quarters of a turn come out as they are.
    turns = [[(k * y + m * x) % length for y, x in places] for k, m in frequencies]
    angle = torch.tensor(turns, dtype=torch.float64).view(-1, len(places)) * (2 * math.pi / length)
    return _whole(angle.cos()), _whole(-angle.sin())


def _whole(values: Tensor) -> Tensor:
    """Cosines and sines without the rounding error of those that are 0 or 1."""
    rounded = values.round()
    return torch.where((values - rounded).abs() < 1e-12, rounded, values)


def _pays(weight: Tensor, resolution: int, dtype: torch.dtype) -> bool:
    """Whether the products are less work than the convolution, and no less exact. Measured on CPUs alone."""
    if weight.device.type != "cpu":
        return False
    into, _, back = transforms(resolution)
    if dtype == torch.bfloat16 and max(_error(into, dtype), _error(back, dtype)) > LARGEST_ERROR:
        return False
    outputs, channels = weight.shape[:2]
    products = PRODUCT_COST * channels * outputs
    transforming = TRANSFORM_COST * resolution**2 * (channels + outputs)
    plain = resolution**2 * KERNEL**2 * channels * outputs
    return len(into) * (products + transforming) < plain


def _error(matrix: Tensor, dtype: torch.dtype) -> float:
    """Largest relative error of a matrix's elements in a type."""
    kept = matrix[matrix != 0]
    return float(((kept.to(dtype).double() - kept) / kept).abs().max())
