"""The two linear layers that end every head: class logits and class-specific box deltas."""

from __future__ import annotations

from torch import Tensor, nn


class BoxPredictor(nn.Module):
    """Linear classifier and linear box regressor over one vector per RoI.

    Background is class 0 (torchvision's order). Initialised as in the authors' code: weights from N(0, 0.01^2) for
    the logits and N(0, 0.001^2) for the deltas, biases zero.

    Args:
        in_features: width of the vector.
        num_classes: foreground classes K.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4 * (num_classes + 1))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, in_features) to logits (N, K + 1) and deltas (N, 4 (K + 1))."""
        return self.cls_score(x), self.bbox_pred(x)
