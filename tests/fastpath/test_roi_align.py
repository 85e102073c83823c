"""The choice between factors and torchvision's operator changes no result, and leaves gradients and autocast alone."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align as operator

from rethink_heads.config import DETECTRON2, MASKRCNN_BENCHMARK, ConventionsConfig
from rethink_heads.detectors.rcnn.pooling import STRIDES, PyramidPooler
from rethink_heads.fastpath import pooling as choice
from rethink_heads.fastpath.pooling import RoIAlignRule, roi_align
from rethink_heads.proposals import grid
from tests.fastpath.made_rois import Case, cases

RULE = RoIAlignRule(7, 2)
SIZE = (200, 300)


def always(factors: bool) -> mock._patch_dict:
    """A context in which factors are always taken where they may be, or never."""
    of = {"LEAST_READINGS": 0, "ROIS_AN_INTERVAL": 0, "PRODUCTS_A_READING": 1e18 if factors else 0}
    return mock.patch.dict(vars(choice), of)


def survives(case: Case) -> bool:
    """Whether torchvision's operator does: see test_pooling."""
    lengths = case.rois[:, 2:] - case.rois[:, :2]
    return case.rule.sampling_ratio > 0 or not case.rule.aligned or bool((lengths >= 0).all())


def by_operator(feature_map: Tensor, rois: Tensor, scale: float, rule: RoIAlignRule) -> Tensor:
    return operator(feature_map, [rois], rule.resolution, scale, rule.sampling_ratio, rule.aligned)


@given(case=cases().filter(survives), factors=st.booleans())
@settings(max_examples=100, deadline=None)
def test_either_way_it_is_the_operator(case: Case, factors: bool) -> None:
    for dtype, rounding in ((torch.float32, 4e-6), (torch.float64, 1e-13)):
        feature_map, rois = case.feature_map[None].to(dtype), case.rois.to(dtype)
        expected = by_operator(feature_map, rois, case.scale, case.rule)
        with always(factors):
            found = roi_align(feature_map, rois, case.scale, case.rule)
        bound = rounding * float(feature_map.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)


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
    for pooling in (roi_align, by_operator):
        feature_map.grad = None
        with always(True):
            pooling(feature_map, rois, 0.25, RULE).square().sum().backward()
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
