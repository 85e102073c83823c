from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rethink_heads.bounds import HEAD_ALIASES, HEADS
from rethink_heads.heads import BoxPredictor, ConvHead, FCHead, NonLocal, regression_loss
from rethink_heads.structures import FUSION_RULES, HEAD_CONFIGURATIONS, STRUCTURES, fuse
from tests.heads import reference

M = 2**20


def convolution_weights(module: nn.Module) -> int:
    """Weights of linear and convolution layers, biases and normalisation aside."""
    return sum(
        layer.weight.numel()
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    )


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and evaluation mode, with normalisation that does something."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
            ):
                drawn = torch.rand(value.shape, generator=generator) * (high - low) + low
                value.data.copy_(drawn)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            drawn = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.data.copy_(drawn / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                layer.bias.data.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.1)
    return module.double().eval()


def roi_features(count: int, channels: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)


def test_fc_head_holds_the_papers_weights() -> None:
    head = FCHead(80)
    assert convolution_weights(head.fc6) + convolution_weights(head.fc7) == 13.25 * M


@pytest.mark.parametrize("blocks", [0, 1, 4])
@pytest.mark.parametrize("non_local", [False, True])
def test_conv_head_grows_by_block(blocks: int, non_local: bool) -> None:
    head = ConvHead(80, blocks=blocks, non_local=non_local)
    expected = 1.0625 * M + blocks * (1.0625 * M + 2 * M * non_local)
    assert convolution_weights(head.blocks) == expected


def test_predictor_sizes_and_initialisation() -> None:
    torch.manual_seed(0)
    predictor = BoxPredictor(1024, 80)
    assert predictor.cls_score.weight.shape == (81, 1024)
    assert predictor.bbox_pred.weight.shape == (4 * 81, 1024)
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not predictor.cls_score.bias.any()
    assert not predictor.bbox_pred.bias.any()


@pytest.mark.parametrize("non_local", [False, True])
def test_conv_head_equals_the_reference(non_local: bool) -> None:
    head = ConvHead(
        3, channels=4, width=8, bottleneck=3, blocks=2, non_local=non_local, non_local_groups=2
    )
    randomised(head)
    x = roi_features(2, 4, 5)
    weights = reference.arrays(head)
    expected = reference.residual_block(x.numpy(), weights, "blocks.0")
    position = 1
    for _ in range(2):
        if non_local:
            expected = reference.non_local(expected, weights, f"blocks.{position}", groups=2)
            position += 1
        expected = reference.bottleneck(expected, weights, f"blocks.{position}")
        position += 1
    np.testing.assert_allclose(head.output_map(x).detach(), expected, atol=1e-12)
    mean = expected.mean((2, 3))
    logits, deltas = head(x)
    for found, name in ((logits, "cls_score"), (deltas, "bbox_pred")):
        wanted = reference.linear(mean, weights, f"predictor.{name}")
        np.testing.assert_allclose(found.detach(), wanted, atol=1e-12)


def test_new_non_local_block_is_relu_of_the_identity() -> None:
    block = NonLocal(8, 4, 2).eval()
    x = torch.randn(3, 8, 7, 7)
    torch.testing.assert_close(block(x), x.relu())
    assert block(x[:0]).shape == (0, 8, 7, 7)


def test_non_local_groups_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="not divisible by 3 groups"):
        NonLocal(8, 4, 3)


def test_rebuilt_fc_output_sums_to_fc6() -> None:
    """Over cells, W_ij x_ij adds up to fc6's output without its bias (paper Figure 4)."""
    head = randomised(FCHead(3, channels=5, resolution=7, width=11))
    x = roi_features(4, 5, 7)
    rebuilt = head.output_map(x)
    assert rebuilt.shape == (4, 11, 7, 7)
    torch.testing.assert_close(rebuilt.sum((2, 3)), head.fc6(x.flatten(1)) - head.fc6.bias)
    weights = reference.arrays(head)["fc6.weight"].reshape(11, 5, 7, 7)
    cell = weights[:, :, 2, 6] @ x[1, :, 2, 6].numpy()
    np.testing.assert_allclose(rebuilt[1, :, 2, 6].detach(), cell, atol=1e-12)


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
