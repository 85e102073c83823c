"""How a trained detector is read: which branch classifies, which regresses, and how two scores are fused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

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
class Reading:
    """One way to read a detector: the branches whose scores are used, and the branch whose box is used."""

    classifiers: tuple[str, ...]
    regressor: str

    def scores(self, branch_scores: Mapping[str, Tensor], rule: str) -> Tensor:
        """Scores (N, K) of this reading from each branch's probabilities (N, K)."""
        if len(self.classifiers) == 1:
            return branch_scores[self.classifiers[0]]
        fc, conv = (branch_scores[name] for name in self.classifiers)
        return fuse(fc, conv, rule)


READINGS: dict[str, Reading] = {
    "fc": Reading(("fc",), "fc"),
    "conv": Reading(("conv",), "conv"),
    "double": Reading(("fc",), "conv"),
    "double-ext": Reading(("fc", "conv"), "conv"),
    "double-reverse": Reading(("conv",), "fc"),
    "double-fc": Reading(("fc",), "fc2"),
    "double-conv": Reading(("conv",), "conv2"),
}
"""The authors' four ways to read a double head, of which a single head has one; then those of the other pairs."""
