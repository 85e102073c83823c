"""The authors' detector on maskrcnn-benchmark, from the description of its code: boxes end at their last pixel."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.detectors import reference_arithmetic as plain
from tests.detectors.reference_arithmetic import State, conv, linear, norm

MEAN = (102.9801, 115.9465, 122.7717)  # blue, green, red
EXTRACTOR = "roi_heads.box.feature_extractor"


def network_input(pixels: np.ndarray, shorter: int, longest: int) -> tuple[Tensor, tuple[int, int]]:
    """The padded batch (1, 3, H, W) and the resized size of RGB pixels (height, width, 3)."""
    height, width = pixels.shape[:2]
    least = shorter
    if max(height, width) / min(height, width) * shorter > longest:
        least = round(longest * min(height, width) / max(height, width))
    size = (
        (int(least * height / width), least)
        if width < height
        else (least, int(least * width / height))
    )
    picture = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    bgr = (
        torch.from_numpy(np.array(picture)[..., ::-1].copy()).double() - torch.tensor(MEAN).double()
    )
    return plain.padded(bgr), size


def pyramid(state: State, x: Tensor) -> list[Tensor]:
    body, stem = "backbone.body", "backbone.body.stem"
    stages = plain.resnet50(state, body, stem, x, strides=(2, 1), epsilon=0.0)
    return plain.fpn(
        state,
        lambda level: f"backbone.fpn.fpn_inner{level + 1}",
        lambda level: f"backbone.fpn.fpn_layer{level + 1}",
        stages,
    )


def anchors(rows: int, columns: int, stride: int, size: int) -> Tensor:
    """(rows * columns * 3, 4), with ratios (height over width) 1/2, 1 and 2 in every cell."""
    halves = []
    for ratio in (0.5, 1.0, 2.0):
        width = round((stride * stride / ratio) ** 0.5)
        height = round(width * ratio)
        halves.append(((width * size / stride - 1) / 2, (height * size / stride - 1) / 2))
    return plain.anchors(rows, columns, stride, halves, offset=(stride - 1) / 2)


def propose(
    state: State, levels: list[Tensor], size: tuple[int, int], sizes: list[int], count: int
) -> Tensor:
    names = ("rpn.head.conv", "rpn.head.cls_logits", "rpn.head.bbox_pred")
    grid = [anchors(*x.shape[-2:], 4 * 2**level, sizes[level]) for level, x in enumerate(levels)]
    return plain.propose(state, names, levels, grid, size, count, one=1, both=False)


def pool(levels: list[Tensor], boxes: Tensor, factor: float) -> Tensor:
    return plain.pool(
        levels, boxes, lambda side: 2 + math.log2(side / 224 + 1e-6), factor, 2, False, one=1
    )


def fc_head(state: State, rois: Tensor) -> tuple[Tensor, Tensor]:
    x = F.relu(linear(state, f"{EXTRACTOR}.fc6", rois.flatten(1)))
    x = F.relu(linear(state, f"{EXTRACTOR}.fc7", x))
    predictor = "roi_heads.box.predictor"
    return linear(state, f"{predictor}.cls_score_fc", x), linear(
        state, f"{predictor}.bbox_pred_fc", x
    )


def conv_head(state: State, rois: Tensor, groups: int = 4) -> tuple[Tensor, Tensor]:
    name = f"{EXTRACTOR}.nonlocal_conv"
    top = norm(state, f"{name}.top.1", conv(state, f"{name}.top.0", rois))
    x = F.relu(norm(state, f"{name}.bottom.1", conv(state, f"{name}.bottom.0", rois)))
    x = F.relu(top + norm(state, f"{name}.bottom.4", conv(state, f"{name}.bottom.3", x)))
    block = 0
    while f"{EXTRACTOR}.shared_nonlocal.{block}.ffconv.bottleneck.0.weight" in state:
        name = f"{EXTRACTOR}.shared_nonlocal.{block}"
        if f"{name}.g.weight" in state:
            x = non_local(state, name, x, groups)
        parts = f"{EXTRACTOR}.shared_nonlocal.{block}.ffconv.bottleneck"
        x = plain.bottleneck(
            state, x, [f"{parts}.{n}" for n in (0, 3, 6)], [f"{parts}.{n}" for n in (1, 4, 7)]
        )
        block += 1
    x = F.avg_pool2d(x, 7)[..., 0, 0]
    predictor = "roi_heads.box.predictor"
    return linear(state, f"{predictor}.cls_score", x), linear(state, f"{predictor}.bbox_pred", x)


def non_local(state: State, name: str, x: Tensor, groups: int) -> Tensor:
    g, theta, phi = (conv(state, f"{name}.{part}", x).flatten(2) for part in ("g", "theta", "phi"))
    each = g.shape[1] // groups
    mixed = []
    for group in range(groups):
        chosen = slice(group * each, (group + 1) * each)
        affinity = theta[:, chosen].transpose(1, 2) @ phi[:, chosen] / g.shape[-1]
        mixed.append((affinity @ g[:, chosen].transpose(1, 2)).transpose(1, 2))
    y = torch.cat(mixed, dim=1).reshape(len(x), -1, *x.shape[-2:])
    return F.relu(x + norm(state, f"{name}.W.bn", conv(state, f"{name}.W.0", y)))


def read(
    state: State, levels: list[Tensor], boxes: Tensor, size: tuple[int, int], enlargement: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """By reading: scores (N, K) and boxes (N, K, 4) in the resized frame, foreground classes alone."""
    outputs = {
        "conv": conv_head(state, pool(levels, boxes, enlargement)),
        "fc": fc_head(state, pool(levels, boxes, 1.0)),
    }
    scores = {name: logits.softmax(1)[:, 1:] for name, (logits, _) in outputs.items()}
    regressed = {}
    for name, (_, deltas) in outputs.items():
        by_class = deltas.reshape(len(boxes), -1, 4)
        decoded = plain.decode(by_class, boxes, (10, 10, 5, 5), one=1, both=False)
        regressed[name] = plain.clip(decoded, size, one=1)[:, 1:]
    fused = 1 - (1 - scores["conv"]) * (1 - scores["fc"])
    return {
        "conv": (scores["conv"], regressed["conv"]),
        "fc": (scores["fc"], regressed["fc"]),
        "double": (scores["fc"], regressed["conv"]),
        "double-ext": (fused, regressed["conv"]),
    }
