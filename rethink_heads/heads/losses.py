"""Detection losses of one head and their weights in a double head (Wu et al. and the authors' code)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TaskWeights:
    """Weight of each branch's two losses; a loss of weight zero is not computed and its layer not trained.

    Attributes:
        by_branch: (classification, regression) weights by branch.
    """

    by_branch: Mapping[str, tuple[float, float]]

    @classmethod
    def double(
        cls,
        l_fc: float,
        l_conv: float,
        w_fc: float,
        w_conv: float,
        branches: tuple[str, str] = ("fc", "conv"),
    ) -> TaskWeights:
        """The paper's four numbers: L = w_fc L_fc + w_conv L_conv, where
        L_fc = l_fc L_cls + (1 - l_fc) L_reg and L_conv = (1 - l_conv) L_cls + l_conv L_reg."""
        first, second = branches
        return cls(
            {
                first: (w_fc * l_fc, w_fc * (1 - l_fc)),
                second: (w_conv * (1 - l_conv), w_conv * l_conv),
            }
        )

    def of(self, branch: str) -> tuple[float, float]:
        """Weights of the branch's classification and regression loss."""
        return self.by_branch.get(branch, (0.0, 0.0))


def classification_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy, averaged over the sampled RoIs.

    Args:
        class_logits: (N, K + 1), background first.
        labels: (N,), 0 for background, 1..K for objects.
    """
    return F.cross_entropy(class_logits, labels)


def regression_loss(
    box_deltas: Tensor, labels: Tensor, target_deltas: Tensor, beta: float = 1.0
) -> Tensor:
    """Smooth L1 of the true class's deltas, summed over positives and divided by all sampled RoIs.

    Args:
        box_deltas: (N, 4 (K + 1)).
        labels: (N,), 0 for background.
        target_deltas: (N, 4), encoded with the detector's box coder.
        beta: where smooth L1 turns from quadratic to linear; 1 in the authors' code, 1/9 in torchvision.
    """
    positive = torch.where(labels > 0)[0]
    deltas = box_deltas.reshape(len(labels), -1, 4)[positive, labels[positive]]
    loss = F.smooth_l1_loss(deltas, target_deltas[positive], beta=beta, reduction="sum")
    return loss / labels.numel()
