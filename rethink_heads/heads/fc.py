"""fc-head: two fully connected layers over the flattened RoI features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rethink_heads.heads.predictor import BoxPredictor


class FCHead(nn.Module):
    """Two hidden layers, then the predictor (Wu et al.; torchvision's ``TwoMLPHead``).

    With the paper's sizes fc6 and fc7 hold 13.25 x 2^20 weights.

    Args:
        num_classes: foreground classes K.
        channels: channels C of the RoI features.
        resolution: side S of the RoI features, in cells.
        width: units of each hidden layer.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, resolution: int = 7, width: int = 1024
    ) -> None:
        super().__init__()
        self.channels, self.resolution, self.width = channels, resolution, width
        self.fc6 = nn.Linear(channels * resolution**2, width)
        self.fc7 = nn.Linear(width, width)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.predictor = BoxPredictor(width, num_classes)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, S, S) to logits (N, K + 1) and box deltas (N, 4 (K + 1))."""
        hidden = F.relu(self.fc7(F.relu(self.fc6(roi_features.flatten(1)))))
        return self.predictor(hidden)

    def weight_map(self) -> Tensor:
        """fc6's weights by RoI cell, (width, C, S, S)."""
        return self.fc6.weight.view(self.width, self.channels, self.resolution, self.resolution)

    def output_map(self, roi_features: Tensor) -> Tensor:
        """fc-head's output rebuilt by cell: (N, width, S, S), cell (i, j) holding W_ij x_ij.

        The sum over cells plus the bias is fc6's output before ReLU (Wu et al., Figure 4).
        """
        return torch.einsum("ncij,ocij->noij", roi_features, self.weight_map())
