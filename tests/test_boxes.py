"""Box arithmetic against torchvision and plain float64 loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from rethink_heads.detectors.coordinates import enlarge
from rethink_heads.proposals import outer_boxes, outer_iou

FEW = settings(max_examples=30, deadline=None)
sides = st.floats(-50, 300, width=32).flatmap(
    lambda low: st.floats(0.5, 200, width=32).map(lambda size: (low, low + size))
)
intervals = st.lists(sides, min_size=1, max_size=6).map(torch.tensor)


@st.composite
def boxes(draw: st.DrawFn) -> Tensor:
    count = draw(st.integers(1, 6))
    corners = [(draw(sides), draw(sides)) for _ in range(count)]
    return torch.tensor([[x[0], y[0], x[1], y[1]] for x, y in corners])


@FEW
@given(boxes(), st.floats(0.25, 4))
def test_enlarging_keeps_the_centre_and_multiplies_the_size(given_boxes: Tensor, factor: float):
    given_boxes = given_boxes.double()
    larger = enlarge(given_boxes, factor)
    torch.testing.assert_close(
        larger[:, :2] + larger[:, 2:], given_boxes[:, :2] + given_boxes[:, 2:]
    )
    torch.testing.assert_close(
        larger[:, 2:] - larger[:, :2], factor * (given_boxes[:, 2:] - given_boxes[:, :2])
    )


def test_enlarging_by_one_changes_no_bit():
    given_boxes = torch.tensor([[0.1, 0.7, 33.3, 101.9]])
    assert torch.equal(enlarge(given_boxes, 1.0), given_boxes)


@FEW
@given(intervals, intervals, boxes())
def test_outer_iou_is_the_iou_of_each_outer_box(x: Tensor, y: Tensor, target: Tensor):
    together = outer_boxes(x, y)
    # Over x first.
    expected = [[a[0], b[0], a[1], b[1]] for b in y.tolist() for a in x.tolist()]
    assert together.tolist() == expected
    ious = outer_iou(x, y, target[0])
    assert ious.dtype == torch.float64
    torch.testing.assert_close(
        ious, box_iou(together.double(), target[:1].double())[:, 0], rtol=0, atol=1e-12
    )
