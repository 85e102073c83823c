"""R-CNN box heads on RoI features: fc-head, conv-head, Double-Head, their losses and score fusion."""

from rethink_heads.heads.branches import BoxHeads, build_heads, enlargements, regression_loss
from rethink_heads.heads.heads import (
    Bottleneck,
    BoxPredictor,
    ConvHead,
    FCHead,
    NonLocal,
    ResidualBlock,
)
from rethink_heads.structures import (
    BRANCHES,
    FUSION_RULES,
    HEAD_CONFIGURATIONS,
    STRUCTURES,
    HeadConfiguration,
    Structure,
    TaskWeights,
    fuse,
    kind_of,
    trained_heads,
)

__all__ = [
    "BRANCHES",
    "FUSION_RULES",
    "HEAD_CONFIGURATIONS",
    "STRUCTURES",
    "Bottleneck",
    "BoxHeads",
    "BoxPredictor",
    "ConvHead",
    "FCHead",
    "HeadConfiguration",
    "NonLocal",
    "ResidualBlock",
    "Structure",
    "TaskWeights",
    "build_heads",
    "enlargements",
    "fuse",
    "kind_of",
    "regression_loss",
    "trained_heads",
]
