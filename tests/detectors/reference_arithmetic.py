"""Plain functions for what the two frameworks share: ResNet, FPN, RoIAlign, NMS, deltas. Written for clarity alone.

``one`` is 1 where a box ends at the index of its last pixel (maskrcnn-benchmark) and 0 where it ends at an edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
BLOCKS = {1: 3, 2: 4, 3: 6, 4: 3}


def norm(state: State, name: str, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Batch normalisation with kept statistics, over channels."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + epsilon).sqrt() * weight + bias


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolution that keeps the resolution but for its stride."""
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def resnet50(
    state: State, body: str, stem: str, x: Tensor, strides: tuple[int, int], epsilon: float
) -> list[Tensor]:
    """The four stages' outputs; ``strides`` are a later stage's first block's, of its 1x1 and 3x3 convolution."""
    x = F.relu(norm(state, f"{stem}.bn1", conv(state, f"{stem}.conv1", x, 2), epsilon))
    x = F.max_pool2d(x, 3, 2, 1)
    outputs = []
    for layer, blocks in BLOCKS.items():
        for block in range(blocks):
            name = f"{body}.layer{layer}.{block}"
            first, second = strides if layer > 1 and block == 0 else (1, 1)
            y = F.relu(norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, first), epsilon))
            y = F.relu(norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", y, second), epsilon))
            y = norm(state, f"{name}.bn3", conv(state, f"{name}.conv3", y), epsilon)
            if block == 0:
                shortcut = conv(state, f"{name}.downsample.0", x, first * second)
                x = norm(state, f"{name}.downsample.1", shortcut, epsilon)
            x = F.relu(x + y)
        outputs.append(x)
    return outputs


def fpn(
    state: State, inner: Callable[[int], str], outer: Callable[[int], str], stages: list[Tensor]
) -> list[Tensor]:
    """P2 to P6, by the names of the lateral and output convolutions of level 0 to 3."""
    top = conv(state, inner(3), stages[3])
    merged = [top]
    for level in (2, 1, 0):
        doubled = top.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        top = conv(state, inner(level), stages[level]) + doubled
        merged.insert(0, top)
    levels = [conv(state, outer(level), x) for level, x in enumerate(merged)]
    return [*levels, levels[-1][..., ::2, ::2]]


def decode(
    deltas: Tensor, boxes: Tensor, weights: tuple[float, ...], one: int, both: bool
) -> Tensor:
    """(N, K, 4) boxes from deltas (N, K, 4) of boxes (N, 4)."""
    limit = math.log(1000 / 16)
    x1, y1, x2, y2 = boxes[:, None].unbind(-1)
    width, height = x2 - x1 + one, y2 - y1 + one
    dx, dy, dw, dh = (deltas / deltas.new_tensor(weights)).unbind(-1)
    dw, dh = (d.clamp(min=-limit if both else -math.inf, max=limit) for d in (dw, dh))
    centre_x, centre_y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    half_width, half_height = width * dw.exp() / 2, height * dh.exp() / 2
    corners = (
        centre_x - half_width,
        centre_y - half_height,
        centre_x + half_width - one,
        centre_y + half_height - one,
    )
    return torch.stack(corners, dim=-1)


def clip(boxes: Tensor, size: tuple[int, int], one: int) -> Tensor:
    height, width = size
    limits = boxes.new_tensor([width, height, width, height]) - one
    return boxes.clamp(min=0).minimum(limits)


def nms(boxes: Tensor, scores: Tensor, threshold: float, one: int) -> Tensor:
    """Indices of what greedy suppression keeps, best first."""
    left = scores.argsort(descending=True, stable=True)
    kept = []
    area = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(int(best))
        low = boxes[rest, :2].maximum(boxes[best, :2])
        high = boxes[rest, 2:].minimum(boxes[best, 2:])
        overlap = (high - low + one).clamp(min=0).prod(1)
        left = rest[overlap / (area[rest] + area[best] - overlap) <= threshold]
    return torch.tensor(kept, dtype=torch.int64)


def enlarge(boxes: Tensor, factor: float, one: int) -> Tensor:
    """Boxes about their centres."""
    sides = boxes[:, 2:] - boxes[:, :2] + one
    centre = boxes[:, :2] + sides / 2
    return torch.cat([centre - sides * factor / 2, centre + sides * factor / 2 - one], dim=1)


def roi_align(
    feature: Tensor, roi: Tensor, scale: float, samples: int, aligned: bool, cells: int = 7
) -> Tensor:
    """(C, cells, cells): means of bilinear samples of a map (C, H, W) in a grid over the box (4,)."""
    _, height, width = feature.shape
    x1, y1, x2, y2 = (float(v) * scale - (0.5 if aligned else 0.0) for v in roi)
    sides = (x2 - x1, y2 - y1)
    if not aligned:
        sides = (max(sides[0], 1.0), max(sides[1], 1.0))
    weights = []
    for start, side, cell_count in ((y1, sides[1], height), (x1, sides[0], width)):
        step = side / cells
        count = samples or math.ceil(step)
        weight = np.zeros((cells, cell_count))
        for cell in range(cells):
            for sample in range(count):
                # Added up as the operator does: at the border its rounding decides whether there is a sample.
                at = start + cell * step + (sample + 0.5) * step / count
                if -1 <= at <= cell_count:
                    at = min(max(at, 0.0), cell_count - 1)
                    low = int(at)
                    high = min(low + 1, cell_count - 1)
                    weight[cell, low] += (1 - (at - low)) / count
                    weight[cell, high] += (at - low) / count
        weights.append(torch.from_numpy(weight).to(feature))
    # Bilinear samples on a grid: one factor in y, one in x.
    return weights[0] @ feature @ weights[1].T


def pool(
    levels: list[Tensor],
    boxes: Tensor,
    level_of: Callable[[float], float],
    factor: float,
    samples: int,
    aligned: bool,
    one: int,
) -> Tensor:
    """(N, C, 7, 7): RoI features of boxes grown by a factor, from the levels of the boxes as they are.

    ``level_of`` is the framework's rule: from the root of a box's area to the level, P2 being 0.
    """
    pooled = []
    for box, roi in zip(boxes, enlarge(boxes, factor, one), strict=True):
        side = math.sqrt(float((box[2:] - box[:2] + one).prod()))
        level = min(max(math.floor(level_of(side)), 0), 3)
        pooled.append(roi_align(levels[level][0], roi, 1 / (4 * 2**level), samples, aligned))
    return torch.stack(pooled)


def padded(pixels: Tensor) -> Tensor:
    """A batch (1, C, H, W) of pixels (height, width, C), zeros up to whole multiples of 32."""
    height, width = pixels.shape[:2]
    batch = pixels.new_zeros(1, pixels.shape[2], -(-height // 32) * 32, -(-width // 32) * 32)
    batch[0, :, :height, :width] = pixels.permute(2, 0, 1)
    return batch


def bottleneck(state: State, x: Tensor, convolutions: list[str], norms: list[str]) -> Tensor:
    """Three convolutions with their normalisations, ReLU but for the last, added to what came in."""
    y = x
    for place, (name, norm_name) in enumerate(zip(convolutions, norms, strict=True)):
        y = norm(state, norm_name, conv(state, name, y))
        if place < 2:
            y = F.relu(y)
    return F.relu(x + y)


def anchors(
    rows: int, columns: int, stride: int, halves: list[tuple[float, float]], offset: float = 0.0
) -> Tensor:
    """(rows * columns * A, 4): in every cell boxes of A half sides, about a place ``offset`` pixels from its corner."""
    found = []
    for y in range(rows):
        for x in range(columns):
            for half_x, half_y in halves:
                centre_x, centre_y = x * stride + offset, y * stride + offset
                found.append(
                    (centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y)
                )
    return torch.tensor(found, dtype=torch.float64)


def area_anchors(rows: int, columns: int, stride: int, size: int) -> Tensor:
    """Those of one area and of ratios (height over width) 1/2, 1 and 2, about a cell's corner."""
    roots = [math.sqrt(ratio) for ratio in (0.5, 1.0, 2.0)]
    halves = [(size / root / 2, size * root / 2) for root in roots]
    return anchors(rows, columns, stride, halves)


def area_grid(levels: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """By level: those of its size in every cell of its map."""
    return [
        area_anchors(*x.shape[-2:], 4 * 2**level, sizes[level]) for level, x in enumerate(levels)
    ]


def propose(
    state: State,
    names: tuple[str, str, str],
    levels: list[Tensor],
    anchors: list[Tensor],
    size: tuple[int, int],
    count: int,
    one: int,
    both: bool,
) -> Tensor:
    """Proposals (M, 4), best first: each level's best ``count``, decoded, clipped, suppressed, then the best of all.

    ``names`` are those of the RPN's convolution, and of its layers of logits and deltas.
    """
    boxes, scores = [], []
    for x, level_anchors in zip(levels, anchors, strict=True):
        hidden = F.relu(conv(state, names[0], x))
        logits = conv(state, names[1], hidden)[0].permute(1, 2, 0).flatten()
        codes = conv(state, names[2], hidden)[0].permute(1, 2, 0).reshape(-1, 4)
        best = logits.argsort(descending=True, stable=True)[:count]
        chosen = decode(codes[best, None], level_anchors[best], (1, 1, 1, 1), one, both)[:, 0]
        chosen = clip(chosen, size, one)
        whole = ((chosen[:, 2:] - chosen[:, :2] + one) > 0).all(1)
        chosen, level_scores = chosen[whole], logits[best][whole].sigmoid()
        kept = nms(chosen, level_scores, 0.7, one)
        boxes.append(chosen[kept])
        scores.append(level_scores[kept])
    order = torch.cat(scores).argsort(descending=True, stable=True)[:count]
    return torch.cat(boxes)[order]


def detections(scores: Tensor, boxes: Tensor, one: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels after the threshold, NMS by class and the cut to 100, best first."""
    found = []
    for label in range(scores.shape[1]):
        above = torch.where(scores[:, label] > 0.05)[0]
        kept = above[nms(boxes[above, label], scores[above, label], 0.5, one)]
        found.append((boxes[kept, label], scores[kept, label], torch.full_like(kept, label)))
    all_boxes, all_scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = all_scores.argsort(descending=True, stable=True)[:100]
    return all_boxes[order], all_scores[order], labels[order]
