"""The predictor of a head for one class: its probability among all classes, and its box deltas alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

COORDINATES = 4


@dataclass(frozen=True)
class ClassPredictor:
    """Classifier and box regressor over one vector per RoI, asked about one class.

    Attributes:
        classifier: to logits of all classes, background among them.
        regressor: to 4 deltas for each class, or for all classes alike.
        logit_shift: place of class 0 among the logits: 1 where background is first.
        delta_shift: place of class 0 among the boxes, likewise.
    """

    classifier: nn.Linear
    regressor: nn.Linear
    logit_shift: int = 1
    delta_shift: int = 1

    def score(self, hidden: Tensor, label: int) -> Tensor:
        """Probability (N, 1) of class ``label`` for hidden vectors (N, width)."""
        with record_function("predict"):
            # In the weights' own type: rounded logits would make steps in the scores.
            weight, bias = self.classifier.weight, self.classifier.bias
            logits = F.linear(hidden.to(weight.dtype), weight, bias)
            return logits.softmax(-1)[:, label + self.logit_shift, None]

    def deltas(self, hidden: Tensor, label: int) -> Tensor:
        """Box deltas (N, 4) of class ``label`` for hidden vectors (N, width)."""
        with record_function("predict"):
            weight, bias = self.regressor.weight, self.regressor.bias
            first = COORDINATES * (label + self.delta_shift)
            if len(weight) == COORDINATES:
                first = 0
            rows = slice(first, first + COORDINATES)
            return F.linear(
                hidden.to(weight.dtype), weight[rows], None if bias is None else bias[rows]
            )
