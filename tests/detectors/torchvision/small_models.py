"""Small live detectors of torchvision, as users put them together from their own parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

CLASSES = ("a", "b", "c")
CHANNELS, CELLS, WIDTH = 8, 5, 16


class OneLevel(nn.Sequential):
    """A backbone with one level, of stride 8, which it gives as a tensor."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, CHANNELS, 5, 4, 2), nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)
        )
        self.out_channels = CHANNELS


class RowsHead(nn.Module):
    """A box head of no kind that is known: the most of each row of cells, and one layer in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(CHANNELS * CELLS, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features.relu_().amax(3).flatten(1)).tanh()


class OwnPredictor(nn.Module):
    """A predictor that does not say how many classes it has."""

    def __init__(self, outputs: int = len(CLASSES) + 1, boxes: int = len(CLASSES) + 1) -> None:
        super().__init__()
        self.both = nn.Linear(WIDTH, outputs + 4 * boxes)
        self.outputs = outputs
        nn.init.normal_(self.both.weight, std=1.0)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        both = self.both(hidden)
        return both[:, : self.outputs], both[:, self.outputs :]


def small_model(
    box_head: nn.Module | None = None, predictor: nn.Module | None = None
) -> FasterRCNN:
    """A detector whose scores and boxes differ from class to class and box to box."""
    torch.manual_seed(0)
    return FasterRCNN(
        OneLevel(),
        min_size=96,
        max_size=160,
        rpn_anchor_generator=AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        rpn_post_nms_top_n_test=200,
        box_roi_pool=MultiScaleRoIAlign(["0"], CELLS, 2),
        box_head=RowsHead() if box_head is None else box_head,
        box_predictor=OwnPredictor() if predictor is None else predictor,
    )
