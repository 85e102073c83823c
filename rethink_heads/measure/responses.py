"""What every head of a detector says of many boxes: the score and the regressed box of one class."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink_heads.detectors import answers
from rethink_heads.detectors.base import (
    Detector,
    FastPath,
    Features,
    RoIFeatures,
    SupportsFastPath,
)
from rethink_heads.fastpath.pooling import intervals

# Beyond this many RoIs at once nothing gets quicker. On a CPU, the hidden maps of more RoIs leave
# the cache: on two cores, 64 to 512 RoIs of the small presets and 64 to 128 of coco-r50 were the
# quickest.
MAX_CHUNK_CPU = 128
MAX_CHUNK = 2048
# A head's hidden maps are several times its RoI features: in a conv-head 1024 channels to 256, and
# some of them at once.
MEMORY_PER_ROI_FEATURE = 10

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


class Responder:
    """A detector's heads, made ready to be asked about many boxes of many objects.

    Args:
        detector: whose heads are asked. Its weights are copied where that makes it quicker: make a new Responder when
            they change.
        memory_mb: bound on what the heads hold at once, in MiB.
        precision: arithmetic of the heads, ``float32`` or ``bfloat16``. Where the detector has no way of its own to
            compute in it, autocast chooses what is.
    """

    def __init__(self, detector: Detector, memory_mb: int, precision: str = "float32") -> None:
        self.detector, self.memory_mb, self.precision = detector, memory_mb, precision
        self.fast_path: FastPath | None = None
        if isinstance(detector, SupportsFastPath):
            with torch.inference_mode():
                self.fast_path = detector.fast_path(DTYPES[precision])

    @torch.inference_mode()
    def extract(self, image: Tensor) -> Features:
        """Features of an image, uint8 RGB (3, H, W), equal to the detector's up to rounding."""
        image = image.to(self.detector.device)
        return (self.fast_path or self.detector).extract(image)

    @torch.inference_mode()
    def __call__(
        self, features: Features, boxes: Tensor, label: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and regressed boxes (N, 4) of class ``label`` for boxes (N, 4), on the CPU.

        Args:
            features: of the image, from the detector's `extract`.
            boxes: xyxy, pixels of the original image.
            label: class index, 0..K-1.
        """
        boxes = boxes.to(self.detector.device)
        if self.fast_path is None:
            return self._by_chunks(features, boxes, label)
        found = self.fast_path(features, boxes, label, self.memory_mb)
        for head, values in found.items():
            answers.check_finite(f"head {head!r} gave scores or boxes", *values)
        return {
            head: (scores.cpu(), regressed.cpu()) for head, (scores, regressed) in found.items()
        }

    def _by_chunks(
        self, features: Features, boxes: Tensor, label: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """All classes by `pool` and `predict`, as the Protocol has them, of some boxes at a time."""
        detector = self.detector
        chunk = chunk_size(detector.pool(features, boxes[:1]), self.memory_mb)
        # Boxes of the same left and right sides together: pooling by factors does them as one.
        order = torch.argsort(intervals(boxes[:, 0::2])[1], stable=True)
        scores: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
        regressed: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
        for batch in boxes[order].split(chunk):
            with autocast(detector.device, self.precision):
                pooled = detector.pool(features, batch)
                outputs = answers.predict(detector, features, pooled, batch)
            for head in scores:
                # A copy, so that the other classes' outputs are freed.
                scores[head].append(outputs[head].scores[:, label].float().clone())
                regressed[head].append(outputs[head].boxes[:, label].float().clone())
        back = torch.argsort(order).cpu()
        return {
            head: (torch.cat(scores[head]).cpu()[back], torch.cat(regressed[head]).cpu()[back])
            for head in scores
        }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which heads compute in ``precision``; float32 changes nothing."""
    return torch.autocast(device.type, DTYPES["bfloat16"], enabled=precision == "bfloat16")


def respond(
    detector: Detector,
    features: Features,
    boxes: Tensor,
    label: int,
    memory_mb: int,
    precision: str = "float32",
) -> dict[str, tuple[Tensor, Tensor]]:
    """What a :class:`Responder` made for this one call answers."""
    return Responder(detector, memory_mb, precision)(features, boxes, label)
