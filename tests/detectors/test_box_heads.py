from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.resnet import Bottleneck

from rethink_heads.detectors.box_heads import parts_of, pooled_size


class OwnHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4 * 9, 6)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features.flatten(1))


class ChangedMLP(TwoMLPHead):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(2, 3))


def conv(channels: int = 4) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 3, padding=1)


HEADS = {
    "two-mlp": ("fc", lambda: TwoMLPHead(4 * 9, 6)),
    "sequence-fc": ("fc", lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.ReLU())),
    "dropout-fc": ("fc", lambda: nn.Sequential(nn.Dropout(), nn.Flatten(1), nn.Linear(36, 6))),
    "no-convolutions": ("fc", lambda: FastRCNNConvFCHead((4, 3, 3), [], [6])),
    "conv-fc": ("conv-fc", lambda: FastRCNNConvFCHead((4, 3, 3), [5, 5], [6], nn.BatchNorm2d)),
    "conv-fc-bias": ("conv-fc", lambda: FastRCNNConvFCHead((4, 3, 3), [5], [6])),
    "map": ("conv", lambda: nn.Sequential(conv(), nn.ReLU())),
    "one-convolution": ("conv", conv),
    "averaged": ("conv", lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    "averaged-fc": (
        "conv",
        lambda: nn.Sequential(
            nn.Sequential(conv(), nn.ReLU()),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
            nn.Linear(4, 6),
        ),
    ),
    "flattened-map": ("conv", lambda: nn.Sequential(conv(), nn.Flatten())),
    "residual": ("conv", lambda: nn.Sequential(Bottleneck(4, 1), nn.AdaptiveAvgPool2d(1))),
    "own": ("box", OwnHead),
    "own-in-sequence": ("box", lambda: nn.Sequential(OwnHead(), nn.ReLU())),
    "changed": ("box", lambda: ChangedMLP(36, 6)),
    "relu-first": ("box", lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(36, 6))),
    "half-flat": ("box", lambda: nn.Sequential(nn.Flatten(2), nn.Linear(9, 6))),
    "nothing": ("box", nn.Identity),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_recognised_by_their_layers(name: str) -> None:
    kind, make = HEADS[name]
    head = make().eval()
    parts = parts_of(head, (3, 3))
    assert parts.kind == kind
    expected = {
        "fc": {"fc": (2, 6, 3, 3)},
        "conv": {"conv": (2, 4, 3, 3)},
        "conv-fc": {"conv": (2, 5, 3, 3), "fc": (2, 6, 3, 3)},
        "box": {},
    }[kind]
    features = torch.randn(2, 4, 3, 3)
    maps = parts.output_maps(features)
    if name in ("averaged", "residual"):
        torch.testing.assert_close(maps["conv"].mean((2, 3)), head(features).flatten(1))
    elif name in ("conv-fc", "conv-fc-bias"):
        # Its only fully connected layer, whose output the map adds up to.
        summed = maps["fc"].sum((2, 3)) + parts.first_layer.bias
        torch.testing.assert_close(summed.relu(), head(features))
    assert {part: tuple(found.shape) for part, found in maps.items()} == expected
    none = parts.output_maps(torch.zeros(0, 4, 3, 3))
    assert {part: (2, *found.shape[1:]) for part, found in none.items()} == expected
    assert all(len(found) == 0 for found in none.values())
    assert {part: tuple(found.shape) for part, found in parts.weight_maps().items()} == {
        "fc": {"fc": (24, 3, 3)},
        "conv-fc": {"fc": (30, 3, 3)},
    }.get(kind, {})


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 6),
    sides=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    width=st.integers(1, 8),
    boxes=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
def test_the_fc_map_sums_to_the_first_layer(
    channels: int, sides: tuple[int, int], width: int, boxes: int, seed: int
) -> None:
    torch.manual_seed(seed)
    first = nn.Linear(channels * sides[0] * sides[1], width, dtype=torch.float64)
    head = nn.Sequential(nn.Flatten(), first, nn.ReLU())
    features = torch.randn(boxes, channels, *sides, dtype=torch.float64)
    parts = parts_of(head, sides)
    (rebuilt,) = parts.output_maps(features).values()
    torch.testing.assert_close(rebuilt.sum((2, 3)) + first.bias, first(features.flatten(1)))
    (weights,) = parts.weight_maps().values()
    by_position = torch.einsum(
        "ncij,ocij->noij", features, weights.reshape(width, channels, *sides)
    )
    torch.testing.assert_close(rebuilt, by_position)


def test_a_layer_in_place_leaves_the_roi_features_as_they_were() -> None:
    head = nn.Sequential(nn.ReLU(inplace=True), conv())
    features = -torch.ones(1, 4, 3, 3)
    parts_of(head).output_maps(features)
    assert bool((features == -1).all())


def test_positions_of_the_weights_follow_strided_convolutions() -> None:
    head = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8 * 16, 6))
    parts = parts_of(head, (7, 7))
    assert parts.weight_maps()["fc"].shape == (48, 4, 4)
    assert parts.output_maps(torch.zeros(1, 4, 7, 7))["fc"].shape == (1, 6, 4, 4)


def test_weights_that_no_positions_fit_give_no_map() -> None:
    assert parts_of(TwoMLPHead(4 * 9, 6), (7, 7)).weight_maps() == {}
    head = nn.Sequential(conv(), nn.Flatten(), nn.Linear(4 * 6, 6))
    assert parts_of(head, (7, 7)).weight_maps() == {}


def test_a_map_of_one_position_is_none() -> None:
    head = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU())
    assert parts_of(head).output_maps(torch.zeros(2, 4, 3, 3)) == {}


@pytest.mark.parametrize("sides", [7, (7, 7), [7, 7]])
def test_a_pooler_says_one_number_of_positions_or_two(sides: object) -> None:
    pooler = nn.Identity()
    pooler.output_size = sides
    assert pooled_size(pooler) == (7, 7)
