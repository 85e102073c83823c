"""RoIAlign over the pyramid: which level an RoI is pooled from, and where its cells are sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_area
from torchvision.ops import roi_align as roi_align_of_batch

from rethink_heads.boxes import enlarge
from rethink_heads.config import ConventionsConfig
from rethink_heads.detectors.coordinates import ImageFeatures, Size
from rethink_heads.fastpath.pooling import PyramidRoIs, RoIAlignRule, roi_align

STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32}
"""Pixels between the cells of the pyramid's levels that RoIs are pooled from, P2 to P5."""

TINY = 1e-6
DETECTRON2_TINY = 1e-8


def pyramid_level(boxes: Tensor, rule: str) -> Tensor:
    """(N,) index into ``STRIDES`` of boxes (N, 4): floor(4 + log2(sqrt(area) / 224)) - 2, kept within 0 to 3.

    Args:
        boxes: by their edges, in the detector's frame.
        rule: the framework whose small constant keeps a box of exactly a level's least size on that level.
    """
    side = box_area(boxes).clamp(min=0).sqrt()
    if rule == "torchvision":
        level = torch.floor(4 + torch.log2(side / 224) + TINY) - 2
    elif rule == "maskrcnn-benchmark":
        level = torch.floor(4 + torch.log2(side / 224 + TINY)) - 2
    elif rule == "detectron2":
        level = torch.floor(4 + torch.log2(side / 224 + DETECTRON2_TINY)) - 2
    else:
        level = torch.floor(torch.log2(side / 56 + TINY))
    return level.clamp(0, len(STRIDES) - 1).long()


class PyramidPooler(nn.Module):
    """RoIAlign of each RoI from one level of the pyramid.

    Args:
        resolution: cells along each side of the output.
        sampling_ratio: samples along each side of a cell; 0 takes as many as the RoI has feature cells there.
        conventions: how boxes end, ``aligned``, the rule of levels, and which size of an enlarged RoI it is given.
    """

    def __init__(
        self, resolution: int, sampling_ratio: int, conventions: ConventionsConfig | None = None
    ) -> None:
        super().__init__()
        self.resolution, self.sampling_ratio = resolution, sampling_ratio
        self.conventions = conventions or ConventionsConfig()

    def place(self, boxes: Tensor, enlargement: float = 1.0) -> tuple[Tensor, Tensor]:
        """RoIs (N, 4) of boxes as RoIAlign takes them, and the index (N,) into ``STRIDES`` of each one's level.

        Args:
            boxes: by their edges, in the detector's frame.
            enlargement: the factor by which an RoI is larger than its box, about the box's centre.
        """
        rois = enlarge(boxes, enlargement)
        from_proposal = self.conventions.roi_level_from == "proposal"
        level = pyramid_level(boxes if from_proposal else rois, self.conventions.roi_level_rule)
        if self.conventions.box_ends == "pixel":
            rois = torch.cat([rois[:, :2], rois[:, 2:] - 1], dim=1)
        return rois, level

    @property
    def rule(self) -> RoIAlignRule:
        """How RoIAlign samples."""
        aligned = self.conventions.roi_align_aligned
        return RoIAlignRule(self.resolution, self.sampling_ratio, aligned)

    def place_on_pyramid(
        self, features: ImageFeatures, boxes: Tensor, enlargement: float = 1.0
    ) -> PyramidRoIs:
        """RoIs of one image's boxes (N, 4) on the levels of its pyramid; see :meth:`place`."""
        corners, levels = self.place(boxes, enlargement)
        maps = [features.pyramid[name][0] for name in STRIDES]
        scales = [1 / stride for stride in STRIDES.values()]
        return PyramidRoIs(maps, scales, corners, levels, self.rule)

    def forward(
        self,
        pyramid: dict[str, Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Sequence[Size] | None = None,
        enlargement: float = 1.0,
    ) -> Tensor:
        """RoI features (N, C, S, S) of all images' boxes [(N_i, 4)], one image after the other.

        Their channels may be last in memory.

        Args:
            pyramid: feature maps by level; those of ``STRIDES`` are read.
            boxes: by their edges, in the detector's frame.
            image_sizes: not needed; torchvision's poolers ask for them.
            enlargement: the factor by which an RoI is larger than its box.
        """
        corners, level = self.place(torch.cat(list(boxes)), enlargement)
        counts = torch.tensor([len(b) for b in boxes], device=corners.device)
        images = torch.arange(len(boxes), device=corners.device)
        images = images.repeat_interleave(counts, output_size=len(corners))
        first = pyramid[next(iter(STRIDES))]
        shape = (len(corners), first.shape[1], self.resolution, self.resolution)
        pooled: Tensor | None = None
        for index, (name, stride) in enumerate(STRIDES.items()):
            chosen = torch.where(level == index)[0]
            # In training all levels are part of the graph.
            if not len(chosen) and not torch.is_grad_enabled():
                continue
            found = self._pool_level(pyramid[name], corners[chosen], images[chosen], stride)
            # Under autocast the levels need not be of one type.
            found = found.to(first.dtype)
            if len(chosen) == len(corners) and not torch.is_grad_enabled():
                return found
            if pooled is None:
                pooled = _zeros(shape, like=found)
            pooled[chosen] = found
        return first.new_zeros(shape) if pooled is None else pooled

    def _pool_level(
        self, feature_map: Tensor, corners: Tensor, images: Tensor, stride: int
    ) -> Tensor:
        """RoI features of RoIs (N, 4) of the images (N,) on one level (images, C, H, W)."""
        rule = self.rule
        if len(feature_map) == 1:
            return roi_align(feature_map, corners, 1 / stride, rule)
        rois = torch.cat([images[:, None].to(corners), corners], dim=1)
        found: Tensor = roi_align_of_batch(
            feature_map, rois, self.resolution, 1 / stride, rule.sampling_ratio, rule.aligned
        )
        return found


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros with their channels last in memory where another's are."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order).zero_()
