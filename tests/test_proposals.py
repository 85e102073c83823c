"""The grid of predefined proposals against brute force in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from rethink_heads.proposals import IOU_BINS, MIN_SIZE, grid, iou_bin

# The docstring's table: what every object gets that lies well inside its image.
COUNTS = [1332, 1788, 1236, 412, 564, 724, 1036, 918, 1230, 440]
COUNTS += [796, 950, 590, 928, 412, 340, 240, 460, 128, 117]

IMAGE = (3000, 3000)


def inside() -> st.SearchStrategy[Tensor]:
    """Objects whose whole grid lies in the image."""
    corner, size = st.floats(1000, 1400, width=32), st.floats(3, 500, width=32)
    return st.tuples(corner, corner, size, size).map(
        lambda t: torch.tensor([t[0], t[1], t[0] + t[2], t[1] + t[3]])
    )


def brute_force(box: Tensor, image_size: tuple[int, int], steps: int) -> list[tuple[float, ...]]:
    """(x1, y1, x2, y2, IoU) of every proposal that is left, one at a time, in float64."""
    x1, y1, x2, y2 = box.double().tolist()
    w, h = x2 - x1, y2 - y1
    t = [2 * i / (steps - 1) - 1 for i in range(steps)]
    offsets = [0.8 * math.copysign(abs(v) ** 3, v) for v in t]
    factors = [2 ** (0.75 * math.copysign(abs(v) ** 2.75, v)) for v in t]
    found = []
    for b in offsets:
        for q in factors:
            for a in offsets:
                for p in factors:
                    cx, cy = (x1 + x2) / 2 + a * w, (y1 + y2) / 2 + b * h
                    left, right = max(cx - p * w / 2, 0), min(cx + p * w / 2, image_size[1])
                    top, bottom = max(cy - q * h / 2, 0), min(cy + q * h / 2, image_size[0])
                    if right - left < MIN_SIZE or bottom - top < MIN_SIZE:
                        continue
                    overlap = max(min(right, x2) - max(left, x1), 0)
                    overlap *= max(min(bottom, y2) - max(top, y1), 0)
                    union = (right - left) * (bottom - top) + w * h - overlap
                    found.append((left, top, right, bottom, overlap / union))
    return found


@given(inside())
@settings(max_examples=20, deadline=None)
def test_every_bin_is_populated_and_the_exact_box_is_there(box: Tensor):
    proposals = grid(box, IMAGE)
    assert len(proposals) == 11**4
    assert proposals.dropped == 0
    counts = torch.bincount(iou_bin(proposals.ious), minlength=IOU_BINS)
    assert counts.min() >= 100
    exact = (proposals.boxes == box).all(dim=1)
    assert exact.sum() == 1
    assert proposals.ious[exact].item() == 1.0
    assert (proposals.ious == 1).sum() == 1
    assert (proposals.ious == 0).sum() == 480


def test_counts_of_the_docstring():
    box = torch.tensor([1024.0, 1024.0, 1088.0, 1056.0])
    counts = torch.bincount(iou_bin(grid(box, IMAGE).ious), minlength=IOU_BINS)
    assert counts.tolist() == COUNTS


@pytest.mark.parametrize(
    ("box", "image_size"),
    [
        ([20.0, 30.0, 52.5, 44.25], (100, 120)),
        ([0.0, 0.0, 40.0, 20.0], (60, 80)),  # in a corner
        ([70.0, 10.0, 80.0, 60.0], (60, 80)),  # along the right and lower border
        ([0.0, 0.0, 80.0, 60.0], (60, 80)),  # the whole image
    ],
)
@pytest.mark.parametrize("steps", [3, 11])
def test_boxes_ious_and_counts_equal_brute_force(
    box: list[float], image_size: tuple[int, int], steps: int
):
    target = torch.tensor(box)
    proposals = grid(target, image_size, steps)
    expected = torch.tensor(brute_force(target, image_size, steps), dtype=torch.float64)
    assert len(proposals) == len(expected)
    assert proposals.dropped == steps**4 - len(expected)
    # float32 coordinates near 100 are 8e-6 apart
    torch.testing.assert_close(proposals.boxes.double(), expected[:, :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(proposals.ious, expected[:, 4], rtol=0, atol=1e-5)


@given(
    st.tuples(*[st.floats(0, 90, width=32)] * 2, *[st.floats(0.5, 10, width=32)] * 2),
    st.sampled_from([3, 5, 7]),
)
@settings(max_examples=40, deadline=None)
def test_clipped_proposals_lie_in_the_image_and_ious_are_theirs(
    corner_and_size: tuple[float, float, float, float], steps: int
):
    x, y, w, h = corner_and_size
    box = torch.tensor([x, y, x + w, y + h])
    proposals = grid(box, (100, 100), steps)
    assert proposals.boxes.min() >= 0
    assert proposals.boxes.max() <= 100
    assert (proposals.boxes[:, 2:] - proposals.boxes[:, :2]).min() >= MIN_SIZE
    assert len(proposals) + proposals.dropped == steps**4
    assert len(proposals) == len(proposals.x_intervals) * len(proposals.y_intervals)
    expected = box_iou(proposals.boxes.double(), box[None].double())[:, 0]
    torch.testing.assert_close(proposals.ious, expected, rtol=0, atol=1e-12)
    assert proposals.ious.max() == 1


def test_order_is_the_outer_product_of_the_intervals():
    proposals = grid(torch.tensor([0.0, 10.0, 30.0, 50.0]), (60, 80), 5)
    columns = len(proposals.x_intervals)
    assert columns < 25  # some left the image
    for index in (0, 1, columns, 3 * columns + 2, len(proposals) - 1):
        (x1, x2), (y1, y2) = (
            proposals.x_intervals[index % columns].tolist(),
            proposals.y_intervals[index // columns].tolist(),
        )
        assert proposals.boxes[index].tolist() == [x1, y1, x2, y2]


@pytest.mark.parametrize("steps", [-1, 1, 10])
def test_even_or_too_few_steps_are_refused(steps: int):
    with pytest.raises(ValueError, match="odd number of steps"):
        grid(torch.tensor([1.0, 1.0, 5.0, 5.0]), (10, 10), steps)


@pytest.mark.parametrize("right", [5.0, 4.0, math.nan])
def test_empty_boxes_are_refused(right: float):
    with pytest.raises(ValueError, match="empty box"):
        grid(torch.tensor([5.0, 5.0, right, 9.0]), (10, 10))


def test_bins_are_half_open_but_the_last():
    ious = torch.tensor([0.0, 0.0499, 0.05, 0.5, 0.9499, 0.95, 1.0], dtype=torch.float64)
    assert iou_bin(ious).tolist() == [0, 0, 1, 10, 18, 19, 19]
    assert iou_bin(ious).dtype == torch.int64
