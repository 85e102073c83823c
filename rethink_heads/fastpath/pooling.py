"""RoIAlign of many RoIs by factors: one matrix for each x-interval, one for each y-interval.

RoIAlign samples bilinearly at points whose y depends on the box's upper and lower sides alone and whose x on its left
and right sides, and averages over each RoI position. So it is a product of two linear maps, one for each axis. The
arithmetic of the sampling points is torchvision's operator's, step by step, in the boxes' type. The feature map is
contracted with the x-weights once; then each x-interval's y-intervals are one matrix product, whose result lies as the
heads want it: RoI positions first, channels last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function
from torchvision.ops import roi_align as operator

# The features of a block of RoIs, and as much again at most: the region pooled along x.
POOLED_AT_ONCE = 2
# Multiplications of matrix products in the time in which the operator reads one place of the map. On two cores with
# AVX-512 factors were ten times quicker at 8 to 10 of them.
PRODUCTS_A_READING = 30
# With fewer readings than this the operator is done before the factors are found.
LEAST_READINGS = 2**22
# With fewer RoIs of an x-interval than this its matrix products are too small to be quick.
ROIS_AN_INTERVAL = 4
FEW_ROIS = 8
# Places that a bilinear sample reads.
CORNERS = 4
TYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class RoIAlignRule:
    """How RoIAlign samples.

    Attributes:
        resolution: positions S along each side of the output.
        sampling_ratio: samples along each side of a position; 0 takes as many as the RoI has map cells there.
        aligned: whether pixel centres are half a cell from the map's border (``roi_align``'s ``aligned``).
    """

    resolution: int
    sampling_ratio: int
    aligned: bool = False


@dataclass(frozen=True)
class LevelRoIs:
    """N RoIs that are pooled from one feature map, by the X x-intervals and Y y-intervals that they are made of.

    Attributes:
        region: (h, w, C), the part of the map that the RoIs read.
        x: (X, S, w) weights along x.
        y: (Y, S, h) weights along y.
        x_index, y_index: (N,) each RoI's intervals.
    """

    region: Tensor
    x: Tensor
    y: Tensor
    x_index: Tensor
    y_index: Tensor

    def __len__(self) -> int:
        return len(self.x_index)

    @property
    def pairs(self) -> int:
        """X times Y, of which the RoIs are a part."""
        return len(self.x) * len(self.y)


@dataclass(frozen=True)
class PyramidRoIs:
    """RoIs of one image and the level that each is pooled from.

    Attributes:
        maps: the levels' feature maps (C, H, W).
        scales: map cells per pixel of each level.
        rois: (N, 4) xyxy, in pixels of the resized image, as RoIAlign takes them.
        levels: (N,) index of each RoI's level.
        rule: how RoIAlign samples.
    """

    maps: Sequence[Tensor]
    scales: Sequence[float]
    rois: Tensor
    levels: Tensor
    rule: RoIAlignRule

    def _levels(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Indices (n,) of each level's RoIs, its map and its scale, of the levels that have some."""
        for index, (feature_map, scale) in enumerate(zip(self.maps, self.scales, strict=True)):
            chosen = torch.where(self.levels == index)[0]
            if len(chosen):
                yield chosen, feature_map, scale

    def by_level(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, LevelRoIs]]:
        """Indices (n,) of each level's RoIs and the RoIs, of the levels that have some."""
        for chosen, feature_map, scale in self._levels():
            yield chosen, level_rois(feature_map, self.rois[chosen], scale, self.rule, dtype)

    def pool(self) -> Tensor:
        """RoI features (N, C, S, S), contiguous, for layers of any kind."""
        side = self.rule.resolution
        pooled = self.maps[0].new_zeros((len(self.rois), len(self.maps[0]), side, side))
        for chosen, feature_map, scale in self._levels():
            found = roi_align(feature_map[None], self.rois[chosen], scale, self.rule)
            # Under autocast the levels need not be of one type.
            pooled[chosen] = found.to(pooled.dtype)
        return pooled


def roi_align(
    feature_map: Tensor,
    rois: Tensor,
    scale: float,
    rule: RoIAlignRule,
    images: Tensor | None = None,
) -> Tensor:
    """RoI features (N, C, S, S) of RoIs on a feature map.

    By factors, if that is less work, on a CPU, of one image and where no gradient is asked for: then the channels are
    last in memory, and numbers differ from the operator's by rounding. Else torchvision's operator, autocast included.

    Args:
        feature_map: (images, C, H, W).
        rois: (N, 4) xyxy, in pixels of the resized image.
        scale: map cells per pixel.
        images: (N,) index of each RoI's image, where there are several.
    """
    asks_gradient = torch.is_grad_enabled() and (feature_map.requires_grad or rois.requires_grad)
    may_factor = (
        # On a GPU the operator reads as quickly as products multiply.
        feature_map.device.type == "cpu"
        and len(feature_map) == 1
        and feature_map.dtype == rois.dtype
        and feature_map.dtype in TYPES
        and not asks_gradient
    )
    if may_factor:
        readings = _readings(rois, scale, rule) * feature_map.shape[1]
        # The operator copies a whole map whose channels are last.
        few = len(rois) <= FEW_ROIS and not feature_map.is_contiguous()
        if few or readings >= LEAST_READINGS:
            with torch.autocast(feature_map.device.type, enabled=False):
                level = level_rois(feature_map[0], rois, scale, rule, feature_map.dtype)
                if few or _factors_pay(level, readings):
                    return pool(level)
    boxes = [rois] if images is None else torch.cat([images[:, None].to(rois), rois], dim=1)
    found: Tensor = operator(
        feature_map, boxes, rule.resolution, scale, rule.sampling_ratio, rule.aligned
    )
    return found


def _readings(rois: Tensor, scale: float, rule: RoIAlignRule) -> float:
    """Places of one channel that the operator reads for all RoIs."""
    samples = float(len(rois) * rule.sampling_ratio**2)
    if not rule.sampling_ratio:
        lengths = (rois[:, 2:] - rois[:, :2]) * (scale / rule.resolution)
        samples = float(lengths.ceil().clamp(min=1).double().prod(1).sum())
    return CORNERS * rule.resolution**2 * samples


def _factors_pay(level: LevelRoIs, readings: float) -> bool:
    """Whether many RoIs share each x-interval, and multiplications are few for what the operator would read."""
    height, width, channels = level.region.shape
    x, side, _ = level.x.shape
    products = height * side * channels * (x * width + len(level) * side)
    return x * ROIS_AN_INTERVAL <= len(level) and products < PRODUCTS_A_READING * readings


def level_rois(
    feature_map: Tensor, rois: Tensor, scale: float, rule: RoIAlignRule, dtype: torch.dtype
) -> LevelRoIs:
    """Make ready to pool RoIs (N, 4), one or more, from one level (C, H, W) of one image.

    Args:
        rois: xyxy, in pixels of the resized image.
        scale: map cells per pixel.
        dtype: of the pooling and its result. The weights are computed in the RoIs' type.
    """
    (x_sides, x_index), (y_sides, y_index) = intervals(rois[:, 0::2]), intervals(rois[:, 1::2])
    columns, x = axis_weights(x_sides, scale, feature_map.shape[2], rule)
    rows, y = axis_weights(y_sides, scale, feature_map.shape[1], rule)
    region = feature_map[:, rows, columns].permute(1, 2, 0).to(dtype).contiguous()
    return LevelRoIs(region, x.to(dtype), y.to(dtype), x_index, y_index)


def intervals(sides: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (n, 2) of sides (N, 2), and the index (N,) of each."""
    # Contiguous even where there are none, to be seen as other numbers.
    sides = sides.clone(memory_format=torch.contiguous_format)
    if sides.dtype != torch.float32:
        different, index = torch.unique(sides, dim=0, return_inverse=True)
        return different, index
    # Two float32 are one int64, and numbers are sorted much faster than rows.
    bits, index = torch.unique(sides.view(torch.int64)[:, 0], return_inverse=True)
    return bits[:, None].view(torch.float32), index


def axis_weights(
    sides: Tensor, scale: float, extent: int, rule: RoIAlignRule
) -> tuple[slice, Tensor]:
    """RoIAlign along one axis.

    Args:
        sides: (n, 2) lower and upper sides of the intervals, in pixels of the resized image.
        scale: map cells per pixel, 1 / stride.
        extent: map cells along the axis.

    Returns:
        The E map cells that any interval reads, and their weights (n, S, E) in each of the S RoI positions.
    """
    positions, shares = _samples(sides, scale, rule)
    inside = (positions >= -1) & (positions <= extent)
    positions = positions.clamp(min=0)
    low = positions.floor().long()
    at_end = low >= extent - 1
    low = low.clamp(max=extent - 1)
    high = (low + 1).clamp(max=extent - 1)
    beyond = torch.where(at_end, torch.zeros_like(positions), positions - low)
    shares = torch.where(inside, shares, torch.zeros_like(shares))
    first, end = 0, 1
    if bool(inside.any()):
        first, end = int(low[inside].min()), int(high[inside].max()) + 1
    weights = sides.new_zeros((*positions.shape[:2], end - first))
    for place, share in ((low, (1 - beyond) * shares), (high, beyond * shares)):
        place = (place - first).clamp(0, end - first - 1)
        # Sample by sample: the order of a sum is the same on every device.
        for one in range(place.shape[2]):
            weights.scatter_add_(2, place[..., one, None], share[..., one, None])
    return slice(first, end), weights


def _samples(sides: Tensor, scale: float, rule: RoIAlignRule) -> tuple[Tensor, Tensor]:
    """Sampling points (n, S, M) in map cells, and their shares in the average: zero beyond an RoI's last."""
    offset = 0.5 if rule.aligned else 0.0
    start, end = (sides * scale - offset).unbind(1)
    length = end - start
    if not rule.aligned:
        length = length.clamp(min=1)
    step = length / rule.resolution
    if rule.sampling_ratio > 0:
        counts = torch.full_like(step, rule.sampling_ratio)
    else:
        counts = torch.ceil(length / rule.resolution)
    most = max(1, int(counts.max())) if len(counts) else 1
    sample = torch.arange(most, device=sides.device, dtype=sides.dtype)
    position = torch.arange(rule.resolution, device=sides.device, dtype=sides.dtype)
    # An RoI turned inside out has no samples, and its average is zero.
    divisor = counts.clamp(min=1)
    within = (sample + 0.5) * step[:, None] / divisor[:, None]
    points = (start[:, None] + position * step[:, None])[:, :, None] + within[:, None]
    shares = (sample < counts[:, None]) / divisor[:, None]
    return points, shares[:, None].expand_as(points).to(sides.dtype)


def pool(level: LevelRoIs, most: int = 512) -> Tensor:
    """RoI features (N, C, S, S) of a level's RoIs, in their order; in memory the channels are last."""
    side = level.x.shape[1]
    pooled = level.region.new_empty((len(level), side, side, level.region.shape[2]))
    for positions, block in pool_blocks(level, most):
        pooled[positions] = block
    return pooled.permute(0, 3, 1, 2)


def pool_blocks(level: LevelRoIs, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """RoI features of a level, ``most`` RoIs at a time.

    Yields:
        Positions (n,) among the level's RoIs and their features (n, S, S, C). The features' memory is used again for
        the next block.
    """
    (x, side, width), channels = level.x.shape, level.region.shape[2]
    pairs, order = torch.sort(level.x_index * len(level.y) + level.y_index)
    counts = torch.bincount(level.x_index, minlength=x).tolist()
    # Each pair once: as many RoIs as pairs may be one pair twice and another missing.
    full = len(pairs) == level.pairs and bool((pairs.diff() == 1).all())
    memory = level.region.new_empty(0)
    done = 0
    # Pooled along x alone, a group's intervals take no more room than its RoI features.
    at_once = max(1, most * side // len(level.region))
    for group in _groups(counts, most, at_once):
        positions = order[done : done + sum(stop - start for _, start, stop in group)]
        done += len(positions)
        size = len(positions) * side**2 * channels
        if memory.numel() < size:
            memory = level.region.new_empty(size)
        out = memory[:size].view(-1, side * channels)
        first, last = group[0][0], group[-1][0]
        with record_function("pool"):
            weights = level.x[first : last + 1].reshape(-1, width)
            # (h, x-intervals of the group, S * C): the region pooled along x.
            along_x = torch.matmul(weights, level.region)
            along_x = along_x.view(len(level.region), last + 1 - first, -1)
            if full and all(stop - start == counts[0] for _, start, stop in group):
                # All y-intervals with consecutive x-intervals: one batched product.
                y_weights = level.y.reshape(-1, level.y.shape[2])
                together = out.view(len(group), len(y_weights), -1)
                torch.matmul(y_weights, along_x.permute(1, 0, 2), out=together)
            else:
                _contract_y(level, along_x, group, positions, out)
        yield positions, out.view(-1, side, side, channels)


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


def _contract_y(
    level: LevelRoIs,
    along_x: Tensor,
    group: list[tuple[int, int, int]],
    positions: Tensor,
    out: Tensor,
) -> None:
    """Write into ``out`` (n * S, S * C) each x-interval with the y-intervals that it has."""
    _, side, height = level.y.shape
    weights = level.y[level.y_index[positions]].view(-1, height)
    done = 0
    for index, start, stop in group:
        rows = slice(done * side, (done + stop - start) * side)
        torch.mm(weights[rows], along_x[:, index - group[0][0]], out=out[rows])
        done += stop - start
