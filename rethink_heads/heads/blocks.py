"""The residual blocks that conv-head is made of, on RoI features (N, C, S, S).

Layer by layer as in the authors' code of Wu et al. (CVPR 2020): convolutions carry no bias, each is
followed by batch normalisation, and ReLU comes after the residual sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution without bias that keeps the resolution, then batch normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class WideningBlock(nn.Module):
    """Residual block that widens the RoI features: 3x3 then 1x1 on the main path, 1x1 on the shortcut.

    The paper's sizes, 256 to 1024 channels, hold 1.0625 x 2^20 convolution weights.

    Args:
        in_channels: channels of the RoI features.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int = 256, out_channels: int = 1024) -> None:
        super().__init__()
        self.expand = conv_bn(in_channels, in_channels, 3)
        self.project = conv_bn(in_channels, out_channels, 1)
        self.shortcut = conv_bn(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, S, S) to (N, out_channels, S, S)."""
        main = self.project(F.relu(self.expand(x)))
        return F.relu(main + self.shortcut(x))


class Bottleneck(nn.Module):
    """Bottleneck residual block: 1x1 down, 3x3, 1x1 up, each with batch normalisation.

    The paper's sizes, 1024 and 256 channels, hold 1.0625 x 2^20 convolution weights.

    Args:
        channels: channels of input and output.
        bottleneck: channels of the 3x3 convolution.
    """

    def __init__(self, channels: int = 1024, bottleneck: int = 256) -> None:
        super().__init__()
        self.reduce = conv_bn(channels, bottleneck, 1)
        self.spatial = conv_bn(bottleneck, bottleneck, 3)
        self.restore = conv_bn(bottleneck, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, S, S) to the same shape."""
        main = F.relu(self.reduce(x))
        main = F.relu(self.spatial(main))
        return F.relu(x + self.restore(main))


class NonLocal(nn.Module):
    """Grouped non-local block with embedded dot products divided by the number of cells.

    Each of the groups has its own affinity between all S*S cells. The output convolution starts at zero, so a new
    block is ReLU of the identity. The paper's sizes hold 2 x 2^20 convolution weights (authors' code).

    Args:
        channels: channels of input and output.
        inner: channels of theta, phi and g together; divisible by ``groups``.
        groups: number of independent affinities.

    Raises:
        ValueError: if ``inner`` is not divisible by ``groups``.
    """

    def __init__(self, channels: int = 1024, inner: int = 512, groups: int = 4) -> None:
        super().__init__()
        if inner % groups:
            raise ValueError(f"non-local inner width {inner} is not divisible by {groups} groups")
        self.groups, self.inner = groups, inner
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        for conv in (self.theta, self.phi, self.g):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.out = conv_bn(inner, channels, 1)
        for parameter in self.out[0].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, S, S) to the same shape."""
        n, _, height, width = x.shape
        cells = height * width
        # No size is left open, since it could not be told where there is no RoI at all.
        shape = (n, self.groups, self.inner // self.groups, cells)
        theta, phi, g = (conv(x).reshape(shape) for conv in (self.theta, self.phi, self.g))
        affinity = theta.transpose(-1, -2) @ phi / cells
        mixed = torch.einsum("ngab,ngcb->ngca", affinity, g).reshape(n, self.inner, height, width)
        return F.relu(x + self.out(mixed))
