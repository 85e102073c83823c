"""Moments per IoU bin against raw rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from rethink_heads.errors import UserError
from rethink_heads.measure.moments import (
    ERRORS,
    PRODUCTS,
    VALUE_COLUMNS,
    VARIABLES,
    proposal_values,
)
from tests.frames import reduce_to_bins

OBJECT = torch.tensor([20.0, 30.0, 60.0, 110.0], dtype=torch.float64)


def random_proposals(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """IoUs (N,), scores (N,) and regressed boxes (N, 4) near OBJECT."""
    generator = torch.Generator().manual_seed(seed)
    iou = torch.rand(count, generator=generator, dtype=torch.float64)
    score = torch.rand(count, generator=generator, dtype=torch.float64)
    shift = torch.randn(count, 4, generator=generator, dtype=torch.float64) * 6
    return iou, score, OBJECT + shift


def test_values_against_a_loop_over_boxes() -> None:
    iou, score, boxes = random_proposals(50, 0)
    values = proposal_values(iou, score, boxes, OBJECT)
    assert set(values) == set(VARIABLES)
    np.testing.assert_allclose(values["regressed_iou"], box_iou(boxes, OBJECT[None])[:, 0])
    ox1, oy1, ox2, oy2 = OBJECT.tolist()
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        expected = {
            "dx": ((x1 + x2) / 2 - (ox1 + ox2) / 2) / (ox2 - ox1),
            "dy": ((y1 + y2) / 2 - (oy1 + oy2) / 2) / (oy2 - oy1),
            "dw": math.log((x2 - x1) / (ox2 - ox1)),
            "dh": math.log((y2 - y1) / (oy2 - oy1)),
        }
        for name, value in expected.items():
            assert values[name][row] == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_moments_against_raw_rows_bin_by_bin() -> None:
    iou, score, boxes = random_proposals(400, 1)
    iou[:3] = torch.tensor([0.0, 0.5, 1.0])
    moments = reduce_to_bins(iou, score, boxes, OBJECT).set_index("bin")
    values = proposal_values(iou, score, boxes, OBJECT)
    assert list(moments.columns) == list(VALUE_COLUMNS)
    assert moments["n"].sum() == 400
    for number in range(20):
        upper = 1.01 if number == 19 else (number + 1) / 20
        inside = (values["iou"] >= number / 20) & (values["iou"] < upper)
        row = moments.loc[number]
        assert row["n"] == row["measured"] == inside.sum()
        for v in VARIABLES:
            assert row[f"sum_{v}"] == pytest.approx(math.fsum(values[v][inside]), abs=1e-11)
        for a, b in PRODUCTS:
            exact = math.fsum(values[a][inside] * values[b][inside])
            assert row[f"sum_{a}_{b}"] == pytest.approx(exact, abs=1e-11)
        for v in ERRORS:
            exact = math.fsum(np.abs(values[v][inside]))
            assert row[f"sum_abs_{v}"] == pytest.approx(exact, abs=1e-11)


def test_empty_bins_have_no_row() -> None:
    moments = reduce_to_bins([0.02, 0.03, 0.97], [0.1] * 3, OBJECT.expand(3, 4), OBJECT)
    assert moments["bin"].tolist() == [0, 19]
    assert moments["n"].tolist() == [2.0, 1.0]
    assert reduce_to_bins([], [], np.zeros((0, 4)), OBJECT).empty


def test_counts_stay_exact_under_weights_that_are_no_binary_fractions() -> None:
    weights = np.full(7, 731 / 7)
    moments = reduce_to_bins(np.full(7, 0.3), np.ones(7), OBJECT.expand(7, 4), OBJECT, weights)
    assert moments["n"].tolist() == [731.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_other_types_are_widened(dtype: torch.dtype) -> None:
    iou, score, boxes = random_proposals(40, 4)
    narrow = score.to(dtype)
    moments = reduce_to_bins(iou, narrow, boxes, OBJECT)
    assert moments["sum_score"].sum() == pytest.approx(math.fsum(narrow.double().tolist()))


def test_a_box_clipped_to_nothing_stays_finite() -> None:
    sliver = [[60.0, 30.0, 60.0, 110.0]]
    values = proposal_values([0.5], [0.5], sliver, OBJECT)
    assert values["regressed_iou"].tolist() == [0.0]
    assert values["dw"].tolist() == [pytest.approx(math.log(16 / 1000))]
    assert values["dh"].tolist() == [0.0]


@pytest.mark.parametrize("wrong", ["score", "box"])
def test_numbers_that_are_not_finite_are_refused(wrong: str) -> None:
    iou, score, boxes = random_proposals(5, 5)
    if wrong == "score":
        score[2] = float("nan")
    else:
        boxes[2, 1] = float("inf")
    with pytest.raises(UserError, match="for 1 of 5 proposals that are not finite"):
        reduce_to_bins(iou, score, boxes, OBJECT)
