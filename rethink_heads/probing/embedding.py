"""What branches make of RoIs on the levels of a pyramid, before their predictors; what they share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rethink_heads.probing.axis import RoIAlignRule
from rethink_heads.probing.blocks import LevelRoIs, level_rois, pooled_blocks

MEBIBYTE = 2**20


class BranchProbe(Protocol):
    """A branch's layers up to its predictor.

    Attributes:
        pooled_dtype: of the RoI features that it takes, and of pooling them.
        hidden_dtype: of the vectors that it gives.
        width: their length.
    """

    pooled_dtype: torch.dtype
    hidden_dtype: torch.dtype
    width: int

    def most(self, device: torch.device, memory: int) -> int:
        """RoIs to take at once where ``memory`` bytes may be held."""
        ...

    def at_once(self, level: LevelRoIs, memory: int) -> Tensor | None:
        """(N, width) for all of a level's RoIs without their features, or None where that does not pay."""
        ...

    def of_block(self, block: Tensor) -> Tensor:
        """(N, width) for RoI features (N, S, S, C)."""
        ...


@dataclass(frozen=True)
class PyramidRoIs:
    """RoIs of one image and the level that each is pooled from.

    Attributes:
        maps: the levels' feature maps (C, H, W).
        scales: cells per pixel of each level.
        rois: (N, 4) xyxy, in the detector's frame, as RoIAlign takes them.
        levels: (N,) index of each RoI's level.
        rule: how RoIAlign samples.
    """

    maps: Sequence[Tensor]
    scales: Sequence[float]
    rois: Tensor
    levels: Tensor
    rule: RoIAlignRule

    def by_level(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, LevelRoIs]]:
        """Positions (n,) of each level's RoIs and the RoIs, of the levels that have some."""
        for index, (feature_map, scale) in enumerate(zip(self.maps, self.scales, strict=True)):
            positions = torch.where(self.levels == index)[0]
            if len(positions):
                yield (
                    positions,
                    level_rois(feature_map, self.rois[positions], scale, self.rule, dtype),
                )


def embed(
    probes: Mapping[str, BranchProbe], rois: PyramidRoIs, memory_mb: int
) -> dict[str, Tensor]:
    """By branch: what its predictor takes, (N, width), of RoIs that all of the branches pool alike.

    Args:
        probes: one or more branches.
        rois: N RoIs.
        memory_mb: bound on what is held at once beside the result, in MiB.
    """
    alike: dict[torch.dtype, dict[str, BranchProbe]] = {}
    for name, probe in probes.items():
        alike.setdefault(probe.pooled_dtype, {})[name] = probe
    found: dict[str, Tensor] = {}
    for dtype, some in alike.items():
        found |= _embed(some, rois, dtype, memory_mb * MEBIBYTE)
    return found


def _embed(
    probes: Mapping[str, BranchProbe], rois: PyramidRoIs, dtype: torch.dtype, memory: int
) -> dict[str, Tensor]:
    """The same of branches that take RoI features of one type; ``memory`` in bytes."""
    device = rois.rois.device
    found = {
        name: torch.empty((len(rois.rois), probe.width), dtype=probe.hidden_dtype, device=device)
        for name, probe in probes.items()
    }
    for positions, level in rois.by_level(dtype):
        left = memory - level.region.numel() * dtype.itemsize
        block_by_block = {}
        for name, probe in probes.items():
            whole = probe.at_once(level, left)
            if whole is None:
                block_by_block[name] = probe
            else:
                found[name][positions] = whole
        if block_by_block:
            most = min(probe.most(device, left) for probe in block_by_block.values())
            for part, block in pooled_blocks(level, most):
                for name, probe in block_by_block.items():
                    found[name][positions[part]] = probe.of_block(block)
    return found
