"""Training memory, computed from shapes: what autograd saves in a step, counted without allocating it.

A training step is run on fake tensors, which have shapes and types but no values, and every tensor that autograd keeps
for the backward pass is caught by a hook. Steps whose shapes depend on values are done with the most that the settings
allow: 256 anchors and all RoIs are sampled, with their full share of positives, and RoIs are spread evenly over the
pyramid's levels. Mixed precision is that of ``torch.autocast`` on a CPU, whose rules for the layers here are a GPU's.
It can take more than float32 in the backbone: frozen normalisation there answers in float32, so that autograd saves an
activation of that and autocast's copy in half precision for the next convolution as well.

To what is counted a real step adds the convolutions' workspaces, temporary tensors of the backward pass, the context
and the fragments of the allocator, and DDP's buckets of gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import roi_align

from rethink_heads.describing.parts import shared_parts
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.detectors.rcnn.pooling import STRIDES
from rethink_heads.heads import classification_loss

FRAME_MULTIPLE = 32
_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class SavedTensors:
    """Counts the bytes that autograd saves, by part, each storage once and a model's own not at all.

    Args:
        model: its parameters and buffers are there anyhow and are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        # Storages are kept, or a new one might get the place of one that is gone.
        self._storages = {s._cdata: s for s in (value.untyped_storage() for value in own)}
        self.bytes: dict[str, int] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is saved in the block for the part ``name``."""
        self.bytes.setdefault(name, 0)

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._storages:
                self._storages[storage._cdata] = storage
                self.bytes[name] += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


def saved_in_trunk(
    detector: RCNN, frame: tuple[int, int], images: int, precision: str = "32-true"
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Bytes that autograd saves in backbone, FPN and RPN in one training step, and the pyramid.

    They are the same whatever the head.

    Args:
        detector: on the CPU, usually made of fake tensors (``FakeTensorMode``), in training mode.
        frame: (height, width) of the batch, in px.
        images: in the batch of one process.
        precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``; in the last two the copies of weights that autocast
            makes are counted with the part that they belong to.
    """
    saved = SavedTensors(detector)
    parts = shared_parts(detector)
    with _autocast(precision):
        batch = torch.empty(images, 3, *frame)
        with saved.part("backbone"):
            levels = parts["backbone"](batch)
        with saved.part("FPN"):
            pyramid = parts["FPN"](levels)
        with saved.part("RPN"):
            _rpn_loss(detector, list(pyramid.values()), images)
    return saved.bytes, pyramid


def saved_in_heads(
    detector: RCNN, pyramid: dict[str, Tensor], images: int, precision: str = "32-true"
) -> dict[str, int]:
    """Bytes that autograd saves in RoIAlign and in each branch in one training step, by ``RoIs`` and branch.

    Args:
        detector, images, precision: see :func:`saved_in_trunk`.
        pyramid: what :func:`saved_in_trunk` returned.
    """
    saved = SavedTensors(detector)
    roi_heads = detector.roi_heads
    rois = images * roi_heads.fg_bg_sampler.batch_size_per_image
    pooled: dict[float, Tensor] = {}
    with _autocast(precision):
        for name in roi_heads.heads.names:
            factor = roi_heads.enlargement.get(name, 1.0)
            if factor not in pooled:
                with saved.part("RoIs"):
                    pooled[factor] = _pool(pyramid, rois, roi_heads.box_roi_pool.resolution)
            with saved.part(name):
                _branch_losses(detector, name, pooled[factor])
    return saved.bytes


def _autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    if precision not in _AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=_AUTOCAST[precision])


def _rpn_loss(detector: RCNN, pyramid: list[Tensor], images: int) -> Tensor:
    """torchvision's RPN loss, its anchors sampled in full number."""
    objectness, deltas = concat_box_prediction_layers(*detector.rpn.head(pyramid))
    sampler = detector.rpn.fg_bg_sampler
    sampled = torch.zeros(images * sampler.batch_size_per_image, dtype=torch.int64)
    positive = sampled[: int(len(sampled) * sampler.positive_fraction)].clone()
    anchors = len(objectness)
    targets, labels = torch.empty(anchors, 4), torch.empty(anchors)
    box_loss = F.smooth_l1_loss(deltas[positive], targets[positive], beta=1 / 9, reduction="sum")
    found = objectness.flatten()[sampled]
    score_loss = F.binary_cross_entropy_with_logits(found, labels[sampled])
    return box_loss / len(sampled) + score_loss


def _pool(pyramid: dict[str, Tensor], rois: int, resolution: int) -> Tensor:
    """RoI features as ``PyramidPooler`` makes them, with as many RoIs from each level."""
    first = next(iter(pyramid.values()))
    pooled = first.new_zeros(rois, first.shape[1], resolution, resolution)
    for index, (name, stride) in enumerate(STRIDES.items()):
        begin, end = (rois * step // len(STRIDES) for step in (index, index + 1))
        chosen = torch.zeros(end - begin, dtype=torch.int64)
        corners = torch.empty(rois, 5)[chosen]
        pooled[chosen] = roi_align(pyramid[name], corners, resolution, 1 / stride, 2).to(pooled)
    return pooled


def _branch_losses(detector: RCNN, name: str, roi_features: Tensor) -> list[Tensor]:
    """A branch's weighted losses on RoIs with their full share of positives."""
    heads, sampler = detector.roi_heads.heads, detector.roi_heads.fg_bg_sampler
    count = len(roi_features)
    labels = torch.zeros(count, dtype=torch.int64)
    logits, deltas = heads.branch(name)(roi_features)
    cls_weight, reg_weight = heads.weights.of(name)
    losses = []
    if cls_weight:
        losses.append(cls_weight * classification_loss(logits.float(), labels))
    if reg_weight:
        # Which are positive depends on values: their number is set here.
        positive = torch.zeros(int(count * sampler.positive_fraction), dtype=torch.int64)
        chosen = deltas.float().reshape(count, -1, 4)[positive, labels[positive]]
        targets = torch.empty(count, 4)[positive]
        loss = F.smooth_l1_loss(chosen, targets, beta=heads.beta, reduction="sum") / count
        losses.append(reg_weight * loss)
    return losses
