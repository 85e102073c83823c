"""A tiny detector of this package's own, as if trained."""

from __future__ import annotations

import torch
from torch import nn

from rethink_heads.config import Config, ModelConfig
from rethink_heads.detectors.random_weights import spread_outputs
from rethink_heads.detectors.rcnn import RCNN, build_detector

CLASSES = ("a", "b", "c")
SMALL = {
    "backbone": "tiny",
    "pretrained": False,
    "norm": "batch",
    "fpn_channels": 8,
    "fc_width": 16,
    "conv_width": 16,
    "conv_bottleneck": 8,
    "conv_blocks": 1,
    "min_size": 96,
    "max_size": 128,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "non_local_groups": 2,
}


def small_detector(head: str, **model: object) -> RCNN:
    """A tiny detector as if trained: nothing in it is zero or one, and scores and boxes differ from box to box."""
    torch.manual_seed(0)
    detector = build_detector(
        Config(preset="test", head=head, model=ModelConfig.model_validate(SMALL | model)),
        CLASSES,
    )
    for module in detector.roi_heads.heads.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Conv2d) and not module.weight.any():
            # What ends a non-local block, which starts as the identity.
            nn.init.normal_(module.weight, std=0.1)
    detector.eval()
    spreads = {"cls_score": 1.2, "bbox_pred": 0.5}
    spread_outputs(
        detector,
        detector,
        {
            f"roi_heads.heads.{branch}.predictor.{layer}": spread
            for branch in detector.branches
            for layer, spread in spreads.items()
        },
    )
    return detector
