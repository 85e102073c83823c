"""detectron2's Faster R-CNN with FPN, from the description of its code: boxes end at edges, background comes last."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.detectors import reference_arithmetic as plain
from tests.detectors.reference_arithmetic import State, linear

MEAN = (103.53, 116.28, 123.675)  # blue, green, red


def network_input(pixels: np.ndarray, shorter: int, longest: int) -> tuple[Tensor, tuple[int, int]]:
    """The padded batch (1, 3, H, W) and the resized size of RGB pixels (height, width, 3)."""
    height, width = pixels.shape[:2]
    scale = shorter / min(height, width)
    new_height, new_width = height * scale, width * scale
    if max(new_height, new_width) > longest:
        scale = longest / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    size = (int(new_height + 0.5), int(new_width + 0.5))
    picture = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    bgr = torch.from_numpy(np.array(picture)[:, :, ::-1].copy()).double() - torch.tensor(MEAN)
    return plain.padded(bgr), size


def pyramid(state: State, x: Tensor) -> list[Tensor]:
    body = {}
    for name, value in state.items():
        # The plain ResNet's names: stages from 1, normalisations beside their convolutions.
        name = re.sub(r"\.res(\d)\.", lambda match: f".layer{int(match[1]) - 1}.", name)
        name = re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name)
        name = name.replace(".shortcut.norm.", ".downsample.1.").replace(
            ".shortcut.", ".downsample.0."
        )
        body[name] = value
    prefix = "backbone.bottom_up"
    stages = plain.resnet50(body, prefix, f"{prefix}.stem", x, strides=(2, 1), epsilon=1e-5)
    return plain.fpn(
        state,
        lambda level: f"backbone.fpn_lateral{level + 2}",
        lambda level: f"backbone.fpn_output{level + 2}",
        stages,
    )


def propose(
    state: State, levels: list[Tensor], size: tuple[int, int], sizes: list[int], count: int
) -> Tensor:
    head = "proposal_generator.rpn_head"
    names = (f"{head}.conv", f"{head}.objectness_logits", f"{head}.anchor_deltas")
    grid = plain.area_grid(levels, sizes)
    # In double precision a probability ranks as its logit does.
    return plain.propose(state, names, levels, grid, size, count, one=0, both=False)


def fc_head(state: State, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K + 1), background last, and deltas (N, 4 K)."""
    x = rois.flatten(1)
    for layer in ("fc1", "fc2"):
        x = F.relu(linear(state, f"roi_heads.box_head.{layer}", x))
    predictor = "roi_heads.box_predictor"
    return linear(state, f"{predictor}.cls_score", x), linear(state, f"{predictor}.bbox_pred", x)


def read(
    state: State, levels: list[Tensor], boxes: Tensor, size: tuple[int, int]
) -> dict[str, tuple[Tensor, Tensor]]:
    """By reading: scores (N, K) and boxes (N, K, 4) in the resized frame."""
    rois = plain.pool(
        levels, boxes, lambda side: 2 + math.log2(side / 224 + 1e-8), 1.0, 0, aligned=True, one=0
    )
    logits, deltas = fc_head(state, rois)
    by_class = deltas.reshape(len(boxes), -1, 4)
    decoded = plain.decode(by_class, boxes, (10.0, 10.0, 5.0, 5.0), one=0, both=False)
    return {"fc": (logits.softmax(1)[:, :-1], plain.clip(decoded, size, one=0))}
