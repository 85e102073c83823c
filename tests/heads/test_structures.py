from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.bounds import HEAD_ALIASES, HEADS
from rethink_heads.heads import FUSION_RULES, HEAD_CONFIGURATIONS, STRUCTURES, fuse, regression_loss

probabilities = st.lists(
    st.tuples(*[st.floats(0, 1, allow_subnormal=False)] * 2), min_size=1, max_size=8
)


def test_no_positive_roi_gives_no_regression_loss() -> None:
    deltas = torch.randn(5, 16, requires_grad=True)
    loss = regression_loss(deltas, torch.zeros(5, dtype=torch.long), torch.randn(5, 4))
    loss.backward()
    assert loss.item() == 0
    assert not deltas.grad.any()  # type: ignore[union-attr]


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


@given(l_fc=st.floats(0, 1), l_conv=st.floats(0, 1), w_fc=st.floats(0, 10), w_conv=st.floats(0, 10))
def test_weights_follow_the_papers_formula(
    l_fc: float, l_conv: float, w_fc: float, w_conv: float
) -> None:
    weights = STRUCTURES["double-ext"].weights(l_fc, l_conv, w_fc, w_conv)
    assert weights["fc"] == (w_fc * l_fc, w_fc * (1 - l_fc))
    assert weights["conv"] == (w_conv * (1 - l_conv), w_conv * l_conv)
    assert sum(weights["fc"]) == pytest.approx(w_fc)
    assert sum(weights["conv"]) == pytest.approx(w_conv)
