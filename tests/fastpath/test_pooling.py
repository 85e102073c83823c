"""Pooling by factors against torchvision's RoIAlign and loops in float64; where it is chosen; over the pyramid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align as operator

from rethink_heads.config import DETECTRON2, MASKRCNN_BENCHMARK, ConventionsConfig
from rethink_heads.detectors.rcnn.roi_heads import STRIDES, PyramidPooler
from rethink_heads.fastpath.pooling import RoIAlignRule, level_rois, pool, roi_align
from rethink_heads.proposals import grid, outer_boxes
from tests.detectors import reference_arithmetic as reference
from tests.fastpath.rois import Case, always, by_operator, cases

RULE = RoIAlignRule(7, 2)
SIZE = (200, 300)
# Of the largest value on the map: rounding of a position's average, of which the weights add up to 1.
ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13}


def by_factors(case: Case, dtype: torch.dtype, most: int = 512) -> Tensor:
    """(N, C, S, S)"""
    level = level_rois(
        case.feature_map.to(dtype), case.rois.to(dtype), case.scale, case.rule, dtype
    )
    return pool(level, most)


def assert_equal(found: Tensor, expected: Tensor, case: Case) -> None:
    bound = ROUNDING[expected.dtype] * float(case.feature_map.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    case=cases().filter(Case.survives), most=st.sampled_from((1, 2, 7, 512)), factors=st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_equals_the_operator(dtype: torch.dtype, case: Case, most: int, factors: bool) -> None:
    expected = case.by_operator(dtype)
    assert_equal(by_factors(case, dtype, most), expected, case)
    # Also where the choice is roi_align's.
    with always(factors):
        maps, rois = case.feature_map[None].to(dtype), case.rois.to(dtype)
        assert_equal(roi_align(maps, rois, case.scale, case.rule), expected, case)


ON_THE_BORDER = Case(
    torch.ones(1, 1, 1, dtype=torch.float64),
    torch.tensor([[0.0, 0, 0, 2]], dtype=torch.float64),
    1.0,
    RoIAlignRule(10, 1, aligned=True),
)


@example(case=ON_THE_BORDER)
@given(case=cases(most=4))
@settings(max_examples=25, deadline=None)
def test_equals_the_definition(case: Case) -> None:
    small = case.rois.clamp(-40 / case.scale, 40 / case.scale)
    case = Case(case.feature_map[:2], small, case.scale, case.rule)
    rule = case.rule
    by_definition = [
        reference.roi_align(
            case.feature_map, roi, case.scale, rule.sampling_ratio, rule.aligned, rule.resolution
        )
        for roi in case.rois
    ]
    assert_equal(by_factors(case, torch.float64), torch.stack(by_definition), case)


def test_repeated_rois_are_no_grid() -> None:
    """As many as a grid has, and as many for each x-interval, but one pair twice and one missing."""
    grid = outer_boxes(torch.tensor([[0.0, 9], [3, 8]]), torch.tensor([[1.0, 6], [2, 9]]))
    rois = grid[[0, 0, 1, 3]].double()
    feature_map = torch.randn(
        2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    case = Case(feature_map, rois, 1.0, RoIAlignRule(3, 2))
    assert_equal(by_factors(case, torch.float64), case.by_operator(torch.float64), case)


def feature_map_of(stride: int = 4, images: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(stride)
    size = (SIZE[0] // stride, SIZE[1] // stride)
    return torch.randn(images, 16, *size, generator=generator)


def test_factors_are_taken_where_they_pay() -> None:
    """Told by the order of memory: factors leave the channels last."""
    feature_map = feature_map_of()
    proposals = grid(torch.tensor([90.0, 90, 140, 150]), SIZE).boxes
    found = roi_align(feature_map, proposals, 0.25, RULE)
    assert not found.is_contiguous()
    expected = by_operator(feature_map, proposals, 0.25, RULE)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    # One box, and boxes that share nothing, are the operator's to the last bit.
    generator = torch.Generator().manual_seed(0)
    scattered = torch.rand(2000, 4, generator=generator) * 100
    scattered[:, 2:] += scattered[:, :2]
    for rois in (proposals[:1], scattered, proposals[:0]):
        found = roi_align(feature_map, rois, 0.25, RULE)
        assert torch.equal(found, by_operator(feature_map, rois, 0.25, RULE))


def test_gradients_are_the_operators() -> None:
    feature_map = feature_map_of().requires_grad_()
    rois = grid(torch.tensor([90.0, 90, 140, 150]), SIZE, 3).boxes
    gradients = []
    for pool_rois in (roi_align, by_operator):
        feature_map.grad = None
        with always(True):
            pool_rois(feature_map, rois, 0.25, RULE).square().sum().backward()
        gradients.append(feature_map.grad)
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_pools_in_float32(dtype: torch.dtype) -> None:
    feature_map = feature_map_of().to(dtype)
    rois = grid(torch.tensor([90.0, 90, 140, 150]), SIZE, 3).boxes
    with torch.autocast("cpu", torch.bfloat16), always(True):
        found = roi_align(feature_map, rois, 0.25, RULE)
        expected = by_operator(feature_map, rois, 0.25, RULE)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize(
    "conventions", [ConventionsConfig(), MASKRCNN_BENCHMARK, DETECTRON2], ids=str
)
@pytest.mark.parametrize("images", [1, 2])
def test_pyramid(factors: bool, conventions: ConventionsConfig, images: int) -> None:
    pyramid = {name: feature_map_of(stride, images) for name, stride in STRIDES.items()}
    boxes = [
        torch.cat(
            [
                grid(torch.tensor([90.0, 90, 120, 110]) - 20 * image, SIZE, 3).boxes,
                grid(torch.tensor([0.0, 0, 300, 200]), SIZE, 3).boxes * 1.7,
            ]
        )
        for image in range(images)
    ]
    pooler = PyramidPooler(5, 2, conventions)
    with always(factors), torch.no_grad():
        found = pooler(pyramid, boxes)
        alone = pooler(pyramid, [boxes[0][:9], *(each[:0] for each in boxes[1:])])
    corners, levels = pooler.place(torch.cat(boxes))
    assert len(levels.unique()) > 1
    numbers = torch.arange(images).repeat_interleave(len(boxes[0]))
    for index in range(len(corners)):
        name = list(STRIDES)[int(levels[index])]
        expected = operator(
            pyramid[name][numbers[index], None],
            [corners[index, None]],
            5,
            1 / STRIDES[name],
            2,
            conventions.roi_align_aligned,
        )[0]
        torch.testing.assert_close(found[index], expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(alone, found[:9], rtol=0, atol=2e-5)
    with torch.no_grad():
        assert pooler(pyramid, [each[:0] for each in boxes]).shape == (0, 16, 5, 5)
