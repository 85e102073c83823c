"""RoIs as pairs of an x-interval and a y-interval, of which predefined proposals share most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OuterProduct:
    """N RoIs by the X different x-intervals and Y different y-intervals that they are made of.

    Attributes:
        x_sides: (X, 2) left and right sides.
        y_sides: (Y, 2) upper and lower sides.
        x: (N,) index of each RoI's x-interval.
        y: (N,) index of each RoI's y-interval.
    """

    x_sides: Tensor
    y_sides: Tensor
    x: Tensor
    y: Tensor

    @property
    def pairs(self) -> int:
        """X times Y, of which the RoIs are a part."""
        return len(self.x_sides) * len(self.y_sides)


def outer_product(rois: Tensor) -> OuterProduct:
    """Find the intervals of RoIs (N, 4), xyxy."""
    x_sides, x = _intervals(rois[:, 0::2])
    y_sides, y = _intervals(rois[:, 1::2])
    return OuterProduct(x_sides, y_sides, x, y)


def _intervals(sides: Tensor) -> tuple[Tensor, Tensor]:
    """Different rows of sides (N, 2) and the index of each."""
    # Contiguous even where there are none, to be seen as other numbers.
    sides = sides.clone(memory_format=torch.contiguous_format)
    if sides.dtype != torch.float32:
        different, index = torch.unique(sides, dim=0, return_inverse=True)
        return different, index
    # Two float32 are one int64, and numbers are sorted much faster than rows.
    bits, index = torch.unique(sides.view(torch.int64)[:, 0], return_inverse=True)
    return bits[:, None].view(torch.float32), index
