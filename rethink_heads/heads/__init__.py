"""R-CNN box heads on RoI features: fc-head, conv-head, Double-Head, their losses and score fusion."""

from rethink_heads.heads.blocks import Bottleneck, NonLocal, WideningBlock
from rethink_heads.heads.conv import ConvHead
from rethink_heads.heads.double import BoxHeads, DoubleHead
from rethink_heads.heads.fc import FCHead
from rethink_heads.heads.fusion import FUSION_RULES, HEADS_OF, READINGS, Reading, fuse
from rethink_heads.heads.losses import TaskWeights, classification_loss, regression_loss
from rethink_heads.heads.predictor import BoxPredictor

__all__ = [
    "FUSION_RULES",
    "HEADS_OF",
    "READINGS",
    "Bottleneck",
    "BoxHeads",
    "BoxPredictor",
    "ConvHead",
    "DoubleHead",
    "FCHead",
    "NonLocal",
    "Reading",
    "TaskWeights",
    "WideningBlock",
    "classification_loss",
    "fuse",
    "regression_loss",
]
