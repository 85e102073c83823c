"""Responses of every head: the score and regressed box of one class for many boxes, and maps of spatial sensitivity.

Spatial correlation is the paper's (Wu et al., Figure 4); the responses to displacement and to zeroed RoI positions are
this project's. All maps are taken at the ground-truth box of an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image, remove_small_boxes

from rethink_heads.detectors import answers
from rethink_heads.detectors.base import (
    Detector,
    FastPath,
    Features,
    RoIFeatures,
    SupportsFastPath,
    SupportsOutputMaps,
    SupportsWeightMaps,
)
from rethink_heads.fastpath.pooling import intervals
from rethink_heads.proposals import MIN_SIZE

DISPLACEMENT_STEPS = 21
MAX_DISPLACEMENT = 1.0
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
    """RoIs to put through the heads at once under a memory bound. ``roi_features``: those of one box.

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
        # Boxes of the same left and right sides together: pooling by factors does them as one.
        order = torch.argsort(intervals(boxes[:, 0::2])[1], stable=True)

        def take(values: Tensor, rows: slice) -> Tensor:
            # A copy, so that the other classes' outputs are freed.
            return values[:, label].float().clone()

        found = ask(self.detector, features, boxes[order], self.memory_mb, take, self.precision)
        back = torch.argsort(order).cpu()
        return {
            head: (scores[back], regressed[back]) for head, (scores, regressed) in found.items()
        }


def ask(
    detector: Detector,
    features: Features,
    boxes: Tensor,
    memory_mb: int,
    take: Callable[[Tensor, slice], Tensor],
    precision: str = "float32",
) -> dict[str, tuple[Tensor, Tensor]]:
    """By head: what is taken of its scores and its regressed boxes for one or more boxes (N, 4), on the CPU.

    Args:
        detector, features: of the image, from the detector's `extract`.
        boxes: xyxy, pixels of the original image, on the detector's device; some at a time go through the heads.
        take: of scores (n, K) or boxes (n, K, 4) what is kept (n, ...), given which rows of ``boxes`` they are of.
    """
    chunk = chunk_size(detector.pool(features, boxes[:1]), memory_mb)
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {h: ([], []) for h in detector.heads}
    for first in range(0, len(boxes), chunk):
        rows = slice(first, first + chunk)
        with autocast(detector.device, precision):
            pooled = detector.pool(features, boxes[rows])
            outputs = answers.predict(detector, features, pooled, boxes[rows])
        for head, (scores, regressed) in found.items():
            scores.append(take(outputs[head].scores, rows))
            regressed.append(take(outputs[head].boxes, rows))
    return {
        head: (torch.cat(s).cpu(), torch.cat(boxes).cpu()) for head, (s, boxes) in found.items()
    }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which heads compute in ``precision``; float32 changes nothing."""
    return torch.autocast(device.type, DTYPES["bfloat16"], enabled=precision == "bfloat16")


def spatial_correlation(output_map: Tensor) -> Tensor:
    """Cosine of each pair of an output map's RoI positions. ``output_map``: (N, C, S, S).
    Raises UserError where it has values that are not finite.

    Returns:
        (N, S*S, S*S) float64, positions numbered row by row. A position whose vector is zero has similarity
        0 with every position, itself included.
    """
    answers.check_finite("the detector gave a map by RoI position with values", output_map)
    vectors = torch.nn.functional.normalize(
        output_map.double().flatten(2), dim=1, eps=torch.finfo(torch.float64).tiny
    )
    return vectors.transpose(1, 2) @ vectors


def is_square(positions: Tensor) -> bool:
    """Whether a map (..., S, S) has as many rows of positions as columns: a flattened map does not say them."""
    return positions.shape[-2] == positions.shape[-1]


def weight_correlations(detector: Detector) -> dict[str, Tensor]:
    """By branch with weights for each RoI position (fc's fc6): their cosines, (S*S, S*S) float64.

    Branches whose positions are not in a square are left out, as everywhere here.
    """
    if not isinstance(detector, SupportsWeightMaps):
        return {}
    return {
        branch: spatial_correlation(weights[None])[0].cpu()
        for branch, weights in detector.weight_maps().items()
        if is_square(weights)
    }


def output_correlations(detector: Detector, exact: RoIFeatures) -> dict[str, Tensor]:
    """By branch: spatial correlation (S*S, S*S) of its output map for one box's RoI features."""
    if not isinstance(detector, SupportsOutputMaps):
        return {}
    return {
        branch: spatial_correlation(output_map)[0].cpu()
        for branch, output_map in detector.output_maps(exact).items()
        if is_square(output_map)
    }


def displaced_boxes(box: Tensor) -> Tensor:
    """The box (4,) moved by -1 to 1 of its size in 21 steps along x and y: (441, 4), x fastest."""
    half = DISPLACEMENT_STEPS // 2
    shifts = (torch.arange(-half, half + 1) * (MAX_DISPLACEMENT / half)).to(box)
    dy, dx = torch.meshgrid(shifts, shifts, indexing="ij")
    offsets = torch.stack([dx, dy, dx, dy], dim=-1).reshape(-1, 4)
    return box + offsets * (box[2:] - box[:2]).repeat(2)


def displacement_scores(
    respond: Responder,
    features: Features,
    box: Tensor,
    label: int,
    image_size: tuple[int, int],
) -> dict[str, Tensor]:
    """By head: score of class `label` for the displaced box, (21, 21) float64, rows dy, columns dx.

    Displaced boxes are clipped to the image like every proposal; where nothing is left the score is
    nan.
    """
    displaced = clip_boxes_to_image(displaced_boxes(box), image_size)
    kept = remove_small_boxes(displaced, MIN_SIZE)
    maps = {}
    for head, (scores, _) in respond(features, displaced[kept], label).items():
        values = torch.full((len(displaced),), torch.nan, dtype=torch.float64)
        values[kept] = scores.double()
        maps[head] = values.reshape(DISPLACEMENT_STEPS, DISPLACEMENT_STEPS)
    return maps


def cell_responses(
    detector: Detector, features: Features, exact: RoIFeatures, box: Tensor, label: int, chunk: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """What zeroing one RoI position at a time, in every branch's RoI features, does to each head.

    Args:
        exact: RoI features of the object's `box` (4,).
        chunk: RoIs per forward pass.

    Returns:
        By head: change (zeroed - intact) of the score of the object's class, and of the IoU of the
        regressed box with the object, each (S, S) float64. Empty where the detector shows no RoI
        features, and where their positions are no square, or not one for all branches.
    """
    resolutions = {tuple(pooled.shape[-2:]) for pooled in exact.values()}
    if len(resolutions) != 1 or not all(is_square(pooled) for pooled in exact.values()):
        return {}
    rows, columns = resolutions.pop()
    scores: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    ious: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    target = box.cpu().double()[None]
    for batch in _zeroed(exact, rows * columns, chunk):
        count = len(next(iter(batch.values())))
        boxes = box.to(detector.device).expand(count, 4)
        for head, output in answers.predict(detector, features, batch, boxes).items():
            scores[head].append(output.scores[:, label].double().cpu())
            regressed = output.boxes[:, label].double().cpu()
            ious[head].append(box_iou(regressed, target)[:, 0])
    return {
        head: (
            _change(torch.cat(scores[head])).reshape(rows, columns),
            _change(torch.cat(ious[head])).reshape(rows, columns),
        )
        for head in detector.heads
    }


def _zeroed(exact: RoIFeatures, positions: int, chunk: int) -> Iterator[RoIFeatures]:
    """The intact features first, then those with position 0, 1, ... zeroed, `chunk` at a time."""
    for copies in torch.arange(-1, positions).split(chunk):
        batch = {}
        for branch, pooled in exact.items():
            repeated = pooled.flatten(2).repeat(len(copies), 1, 1)
            changed = torch.nonzero(copies >= 0).flatten()
            repeated[changed.to(pooled.device), :, copies[changed].to(pooled.device)] = 0
            batch[branch] = repeated.reshape(len(copies), *pooled.shape[1:])
        yield batch


def _change(values: Tensor) -> Tensor:
    return values[1:] - values[0]


def flatten(values: Tensor) -> npt.NDArray[np.float32]:
    """A map as `Measurements` keeps it: float32, row by row."""
    return values.float().cpu().flatten().numpy()
