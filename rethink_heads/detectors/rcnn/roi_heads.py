"""The second stage: pooling, heads, decoding and NMS, on torchvision's RoIAlign, sampler, coder and NMS."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, remove_small_boxes

from rethink_heads.config import ConventionsConfig
from rethink_heads.detectors.base import Detections, HeadOutput, RoIFeatures
from rethink_heads.detectors.coordinates import Size, clip_boxes
from rethink_heads.detectors.rcnn.pooling import PyramidPooler
from rethink_heads.detectors.rcnn.rpn import box_coder
from rethink_heads.heads import HEAD_CONFIGURATIONS, BoxHeads

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class BoxRoIHeads(RoIHeads):
    """torchvision's RoI heads with our branches, each of which pools its own, perhaps enlarged, RoIs.

    Everything here is in the detector's frame: pixels of the resized image, boxes by their edges, background class 0.

    Args:
        heads: the branches and their losses.
        pooler: RoIAlign over the pyramid.
        enlargement: by branch, the factor by which an RoI grows about its centre before pooling.
        fusion: rule for a head that fuses two classifiers.
        rois_per_image: RoIs sampled in training.
        positive_fraction: share of them that are positive.
        score_threshold: least score of a detection.
        nms_threshold: IoU above which NMS suppresses, per class.
        detections_per_image: most detections kept.
        conventions: the limits of deltas, clipping, the least detection.
    """

    def __init__(
        self,
        heads: BoxHeads,
        pooler: PyramidPooler,
        enlargement: Mapping[str, float],
        fusion: str = "complementary",
        rois_per_image: int = 512,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections_per_image: int = 100,
        conventions: ConventionsConfig | None = None,
    ) -> None:
        super().__init__(
            box_roi_pool=pooler,
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=rois_per_image,
            positive_fraction=positive_fraction,
            bbox_reg_weights=DELTA_WEIGHTS,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections_per_image,
        )
        self.conventions = conventions or ConventionsConfig()
        self.box_coder = box_coder(DELTA_WEIGHTS, self.conventions.delta_limits)
        self.heads = heads
        self.enlargement = dict(enlargement)
        self.fusion = fusion

    def pool(
        self, pyramid: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[Size]
    ) -> RoIFeatures:
        """By branch: RoI features (N, C, S, S) of all images' boxes [(N_i, 4)] one after the other."""
        pooled: dict[float, Tensor] = {}
        for branch in self.heads.names:
            factor = self.enlargement.get(branch, 1.0)
            if factor not in pooled:
                pooled[factor] = self.box_roi_pool(pyramid, boxes, image_sizes, factor)
        return {name: pooled[self.enlargement.get(name, 1.0)] for name in self.heads.names}

    def training_losses(
        self,
        pyramid: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[Size],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Weighted losses of every branch on RoIs sampled from the proposals; targets as torchvision's."""
        proposals, _, labels, deltas = self.select_training_samples(proposals, targets)
        outputs = self.heads(self.pool(pyramid, proposals, image_sizes))
        return self.heads.losses(outputs, torch.cat(labels), torch.cat(deltas))

    def predict(
        self, roi_features: RoIFeatures, boxes: Tensor, heads: tuple[str, ...], image_size: Size
    ) -> dict[str, HeadOutput]:
        """Scores and boxes, clipped to the image, of each head for one image's boxes (N, 4)."""
        configurations = {name: HEAD_CONFIGURATIONS[name] for name in heads}
        outputs = self.heads(roi_features)
        scores = {name: logits.float().softmax(-1)[:, 1:] for name, (logits, _) in outputs.items()}
        decoded: dict[str, Tensor] = {}
        for name in {each.regressor for each in configurations.values()}:
            deltas = outputs[name][1].float()
            regressed = self.box_coder.decode(deltas, [boxes])
            # torchvision's coder leaves the boxes of no RoI at all without their last dimension.
            regressed = regressed.reshape(len(boxes), deltas.shape[1] // 4, 4)
            decoded[name] = clip_boxes(regressed, image_size, self.conventions.box_ends)[:, 1:]
        return {
            name: HeadOutput(each.scores(scores, self.fusion), decoded[each.regressor])
            for name, each in configurations.items()
        }

    def suppress(self, output: HeadOutput) -> Detections:
        """Score threshold, per-class NMS and the cut to the best: one image's final detections."""
        count, classes = output.scores.shape
        labels = torch.arange(classes, device=output.scores.device).expand(count, classes)
        boxes, scores, labels = (
            output.boxes.flatten(0, 1),
            output.scores.flatten(),
            labels.flatten(),
        )
        kept = torch.where(scores > self.score_thresh)[0]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        kept = remove_small_boxes(boxes, self.conventions.least_detection_side)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        kept = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return Detections(boxes[kept], scores[kept], labels[kept])
