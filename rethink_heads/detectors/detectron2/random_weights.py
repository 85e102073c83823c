"""Random weights for detectron2's detectors: which of its layers are spread, and how far."""

from __future__ import annotations

from rethink_heads.detectors import random_weights
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector

SPREADS = {"cls_score": 2.0, "bbox_pred": 0.5, "objectness_logits": 2.0, "anchor_deltas": 0.3}
"""Standard deviation over boxes that the outputs of a layer of that name are brought to."""


def spread_outputs(detector: Detectron2Detector) -> None:
    """Have an untrained detector's outputs differ from box to box (:func:`.random_weights.spread_outputs`)."""
    spreads = {
        name: SPREADS[last]
        for name, _ in detector.model.named_modules()
        if (last := name.rpartition(".")[2]) in SPREADS
    }
    random_weights.spread_outputs(detector, detector.model, spreads)
