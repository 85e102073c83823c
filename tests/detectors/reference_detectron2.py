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
from tests.detectors.reference_arithmetic import State, conv, linear

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
    batch = bgr.new_zeros(1, 3, *(math.ceil(side / 32) * 32 for side in size))
    batch[0, :, : size[0], : size[1]] = bgr.permute(2, 0, 1)
    return batch, size


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


def anchors(rows: int, columns: int, stride: int, size: int) -> Tensor:
    """(rows * columns * 3, 4), with ratios (height over width) 1/2, 1 and 2 in every cell."""
    found = []
    for y in range(rows):
        for x in range(columns):
            for ratio in (0.5, 1.0, 2.0):
                width = math.sqrt(size**2 / ratio)
                half_x, half_y = width / 2, width * ratio / 2
                left, top = x * stride - half_x, y * stride - half_y
                found.append((left, top, left + 2 * half_x, top + 2 * half_y))
    return torch.tensor(found, dtype=torch.float64)


def propose(
    state: State, levels: list[Tensor], size: tuple[int, int], sizes: list[int], count: int
) -> Tensor:
    head = "proposal_generator.rpn_head"
    hidden = [F.relu(conv(state, f"{head}.conv", x)) for x in levels]
    logits = [conv(state, f"{head}.objectness_logits", x) for x in hidden]
    deltas = [conv(state, f"{head}.anchor_deltas", x) for x in hidden]
    grid = [anchors(*x.shape[-2:], 4 * 2**level, sizes[level]) for level, x in enumerate(levels)]
    # In double precision a probability ranks as its logit does.
    return plain.propose(logits, deltas, grid, size, count, one=0, both=False)


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
    index = []
    for x1, y1, x2, y2 in boxes.tolist():
        side = math.sqrt((x2 - x1) * (y2 - y1))
        index.append(min(max(math.floor(4 + math.log2(side / 224 + 1e-8)) - 2, 0), 3))
    rois = plain.pool(levels, boxes, index, samples=0, aligned=True)
    logits, deltas = fc_head(state, rois)
    by_class = deltas.reshape(len(boxes), -1, 4)
    decoded = plain.decode(by_class, boxes, (10.0, 10.0, 5.0, 5.0), one=0, both=False)
    return {"fc": (logits.softmax(1)[:, :-1], plain.clip(decoded, size, one=0))}
