"""Head structures: which branches a detector has, what each is trained for, and how it is read.

The structures are the rows of the paper's comparison of "which head does which task". They differ in this one table
only: backbone, RPN, sampling and schedule are a preset's, whatever the structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rethink_heads.heads.losses import TaskWeights


@dataclass(frozen=True)
class Structure:
    """One row of the comparison.

    A branch's kind is its name without a trailing 2: ``fc2`` is a second fc-head. The task weights of a pair are the
    paper's four numbers, those of the fc-head for the first branch and those of the conv-head for the second: of the
    first branch's loss, weighted ``w_fc``, the share ``l_fc`` is classification; of the second's, weighted ``w_conv``,
    the share ``l_conv`` is regression.

    Attributes:
        branches: one branch, or the two of a pair.
        readings: what such a detector can be read as (:data:`rethink_heads.heads.READINGS`).
        l_fc, l_conv, w_fc, w_conv: the pair's task weights, where the settings give no others.
    """

    branches: tuple[str] | tuple[str, str]
    readings: tuple[str, ...]
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
        """Task weights of the branches; None takes the structure's own number. A single head has 1 and 1."""
        if len(self.branches) == 1:
            return TaskWeights({self.branches[0]: (1.0, 1.0)})
        first, second = self.branches
        return TaskWeights.double(
            self.l_fc if l_fc is None else l_fc,
            self.l_conv if l_conv is None else l_conv,
            self.w_fc if w_fc is None else w_fc,
            self.w_conv if w_conv is None else w_conv,
            branches=(first, second),
        )


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
