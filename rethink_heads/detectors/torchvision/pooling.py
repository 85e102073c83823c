"""torchvision's ``MultiScaleRoIAlign`` by factors: the same levels and cells of the same boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from rethink_heads.detectors.coordinates import ImageFeatures
from rethink_heads.fastpath.fc import is_unmodified
from rethink_heads.fastpath.pooling import PyramidRoIs, RoIAlignRule


def can_place(pooler: nn.Module) -> bool:
    """Whether a pooler is torchvision's own, with square RoI features."""
    if not is_unmodified(pooler, MultiScaleRoIAlign):
        return False
    sides: Any = pooler.output_size
    return len(sides) == 2 and sides[0] == sides[1]


def place(pooler: Any, features: ImageFeatures, boxes: Tensor) -> PyramidRoIs:
    """Where a pooler that ``can_place`` pools boxes (N, 4), in the detector's frame, from."""
    forget_images(pooler)
    pooler(features.pyramid, [boxes[:0]], [features.size])
    maps = [each for name, each in features.pyramid.items() if name in pooler.featmap_names]
    levels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if len(maps) > 1:
        levels = pooler.map_levels([boxes])
    rule = RoIAlignRule(pooler.output_size[0], pooler.sampling_ratio)
    return PyramidRoIs([each[0] for each in maps], pooler.scales, boxes, levels, rule)


def forget_images(pooler: nn.Module) -> None:
    """Let a pooler infer the levels' scales again, from the image that it is shown next.

    ``MultiScaleRoIAlign`` infers them from the first image that it sees and keeps them for all others, but those of a
    narrow image may be others: its features are rounded up to whole cells. What a box gets must not depend on which
    image came first.
    """
    for each in pooler.modules():
        # Levels that are assigned by a rule of the user's own are no inference.
        if isinstance(each, MultiScaleRoIAlign) and isinstance(each.map_levels, LevelMapper):
            each.scales = each.map_levels = None


def pool(pooler: nn.Module, features: ImageFeatures, boxes: Tensor) -> Tensor:
    """What a pooler makes of boxes (N, 4) in the detector's frame: RoI features (N, C, S, S)."""
    if can_place(pooler):
        return place(pooler, features, boxes).pool()
    forget_images(pooler)
    found: Tensor = pooler(features.pyramid, [boxes], [features.size])
    return found
