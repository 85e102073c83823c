"""The package's pooling as its heads take it: block by block, none of which is kept."""

from __future__ import annotations

import torch

from benchmarks.subjects import Subject
from rethink_heads.detectors.coordinates import ImageFeatures
from rethink_heads.fastpath.heads import MEBIBYTE, HeadsFastPath
from rethink_heads.fastpath.pooling import pool_blocks
from rethink_heads.measure.responses import Responder


@torch.inference_mode()
def exhaust_blocks(responder: Responder, features: ImageFeatures, subject: Subject) -> None:
    """Pool all of a subject's proposals for a detector's one branch, a block at a time."""
    fast_path = responder.fast_path
    assert isinstance(fast_path, HeadsFastPath)
    ((place, branches),) = fast_path.places
    (layers,) = branches.values()
    rois = place(features, fast_path.to_resized(features, subject.proposals))
    most = layers.batch_size(rois.rois.device, responder.memory_mb * MEBIBYTE)
    for _, level in rois.by_level(layers.pooled_dtype):
        for _ in pool_blocks(level, most):
            pass
