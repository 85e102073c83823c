"""The branches of a detector, by its structure, and their losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rethink_heads.config import ModelConfig
from rethink_heads.heads.heads import ConvHead, FCHead
from rethink_heads.structures import BRANCHES, STRUCTURES, TaskWeights, kind_of


class BoxHeads(nn.ModuleDict):
    """The branches of a detector by name (one or two of ``BRANCHES``), each on RoI features of its own.

    A single fc- or conv-head has one branch; Double-Head has one of each kind (Wu et al.). Layers that no loss
    of nonzero weight reaches are frozen, so that no gradient, momentum or weight decay moves them.

    Args:
        branches: modules that map (N, C, S, S) to logits (N, K + 1) and deltas (N, 4 (K + 1)).
        weights: each branch's loss weights.
        beta: smooth L1's turning point.
    """

    def __init__(
        self, branches: Mapping[str, FCHead | ConvHead], weights: TaskWeights, beta: float = 1.0
    ) -> None:
        super().__init__(dict(branches))
        self.weights, self.beta = weights, beta
        for name, branch in branches.items():
            cls_weight, reg_weight = weights[name]
            branch.predictor.cls_score.requires_grad_(cls_weight != 0)
            branch.predictor.bbox_pred.requires_grad_(reg_weight != 0)
            if not (cls_weight or reg_weight):
                branch.requires_grad_(False)

    @property
    def names(self) -> tuple[str, ...]:
        """The branches that are there, in the order of ``BRANCHES``."""
        return tuple(name for name in BRANCHES if name in self)

    def branch(self, name: str) -> FCHead | ConvHead:
        """The branch of that name."""
        module = self[name]
        assert isinstance(module, FCHead | ConvHead)
        return module

    def forward(self, roi_features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits (N, K + 1) and deltas (N, 4 (K + 1)) by branch, from its RoI features (N, C, S, S)."""
        return {name: self[name](roi_features[name]) for name in self.names}

    def losses(
        self,
        outputs: Mapping[str, tuple[Tensor, Tensor]],
        labels: Tensor,
        target_deltas: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted losses, named ``<branch>_classification`` (softmax cross-entropy) and ``<branch>_regression``.

        Args:
            outputs: of ``forward`` for the N sampled RoIs.
            labels: (N,), 0 for background.
            target_deltas: (N, 4).
        """
        losses: dict[str, Tensor] = {}
        for name, (logits, deltas) in outputs.items():
            cls_weight, reg_weight = self.weights[name]
            if cls_weight:
                loss = F.cross_entropy(logits.float(), labels)
                losses[f"{name}_classification"] = cls_weight * loss
            if reg_weight:
                loss = regression_loss(deltas.float(), labels, target_deltas, self.beta)
                losses[f"{name}_regression"] = reg_weight * loss
        return losses


def build_heads(model: ModelConfig, head: str, classes: int) -> BoxHeads:
    """Untrained branches of a head of ``STRUCTURES`` for K foreground classes, with their losses."""
    structure = STRUCTURES[head]
    branches: dict[str, FCHead | ConvHead] = {}
    for name in structure.branches:
        if kind_of(name) == "fc":
            branches[name] = FCHead(
                classes, model.fpn_channels, model.roi_resolution, model.fc_width
            )
        else:
            branches[name] = ConvHead(
                classes,
                model.fpn_channels,
                model.conv_width,
                model.conv_bottleneck,
                model.conv_blocks,
                model.non_local,
                model.non_local_groups,
            )
    weights = structure.weights(model.l_fc, model.l_conv, model.w_fc, model.w_conv)
    return BoxHeads(branches, weights, model.smooth_l1_beta)


def enlargements(model: ModelConfig) -> dict[str, float]:
    """By branch: the factor by which an RoI grows about its centre before pooling, where there is one."""
    return {"conv": model.conv_enlargement, "conv2": model.conv_enlargement}


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
