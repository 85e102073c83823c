"""The blocks of a conv-head on maps whose channels are last, (N * S * S, channels): 1x1 convolutions are products.

Batch normalisation is folded into the convolutions before it, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rethink_heads.heads.blocks import Bottleneck, NonLocal, WideningBlock

Step = Callable[[Tensor, int], Tensor]
"""(N * S * S, channels) and S to the same shape with the channels of the block's output."""


def step_of(block: nn.Module, dtype: torch.dtype) -> Step:
    """What does a block's work, its weights copied in ``dtype``."""
    if isinstance(block, WideningBlock):
        return Widening(block, dtype)
    if isinstance(block, Bottleneck):
        return Narrowing(block, dtype)
    assert isinstance(block, NonLocal)
    return Mixing(block, dtype)


class Widening:
    """The first block: 3x3 then 1x1 on the main path, 1x1 on the shortcut."""

    def __init__(self, block: WideningBlock, dtype: torch.dtype) -> None:
        self.expand = _folded(block.expand, dtype)
        project, project_bias = _folded(block.project, dtype)
        shortcut, shortcut_bias = _folded(block.shortcut, dtype)
        self.project, self.shortcut = _matrix(project), _matrix(shortcut)
        self.bias = project_bias + shortcut_bias

    def __call__(self, x: Tensor, cells: int) -> Tensor:
        main = convolve(x, cells, *self.expand)
        wide = F.linear(x, self.shortcut, self.bias)
        return wide.addmm_(main, self.project.t()).relu_()


class Narrowing:
    """A bottleneck. It works in place of its input."""

    def __init__(self, block: Bottleneck, dtype: torch.dtype) -> None:
        reduce, self.reduce_bias = _folded(block.reduce, dtype)
        self.reduce = _matrix(reduce)
        self.spatial = _folded(block.spatial, dtype)
        restore, self.restore_bias = _folded(block.restore, dtype)
        self.restore = _matrix(restore)

    def __call__(self, x: Tensor, cells: int) -> Tensor:
        main = F.linear(x, self.reduce, self.reduce_bias).relu_()
        main = convolve(main, cells, *self.spatial)
        # In place: the block's input is not needed again.
        x.add_(self.restore_bias).addmm_(main, self.restore.t())
        return x.relu_()


class Mixing:
    """A non-local block. It works in place of its input."""

    def __init__(self, block: NonLocal, dtype: torch.dtype) -> None:
        self.groups, self.inner = block.groups, block.inner
        convolutions = (block.theta, block.phi, block.g)
        self.inputs = torch.cat([_matrix(conv.weight.detach()) for conv in convolutions]).to(dtype)
        self.biases = torch.cat([_bias(conv) for conv in convolutions]).to(dtype)
        out, self.out_bias = _folded(block.out, dtype)
        self.out = _matrix(out)

    def __call__(self, x: Tensor, cells: int) -> Tensor:
        shape = (-1, cells**2, 3, self.groups, self.inner // self.groups)
        mixed = F.linear(x, self.inputs, self.biases).view(shape)
        # (N, groups, S * S, channels of a group)
        theta, phi, g = mixed.permute(2, 0, 3, 1, 4).contiguous()
        del mixed
        affinity = torch.matmul(theta, phi.transpose(-1, -2)) / cells**2
        gathered = torch.matmul(affinity, g).transpose(1, 2).reshape(-1, self.inner)
        x.add_(self.out_bias).addmm_(gathered, self.out.t())
        return x.relu_()


def convolve(x: Tensor, cells: int, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution and ReLU of (N * S * S, C)."""
    maps = x.view(-1, cells, cells, x.shape[1]).permute(0, 3, 1, 2)
    found = F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2).relu_()
    return found.permute(0, 2, 3, 1).reshape(len(x), -1)


def _folded(conv_bn: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight (channels last) and bias of a convolution with the batch normalisation after it, folded in float64."""
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
    weight, bias = (each.detach().to(dtype) for each in folded)
    return weight.contiguous(memory_format=torch.channels_last), bias


def _matrix(weight: Tensor) -> Tensor:
    """The matrix (out, in) of a 1x1 convolution."""
    return weight.flatten(1).contiguous()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach()
