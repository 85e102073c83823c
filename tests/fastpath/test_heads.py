"""fc-heads and conv-heads on many RoIs at once against the modules themselves in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rethink_heads.fastpath.conv import FastConv
from rethink_heads.fastpath.fc import FastFC
from rethink_heads.fastpath.heads import BranchLayers, ClassPredictor
from rethink_heads.fastpath.pooling import LevelRoIs, RoIAlignRule, level_rois, pool_blocks
from rethink_heads.heads import ConvHead, FCHead
from rethink_heads.proposals import grid
from tests.fastpath.rois import Case, cases

ENOUGH = 2**40
# Largest difference from float64, of the root mean square of all outputs.
ERRORS = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 0.04}

precisions = pytest.mark.parametrize("dtype", list(ERRORS), ids=str)


def fc_head(channels: int, resolution: int, width: int = 12) -> FCHead:
    torch.manual_seed(channels)
    head = FCHead(3, channels, resolution, width)
    for layer in (head.fc6, head.fc7):
        nn.init.normal_(layer.bias, std=0.5)
    return head.eval()


def conv_head(non_local: bool, blocks: int = 2, channels: int = 8) -> ConvHead:
    """With the statistics and the factors of normalisations that have been trained."""
    torch.manual_seed(blocks)
    head = ConvHead(3, channels, 16, 4, blocks, non_local, non_local_groups=2)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.Conv2d) and (module.bias is not None or not module.weight.any()):
            # Of a non-local block, which starts as the identity, and whose output is cubic in its input.
            nn.init.normal_(module.weight, std=0.1)
    return head.eval()


def hidden_of(head: FCHead | ConvHead, roi_features: Tensor) -> Tensor:
    """What the module itself gives its predictor for (N, C, S, S), in float64."""
    exact = copy.deepcopy(head).double()
    found: list[Tensor] = []
    exact.predictor.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        exact(roi_features.double())
    return found[0]


def sampled_in(dtype: torch.dtype) -> torch.dtype:
    """The type that sampling points are computed in: in another one a point on the map's border could be outside."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def level_of(case: Case, dtype: torch.dtype) -> LevelRoIs:
    exact = sampled_in(dtype)
    return level_rois(case.feature_map.to(exact), case.rois.to(exact), case.scale, case.rule, dtype)


def block_by_block(layers: BranchLayers, level: LevelRoIs, most: int) -> Tensor:
    found = torch.empty(len(level), layers.width, dtype=layers.hidden_dtype)
    for positions, block in pool_blocks(level, most):
        found[positions] = layers.from_features(block)
    return found


def assert_close(
    found: Tensor, expected: Tensor, dtype: torch.dtype, of: Tensor | None = None
) -> None:
    scale = float((expected if of is None else of).square().mean().sqrt())
    bound = ERRORS[dtype] * max(scale, 1e-3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)


@precisions
@given(case=cases().filter(Case.survives), most=st.sampled_from((1, 5, 512)))
@settings(max_examples=40, deadline=None)
def test_fc_head_equals_the_module(dtype: torch.dtype, case: Case, most: int) -> None:
    head = fc_head(len(case.feature_map), case.rule.resolution)
    layers = FastFC([head.fc6, head.fc7], head.channels, head.resolution, dtype)
    expected, level = hidden_of(head, case.by_operator(sampled_in(dtype))), level_of(case, dtype)
    # Some outputs of a head are zero, all of a small map may be: the scale is that of the layers' inputs too.
    scale = torch.cat([expected.flatten(), case.feature_map.flatten()])
    assert_close(block_by_block(layers, level, most), expected, dtype, scale)
    layers._factors_pay = lambda level: True  # type: ignore[method-assign]
    by_factors = layers.from_level(level, ENOUGH)
    assert by_factors is not None
    assert_close(by_factors, expected, dtype, scale)
    assert layers.from_level(level, 1) is None


def paper_like(rois: Tensor) -> LevelRoIs:
    feature_map = torch.zeros(16, 50, 50)
    return level_rois(feature_map, rois, 0.25, RoIAlignRule(7, 2), torch.float32)


def test_factors_are_taken_for_grids_alone() -> None:
    head = fc_head(16, 7, 64)
    layers = FastFC([head.fc6, head.fc7], 16, 7, torch.float32)
    proposals = grid(torch.tensor([90.0, 90, 110, 114]), (200, 200)).boxes
    assert len(proposals) == 11**4
    assert layers.from_level(paper_like(proposals), ENOUGH) is not None
    generator = torch.Generator().manual_seed(0)
    scattered = torch.rand(1000, 4, generator=generator) * 90
    scattered[:, 2:] += scattered[:, :2]
    assert layers.from_level(paper_like(scattered), ENOUGH) is None
    # A hundredth of the grid has nearly all of its intervals, but hardly any of their pairs.
    few = proposals[torch.randperm(len(proposals), generator=generator)[:146]]
    assert layers.from_level(paper_like(few), ENOUGH) is None


@precisions
@pytest.mark.parametrize("non_local", [False, True])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_conv_head_equals_the_module(dtype: torch.dtype, non_local: bool, blocks: int) -> None:
    head = conv_head(non_local, blocks)
    generator = torch.Generator().manual_seed(1)
    for count, side in ((1, 7), (9, 7), (3, 1), (4, 4)):
        roi_features = torch.randn(count, 8, side, side, dtype=torch.float64, generator=generator)
        layers = FastConv(head, side, dtype)
        block = roi_features.permute(0, 2, 3, 1).to(layers.pooled_dtype).contiguous()
        before = block.clone()
        found, expected = layers.from_features(block), hidden_of(head, roi_features)
        # Of three times 16 outputs of single cells one may be off by ten times as much.
        error = (found.double() - expected).square().mean().sqrt()
        assert error < ERRORS[dtype] / 4 * expected.square().mean().sqrt()
        # Other branches read the same block.
        assert torch.equal(block, before)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_one_class_of_a_predictor(agnostic: bool, first: int) -> None:
    """``first``: the place of the first class, after background or before it."""
    torch.manual_seed(3)
    classifier, regressor = nn.Linear(6, 5), nn.Linear(6, 4 if agnostic else 20)
    predictor = ClassPredictor(classifier, regressor, first, first)
    hidden = torch.randn(7, 6)
    for label in range(4):
        scores = classifier(hidden).softmax(-1)[:, label + first]
        deltas = regressor(hidden).view(7, -1, 4)[:, 0 if agnostic else label + first]
        torch.testing.assert_close(predictor.score(hidden, label)[:, 0], scores)
        torch.testing.assert_close(predictor.deltas(hidden, label), deltas)
