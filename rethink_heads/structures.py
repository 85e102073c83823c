"""Head structures: which branches a detector has, what each is trained for, and who classifies and who regresses.

The structures are the rows of the paper's comparison of "which head does which task". They differ in this one table
only: backbone, RPN, sampling and schedule are a preset's, whatever the structure.

Nothing here needs torch, so that tables of heads can be made without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rethink_heads.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

BRANCHES = ("fc", "fc2", "conv", "conv2")
FUSION_RULES = ("complementary", "max", "mean")


def fuse(fc_scores: Tensor, conv_scores: Tensor, rule: str = "complementary") -> Tensor:
    """Fuses two classifiers' probabilities of the same shape.

    ``complementary`` is the authors' rule: s = s_fc + s_conv (1 - s_fc) = 1 - (1 - s_fc)(1 - s_conv).
    Raises ValueError for a rule not in ``FUSION_RULES``.
    """
    if rule == "complementary":
        return fc_scores + conv_scores * (1 - fc_scores)
    if rule == "max":
        return fc_scores.maximum(conv_scores)
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


def trained_heads(head: str, weights: TaskWeights) -> tuple[str, ...]:
    """The heads whose classifiers and regressor are all trained under the task weights.
    Raises UserError where there is none.
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
