"""A conv-head on RoI features whose channels are last: batch normalisation folded, 1x1 convolutions as products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.profiler import record_function

from rethink_heads.heads.blocks import Bottleneck, NonLocal, WideningBlock
from rethink_heads.heads.conv import ConvHead
from rethink_heads.probing.blocks import LevelRoIs

# On two cores 64 to 242 RoIs took the same time within 10%, more of them longer: their maps leave the cache.
MOST_ON_CPU = 128
# Maps of the head's width that are held at once: a block's output, and what a non-local block makes of it.
MAPS_AT_ONCE = 4

Step = Callable[[Tensor, int], Tensor]
"""(N * S * S, channels) and S to the same shape with the channels of the block's output."""


class ConvProbe:
    """The blocks of a conv-head and the average over the RoI.

    Args:
        head: in evaluation mode; its weights are copied.
        resolution: side S of the RoI features, in cells.
        dtype: of the arithmetic; sums are kept in float32 by products and convolutions either way.
    """

    def __init__(self, head: ConvHead, resolution: int, dtype: torch.dtype) -> None:
        self.dtype, self.cells = dtype, resolution**2
        self.width = head.predictor.cls_score.in_features
        self.steps = [_step(block, dtype) for block in head.blocks]

    def most(self, device: torch.device, memory: int) -> int:
        """RoIs to take at once where ``memory`` bytes may be held."""
        fits = memory // (MAPS_AT_ONCE * self.width * self.cells * self.dtype.itemsize)
        return int(max(1, min(fits, MOST_ON_CPU) if device.type == "cpu" else fits))

    def at_once(self, level: LevelRoIs, memory: int) -> None:
        """Convolutions go block by block: their hidden maps are as many as the RoIs' cells either way."""

    def of_block(self, roi_features: Tensor) -> Tensor:
        """Maps RoI features (N, S, S, C) to (N, width)."""
        with record_function("convolutions"):
            return self.average(roi_features)

    def average(self, roi_features: Tensor) -> Tensor:
        """Maps (N, S, S, C) to (N, width)."""
        count, cells = roi_features.shape[:2]
        x = roi_features.flatten(0, 2)
        for step in self.steps:
            x = step(x, cells)
        # A product with ones: sums in float32, without a copy of the map.
        ones = x.new_full((1, cells**2), 1.0)
        return torch.matmul(ones, x.view(count, cells**2, -1))[:, 0] / cells**2


def _step(block: nn.Module, dtype: torch.dtype) -> Step:
    if isinstance(block, WideningBlock):
        return _Widening(block, dtype)
    if isinstance(block, Bottleneck):
        return _Narrowing(block, dtype)
    assert isinstance(block, NonLocal)
    return _Mixing(block, dtype)


class _Widening:
    def __init__(self, block: WideningBlock, dtype: torch.dtype) -> None:
        self.expand = _folded(block.expand, dtype)
        project, project_bias = _folded(block.project, dtype)
        shortcut, shortcut_bias = _folded(block.shortcut, dtype)
        self.project, self.shortcut = _matrix(project), _matrix(shortcut)
        self.bias = project_bias + shortcut_bias

    def __call__(self, x: Tensor, cells: int) -> Tensor:
        main = _convolve(x, cells, *self.expand)
        wide = F.linear(x, self.shortcut, self.bias)
        return wide.addmm_(main, self.project.t()).relu_()


class _Narrowing:
    def __init__(self, block: Bottleneck, dtype: torch.dtype) -> None:
        reduce, self.reduce_bias = _folded(block.reduce, dtype)
        self.reduce = _matrix(reduce)
        self.spatial = _folded(block.spatial, dtype)
        restore, self.restore_bias = _folded(block.restore, dtype)
        self.restore = _matrix(restore)

    def __call__(self, x: Tensor, cells: int) -> Tensor:
        main = F.linear(x, self.reduce, self.reduce_bias).relu_()
        main = _convolve(main, cells, *self.spatial)
        # In place: the block's input is not needed again.
        x.add_(self.restore_bias).addmm_(main, self.restore.t())
        return x.relu_()


class _Mixing:
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
        theta, phi, g = mixed.permute(2, 0, 3, 1, 4)
        affinity = torch.matmul(theta, phi.transpose(-1, -2)) / cells**2
        gathered = torch.matmul(affinity, g).transpose(1, 2).reshape(-1, self.inner)
        x.add_(self.out_bias).addmm_(gathered, self.out.t())
        return x.relu_()


def _convolve(x: Tensor, cells: int, weight: Tensor, bias: Tensor) -> Tensor:
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
