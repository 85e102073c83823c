"""RoI features of one image's RoIs on the levels of a pyramid."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink_heads.probing.embedding import PyramidRoIs
from rethink_heads.probing.roi_align import roi_align


def pool_pyramid(rois: PyramidRoIs) -> Tensor:
    """RoI features (N, C, S, S) of N RoIs, each from its level, contiguous, for layers of any kind."""
    side = rois.rule.resolution
    first = rois.maps[0]
    pooled = first.new_zeros((len(rois.rois), first.shape[0], side, side))
    for index, (feature_map, scale) in enumerate(zip(rois.maps, rois.scales, strict=True)):
        chosen = torch.where(rois.levels == index)[0]
        if len(chosen):
            found = roi_align(feature_map[None], rois.rois[chosen], scale, rois.rule)
            # Under autocast the levels need not be of one type.
            pooled[chosen] = found.to(pooled.dtype)
    return pooled
