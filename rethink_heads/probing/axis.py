"""RoIAlign along one axis: which rows (or columns) of a feature map each cell of an interval reads, and how much.

RoIAlign samples bilinearly at points whose y depends on the box's upper and lower sides alone and whose x on its left
and right sides, and averages over each cell. So it is a product of two linear maps, one for each axis, of which these
are the matrices. The arithmetic of the sampling points is torchvision's operator's, step by step, in the boxes' type.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RoIAlignRule:
    """How RoIAlign samples.

    Attributes:
        resolution: cells S along each side of the output.
        sampling_ratio: samples along each side of a cell; 0 takes as many as the RoI has feature cells there.
        aligned: whether pixel centres are half a cell from the map's border (``roi_align``'s ``aligned``).
    """

    resolution: int
    sampling_ratio: int
    aligned: bool = False


@dataclass(frozen=True)
class Axis:
    """The weights of n intervals along one axis of a feature map.

    Attributes:
        first: the first place along the axis that any interval reads.
        weights: (n, S, E), of the E places from ``first`` on, in each of the S cells.
    """

    first: int
    weights: Tensor

    @property
    def places(self) -> slice:
        """The part of the axis that is read."""
        return slice(self.first, self.first + self.weights.shape[2])

    def to(self, dtype: torch.dtype) -> Axis:
        """The same with weights of another type."""
        return Axis(self.first, self.weights.to(dtype))


def axis_weights(sides: Tensor, scale: float, extent: int, rule: RoIAlignRule) -> Axis:
    """What RoIAlign makes of one axis.

    Args:
        sides: (n, 2) lower and upper sides of the intervals, in the detector's frame.
        scale: cells of the feature map per pixel, 1 / stride.
        extent: cells of the feature map along the axis.
        rule: how RoIAlign samples.
    """
    positions, shares = _samples(sides, scale, rule)
    inside = (positions >= -1) & (positions <= extent)
    positions = positions.clamp(min=0)
    low = positions.floor().long()
    at_end = low >= extent - 1
    low = low.clamp(max=extent - 1)
    high = (low + 1).clamp(max=extent - 1)
    beyond = torch.where(at_end, torch.zeros_like(positions), positions - low)
    shares = torch.where(inside, shares, torch.zeros_like(shares))
    first, last = _ends(low, high, inside)
    weights = sides.new_zeros((*positions.shape[:2], last - first))
    for place, share in ((low, (1 - beyond) * shares), (high, beyond * shares)):
        place = (place - first).clamp(0, last - first - 1)
        # Sample by sample: the order of a sum is the same on every device.
        for one in range(place.shape[2]):
            weights.scatter_add_(2, place[..., one, None], share[..., one, None])
    return Axis(first, weights)


def _samples(sides: Tensor, scale: float, rule: RoIAlignRule) -> tuple[Tensor, Tensor]:
    """Sampling points (n, S, M) in cells of the map, and their shares in the average: zero beyond an RoI's last."""
    offset = 0.5 if rule.aligned else 0.0
    start, end = (sides * scale - offset).unbind(1)
    length = end - start
    if not rule.aligned:
        length = length.clamp(min=1)
    step = length / rule.resolution
    if rule.sampling_ratio > 0:
        counts = torch.full_like(step, rule.sampling_ratio)
    else:
        counts = torch.ceil(length / rule.resolution)
    most = max(1, int(counts.max())) if len(counts) else 1
    sample = torch.arange(most, device=sides.device, dtype=sides.dtype)
    cell = torch.arange(rule.resolution, device=sides.device, dtype=sides.dtype)
    # An RoI turned inside out has no samples, and its average is zero.
    divisor = counts.clamp(min=1)
    within = (sample + 0.5) * step[:, None] / divisor[:, None]
    positions = (start[:, None] + cell * step[:, None])[:, :, None] + within[:, None]
    shares = (sample < counts[:, None]) / divisor[:, None]
    return positions, shares[:, None].expand_as(positions).to(sides.dtype)


def _ends(low: Tensor, high: Tensor, inside: Tensor) -> tuple[int, int]:
    """First place that is read and the one after the last; one place where none is read."""
    if not bool(inside.any()):
        return 0, 1
    return int(low[inside].min()), int(high[inside].max()) + 1
