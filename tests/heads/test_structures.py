from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.bounds import HEAD_ALIASES, HEADS
from rethink_heads.heads import (
    BRANCHES,
    FUSION_RULES,
    HEAD_CONFIGURATIONS,
    STRUCTURES,
    BoxHeads,
    ConvHead,
    FCHead,
    fuse,
    kind_of,
    regression_loss,
)

probabilities = st.lists(
    st.tuples(*[st.floats(0, 1, allow_subnormal=False)] * 2), min_size=1, max_size=8
)


def double_head(l_fc: float = 0.7, l_conv: float = 0.8) -> BoxHeads:
    torch.manual_seed(0)
    fc = FCHead(3, channels=4, resolution=3, width=6)
    conv = ConvHead(3, channels=4, width=6, bottleneck=2, blocks=1)
    weights = STRUCTURES["double-ext"].weights(l_fc, l_conv)
    return BoxHeads({"fc": fc, "conv": conv}, weights)


def test_double_head_ext_weights_are_the_papers() -> None:
    weights = STRUCTURES["double-ext"].weights()
    assert weights["fc"] == pytest.approx((1.4, 0.6))
    assert weights["conv"] == pytest.approx((0.5, 2.0))


def test_no_positive_roi_gives_no_regression_loss() -> None:
    deltas = torch.randn(5, 16, requires_grad=True)
    loss = regression_loss(deltas, torch.zeros(5, dtype=torch.long), torch.randn(5, 4))
    loss.backward()
    assert loss.item() == 0
    assert not deltas.grad.any()  # type: ignore[union-attr]


def test_double_head_trains_only_focused_tasks() -> None:
    """l_fc = l_conv = 1: no loss, and so no gradient, for fc's boxes and conv's classes."""
    heads = double_head(l_fc=1.0, l_conv=1.0)
    features = {name: torch.randn(6, 4, 3, 3) for name in ("fc", "conv")}
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    losses = heads.losses(heads(features), labels, torch.randn(6, 4))
    assert set(losses) == {"fc_classification", "conv_regression"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    untrained = {name for name, p in heads.named_parameters() if p.grad is None}
    assert untrained == {
        f"{layer}.{kind}"
        for layer in ("fc.predictor.bbox_pred", "conv.predictor.cls_score")
        for kind in ("weight", "bias")
    }
    assert not any(dict(heads.named_parameters())[name].requires_grad for name in untrained)


@given(probabilities)
def test_fusion_of_two_scores(pairs: list[tuple[float, float]]) -> None:
    fc, conv = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    expected = {
        "complementary": 1 - (1 - fc) * (1 - conv),
        "max": torch.maximum(fc, conv),
        "mean": (fc + conv) / 2,
    }
    assert set(expected) == set(FUSION_RULES)
    for rule, scores in expected.items():
        torch.testing.assert_close(fuse(fc, conv, rule), scores)
    with pytest.raises(ValueError, match="unknown fusion rule 'min'"):
        fuse(fc, conv, "min")


def test_heads_take_scores_and_boxes_from_the_papers_branches() -> None:
    assert {name: (h.classifiers, h.regressor) for name, h in HEAD_CONFIGURATIONS.items()} == {
        "fc": (("fc",), "fc"),
        "conv": (("conv",), "conv"),
        "double": (("fc",), "conv"),
        "double-ext": (("fc", "conv"), "conv"),
        "double-reverse": (("conv",), "fc"),
        "double-fc": (("fc",), "fc2"),
        "double-conv": (("conv",), "conv2"),
    }
    assert STRUCTURES["double"].heads == ("double",)
    assert STRUCTURES["double-ext"].heads == ("fc", "conv", "double", "double-ext")
    scores = {"fc": torch.tensor([0.5]), "conv": torch.tensor([0.4])}
    double, ext = (HEAD_CONFIGURATIONS[name] for name in ("double", "double-ext"))
    assert double.scores(scores, "complementary").item() == 0.5
    assert ext.scores(scores, "complementary").item() == pytest.approx(0.7)


def test_settings_know_the_structures() -> None:
    assert set(HEADS) == set(STRUCTURES)
    assert set(HEAD_ALIASES.values()) <= set(STRUCTURES)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_trains_what_its_heads_use(name: str) -> None:
    structure = STRUCTURES[name]
    weights = structure.weights()
    heads = [HEAD_CONFIGURATIONS[head] for head in structure.heads]
    for head in heads:
        assert all(weights[branch][0] > 0 for branch in head.classifiers)
        assert weights[head.regressor][1] > 0
    used = {branch for head in heads for branch in (*head.classifiers, head.regressor)}
    assert used == set(structure.branches) <= set(BRANCHES)
    assert {kind_of(branch) for branch in used} <= {"fc", "conv"}


@pytest.mark.parametrize("name", ["double-fc", "double-conv", "double", "double-reverse"])
def test_pairs_weigh_the_tasks_alike(name: str) -> None:
    """So that they differ only in which branch does which."""
    weights = STRUCTURES[name].weights()
    pairs = [weights[branch] for branch in STRUCTURES[name].branches]
    assert sorted(pairs) == [(0.0, 2.5), (2.0, 0.0)]


@given(l_fc=st.floats(0, 1), l_conv=st.floats(0, 1), w_fc=st.floats(0, 10), w_conv=st.floats(0, 10))
def test_weights_follow_the_papers_formula(
    l_fc: float, l_conv: float, w_fc: float, w_conv: float
) -> None:
    weights = STRUCTURES["double-ext"].weights(l_fc, l_conv, w_fc, w_conv)
    assert weights["fc"] == (w_fc * l_fc, w_fc * (1 - l_fc))
    assert weights["conv"] == (w_conv * (1 - l_conv), w_conv * l_conv)
    assert sum(weights["fc"]) == pytest.approx(w_fc)
    assert sum(weights["conv"]) == pytest.approx(w_conv)
