"""Box arithmetic that torchvision.ops lacks.

Boxes are (N, 4) tensors, x1 y1 x2 y2 in pixels of the original image. Image sizes are (height,
width).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_SIZE = 1e-3
"""Pixels. A box narrower or lower than this holds nothing (the limit of torchvision's RPN)."""


class ClippedBoxes(NamedTuple):
    """Boxes after clipping, and what clipping did to each of them."""

    boxes: Tensor
    """(N, 4), inside the image."""
    moved: Tensor
    """(N,) bool: at least one side was moved."""
    empty: Tensor
    """(N,) bool: less than `MIN_SIZE` is left in width or height."""


def enlarge(boxes: Tensor, factor: float) -> Tensor:
    """Return boxes (N, 4) with width and height multiplied by `factor`, about their centres."""
    if factor == 1:
        return boxes
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    centre = (top_left + bottom_right) / 2
    half = (bottom_right - top_left) * (factor / 2)
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> ClippedBoxes:
    """Clip boxes (N, 4) to an image of (height, width) pixels; no box is removed."""
    height, width = image_size
    limits = boxes.new_tensor([width, height, width, height])
    inside = torch.minimum(boxes.clamp(min=0), limits)
    sizes = inside[:, 2:] - inside[:, :2]
    return ClippedBoxes(inside, (inside != boxes).any(dim=1), (sizes < MIN_SIZE).any(dim=1))


def outer_boxes(x_intervals: Tensor, y_intervals: Tensor) -> Tensor:
    """Return all boxes from x-intervals (X, 2) and y-intervals (Y, 2): (Y * X, 4), x fastest."""
    columns, rows = len(x_intervals), len(y_intervals)
    x = x_intervals[None].expand(rows, columns, 2)
    y = y_intervals[:, None].expand(rows, columns, 2)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1).reshape(-1, 4)


def outer_iou(x_intervals: Tensor, y_intervals: Tensor, box: Tensor) -> Tensor:
    """Return IoU of each box of `outer_boxes(x_intervals, y_intervals)` with `box` (4,): (Y * X,) float64.

    A box's area and its overlap with another are products of an x part and a y part, so X + Y
    interval overlaps give all X * Y IoUs.
    """
    x, y, box = x_intervals.double(), y_intervals.double(), box.double()
    overlap = torch.outer(_overlap(y, box[1], box[3]), _overlap(x, box[0], box[2]))
    areas = torch.outer(y[:, 1] - y[:, 0], x[:, 1] - x[:, 0])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return (overlap / (areas + area - overlap)).flatten()


def _overlap(intervals: Tensor, low: Tensor, high: Tensor) -> Tensor:
    shared = torch.minimum(intervals[:, 1], high) - torch.maximum(intervals[:, 0], low)
    return shared.clamp(min=0)
