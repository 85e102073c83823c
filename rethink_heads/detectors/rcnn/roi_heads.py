"""The second stage: RoIAlign over the pyramid, heads, decoding and NMS, on torchvision's sampler, coder and NMS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, box_area, remove_small_boxes

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.base import Detections, HeadOutput, RoIFeatures
from rethink_heads.detectors.coordinates import ImageFeatures, Size, clip_boxes, enlarge
from rethink_heads.detectors.rcnn.rpn import box_coder
from rethink_heads.fastpath.pooling import PyramidRoIs, RoIAlignRule, roi_align
from rethink_heads.heads import BoxHeads, enlargements
from rethink_heads.suppression import Suppression

STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32}
"""Pixels between the cells of the pyramid's levels that RoIs are pooled from, P2 to P5."""

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
TINY = 1e-6
DETECTRON2_TINY = 1e-8


def pyramid_level(boxes: Tensor, rule: str, canonical_size: int = 224) -> Tensor:
    """(N,) index into ``STRIDES`` of boxes (N, 4): floor(4 + log2(sqrt(area) / canonical)) - 2, within 0 to 3.

    Args:
        boxes: by their edges, in pixels of the resized image.
        rule: the framework whose small constant keeps a box of exactly a level's least size on that level.
        canonical_size: side of the least square box on P4, in pixels.
    """
    side = box_area(boxes).clamp(min=0).sqrt()
    if rule == "torchvision":
        level = torch.floor(4 + torch.log2(side / canonical_size) + TINY) - 2
    elif rule == "mmdetection":
        level = torch.floor(torch.log2(side / (canonical_size / 4) + TINY))
    else:
        tiny = DETECTRON2_TINY if rule == "detectron2" else TINY
        level = torch.floor(4 + torch.log2(side / canonical_size + tiny)) - 2
    return level.clamp(0, len(STRIDES) - 1).long()


class PyramidPooler(nn.Module):
    """RoIAlign of each RoI from one level of the pyramid.

    Boxes are by their edges, in pixels of the resized image; ``enlargement`` is the factor by which an RoI is larger
    than its box, about the box's centre.

    Args:
        sampling_ratio: samples along each side of a position; 0 takes as many as the RoI has map cells there.
        conventions: how boxes end, ``aligned``, the rule of levels, and which size of an enlarged RoI it is given.
        canonical_size: side of the least square RoI on P4, in pixels.
        strides: of the levels that there are, of ``STRIDES``. A RoI for another level is on the next finer one, or, if
            there is none, on the finest.
    """

    def __init__(
        self,
        resolution: int,
        sampling_ratio: int,
        conventions: ConventionsConfig | None = None,
        canonical_size: int = 224,
        strides: Sequence[int] = tuple(STRIDES.values()),
    ) -> None:
        super().__init__()
        self.strides = {name: stride for name, stride in STRIDES.items() if stride in strides}
        self.canonical_size = canonical_size
        self.conventions = conventions or ConventionsConfig()
        self.resolution = resolution
        self.rule = RoIAlignRule(resolution, sampling_ratio, self.conventions.roi_align_aligned)

    def place(self, boxes: Tensor, enlargement: float = 1.0) -> tuple[Tensor, Tensor]:
        """RoIs (N, 4) of boxes as RoIAlign takes them, and the index (N,) into ``strides`` of each one's level."""
        rois = enlarge(boxes, enlargement)
        from_proposal = self.conventions.roi_level_from == "proposal"
        sized = boxes if from_proposal else rois
        level = pyramid_level(sized, self.conventions.roi_level_rule, self.canonical_size)
        if len(self.strides) < len(STRIDES):
            there = [sum(own <= s for own in self.strides.values()) for s in STRIDES.values()]
            level = (torch.tensor(there, device=level.device) - 1).clamp(min=0)[level]
        if self.conventions.box_ends == "pixel":
            rois = torch.cat([rois[:, :2], rois[:, 2:] - 1], dim=1)
        return rois, level

    def place_on_pyramid(
        self, features: ImageFeatures, boxes: Tensor, enlargement: float = 1.0
    ) -> PyramidRoIs:
        """RoIs of one image's boxes (N, 4) on the levels of its pyramid."""
        maps = [features.pyramid[name][0] for name in self.strides]
        scales = [1 / stride for stride in self.strides.values()]
        return PyramidRoIs(maps, scales, *self.place(boxes, enlargement), self.rule)

    def forward(
        self, pyramid: dict[str, Tensor], boxes: Sequence[Tensor], enlargement: float = 1.0
    ) -> Tensor:
        """RoI features (N, C, S, S) of all images' boxes [(N_i, 4)], one image after the other.

        Of the feature maps those of ``strides`` are read. The result's channels may be last in memory.
        """
        corners, level = self.place(torch.cat(list(boxes)), enlargement)
        counts = torch.tensor([len(b) for b in boxes], device=corners.device)
        images = torch.arange(len(boxes), device=corners.device)
        images = images.repeat_interleave(counts, output_size=len(corners))
        first = pyramid[next(iter(self.strides))]
        shape = (len(corners), first.shape[1], self.resolution, self.resolution)
        pooled: Tensor | None = None
        for index, (name, stride) in enumerate(self.strides.items()):
            chosen = torch.where(level == index)[0]
            # In training all levels are part of the graph.
            if not len(chosen) and not torch.is_grad_enabled():
                continue
            found = roi_align(pyramid[name], corners[chosen], 1 / stride, self.rule, images[chosen])
            # Under autocast the levels need not be of one type.
            found = found.to(first.dtype)
            if len(chosen) == len(corners) and not torch.is_grad_enabled():
                return found
            if pooled is None:
                last = not found.is_contiguous()
                order = torch.channels_last if last else torch.contiguous_format
                pooled = torch.empty(
                    shape, dtype=found.dtype, device=found.device, memory_format=order
                ).zero_()
            pooled[chosen] = found
        return first.new_zeros(shape) if pooled is None else pooled


class BoxRoIHeads(RoIHeads):
    """torchvision's RoI heads with our branches, each of which pools its own, perhaps enlarged, RoIs.

    Boxes are by their edges in pixels of the resized image; background is class 0.
    """

    def __init__(
        self,
        heads: BoxHeads,
        model: ModelConfig,
        strides: Sequence[int] = tuple(STRIDES.values()),
    ) -> None:
        super().__init__(
            box_roi_pool=PyramidPooler(
                model.roi_resolution,
                model.sampling_ratio,
                model.conventions,
                model.canonical_size,
                strides,
            ),
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=model.rois_per_image,
            positive_fraction=model.positive_fraction,
            bbox_reg_weights=DELTA_WEIGHTS,
            score_thresh=model.score_threshold,
            nms_thresh=model.nms_threshold,
            detections_per_img=model.detections_per_image,
        )
        self.conventions = model.conventions
        self.box_coder = box_coder(DELTA_WEIGHTS, model.conventions.delta_limits)
        self.heads = heads
        self.enlargement = enlargements(model)
        self.fusion: str = model.fusion

    def pool(self, pyramid: dict[str, Tensor], boxes: list[Tensor]) -> RoIFeatures:
        """By branch: RoI features (N, C, S, S) of all images' boxes [(N_i, 4)] one after the other."""
        return self.heads.pool(
            self.enlargement, lambda factor: self.box_roi_pool(pyramid, boxes, factor)
        )

    def training_losses(
        self,
        pyramid: dict[str, Tensor],
        proposals: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Weighted losses of every branch on RoIs sampled from the proposals; targets as torchvision's."""
        proposals, _, labels, deltas = self.select_training_samples(proposals, targets)
        outputs = self.heads(self.pool(pyramid, proposals))
        return self.heads.losses(outputs, torch.cat(labels), torch.cat(deltas))

    def predict(
        self, roi_features: RoIFeatures, boxes: Tensor, heads: tuple[str, ...], image_size: Size
    ) -> dict[str, HeadOutput]:
        """Scores and boxes, clipped to the image, of each head for one image's boxes (N, 4)."""

        def decode(deltas: Tensor) -> Tensor:
            regressed = self.box_coder.decode(deltas, [boxes])
            # torchvision's coder leaves the boxes of no RoI at all without their last dimension.
            regressed = regressed.reshape(len(boxes), deltas.shape[1] // 4, 4)
            return clip_boxes(regressed, image_size, self.conventions.box_ends)[:, 1:]

        outputs = self.heads.predict(roi_features, heads, self.fusion, decode)
        return {name: HeadOutput(*output) for name, output in outputs.items()}

    @property
    def suppression(self) -> Suppression:
        """The rule of :meth:`suppress`, up to what a resized image changes of IoUs where boxes end at pixels."""
        return Suppression(
            self.score_thresh,
            self.nms_thresh,
            self.detections_per_img,
            self.conventions.least_detection_side,
        )

    def suppress(self, output: HeadOutput) -> Detections:
        """Score threshold, per-class NMS and the cut to the best: one image's final detections."""
        roi, labels = torch.where(output.scores > self.score_thresh)
        boxes, scores = output.boxes[roi, labels], output.scores[roi, labels]
        kept = remove_small_boxes(boxes, self.conventions.least_detection_side)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        kept = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return Detections(boxes[kept], scores[kept], labels[kept])
