"""What every head of a detector says of many boxes: the score and the regressed box of one class."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink_heads.detectors.base import Detector, Features, RoIFeatures

# Beyond this many RoIs at once nothing gets quicker. On a CPU, the hidden maps of more RoIs leave
# the cache: on two cores, 64 to 512 RoIs of the small presets and 64 to 128 of coco-r50 were the
# quickest.
MAX_CHUNK_CPU = 128
MAX_CHUNK = 2048
# A head's hidden maps are several times its RoI features: in a conv-head 1024 channels to 256, and
# some of them at once.
MEMORY_PER_ROI_FEATURE = 10


def chunk_size(roi_features: RoIFeatures, memory_mb: int) -> int:
    """RoIs to put through the heads at once under a memory bound.

    Args:
        roi_features: those of one box.
        memory_mb: bound on what the heads hold at once, in MiB.

    Returns:
        1 or more; at most `MAX_CHUNK`, on a CPU and without RoI features to judge by `MAX_CHUNK_CPU`.
    """
    size = sum(pooled[0].numel() * pooled.element_size() for pooled in roi_features.values())
    on_cpu = all(pooled.device.type == "cpu" for pooled in roi_features.values())
    most = MAX_CHUNK_CPU if on_cpu else MAX_CHUNK
    return max(1, min(most, memory_mb * 2**20 // max(1, size * MEMORY_PER_ROI_FEATURE)))


def respond(
    detector: Detector,
    features: Features,
    boxes: Tensor,
    label: int,
    memory_mb: int,
    precision: str = "float32",
) -> dict[str, tuple[Tensor, Tensor]]:
    """By head: scores (N,) and regressed boxes (N, 4) of class `label` for boxes (N, 4), on the CPU.

    Args:
        detector: whose heads are asked.
        features: of the image, from the detector's `extract`.
        boxes: xyxy, pixels of the original image.
        label: class index, 0..K-1.
        memory_mb: bound on what the heads hold at once, in MiB.
        precision: arithmetic of the heads, ``float32`` or ``bfloat16``.
    """
    boxes = boxes.to(detector.device)
    chunk = chunk_size(detector.pool(features, boxes[:1]), memory_mb)
    scores: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    regressed: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    for batch in boxes.split(chunk):
        outputs = detector.predict(features, detector.pool(features, batch), batch)
        for head in scores:
            # A copy, so that the other classes' outputs are freed.
            scores[head].append(outputs[head].scores[:, label].clone())
            regressed[head].append(outputs[head].boxes[:, label].clone())
    return {
        head: (torch.cat(scores[head]).cpu(), torch.cat(regressed[head]).cpu()) for head in scores
    }
