"""The package's pooling as its heads take it: block by block, none of which is kept."""

from __future__ import annotations

import torch

from benchmarks.subjects import Subject
from rethink_heads.detectors.frames import ImageFeatures
from rethink_heads.detectors.pooling import STRIDES
from rethink_heads.detectors.probing import RCNNProber
from rethink_heads.measure.responses import Responder
from rethink_heads.probing.blocks import pooled_blocks
from rethink_heads.probing.embedding import MEBIBYTE, PyramidRoIs


@torch.inference_mode()
def exhaust_blocks(responder: Responder, features: ImageFeatures, subject: Subject) -> None:
    """Pool all of a subject's proposals for a detector's one branch, a block at a time."""
    prober = responder.prober
    assert isinstance(prober, RCNNProber)
    ((name, probe),) = prober.probes.items()
    roi_heads = prober.roi_heads
    resized = features.into_frame(subject.proposals)
    corners, levels = roi_heads.box_roi_pool.place(resized, roi_heads.enlargement.get(name, 1.0))
    rois = PyramidRoIs(
        [features.pyramid[level][0] for level in STRIDES],
        [1 / stride for stride in STRIDES.values()],
        corners,
        levels,
        prober.rule,
    )
    most = probe.most(corners.device, responder.memory_mb * MEBIBYTE)
    for _, level in rois.by_level(probe.pooled_dtype):
        for _ in pooled_blocks(level, most):
            pass
