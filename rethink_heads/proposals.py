"""Predefined proposals: the same grid of boxes around every object, whatever the detector.

For an object with centre (cx, cy) and size (w, h) the grid holds centres (cx + a w, cy + b h) and
sizes (w 2^p, h 2^q), 11 steps each of a, b, p and q: 11^4 = 14,641 boxes. They take the place of
the sliding windows of Wu et al. (Figures 2 and 3), which are about as many (from memory, not checked
against the paper). The steps are

    a = 0.8 sign(t) |t|^3,  p = 0.75 sign(t) |t|^2.75,  t evenly spaced from -1 to 1,

that is offsets of 0, 0.0064, 0.0512, 0.173, 0.410, 0.8 of the object's size and factors of 0.595,
0.755, 0.880, 0.959, 0.994, 1, 1.006, 1.043, 1.136, 1.325, 1.682: dense near zero, because an even
spacing leaves the bins just under IoU 1 empty. Away from the image's border every object has these
numbers of proposals in the 20 IoU bins, from [0, 0.05) to [0.95, 1]:

    1332 1788 1236 412 564 724 1036 918 1230 440 796 950 590 928 412 340 240 460 128 117

480 of the first bin do not touch the object. 9 steps and more populate all bins, fewer steps do
not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IOU_BINS = 20
MIN_SIZE = 1e-3
"""Pixels. A box narrower or lower than this holds nothing (the limit of torchvision's RPN)."""
GRID_STEPS = 11
MAX_OFFSET, OFFSET_POWER = 0.8, 3.0
MAX_LOG2_SCALE, SCALE_POWER = 0.75, 2.75


@dataclass(frozen=True)
class Proposals:
    """The proposals of one object, clipped to the image.

    They are the outer product of X x-intervals and Y y-intervals: proposal `y * X + x` has the
    x-interval `x` and the y-interval `y`. X and Y are steps^2 less the intervals of which the image
    leaves less than `MIN_SIZE` pixels.
    """

    boxes: Tensor
    """(N, 4) float32 xyxy, pixels of the original image, N = X * Y."""
    ious: Tensor
    """(N,) float64: IoU of the clipped box, as the detector gets it, with the object."""
    dropped: int
    """Number of boxes that clipping left empty: steps^4 - N."""
    x_intervals: Tensor
    """(X, 2) float32: left and right sides."""
    y_intervals: Tensor
    """(Y, 2) float32: upper and lower sides."""

    def __len__(self) -> int:
        return len(self.boxes)


def grid(box: Tensor, image_size: tuple[int, int], steps: int = GRID_STEPS) -> Proposals:
    """Return the grid of proposals around an object's `box` (4,) in an image of (height, width) pixels.

    The object's own box is on it exactly, with IoU 1.

    Raises:
        ValueError: `steps` is even, which would leave that box out, or less than 3, or the box is empty.
    """
    if steps < 3 or steps % 2 == 0:
        raise ValueError(
            f"the proposal grid needs an odd number of steps of at least 3, not {steps}"
        )
    x1, y1, x2, y2 = box.detach().cpu().double().tolist()
    if not (x2 - x1 >= MIN_SIZE and y2 - y1 >= MIN_SIZE):
        raise ValueError(f"no proposals around an empty box: {[x1, y1, x2, y2]}")
    height, width = image_size
    x_intervals = _intervals(x1, x2, width, steps)
    y_intervals = _intervals(y1, y2, height, steps)
    boxes = outer_boxes(x_intervals, y_intervals)
    ious = outer_iou(x_intervals, y_intervals, box.detach().cpu())
    return Proposals(boxes, ious, steps**4 - len(boxes), x_intervals, y_intervals)


def iou_bin(ious: Tensor) -> Tensor:
    """Return index (N,) int64, 0 to 19, of each IoU's bin of width 0.05; IoU 1 is in the last bin."""
    return (ious.double() * IOU_BINS).long().clamp(0, IOU_BINS - 1)


def outer_boxes(x_intervals: Tensor, y_intervals: Tensor) -> Tensor:
    """Return all boxes from x-intervals (X, 2) and y-intervals (Y, 2): (Y * X, 4), x fastest."""
    import torch

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
    overlap = _overlap(y, box[1], box[3]).outer(_overlap(x, box[0], box[2]))
    areas = (y[:, 1] - y[:, 0]).outer(x[:, 1] - x[:, 0])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return (overlap / (areas + area - overlap)).flatten()


def _overlap(intervals: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (intervals[:, 1].minimum(high) - intervals[:, 0].maximum(low)).clamp(min=0)


def _intervals(low: float, high: float, limit: int, steps: int) -> Tensor:
    """Return sides (steps^2 or fewer, 2) of one axis, clipped to [0, limit], size fastest, float32."""
    import torch

    t = torch.linspace(-1, 1, steps, dtype=torch.float64)
    t[steps // 2] = 0
    shifts = (MAX_OFFSET * t.sign() * t.abs() ** OFFSET_POWER)[:, None]
    growths = (2 ** (MAX_LOG2_SCALE * t.sign() * t.abs() ** SCALE_POWER) - 1) / 2
    size = high - low
    # Moving the object's sides, instead of building boxes from centres, keeps its own box to the
    # bit.
    lows, highs = low + (shifts - growths) * size, high + (shifts + growths) * size
    sides = torch.stack([lows, highs], dim=-1).reshape(-1, 2).float().clamp(0, limit)
    return sides[sides[:, 1] - sides[:, 0] >= MIN_SIZE]
