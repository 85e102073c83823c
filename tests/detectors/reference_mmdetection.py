"""mmdetection's Double-Head R-CNN, from the description of its code: boxes end at edges, background comes last."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.detectors import reference_arithmetic as plain
from tests.detectors.reference_arithmetic import State, conv, linear, norm

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # red, green, blue
HEAD = "roi_head.bbox_head"


def network_input(pixels: np.ndarray, shorter: int, longest: int) -> tuple[Tensor, tuple[int, int]]:
    """The padded batch (1, 3, H, W) and the resized size of RGB pixels (height, width, 3)."""
    height, width = pixels.shape[:2]
    scale = min(longest / max(height, width), shorter / min(height, width))
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    rgb = (
        torch.from_numpy(resize(pixels, size)).double() - torch.tensor(MEAN).double()
    ) / torch.tensor(DEVIATION).double()
    return plain.padded(rgb), size


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing of bytes with weights of 11 bits, of which 4 are dropped after the first axis, as in OpenCV."""

    def weighted(old: int, new: int, index: int) -> tuple[int, int, int, int]:
        at = min(
            max(np.float32((index + 0.5) * old / new - 0.5), np.float32(0)), np.float32(old - 1)
        )
        low = int(at)
        share = at - np.float32(low)
        return (
            low,
            min(low + 1, old - 1),
            round(2048 * float(1 - share)),
            round(2048 * float(share)),
        )

    values = pixels.astype(int)
    columns = []
    for x in range(size[1]):
        low, high, first, second = weighted(values.shape[1], size[1], x)
        columns.append((values[:, low] * first + values[:, high] * second) // 16)
    wide = np.stack(columns, axis=1)
    rows = []
    for y in range(size[0]):
        low, high, first, second = weighted(values.shape[0], size[0], y)
        rows.append((wide[low] * first // 65536 + wide[high] * second // 65536 + 2) // 4)
    return np.stack(rows)


def pyramid(state: State, x: Tensor) -> list[Tensor]:
    stages = plain.resnet50(state, "backbone", "backbone", x, strides=(1, 2), epsilon=1e-5)
    return plain.fpn(
        state,
        lambda level: f"neck.lateral_convs.{level}.conv",
        lambda level: f"neck.fpn_convs.{level}.conv",
        stages,
    )


def propose(
    state: State, levels: list[Tensor], size: tuple[int, int], sizes: list[int], count: int
) -> Tensor:
    names = ("rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg")
    grid = plain.area_grid(levels, sizes)
    return plain.propose(state, names, levels, grid, size, count, one=0, both=True)


def pool(levels: list[Tensor], boxes: Tensor, factor: float) -> Tensor:
    return plain.pool(
        levels, boxes, lambda side: math.log2(side / 56 + 1e-6), factor, 0, aligned=True, one=0
    )


def fc_head(state: State, rois: Tensor) -> Tensor:
    """Logits (N, K + 1), background last."""
    x = F.relu(linear(state, f"{HEAD}.fc_branch.0", rois.flatten(1)))
    x = F.relu(linear(state, f"{HEAD}.fc_branch.1", x))
    return linear(state, f"{HEAD}.fc_cls", x)


def conv_head(state: State, rois: Tensor) -> Tensor:
    """Deltas (N, 4 K) in units of 0.1 and 0.2."""

    def unit(name: str, x: Tensor) -> Tensor:
        return norm(state, f"{name}.bn", conv(state, f"{name}.conv", x))

    x = F.relu(unit(f"{HEAD}.res_block.conv1", rois))
    x = F.relu(unit(f"{HEAD}.res_block.conv2", x) + unit(f"{HEAD}.res_block.conv_identity", rois))
    block = 0
    while f"{HEAD}.conv_branch.{block}.conv1.weight" in state:
        name = f"{HEAD}.conv_branch.{block}"
        x = plain.bottleneck(
            state, x, [f"{name}.conv{n}" for n in (1, 2, 3)], [f"{name}.bn{n}" for n in (1, 2, 3)]
        )
        block += 1
    return linear(state, f"{HEAD}.fc_reg", x.mean((2, 3)))


def read(
    state: State, levels: list[Tensor], boxes: Tensor, size: tuple[int, int], enlargement: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """By reading: scores (N, K) and boxes (N, K, 4) in the resized frame."""
    scores = fc_head(state, pool(levels, boxes, 1.0)).softmax(1)[:, :-1]
    deltas = conv_head(state, pool(levels, boxes, enlargement)).reshape(len(boxes), -1, 4)
    weights = (1 / 0.1, 1 / 0.1, 1 / 0.2, 1 / 0.2)
    decoded = plain.decode(deltas, boxes, weights, one=0, both=True)
    return {"double": (scores, plain.clip(decoded, size, one=0))}
