"""RoI features of many RoIs on one feature map, block by block, cells first and channels last.

The map is contracted with the x-weights once; then each x-interval's y-intervals are one matrix product, whose result
lies as the heads want it. Nothing is gathered or permuted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from rethink_heads.probing.axis import Axis, RoIAlignRule, axis_weights
from rethink_heads.probing.outer import OuterProduct, outer_product

# The features of a block of RoIs, and as much again at most: the region pooled along x.
POOLED_AT_ONCE = 2


@dataclass(frozen=True)
class LevelRoIs:
    """RoIs that are pooled from one feature map, ready to be pooled.

    Attributes:
        region: (h, w, C), the part of the map that the RoIs read.
        x: weights along x, (X, S, w).
        y: weights along y, (Y, S, h).
        outer: which interval is whose.
    """

    region: Tensor
    x: Axis
    y: Axis
    outer: OuterProduct

    def __len__(self) -> int:
        return len(self.outer.x)


def level_rois(
    feature_map: Tensor, rois: Tensor, scale: float, rule: RoIAlignRule, dtype: torch.dtype
) -> LevelRoIs:
    """Make ready to pool RoIs (N, 4), one or more, from a feature map (C, H, W).

    Args:
        feature_map: one level of one image.
        rois: xyxy, in the detector's frame.
        scale: cells of the map per pixel.
        rule: how RoIAlign samples.
        dtype: of the pooling and its result. The weights are computed in the RoIs' type.
    """
    outer = outer_product(rois)
    x = axis_weights(outer.x_sides, scale, feature_map.shape[2], rule).to(dtype)
    y = axis_weights(outer.y_sides, scale, feature_map.shape[1], rule).to(dtype)
    region = feature_map[:, y.places, x.places].permute(1, 2, 0).to(dtype).contiguous()
    return LevelRoIs(region, x, y, outer)


def pooled_blocks(level: LevelRoIs, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """RoI features of a level, some at a time.

    Args:
        level: what :func:`level_rois` made.
        most: RoIs of a block.

    Yields:
        Positions (n,) among the level's RoIs and their features (n, S, S, C). The features' memory is used again for
        the next block.
    """
    pairs, order = torch.sort(level.outer.x * len(level.outer.y_sides) + level.outer.y)
    counts = torch.bincount(level.outer.x, minlength=len(level.outer.x_sides)).tolist()
    # Each pair once: as many RoIs as pairs may be one pair twice and another missing.
    full = len(pairs) == level.outer.pairs and bool((pairs.diff() == 1).all())
    memory = level.region.new_empty(0)
    done = 0
    # Pooled along x alone, a group's intervals take no more room than its RoI features.
    intervals = max(1, most * level.x.weights.shape[1] // len(level.region))
    for group in _groups(counts, most, intervals):
        positions = order[done : done + sum(stop - start for _, start, stop in group)]
        done += len(positions)
        memory = _room(memory, level, len(positions))
        together = full and all(stop - start == counts[0] for _, start, stop in group)
        with record_function("pool"):
            along_x = _contract_x(level, group)
            if together:
                block = _contract_y_together(level, along_x, group, memory)
            else:
                block = _contract_y(level, along_x, group, positions, memory)
        yield positions, block


def pool(level: LevelRoIs, most: int = 512) -> Tensor:
    """RoI features (N, C, S, S) of a level's RoIs, in their order; in memory the channels are last."""
    cells = level.x.weights.shape[1]
    pooled = level.region.new_empty((len(level), cells, cells, level.region.shape[2]))
    for positions, block in pooled_blocks(level, most):
        pooled[positions] = block
    return pooled.permute(0, 3, 1, 2)


def _contract_x(level: LevelRoIs, group: list[tuple[int, int, int]]) -> Tensor:
    """(h, x-intervals of the group, S * C): the region pooled along x."""
    weights = level.x.weights[group[0][0] : group[-1][0] + 1]
    x, cells, width = weights.shape
    found = torch.matmul(weights.reshape(x * cells, width), level.region)
    return found.view(len(level.region), x, -1)


def _groups(counts: list[int], most: int, intervals: int) -> Iterator[list[tuple[int, int, int]]]:
    """x-intervals and the range of their own RoIs, (index, start, stop), within both limits."""
    group: list[tuple[int, int, int]] = []
    size = 0
    for index, count in enumerate(counts):
        for start in range(0, count, most):
            stop = min(start + most, count)
            if group and (size + stop - start > most or len(group) == intervals):
                yield group
                group, size = [], 0
            group.append((index, start, stop))
            size += stop - start
    if group:
        yield group


def _room(memory: Tensor, level: LevelRoIs, count: int) -> Tensor:
    size = count * level.x.weights.shape[1] ** 2 * level.region.shape[2]
    return memory if memory.numel() >= size else level.region.new_empty(size)


def _contract_y_together(
    level: LevelRoIs, along_x: Tensor, group: list[tuple[int, int, int]], memory: Tensor
) -> Tensor:
    """All y-intervals with consecutive x-intervals: one batched product."""
    y, cells, height = level.y.weights.shape
    channels = level.region.shape[2]
    count = len(group)
    out = memory[: count * y * cells * cells * channels].view(count, y * cells, cells * channels)
    columns = along_x.permute(1, 0, 2)
    torch.matmul(level.y.weights.reshape(y * cells, height), columns, out=out)
    return out.view(count * y, cells, cells, channels)


def _contract_y(
    level: LevelRoIs,
    along_x: Tensor,
    group: list[tuple[int, int, int]],
    positions: Tensor,
    memory: Tensor,
) -> Tensor:
    """Each x-interval with the y-intervals that it has."""
    _, cells, height = level.y.weights.shape
    channels = level.region.shape[2]
    out = memory[: len(positions) * cells * cells * channels].view(-1, cells * channels)
    weights = level.y.weights[level.outer.y[positions]].view(-1, height)
    done = 0
    for index, start, stop in group:
        rows = slice(done * cells, (done + stop - start) * cells)
        torch.mm(weights[rows], along_x[:, index - group[0][0]], out=out[rows])
        done += stop - start
    return out.view(-1, cells, cells, channels)
