"""The blocks of a conv-head on maps whose channels are last, (N * S * S, channels): 1x1 convolutions are products.

Batch normalisation is folded into the convolutions before it, in float64.

In bfloat16 a rounded bias is off by the same amount in every RoI, where rounded sums are off by chance: of all that is
rounded it changed correlations most. So each channel is scaled by a factor that makes its biases numbers of the type,
which ReLU lets through, and the layers after it are divided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rethink_heads.heads.blocks import Bottleneck, NonLocal, WideningBlock
from rethink_heads.probing.convolution import Convolution
from rethink_heads.probing.products import by_convolution, product

Step = Callable[[Tensor], Tensor]
"""(N * S * S, channels) to the same shape with the channels of the block's output."""

# Factors from 1 to 2 that are tried: one bias gets as many times nearer, two its root.
FACTORS = 1024
EXACT = (torch.float32, torch.float64)


class Affine(NamedTuple):
    """A convolution's weight (O, C, ...) and bias (O,), float64."""

    weight: Tensor
    bias: Tensor

    def scaled(self, outputs: Tensor, inputs: Tensor | None = None) -> Affine:
        """The same for outputs that are larger by factors (O,) and inputs that are by factors (C,)."""
        trailing = (1,) * (self.weight.dim() - 2)
        weight = self.weight * outputs.view(-1, 1, *trailing)
        if inputs is not None:
            weight = weight / inputs.view(1, -1, *trailing)
        return Affine(weight, self.bias * outputs)

    def to(self, dtype: torch.dtype) -> Affine:
        """A 1x1 convolution as the matrix (O, C) and the bias of a product, in a type."""
        return Affine(_matrix(self, dtype), self.bias.to(dtype))


def steps_of(
    blocks: Iterable[nn.Module], resolution: int, dtype: torch.dtype
) -> tuple[list[Step], Tensor]:
    """What does the work of a conv-head's blocks one after another, their weights copied in ``dtype``.

    Args:
        blocks: the first of them widens.
        resolution: side S of the maps, in cells.
        dtype: of the arithmetic.

    Returns:
        The steps, and factors (channels,) float64 by which the last one's output is too large.
    """
    blocks = list(blocks)
    factors = factors_for(dtype, *(_last(block).bias for block in blocks))
    steps: list[Step] = []
    for block in blocks:
        if isinstance(block, WideningBlock):
            steps.append(Widening(block, factors, resolution, dtype))
        elif isinstance(block, Bottleneck):
            steps.append(Narrowing(block, factors, resolution, dtype))
        else:
            assert isinstance(block, NonLocal)
            steps.append(Mixing(block, factors, resolution, dtype))
    return steps, factors


class Widening:
    """The first block: 3x3 then 1x1 on the main path, 1x1 on the shortcut."""

    def __init__(
        self, block: WideningBlock, factors: Tensor, resolution: int, dtype: torch.dtype
    ) -> None:
        expand = _folded(block.expand)
        inner = factors_for(dtype, expand.bias)
        self.expand = Convolution(*expand.scaled(inner), resolution, dtype)
        self.project = _matrix(_folded(block.project).scaled(factors, inner), dtype)
        self.shortcut = _matrix(_folded(block.shortcut).scaled(factors), dtype)
        self.bias = (_last(block).bias * factors).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        main = self.expand(x)
        return _add_product(product(x, self.shortcut, self.bias), main, self.project).relu_()


class Narrowing:
    """A bottleneck. It works in place of its input."""

    def __init__(
        self, block: Bottleneck, factors: Tensor, resolution: int, dtype: torch.dtype
    ) -> None:
        reduce, spatial, restore = (
            _folded(each) for each in (block.reduce, block.spatial, block.restore)
        )
        first, second = (factors_for(dtype, each.bias) for each in (reduce, spatial))
        reduce = reduce.scaled(first, factors)
        self.reduce, self.reduce_bias = _matrix(reduce, dtype), reduce.bias.to(dtype)
        self.spatial = Convolution(*spatial.scaled(second, first), resolution, dtype)
        restore = restore.scaled(factors, second)
        self.restore, self.restore_bias = _matrix(restore, dtype), restore.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        main = self.spatial(product(x, self.reduce, self.reduce_bias).relu_())
        # In place: the block's input is not needed again.
        return _add_product(x.add_(self.restore_bias), main, self.restore).relu_()


class Mixing:
    """A non-local block, a group after another. It works in place of its input."""

    def __init__(
        self, block: NonLocal, factors: Tensor, resolution: int, dtype: torch.dtype
    ) -> None:
        self.width, self.cells = block.inner // block.groups, resolution**2
        # The affinities' division by the number of cells is theta's.
        shares = (1 / self.cells, 1.0, 1.0)
        layers = [
            Affine(conv.weight.detach().double() * share, _bias(conv) * share)
            for conv, share in zip((block.theta, block.phi, block.g), shares, strict=True)
        ]
        same = torch.ones(self.width, dtype=torch.float64, device=factors.device)
        self.groups = [
            [
                Affine(layer.weight[rows], layer.bias[rows]).scaled(same, factors).to(dtype)
                for layer in layers
            ]
            for rows in torch.arange(block.inner, device=factors.device).split(self.width)
        ]
        out = _folded(block.out).scaled(factors)
        self.out, self.out_bias = _matrix(out, dtype), out.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        count, inner = len(x) // self.cells, self.width * len(self.groups)
        gathered = x.new_empty((count, self.cells, inner))
        for into, layers in zip(gathered.split(self.width, dim=2), self.groups, strict=True):
            theta, phi, g = (
                product(x, *layer).view(count, self.cells, self.width) for layer in layers
            )
            into.copy_(torch.bmm(torch.bmm(theta, phi.transpose(1, 2)), g))
        gathered = gathered.view(-1, inner)
        return _add_product(x.add_(self.out_bias), gathered, self.out).relu_()


def factors_for(dtype: torch.dtype, *biases: Tensor) -> Tensor:
    """Factors (O,) from 1 to 2 under which biases (O,) are nearest to numbers of a type; 1 where types are exact."""
    if dtype in EXACT:
        return torch.ones_like(biases[0])
    stacked = torch.stack(biases)
    tried = 1 + torch.arange(FACTORS, dtype=torch.float64, device=stacked.device) / FACTORS
    scaled = stacked * tried[:, None, None]
    # Of the numbers before they were scaled, so that none of the factors is favoured by its size.
    errors = (scaled.to(dtype).double() - scaled) / tried[:, None, None]
    return tried[(errors**2).sum(dim=1).argmin(dim=0)]


def _add_product(x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Add to ``x`` (N, O) the product of (N, C) and weights (O, C)."""
    if by_convolution(x):
        return x.add_(product(inputs, weight))
    return x.addmm_(inputs, weight.t())


def _last(block: nn.Module) -> Affine:
    """The layer whose output a block gives on: its bias is all that is added to the channels."""
    if isinstance(block, WideningBlock):
        project, shortcut = _folded(block.project), _folded(block.shortcut)
        return Affine(project.weight, project.bias + shortcut.bias)
    if isinstance(block, Bottleneck):
        return _folded(block.restore)
    assert isinstance(block, NonLocal)
    return _folded(block.out)


def _folded(conv_bn: nn.Module) -> Affine:
    """A convolution with the batch normalisation after it."""
    assert isinstance(conv_bn, nn.Sequential)
    conv, norm = conv_bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    folded = fuse_conv_bn_weights(
        conv.weight.detach().double(),
        None if conv.bias is None else conv.bias.detach().double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        None if norm.weight is None else norm.weight.detach().double(),
        None if norm.bias is None else norm.bias.detach().double(),
    )
    return Affine(*(each.detach() for each in folded))


def _matrix(convolution: Affine, dtype: torch.dtype) -> Tensor:
    """The matrix (out, in) of a 1x1 convolution."""
    return convolution.weight.flatten(1).to(dtype).contiguous()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach().double()
