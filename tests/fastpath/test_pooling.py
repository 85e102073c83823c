"""Pooling by factors against torchvision's RoIAlign and against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align as operator

from rethink_heads.boxes import outer_boxes
from rethink_heads.fastpath.pooling import RoIAlignRule, intervals, level_rois, pool
from tests.fastpath.made_rois import Case, cases

# Of the largest value on the map: rounding of a cell's average, of which the weights add up to 1.
ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13}


def by_operator(case: Case, dtype: torch.dtype) -> Tensor:
    """(N, C, S, S)"""
    rule = case.rule
    rois = case.rois.to(dtype)
    lengths = rois[:, 2:] - rois[:, :2]
    # The operator does not survive an RoI turned inside out that is to have as many samples as it is long.
    taken = (lengths >= 0).all(1) | torch.tensor(rule.sampling_ratio > 0 or not rule.aligned)
    side = rule.resolution
    found = torch.zeros(len(rois), len(case.feature_map), side, side, dtype=dtype)
    found[taken] = operator(
        case.feature_map[None].to(dtype),
        [rois[taken]],
        side,
        case.scale,
        rule.sampling_ratio,
        rule.aligned,
    )
    return found


def by_factors(case: Case, dtype: torch.dtype, most: int = 512) -> Tensor:
    """(N, C, S, S)"""
    level = level_rois(
        case.feature_map.to(dtype), case.rois.to(dtype), case.scale, case.rule, dtype
    )
    return pool(level, most)


def by_loop(case: Case) -> Tensor:
    """(N, C, S, S) by the definition: bilinear samples of each cell, one after the other."""
    rule = case.rule
    shift = 0.5 if rule.aligned else 0.0
    found = torch.zeros(
        len(case.rois), len(case.feature_map), rule.resolution, rule.resolution, dtype=torch.float64
    )
    for number, roi in enumerate(case.rois.tolist()):
        x1, y1, x2, y2 = (side * case.scale - shift for side in roi)
        width, height = x2 - x1, y2 - y1
        if not rule.aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        columns = rule.sampling_ratio or math.ceil(width / rule.resolution)
        rows = rule.sampling_ratio or math.ceil(height / rule.resolution)
        for i in range(rule.resolution):
            for j in range(rule.resolution):
                for a in range(rows):
                    for b in range(columns):
                        y = y1 + (i + (a + 0.5) / rows) * height / rule.resolution
                        x = x1 + (j + (b + 0.5) / columns) * width / rule.resolution
                        sample = bilinear(case.feature_map, y, x)
                        found[number, :, i, j] += sample / (rows * columns)
    return found


def bilinear(feature_map: Tensor, y: float, x: float) -> Tensor:
    _, height, width = feature_map.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(feature_map), dtype=torch.float64)
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    low_y, low_x = int(y), int(x)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    ly, lx = y - low_y, x - low_x
    return (
        (1 - ly) * (1 - lx) * feature_map[:, low_y, low_x]
        + (1 - ly) * lx * feature_map[:, low_y, high_x]
        + ly * (1 - lx) * feature_map[:, high_y, low_x]
        + ly * lx * feature_map[:, high_y, high_x]
    )


def assert_equal(found: Tensor, expected: Tensor, case: Case) -> None:
    bound = ROUNDING[expected.dtype] * float(case.feature_map.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(case=cases(), most=st.sampled_from((1, 2, 7, 512)))
@settings(max_examples=250, deadline=None)
def test_equals_the_operator(dtype: torch.dtype, case: Case, most: int) -> None:
    assert_equal(by_factors(case, dtype, most), by_operator(case, dtype), case)


@given(case=cases(most=4))
@settings(max_examples=25, deadline=None)
def test_equals_the_definition(case: Case) -> None:
    small = case.rois.clamp(-40 / case.scale, 40 / case.scale)
    case = Case(case.feature_map[:2], small, case.scale, case.rule)
    assert_equal(by_factors(case, torch.float64), by_loop(case), case)


def test_repeated_rois_are_no_grid() -> None:
    """As many as a grid has, and as many for each x-interval, but one pair twice and one missing."""
    grid = outer_boxes(torch.tensor([[0.0, 9], [3, 8]]), torch.tensor([[1.0, 6], [2, 9]]))
    rois = grid[[0, 0, 1, 3]].double()
    feature_map = torch.randn(
        2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    case = Case(feature_map, rois, 1.0, RoIAlignRule(3, 2))
    assert_equal(by_factors(case, torch.float64), by_operator(case, torch.float64), case)


def test_no_rois_have_no_intervals() -> None:
    assert [len(part) for part in intervals(torch.zeros(0, 2))] == [0, 0]
