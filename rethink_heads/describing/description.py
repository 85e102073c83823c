"""What the detectors of a preset cost, one row a head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rethink_heads import bounds
from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import SHAPES, Config, load_preset
from rethink_heads.data.shapes_drawing import CLASS_NAMES as SHAPES_CLASSES
from rethink_heads.data.voc import VOC_CLASSES
from rethink_heads.describing.memory import FRAME_MULTIPLE, saved_in_heads, saved_in_trunk
from rethink_heads.describing.parts import (
    SHARED_PARTS,
    blocks,
    multiply_adds,
    parameter_counts,
    shared_parts,
)
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.settings import split_preset

PRECISIONS = ("32-true", "16-mixed")
"""What memory is computed for. ``bf16-mixed`` takes what ``16-mixed`` takes."""

_BYTES = 4  # of a weight, its gradient and its momentum, which mixed precision leaves in float32
_DATA_CLASSES = {"coco": 80, "voc": len(VOC_CLASSES), "bccd": 3, SHAPES: len(SHAPES_CLASSES)}


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
    classes = classes if classes is not None else _class_count(first)
    bounds.CLASSES.check(classes, "the number of classes")
    frame = _frame(first, frame)
    images = first.training.batch_size
    parts: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    trunks: dict[str, tuple[dict[str, int], dict[str, Tensor]]] = {}
    with FakeTensorMode():
        for config in configs:
            detector = build_detector(config, [str(i) for i in range(classes)], pretrained=False)
            detector.train()
            parts += _part_rows(detector, config)
            for precision in PRECISIONS:
                if precision not in trunks:
                    trunks[precision] = saved_in_trunk(detector, frame, images, precision)
                saved, pyramid = trunks[precision]
                heads_saved = saved_in_heads(detector, pyramid, images, precision)
                memory.append(_memory_row(detector, config.head, precision, saved, heads_saved))
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


def _frame(config: Config, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Sides rounded up as the transform pads a batch."""
    if wanted is None:
        # Batches mix upright and lying images, and are padded to hold both.
        longer = min(config.model.max_size, config.model.min_size * 4 / 3)
        wanted = (math.floor(longer), math.floor(longer))
    for wanted_side in wanted:
        bounds.FRAME_SIDE.check(wanted_side, "a frame's side of")
    height, width = (math.ceil(side / FRAME_MULTIPLE) * FRAME_MULTIPLE for side in wanted)
    return height, width


def _part_rows(detector: RCNN, config: Config) -> Iterable[dict[str, Any]]:
    for part, module in shared_parts(detector).items():
        counts = parameter_counts(module)
        yield {
            "head": config.head,
            "part": part,
            "block": part,
            **counts,
            "multiply_adds": math.nan,
        }
    heads = detector.roi_heads.heads
    for name in heads.names:
        branch = heads.branch(name)
        operations = multiply_adds(branch, config.model.fpn_channels, config.model.roi_resolution)
        for block, module in blocks(branch):
            yield {
                "head": config.head,
                "part": name,
                "block": block,
                **parameter_counts(module),
                "multiply_adds": operations[block],
            }


def _memory_row(
    detector: RCNN,
    head: str,
    precision: str,
    saved: dict[str, int],
    heads_saved: dict[str, int],
) -> dict[str, Any]:
    weights = [*detector.parameters(), *detector.buffers()]
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad) * _BYTES
    by_kind = {
        "weights": sum(value.numel() * value.element_size() for value in weights),
        "gradients": trained,
        "momentum": trained,
        **{part.lower(): saved[part] for part in SHARED_PARTS},
        "heads": sum(heads_saved.values()),
    }
    return {"head": head, "precision": precision, **by_kind, "total": sum(by_kind.values())}
