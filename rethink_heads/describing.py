"""What a preset's detectors cost: parameters, multiply-adds per RoI and training memory, computed from shapes.

Nothing is allocated: detectors are made of fake tensors, which have shapes and types but no values. For the memory, a
training step is run on them and every tensor that autograd keeps for the backward pass is caught by a hook. Steps whose
shapes depend on values are done with the most that the settings allow: 256 anchors and all RoIs are sampled, with their
full share of positives, and RoIs are spread evenly over the pyramid's levels. Mixed precision is that of
``torch.autocast`` on a CPU, whose rules for the layers here are a GPU's. It can take more than float32 in the backbone:
frozen normalisation there answers in float32, so that autograd saves an activation of that and autocast's copy in half
precision for the next convolution as well.

To what is counted a real step adds the convolutions' workspaces, temporary tensors of the backward pass, the context
and the fragments of the allocator, and DDP's buckets of gradients.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import roi_align

from rethink_heads import bounds
from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import SHAPES, Config, load_preset
from rethink_heads.data.shapes_drawing import CLASS_NAMES as SHAPES_CLASSES
from rethink_heads.data.voc import VOC_CLASSES
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.roi_heads import STRIDES
from rethink_heads.errors import UserError
from rethink_heads.heads import Bottleneck, ConvHead, FCHead, NonLocal, ResidualBlock
from rethink_heads.settings import split_preset

PRECISIONS = ("32-true", "16-mixed")
"""What memory is computed for. ``bf16-mixed`` takes what ``16-mixed`` takes."""
SHARED_PARTS = ("backbone", "FPN", "RPN")
"""What detectors of one preset have in common; the other parts are the head's branches."""

_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_BYTES = 4  # of a weight, its gradient and its momentum, which mixed precision leaves in float32
_FRAME_MULTIPLE = 32
_DATA_CLASSES = {"coco": 80, "voc": len(VOC_CLASSES), "bccd": 3, SHAPES: len(SHAPES_CLASSES)}
_BLOCK_NAMES = {
    ResidualBlock: "residual block",
    NonLocal: "non-local block",
    Bottleneck: "bottleneck block",
}


@dataclass(frozen=True)
class Description:
    """What the detectors of a preset cost.

    Attributes:
        preset: its name.
        classes: foreground classes.
        images: in a batch, all on one device.
        rois_per_image: sampled in training.
        frame: (height, width) of a training batch in px, padding included.
        precision: the preset's own.
        parts: a row for each head, part and block, with ``parameters`` (all), ``weights`` (of matrices and kernels
            alone), ``trained`` and ``multiply_adds`` per RoI (NaN outside the head's branches).
        memory: a row for each head and precision, in bytes: ``weights``, ``gradients`` and ``momentum`` in float32,
            what autograd saves in ``backbone``, ``fpn``, ``rpn`` and ``heads`` (RoI features included), and ``total``.
    """

    preset: str
    classes: int
    images: int
    rois_per_image: int
    frame: tuple[int, int]
    precision: str
    parts: pd.DataFrame
    memory: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """One row a head: parameters by part, multiply-adds per RoI, and bytes of training memory by precision."""
        rows = []
        for head, parts in self.parts.groupby("head", sort=False):
            by_part = parts.groupby("part", sort=False)["parameters"].sum()
            branches = parts[~parts["part"].isin(SHARED_PARTS)]
            memory = self.memory[self.memory["head"] == head].set_index("precision")["total"]
            rows.append(
                {
                    "head": head,
                    "parameters": parts["parameters"].sum(),
                    "trained": parts["trained"].sum(),
                    **{part.lower(): by_part[part] for part in SHARED_PARTS},
                    "branches": branches["parameters"].sum(),
                    "multiply_adds": int(branches["multiply_adds"].sum()),
                    **{f"memory {precision}": memory[precision] for precision in PRECISIONS},
                }
            )
        return pd.DataFrame(rows)


def describe(
    preset: str | Path,
    heads: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    classes: int | None = None,
    frame: tuple[int, int] | None = None,
) -> Description:
    """Parameters, multiply-adds per RoI and training memory of a preset's detectors.

    Nothing is allocated or downloaded: the detectors are made of fake tensors.

    Args:
        preset: a preset's name, alone or with a head's after a hyphen, or the path of a YAML file.
        heads: of ``HEADS``, or the paper's names. None: that of the preset's name, else all.
        overrides: strings ``section.key=value``, for example ``training.batch_size=2`` for one of four processes.
        classes: foreground classes; None: those of the data that the preset is named after.
        frame: (height, width) of a training batch, in px; None: images of sides 4:3, upright and lying in one batch.

    Raises:
        UserError: unknown preset, head or setting, a bad frame, or no telling how many classes there are.
    """
    named = split_preset(str(preset))[1]
    chosen = list(dict.fromkeys(head_name(h) for h in heads or ([named] if named else HEADS)))
    configs = [load_preset(preset, head, list(overrides)) for head in chosen]
    first = configs[0]
    classes = _class_count(first) if classes is None else classes
    bounds.CLASSES.check(classes, "the number of classes")
    frame, images = _padded_frame(first, frame), first.training.batch_size
    parts, memory = [], []
    with FakeTensorMode():
        trunks: dict[str, tuple[dict[str, int], dict[str, Tensor]]] = {}
        for config in configs:
            detector = build_detector(config, [str(i) for i in range(classes)], pretrained=False)
            detector.train()
            parts += [{"head": config.head, **row} for row in part_rows(detector, config)]
            weights = [*detector.parameters(), *detector.buffers()]
            trained = sum(p.numel() for p in detector.parameters() if p.requires_grad) * _BYTES
            for precision in PRECISIONS:
                if precision not in trunks:
                    trunks[precision] = saved_in_trunk(detector, frame, images, precision)
                saved, pyramid = trunks[precision]
                by_kind = {
                    "weights": sum(value.numel() * value.element_size() for value in weights),
                    "gradients": trained,
                    "momentum": trained,
                    **{part.lower(): saved[part] for part in SHARED_PARTS},
                    "heads": sum(saved_in_heads(detector, pyramid, images, precision).values()),
                }
                row = {"head": config.head, "precision": precision, **by_kind}
                memory.append({**row, "total": sum(by_kind.values())})
    return Description(
        preset=first.preset,
        classes=classes,
        images=images,
        rois_per_image=first.model.rois_per_image,
        frame=frame,
        precision=first.training.precision,
        parts=pd.DataFrame(parts),
        memory=pd.DataFrame(memory),
    )


def _class_count(config: Config) -> int:
    for data, count in _DATA_CLASSES.items():
        if config.data.source == data or config.preset.startswith(data):
            return count
    raise UserError(
        f"no telling how many classes {config.preset} has: give --classes N (describe(classes=N))"
    )


def _padded_frame(config: Config, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Sides rounded up as the transform pads a batch."""
    if wanted is None:
        # Batches mix upright and lying images, and are padded to hold both.
        longer = math.floor(min(config.model.max_size, config.model.min_size * 4 / 3))
        wanted = (longer, longer)
    for side in wanted:
        bounds.FRAME_SIDE.check(side, "a frame's side of")
    height, width = (math.ceil(side / _FRAME_MULTIPLE) * _FRAME_MULTIPLE for side in wanted)
    return height, width


def part_rows(detector: RCNN, config: Config) -> Iterator[dict[str, object]]:
    """Part, block, numbers of parameters and multiply-adds of each shared part and each block of the branches."""
    for part, module in shared_parts(detector).items():
        counts = parameter_counts(module)
        yield {"part": part, "block": part, **counts, "multiply_adds": math.nan}
    heads = detector.roi_heads.heads
    for name in heads.names:
        branch = heads.branch(name)
        operations = multiply_adds(branch, config.model.fpn_channels, config.model.roi_resolution)
        for block, module in blocks(branch).items():
            counts = parameter_counts(module)
            yield {"part": name, "block": block, **counts, "multiply_adds": operations[block]}


def shared_parts(detector: RCNN) -> dict[str, nn.Module]:
    """The modules of ``SHARED_PARTS``."""
    body, fpn = detector.backbone.body, detector.backbone.fpn
    assert isinstance(body, nn.Module)
    assert isinstance(fpn, nn.Module)
    return {"backbone": body, "FPN": fpn, "RPN": detector.rpn.head}


def blocks(branch: FCHead | ConvHead) -> dict[str, nn.Module]:
    """A branch's blocks by name, in the order of the forward pass; blocks of a kind are numbered."""
    found: dict[str, nn.Module] = {}
    if isinstance(branch, FCHead):
        found |= {"fc6": branch.fc6, "fc7": branch.fc7}
    else:
        for block in branch.blocks:
            kind = _BLOCK_NAMES[type(block)]
            number = sum(isinstance(other, type(block)) for other in found.values()) + 1
            found[kind if kind == "residual block" else f"{kind} {number}"] = block
    predictor = branch.predictor
    return {**found, "classifier": predictor.cls_score, "regressor": predictor.bbox_pred}


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """Numbers of a module's parameters.

    Returns:
        ``parameters``: all, with the scales and offsets of normalisation, frozen or not, but not its statistics;
        ``weights``: those of matrices and kernels alone, biases and normalisation aside;
        ``trained``: those that get gradients.
    """
    parameters = list(module.parameters())
    # Frozen normalisation keeps its scale and offset as buffers beside its statistics.
    frozen = [
        value
        for name, value in module.named_buffers()
        if name.rpartition(".")[2] in ("weight", "bias")
    ]
    return {
        "parameters": sum(p.numel() for p in [*parameters, *frozen]),
        "weights": sum(p.numel() for p in parameters if p.dim() > 1),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def multiply_adds(
    branch: FCHead | ConvHead, channels: int, resolution: int, device: str = "cpu"
) -> dict[str, int]:
    """Multiply-adds of one RoI by block: those of convolutions, linear layers and affinities.

    Normalisation, activations, pooling and RoIAlign, some thousandths of it, are left out, as is usual. Two
    floating-point operations make a multiply-add.

    Args:
        channels, resolution: C and S of the RoI features.
    """
    training = branch.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        branch.eval()(torch.zeros(1, channels, resolution, resolution, device=device))
    branch.train(training)
    names = {module: f"{type(branch).__name__}.{name}" for name, module in branch.named_modules()}
    counts = counter.get_flop_counts()
    return {name: sum(counts[names[block]].values()) // 2 for name, block in blocks(branch).items()}


class SavedTensors:
    """Counts the bytes that autograd saves, by part, each storage once and a model's own not at all."""

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
        precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``; in the last two the copies of weights that autocast
            makes are counted with the part that they belong to.
    """
    saved = SavedTensors(detector)
    parts = shared_parts(detector)
    with _autocast(precision):
        with saved.part("backbone"):
            levels = parts["backbone"](torch.empty(images, 3, *frame))
        with saved.part("FPN"):
            pyramid = parts["FPN"](levels)
        with saved.part("RPN"):
            _rpn_loss(detector, list(pyramid.values()), images)
    return saved.bytes, pyramid


def saved_in_heads(
    detector: RCNN, pyramid: dict[str, Tensor], images: int, precision: str = "32-true"
) -> dict[str, int]:
    """Bytes that autograd saves in RoIAlign and in each branch in one training step, by ``RoIs`` and branch."""
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
    targets, labels = torch.empty(len(objectness), 4), torch.empty(len(objectness))
    box_loss = F.smooth_l1_loss(deltas[positive], targets[positive], beta=1 / 9, reduction="sum")
    scores = objectness.flatten()[sampled]
    score_loss = F.binary_cross_entropy_with_logits(scores, labels[sampled])
    return box_loss / len(sampled) + score_loss


def _pool(pyramid: dict[str, Tensor], rois: int, resolution: int) -> Tensor:
    """RoI features as ``PyramidPooler`` makes them, with as many RoIs from each level."""
    first = next(iter(pyramid.values()))
    pooled = first.new_zeros(rois, first.shape[1], resolution, resolution)
    levels = [(name, stride) for name, stride in STRIDES.items() if name in pyramid]
    for index, (name, stride) in enumerate(levels):
        begin, end = (rois * step // len(levels) for step in (index, index + 1))
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
    cls_weight, reg_weight = heads.weights[name]
    losses = []
    if cls_weight:
        losses.append(cls_weight * F.cross_entropy(logits.float(), labels))
    if reg_weight:
        # Which are positive depends on values: their number is set here.
        positive = torch.zeros(int(count * sampler.positive_fraction), dtype=torch.int64)
        chosen = deltas.float().reshape(count, -1, 4)[positive, labels[positive]]
        targets = torch.empty(count, 4)[positive]
        loss = F.smooth_l1_loss(chosen, targets, beta=heads.beta, reduction="sum") / count
        losses.append(reg_weight * loss)
    return losses
