"""The baseline: what one would write with torchvision to put an object's proposals through a head.

Of every proposal it gives the score and the regressed box of the object's class, and the IoUs of proposal and regressed
box with the object. It is the obvious code (``MultiScaleRoIAlign``, the head, softmax, ``BoxCoder``, ``box_iou``) and
an honest one: only the object's class is decoded (the last layer gives all classes' deltas, as one would write it), it
runs in inference mode, and its chunk size and its number of threads are the best of those that were tried. It has
nothing of ``rethink_heads`` but a detector's weights, as plain modules in their own layout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, box_iou, clip_boxes_to_image

LEVELS = ["0", "1", "2", "3"]
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CHUNKS = (64, 128, 256, 512, 1024)
"""RoIs at once that are tried: the best is among the middle ones on every machine so far."""

TRIED_PROPOSALS = 1024


class Pyramid(NamedTuple):
    """One image's features and its sizes (height, width), resized and original."""

    levels: dict[str, Tensor]
    size: tuple[int, int]
    original_size: tuple[int, int]


class Answer(NamedTuple):
    """Of N proposals: scores (N,), regressed boxes (N, 4) in the image's pixels, IoUs (N,) before and after."""

    scores: Tensor
    boxes: Tensor
    ious: Tensor
    regressed_ious: Tensor


@dataclass(frozen=True)
class Baseline:
    """A detector's weights in plain torchvision code.

    Attributes:
        transform: torchvision's, with the detector's sizes.
        backbone: image (1, 3, H, W) to the pyramid.
        head: RoI features (N, C, 7, 7) to logits (N, K + 1), background first, and deltas (N, 4 (K + 1)).
        enlargement: of the RoIs about their centres, 1.3 for a conv-head (authors' code).
        chunk: RoIs that are put through the head at once.
        threads: of torch's operators.
    """

    transform: GeneralizedRCNNTransform
    backbone: nn.Module
    head: nn.Module
    enlargement: float
    pooler: MultiScaleRoIAlign
    coder: BoxCoder
    chunk: int = 256
    threads: int = 1

    @classmethod
    def of(
        cls,
        backbone: nn.Module,
        head: nn.Module,
        enlargement: float,
        sizes: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> Baseline:
        """The baseline of a backbone and a head; ``sizes`` are the least and the most side of a resized image."""
        return cls(
            GeneralizedRCNNTransform(*sizes, list(mean), list(std)).eval(),
            backbone,
            head,
            enlargement,
            MultiScaleRoIAlign(LEVELS, 7, 2),
            BoxCoder(DELTA_WEIGHTS),
            threads=torch.get_num_threads(),
        )

    @torch.inference_mode()
    def extract(self, image: Tensor) -> Pyramid:
        """Features of a uint8 RGB image (3, H, W)."""
        dtype = next(self.backbone.parameters()).dtype
        batch, _ = self.transform([image.to(dtype) / 255])
        levels = self.backbone(batch.tensors)
        height, width = image.shape[-2:]
        return Pyramid(levels, batch.image_sizes[0], (height, width))

    @torch.inference_mode()
    def respond(self, pyramid: Pyramid, proposals: Tensor, box: Tensor, label: int) -> Answer:
        """What the head makes of an object's proposals (N, 4), in the image's pixels.

        Args:
            pyramid: of the image.
            proposals: xyxy.
            box: (4,) the object's own.
            label: the object's class, 0..K-1.
        """
        with using_threads(self.threads):
            parts = [self._respond(pyramid, part, label) for part in proposals.split(self.chunk)]
            scores, regressed = (torch.cat(values) for values in zip(*parts, strict=True))
            target = box[None]
            return Answer(
                scores,
                regressed,
                box_iou(proposals, target)[:, 0],
                box_iou(regressed, target)[:, 0],
            )

    def _respond(self, pyramid: Pyramid, proposals: Tensor, label: int) -> tuple[Tensor, Tensor]:
        scale = self._scale(pyramid, proposals)
        rois = proposals * scale
        logits, deltas = self.head(self._pool(pyramid, rois))
        scores = logits.softmax(-1)[:, label + 1]
        chosen = deltas[:, 4 * (label + 1) : 4 * (label + 2)]
        regressed = self.coder.decode_single(chosen, rois)
        return scores, clip_boxes_to_image(regressed, pyramid.size) / scale

    @torch.inference_mode()
    def pool(self, pyramid: Pyramid, proposals: Tensor) -> Iterator[Tensor]:
        """RoI features (n, C, 7, 7) of proposals (N, 4), a chunk at a time."""
        scale = self._scale(pyramid, proposals)
        for part in proposals.split(self.chunk):
            yield self._pool(pyramid, part * scale)

    def _pool(self, pyramid: Pyramid, rois: Tensor) -> Tensor:
        return self.pooler(pyramid.levels, [self._enlarged(rois)], [pyramid.size])

    def _enlarged(self, rois: Tensor) -> Tensor:
        if self.enlargement == 1:
            return rois
        centre, size = (rois[:, :2] + rois[:, 2:]) / 2, rois[:, 2:] - rois[:, :2]
        half = size * (self.enlargement / 2)
        return torch.cat([centre - half, centre + half], dim=1)

    def _scale(self, pyramid: Pyramid, like: Tensor) -> Tensor:
        (height, width), (original_height, original_width) = pyramid.size, pyramid.original_size
        x, y = width / original_width, height / original_height
        return like.new_tensor([x, y, x, y])


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Have torch's operators use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tuned(
    baseline: Baseline,
    work: Callable[[Baseline], object],
    most_threads: int,
    chunks: tuple[int, ...] = CHUNKS,
) -> tuple[Baseline, Mapping[tuple[int, int], float]]:
    """The baseline in the number of threads and the chunk size in which some work is quickest.

    The threads (one or all) are chosen at the middle chunk size, then the chunk size. Where only one is given, it is
    taken as it is, on all threads.

    Returns:
        The baseline, and seconds by (threads, chunk) of what was tried.
    """
    seconds: dict[tuple[int, int], float] = {}
    middle = chunks[len(chunks) // 2]
    if len(chunks) == 1:
        return replace(baseline, chunk=middle, threads=most_threads), seconds

    def attempt(threads: int, chunk: int) -> None:
        tried = replace(baseline, chunk=chunk, threads=threads)
        start = time.perf_counter()
        work(tried)
        seconds[threads, chunk] = time.perf_counter() - start

    # All threads again in the end, since the first one of all gets memory and makes kernels.
    for threads in (most_threads, 1, most_threads):
        attempt(threads, middle)
    best_threads, _ = min(seconds, key=lambda key: seconds[key])
    for chunk in chunks:
        if chunk != middle:
            attempt(best_threads, chunk)
    threads, chunk = min(seconds, key=lambda key: seconds[key])
    return replace(baseline, chunk=chunk, threads=threads), seconds


def some_of(proposals: Tensor, count: int = TRIED_PROPOSALS) -> Tensor:
    """Proposals evenly from all over the grid, to tune on."""
    step = max(1, len(proposals) // count)
    return proposals[::step].contiguous()
