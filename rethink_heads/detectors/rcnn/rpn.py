"""The region proposal network: torchvision's, with the anchors, deltas and clipping of the conventions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, remove_small_boxes

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.coordinates import Size, clip_boxes, to_edges

ANCHOR_STRIDES = (4, 8, 16, 32, 64)


class BothWaysBoxCoder(BoxCoder):
    """torchvision's coder, with size deltas limited from below as from above (mmdetection)."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, 4 K) from deltas (N, 4 K) and boxes (N, 4), by their edges."""
        codes = rel_codes.clone()
        for part in (2, 3):
            least = -self.bbox_xform_clip * self.weights[part]
            codes[:, part::4] = codes[:, part::4].clamp(min=least)
        return super().decode_single(codes, boxes)


def box_coder(weights: tuple[float, float, float, float], delta_limits: str) -> BoxCoder:
    """The coder between boxes and deltas multiplied by ``weights``, with the size deltas' limits."""
    return BothWaysBoxCoder(weights) if delta_limits == "both" else BoxCoder(weights)


def cell_anchors(
    framework: str, stride: int, size: float, ratios: Sequence[float], box_ends: str = "edge"
) -> Tensor:
    """Anchors (ratios, 4) of the pyramid cell at the image's corner, by their edges, in the order of the ratios.

    Args:
        framework: ``maskrcnn-benchmark``, or ``mmdetection`` or ``detectron2``, whose anchors are the same.
        stride: of the level, in pixels.
        size: square root of the area that anchors of the level have, about, in pixels.
        ratios: height over width.
        box_ends: what the framework's coordinates are.
    """
    ratio = torch.tensor(ratios, dtype=torch.float64)
    if framework in ("mmdetection", "detectron2"):
        centre = 0.0
        width, height = size / ratio.sqrt(), size * ratio.sqrt()
    else:
        # A cell's anchor has the pixels 0 to stride - 1; its sides are rounded, to even where halfway, then scaled.
        centre = (stride - 1) / 2
        width = (stride**2 / ratio).sqrt().round()
        height = (width * ratio).round()
        width, height = width * (size / stride) - 1, height * (size / stride) - 1
    half = torch.stack([width, height], dim=1) / 2
    corners = torch.cat([centre - half, centre + half], dim=1).float()
    return to_edges(corners) if box_ends == "pixel" else corners


class StrideAnchors(AnchorGenerator):
    """Anchors of the frameworks whose levels have fixed strides.

    Args:
        sizes: one for each level, in pixels.
        ratios: height over width.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        ratios: Sequence[float],
        conventions: ConventionsConfig,
        strides: Sequence[int] = ANCHOR_STRIDES,
    ) -> None:
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))
        self.cell_anchors = [
            cell_anchors(conventions.anchors, stride, size, ratios, conventions.box_ends)
            for stride, size in zip(strides, sizes, strict=True)
        ]
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image the anchors (N, 4) of all levels, row by row, cell by cell."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        grids = [list(feature.shape[-2:]) for feature in feature_maps]
        strides = [[torch.tensor(s, device=first.device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors for _ in image_list.image_sizes]


def inside(anchors: Tensor, size: Size, box_ends: str = "edge") -> Tensor:
    """(N,) bool: whether anchors (N, 4), by their edges, lie wholly in an image of (height, width) pixels.

    Where boxes end at a pixel, the last one's index may lie anywhere before the image's end (maskrcnn-benchmark).
    """
    height, width = size
    least, most = anchors[:, :2].amin(dim=1), anchors[:, 2:]
    limits = most.new_tensor([width, height])
    within = most - 1 < limits if box_ends == "pixel" else most <= limits
    return (least >= 0) & within.all(dim=1)


class AnchorRPN(RegionProposalNetwork):
    """torchvision's RPN with a framework's clipping, order of proposals and choice of anchors.

    Attributes:
        conventions: of the framework that the weights come from.
        cross_boundary_anchors: anchors that leave the image are trained on.
    """

    conventions = ConventionsConfig()
    cross_boundary_anchors = True

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals by image and, in training, losses; see torchvision's."""
        if targets is not None:
            # Anchors are labelled image by image, where torchvision no longer knows the images' sizes.
            sizes = [torch.tensor(size) for size in images.image_sizes]
            targets = [{**t, "size": s} for t, s in zip(targets, sizes, strict=True)]
        found: tuple[list[Tensor], dict[str, Tensor]] = super().forward(images, features, targets)
        return found

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """By image: labels (N,) of anchors, 1, 0 or -1 for those that are left out, and their objects' boxes (N, 4)."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        if not self.cross_boundary_anchors:
            for own, label, target in zip(anchors, labels, targets, strict=True):
                height, width = target["size"].tolist()
                within = inside(own, (height, width), self.conventions.box_ends)
                # An image too flat for any anchor would have nothing to train on, and no loss.
                if within.any():
                    label[~within] = -1
        return labels, boxes

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[Size],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image the best proposals (M, 4) after NMS by level, by their edges, and their scores or logits."""
        if self.conventions.proposal_order == "logit":
            return self._filter_by_logit(proposals, objectness, image_shapes, num_anchors_per_level)
        if self.conventions.box_ends == "pixel":
            # What is clipped to pixels lies within the edges that torchvision clips to next.
            sized = zip(proposals, image_shapes, strict=True)
            proposals = torch.stack([clip_boxes(boxes, size, "pixel") for boxes, size in sized])
        found: tuple[list[Tensor], list[Tensor]] = super().filter_proposals(
            proposals, objectness, image_shapes, num_anchors_per_level
        )
        return found

    def _filter_by_logit(
        self, proposals: Tensor, objectness: Tensor, sizes: list[Size], anchors: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals suppressed and ranked by their logits, as in detectron2; ``anchors`` counts those of each level."""
        logits = objectness.detach().reshape(len(proposals), -1)
        best = self._get_top_n_idx(logits, anchors)
        levels = torch.arange(len(anchors), device=logits.device)
        counts = torch.tensor(anchors, device=logits.device)
        levels = levels.repeat_interleave(counts, output_size=logits.shape[1])
        boxes, scores = [], []
        for index, size in enumerate(sizes):
            chosen = best[index]
            clipped = clip_boxes(proposals[index, chosen], size, self.conventions.box_ends)
            large = remove_small_boxes(clipped, self.min_size)
            chosen, clipped = chosen[large], clipped[large]
            ranks = logits[index, chosen]
            kept = batched_nms(clipped, ranks, levels[chosen], self.nms_thresh)
            kept = kept[: self.post_nms_top_n()]
            boxes.append(clipped[kept])
            scores.append(ranks[kept])
        return boxes, scores


def build_rpn(model: ModelConfig, strides: Sequence[int] = ANCHOR_STRIDES) -> AnchorRPN:
    """An untrained RPN for the settings, whose anchor sizes are P2's to P6's: levels have those of their strides."""
    conventions = model.conventions
    ratios = tuple(model.anchor_ratios)
    by_stride = dict(zip(ANCHOR_STRIDES, model.anchor_sizes, strict=True))
    sizes = [by_stride[stride] for stride in strides]
    if conventions.anchors == "torchvision":
        anchors = AnchorGenerator(tuple((size,) for size in sizes), (ratios,) * len(sizes))
    else:
        anchors = StrideAnchors(sizes, ratios, conventions, strides)
    counts = {"training": model.rpn_proposals_train, "testing": model.rpn_proposals_test}
    rpn = AnchorRPN(
        anchors,
        RPNHead(model.fpn_channels, len(ratios)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=counts,
        post_nms_top_n=counts,
        nms_thresh=0.7,
    )
    rpn.box_coder = box_coder((1.0, 1.0, 1.0, 1.0), conventions.delta_limits)
    rpn.min_size = conventions.least_proposal_side
    rpn.conventions = conventions
    rpn.cross_boundary_anchors = model.rpn_cross_boundary_anchors
    return rpn
