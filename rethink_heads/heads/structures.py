"""Head structures: which branches a detector has, what each is trained for, and who classifies and who regresses.

The structures are the rows of the paper's comparison of "which head does which task". They differ in this one table
only: backbone, RPN, sampling and schedule are a preset's, whatever the structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rethink_heads.config import ModelConfig
from rethink_heads.errors import UserError
from rethink_heads.heads.heads import ConvHead, FCHead

BRANCHES = ("fc", "fc2", "conv", "conv2")
FUSION_RULES = ("complementary", "max", "mean")


def fuse(fc_scores: Tensor, conv_scores: Tensor, rule: str = "complementary") -> Tensor:
    """Fuses two classifiers' probabilities of the same shape.

    ``complementary`` is the authors' rule: s = s_fc + s_conv (1 - s_fc) = 1 - (1 - s_fc)(1 - s_conv).

    Raises:
        ValueError: for a rule not in ``FUSION_RULES``.
    """
    if rule == "complementary":
        return fc_scores + conv_scores * (1 - fc_scores)
    if rule == "max":
        return torch.maximum(fc_scores, conv_scores)
    if rule == "mean":
        return (fc_scores + conv_scores) / 2
    raise ValueError(f"unknown fusion rule {rule!r}; the rules are {', '.join(FUSION_RULES)}")


@dataclass(frozen=True)
class HeadConfiguration:
    """Who classifies and who regresses: the branches whose scores are used, and the branch whose box is used."""

    classifiers: tuple[str, ...]
    regressor: str

    def scores(self, branch_scores: Mapping[str, Tensor], rule: str) -> Tensor:
        """Scores (N, K) of the head from each branch's probabilities (N, K)."""
        if len(self.classifiers) == 1:
            return branch_scores[self.classifiers[0]]
        fc, conv = (branch_scores[name] for name in self.classifiers)
        return fuse(fc, conv, rule)


HEAD_CONFIGURATIONS: Mapping[str, HeadConfiguration] = {
    "fc": HeadConfiguration(("fc",), "fc"),
    "conv": HeadConfiguration(("conv",), "conv"),
    "double": HeadConfiguration(("fc",), "conv"),
    "double-ext": HeadConfiguration(("fc", "conv"), "conv"),
    "double-reverse": HeadConfiguration(("conv",), "fc"),
    "double-fc": HeadConfiguration(("fc",), "fc2"),
    "double-conv": HeadConfiguration(("conv",), "conv2"),
}
"""By head: the authors' four configurations of a double head, of which a single head has one; then the other pairs'."""


TaskWeights: TypeAlias = Mapping[str, tuple[float, float]]
"""By branch: the weights of its classification and its regression loss. A loss of weight zero is not computed and its
layer not trained."""


@dataclass(frozen=True)
class Structure:
    """One row of the comparison.

    A branch's kind is its name without a trailing 2: ``fc2`` is a second fc-head. The task weights of a pair are the
    paper's four numbers, those of the fc-head for the first branch and those of the conv-head for the second.

    Attributes:
        branches: one branch, or the two of a pair.
        heads: what such a detector can be used as, of ``HEAD_CONFIGURATIONS``.
        l_fc, l_conv, w_fc, w_conv: the pair's task weights, where the settings give no others.
    """

    branches: tuple[str] | tuple[str, str]
    heads: tuple[str, ...]
    l_fc: float = 1.0
    l_conv: float = 1.0
    w_fc: float = 2.0
    w_conv: float = 2.5

    def weights(
        self,
        l_fc: float | None = None,
        l_conv: float | None = None,
        w_fc: float | None = None,
        w_conv: float | None = None,
    ) -> TaskWeights:
        """Task weights of the branches; None takes the structure's own number. A single head has 1 and 1.

        The paper's four numbers are L = w_fc L_fc + w_conv L_conv, where L_fc = l_fc L_cls + (1 - l_fc) L_reg and
        L_conv = (1 - l_conv) L_cls + l_conv L_reg.
        """
        if len(self.branches) == 1:
            return {self.branches[0]: (1.0, 1.0)}
        first, second = self.branches
        l_fc = self.l_fc if l_fc is None else l_fc
        l_conv = self.l_conv if l_conv is None else l_conv
        w_fc = self.w_fc if w_fc is None else w_fc
        w_conv = self.w_conv if w_conv is None else w_conv
        return {
            first: (w_fc * l_fc, w_fc * (1 - l_fc)),
            second: (w_conv * (1 - l_conv), w_conv * l_conv),
        }


STRUCTURES: Mapping[str, Structure] = {
    "fc": Structure(("fc",), ("fc",)),
    "conv": Structure(("conv",), ("conv",)),
    "double-fc": Structure(("fc", "fc2"), ("double-fc",)),
    "double-conv": Structure(("conv", "conv2"), ("double-conv",)),
    "double": Structure(("fc", "conv"), ("double",)),
    # The weights change places with the tasks: classification has 2.0 and regression 2.5 in every pair but the last.
    "double-reverse": Structure(("fc", "conv"), ("double-reverse",), 0.0, 0.0, 2.5, 2.0),
    "double-ext": Structure(("fc", "conv"), ("fc", "conv", "double", "double-ext"), 0.7, 0.8),
}
"""By name. The weights of ``double-ext`` are the authors', whose files have these four alone; those of ``double``
follow from w_fc and w_conv, which the four add up to, where each head has but its own task. The paper gives none for
the other pairs."""


def kind_of(branch: str) -> str:
    """``fc`` or ``conv``: the kind of a branch."""
    return branch.removesuffix("2")


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


def trained_heads(head: str, weights: TaskWeights) -> tuple[str, ...]:
    """The heads whose classifiers and regressor are all trained under the task weights.

    Raises:
        UserError: there is none.
    """
    trained = tuple(
        name
        for name in STRUCTURES[head].heads
        if all(weights[branch][0] for branch in HEAD_CONFIGURATIONS[name].classifiers)
        and weights[HEAD_CONFIGURATIONS[name].regressor][1]
    )
    if not trained:
        raise UserError(
            f"with these task weights nothing trains what head {head!r} is read from: give model.l_fc,"
            " model.l_conv, model.w_fc and model.w_conv so that a branch classifies and a branch regresses"
        )
    return trained


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
