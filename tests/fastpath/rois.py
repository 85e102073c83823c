"""RoIs and feature maps for properties of pooling: grids, parts of them, single boxes, and boxes nobody should give."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from rethink_heads.fastpath import pooling
from rethink_heads.fastpath.pooling import RoIAlignRule
from rethink_heads.proposals import grid, outer_boxes

# Where RoIAlign's arithmetic turns: at and just beside the border of a map, and no length at all.
SIZE = (120, 170)
TURNS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Case:
    """RoIs on one feature map.

    Attributes:
        feature_map: (C, H, W) float64.
        rois: (N, 4) float64, each of whose coordinates is a float32.
        scale: map cells per pixel.
        rule: how RoIAlign samples.
    """

    feature_map: Tensor
    rois: Tensor
    scale: float
    rule: RoIAlignRule

    def survives(self) -> bool:
        """Whether torchvision's operator does: not an RoI turned inside out that has as many samples as it is long."""
        lengths = self.rois[:, 2:] - self.rois[:, :2]
        return self.rule.sampling_ratio > 0 or not self.rule.aligned or bool((lengths >= 0).all())

    def by_operator(self, dtype: torch.dtype) -> Tensor:
        """RoI features (N, C, S, S) by torchvision's operator in a type."""
        return by_operator(
            self.feature_map[None].to(dtype), self.rois.to(dtype), self.scale, self.rule
        )


def by_operator(feature_map: Tensor, rois: Tensor, scale: float, rule: RoIAlignRule) -> Tensor:
    """RoI features (N, C, S, S) of RoIs on a map (1, C, H, W) by torchvision's operator."""
    return roi_align(feature_map, [rois], rule.resolution, scale, rule.sampling_ratio, rule.aligned)


@st.composite
def cases(draw: st.DrawFn, most: int = 60) -> Case:
    """A map of any size, and up to ``most`` RoIs that may lie anywhere."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    stride = draw(st.sampled_from((1.0, 4.0, 8.0, 32.0, 5.3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    feature_map = torch.randn(
        draw(st.integers(1, 5)), height, width, dtype=torch.float64, generator=generator
    )
    x = draw(_sides(width, stride))
    y = draw(_sides(height, stride))
    rois = outer_boxes(torch.tensor(x), torch.tensor(y)).float().double()
    rule = RoIAlignRule(
        draw(st.integers(1, 14)), draw(st.sampled_from((0, 1, 2, 3))), draw(st.booleans())
    )
    kind = draw(st.sampled_from(("all", "some", "again")))
    count = draw(st.integers(1, min(most, len(rois))))
    if kind == "some":
        rois = rois[torch.randperm(len(rois), generator=generator)[:count]]
    elif kind == "again":
        # With repetitions: detectors may propose a box twice.
        rois = rois[torch.randint(len(rois), (len(rois),), generator=generator)]
    return Case(feature_map, rois[:most], 1 / stride, rule)


@st.composite
def _sides(draw: st.DrawFn, cells: int, stride: float) -> list[list[float]]:
    """A few intervals in pixels along an axis of some cells: within, over the border, outside, turned round."""
    ends = st.one_of(
        st.floats(0, cells, width=32),
        st.floats(-3 * cells - 3, 4 * cells + 3, width=32),
        st.sampled_from([*TURNS, *(cells + turn for turn in TURNS)]),
        st.integers(-2, cells + 2).map(float),
    )
    lengths = st.one_of(
        st.floats(0, cells, width=32),
        st.sampled_from((0.0, 1e-3, 0.5, 1.0, 2.0, 7.0, 14.0, 40.0 * cells)),
        st.floats(-cells, 0, width=32),
    )
    starts = draw(st.lists(ends, min_size=1, max_size=7))
    return [[stride * start, stride * (start + draw(lengths))] for start in starts]


def always(factors: bool) -> mock._patch_dict:
    """A context in which factors are always taken where they may be, or never."""
    of = {"LEAST_READINGS": 0, "ROIS_AN_INTERVAL": 0, "PRODUCTS_A_READING": 1e18 if factors else 0}
    return mock.patch.dict(vars(pooling), of)


def image() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randint(0, 256, (3, 12, 17), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(10, 1).repeat_interleave(10, 2)


def boxes_of_all_levels() -> Tensor:
    """Grids about a small object and a large one in the corner, and boxes that share nothing with each other."""
    generator = torch.Generator().manual_seed(6)
    scattered = torch.rand(40, 4, generator=generator) * 80
    scattered[:, 2:] += scattered[:, :2]
    small = grid(torch.tensor([40.0, 50, 61, 66]), SIZE, 5).boxes
    large = grid(torch.tensor([0.0, 3, 150, 119]), SIZE, 3).boxes
    x = torch.tensor([[5.0, 6], [7, 160], [0, 170]])
    return torch.cat([small, scattered, large, outer_boxes(x, x * 0.7)])
