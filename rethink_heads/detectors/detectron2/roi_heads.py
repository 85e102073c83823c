"""Our heads as detectron2 ROI heads: its proposals, sampling, pooling and NMS around our branches and losses.

``RethinkFCHead`` and ``RethinkConvHead`` are the layers alone, as box heads for its own ``StandardROIHeads``: its
``FastRCNNOutputLayers`` classifies and regresses on them, and RoIs are not enlarged.

Imported when our node is added to a configuration, which registers them. Boxes here are in pixels of
the resized image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import ModelConfig
from rethink_heads.detectors.base import HeadOutput, RoIFeatures
from rethink_heads.detectors.checkpoints.detectron2_settings import (
    LEVEL_FROM,
    NODE,
    SIZES,
    TASK_WEIGHTS,
)
from rethink_heads.detectors.coordinates import Size, enlarge
from rethink_heads.errors import UserError
from rethink_heads.heads import BoxHeads, build_heads, enlargements
from rethink_heads.structures import STRUCTURES, trained_heads

if TYPE_CHECKING:
    from detectron2.config import CfgNode

_FIXED: tuple[tuple[str, Any, str], ...] = (
    ("CLS_AGNOSTIC_BBOX_REG", False, "our heads regress a box for each class"),
    ("BBOX_REG_LOSS_TYPE", "smooth_l1", "our heads regress with smooth L1"),
    ("BBOX_REG_LOSS_WEIGHT", 1.0, "the losses are weighted by W_FC, W_CONV, L_FC and L_CONV"),
    ("USE_SIGMOID_CE", False, "our heads classify with softmax"),
    ("USE_FED_LOSS", False, "our heads classify with softmax"),
    ("TRAIN_ON_PRED_BOXES", False, "a double head predicts no single box to train others on"),
)


class EnlargingPooler(ROIPooler):
    """detectron2's pooler, for RoIs that are larger than their boxes.

    Attributes:
        level_from: an RoI's level follows the size of its box, ``proposal``, or its own, ``enlarged``.
    """

    level_from = "proposal"

    def forward(self, x: list[Tensor], box_lists: list[Boxes], enlargement: float = 1.0) -> Tensor:
        """RoI features (N, C, S, S) of all images' boxes, one image after the other.

        Args:
            x: (images, C, H, W) by level.
            box_lists: by image, in pixels of the resized image.
            enlargement: the factor by which an RoI is larger than its box, about the box's centre.
        """
        rois = [Boxes(enlarge(each.tensor, enlargement)) for each in box_lists]
        if self.level_from == "enlarged" or enlargement == 1 or len(x) == 1:
            whole: Tensor = super().forward(x, rois)
            return whole
        levels = assign_boxes_to_levels(
            box_lists,
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )
        # Its own levels' poolers, each of which is given every image's RoIs of that level.
        images = torch.arange(len(rois)).repeat_interleave(torch.tensor([len(r) for r in rois]))
        corners = torch.cat([each.tensor for each in rois])
        corners = torch.cat([images[:, None].to(corners), corners], dim=1)
        parts = [pooler(x[i], corners[levels == i]) for i, pooler in enumerate(self.level_poolers)]
        pooled = torch.cat(parts)
        order = torch.cat([torch.where(levels == i)[0] for i in range(len(parts))])
        return torch.empty_like(pooled).index_copy(0, order, pooled)


@ROI_HEADS_REGISTRY.register()
class RethinkROIHeads(StandardROIHeads):
    """detectron2's standard ROI heads with our fc-head, conv-head or pair of them in place of its box head.

    Proposals are labelled and sampled by detectron2; then each branch pools its own RoIs, a conv-head's enlarged ones,
    and has its own losses. Mask and keypoint heads are detectron2's, as configured. Inside, background is class 0, as
    everywhere in this package; at detectron2's surface it is class K.

    Attributes:
        heads: the branches and their losses, of the same names and shapes as in this package's own detector.
        head_names: what the trained branches can be combined to; ``inference_head``, one of them, is what inference
            gives.
    """

    @configurable
    def __init__(
        self,
        *,
        heads: BoxHeads,
        head_names: tuple[str, ...],
        inference_head: str,
        fusion: str,
        enlargement: Mapping[str, float],
        box_transform: Box2BoxTransform,
        test_score_thresh: float,
        test_nms_thresh: float,
        test_topk_per_image: int,
        **kwargs: Any,
    ) -> None:
        """Takes what ``from_config`` makes of a configuration.

        Args:
            head_names: what they are combined to.
            inference_head: the one of inference.
            enlargement: by branch, the factor by which an RoI grows about its centre before pooling.
        """
        super().__init__(box_head=None, box_predictor=None, **kwargs)
        self.heads, self.head_names, self.inference_head = heads, head_names, inference_head
        self.fusion, self.enlargement = fusion, dict(enlargement)
        self.box_transform = box_transform
        self.test_score_thresh, self.test_nms_thresh = test_score_thresh, test_nms_thresh
        self.test_topk_per_image = test_topk_per_image

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments that stand in for detectron2's box head; called by its ``from_config``."""
        _refuse_what_heads_lack(cfg)
        levels = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        box = cfg.MODEL.ROI_BOX_HEAD
        channels = input_shape[levels[0]].channels
        model = _model_settings(cfg, channels, box.POOLER_RESOLUTION)
        head = str(head_name(cfg.MODEL.RETHINK_HEADS.HEAD))
        if head not in STRUCTURES:
            raise UserError(f"unknown head {head!r}: set {NODE}.HEAD to one of {', '.join(HEADS)}")
        heads = build_heads(model, head, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        pooler = EnlargingPooler(
            output_size=box.POOLER_RESOLUTION,
            scales=tuple(1 / input_shape[level].stride for level in levels),
            sampling_ratio=box.POOLER_SAMPLING_RATIO,
            pooler_type=box.POOLER_TYPE,
            canonical_box_size=model.canonical_size,
        )
        pooler.level_from = model.conventions.roi_level_from
        try:
            head_names = trained_heads(head, heads.weights)
        except UserError as error:
            raise UserError(
                f"with these task weights nothing trains what head {head!r} is read from: give L_FC, L_CONV, W_FC"
                f" and W_CONV of {NODE} so that a branch classifies and a branch regresses"
            ) from error
        return {
            "box_in_features": levels,
            "box_pooler": pooler,
            "heads": heads,
            "head_names": head_names,
            # A pair of which one task is switched off is no longer named as its structure.
            "inference_head": head if head in head_names else head_names[-1],
            "fusion": model.fusion,
            "enlargement": enlargements(model),
            "box_transform": Box2BoxTransform(weights=box.BBOX_REG_WEIGHTS),
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def pool(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> RoIFeatures:
        """By branch: RoI features (N, C, S, S) of all images' boxes [(N_i, 4)], one image after the other.

        Args:
            features: (images, C, H, W) by level.
            boxes: by image, in pixels of the resized image.
        """
        levels = [features[name] for name in self.box_in_features]
        return self.heads.pool(
            self.enlargement,
            lambda factor: self.box_pooler(levels, [Boxes(each) for each in boxes], factor),
        )

    def predict(
        self,
        roi_features: RoIFeatures,
        boxes: Tensor,
        image_size: Size,
        head_names: Sequence[str] | None = None,
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, K) and boxes (N, K, 4) for one image's boxes (N, 4), clipped to the resized image.

        Args:
            roi_features: of ``pool``, by branch (N, C, S, S).
            boxes: in pixels of the resized image.
            image_size: (height, width) of the image there.
            head_names: by default all.
        """

        def decode(deltas: Tensor) -> Tensor:
            regressed = self.box_transform.apply_deltas(deltas, boxes)
            regressed = regressed.reshape(len(boxes), deltas.shape[1] // 4, 4)[:, 1:]
            return clip_boxes_to_image(regressed, image_size)

        chosen = self.head_names if head_names is None else head_names
        outputs = self.heads.predict(roi_features, chosen, self.fusion, decode)
        return {name: HeadOutput(*output) for name, output in outputs.items()}

    def select(self, output: HeadOutput, image_size: Size) -> Instances:
        """Final detections of one image, best first, by detectron2's NMS on a head's output for its proposals."""
        # detectron2 drops the last column, which is background's.
        scores = torch.cat([output.scores, output.scores.new_zeros(len(output.scores), 1)], dim=1)
        found, _ = fast_rcnn_inference(
            [output.boxes.flatten(1)],
            [scores],
            [image_size],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )
        return found[0]

    def targets(self, proposals: Sequence[Instances]) -> tuple[Tensor, Tensor]:
        """Labels (N,), background 0, and deltas (N, 4) of sampled proposals, as our losses take them."""
        labels = torch.cat([p.gt_classes for p in proposals])
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # An image without objects has no boxes to regress to, and its proposals are all background.
        goals = [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        deltas = self.box_transform.get_deltas(boxes, torch.cat(goals))
        return torch.where(labels == self.num_classes, 0, labels + 1), deltas

    def _forward_box(
        self, features: Mapping[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, detections in inference: what ``StandardROIHeads.forward`` asks of a box head."""
        boxes = [p.proposal_boxes.tensor for p in proposals]
        pooled = self.pool(features, boxes)
        if self.training:
            losses = self.heads.losses(self.heads(pooled), *self.targets(proposals))
            # detectron2 prints and plots what has "loss" in its name.
            return {f"loss_{name}": value for name, value in losses.items()}
        counts = [len(each) for each in boxes]
        parts = {name: values.split(counts) for name, values in pooled.items()}
        found = []
        for index, each in enumerate(proposals):
            own = {name: values[index] for name, values in parts.items()}
            output = self.predict(own, boxes[index], each.image_size, (self.inference_head,))[
                self.inference_head
            ]
            found.append(self.select(output, each.image_size))
        return found


class _VectorHead(nn.Sequential):
    """Layers from RoI features (N, C, S, S) to one vector (N, width) per RoI."""

    def __init__(self, layers: OrderedDict[str, nn.Module], width: int) -> None:
        super().__init__(layers)
        self.width = width

    @property
    def output_shape(self) -> ShapeSpec:
        """What detectron2's predictor asks for."""
        return ShapeSpec(channels=self.width)


@ROI_BOX_HEAD_REGISTRY.register()
class RethinkFCHead(_VectorHead):
    """fc-head's two hidden layers, ``FC_WIDTH`` wide: RoI features (N, C, S, S) to (N, width)."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        model = _model_settings(cfg, input_shape.channels, input_shape.height)
        head: Any = build_heads(model, "fc", 1)["fc"]
        layers: dict[str, nn.Module] = {
            "flatten": nn.Flatten(),
            "fc6": head.fc6,
            "fc6_relu": nn.ReLU(),
            "fc7": head.fc7,
            "fc7_relu": nn.ReLU(),
        }
        super().__init__(OrderedDict(layers), model.fc_width)


@ROI_BOX_HEAD_REGISTRY.register()
class RethinkConvHead(_VectorHead):
    """conv-head's blocks and their mean over the positions: RoI features (N, C, S, S) to (N, ``CONV_WIDTH``)."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        model = _model_settings(cfg, input_shape.channels, input_shape.height)
        head: Any = build_heads(model, "conv", 1)["conv"]
        layers: dict[str, nn.Module] = {
            "blocks": head.blocks,
            "pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
        }
        super().__init__(OrderedDict(layers), model.conv_width)


def _model_settings(cfg: CfgNode, channels: int, resolution: int) -> ModelConfig:
    """Our settings of the heads, from our node and from detectron2's ``MODEL.ROI_BOX_HEAD``.
    Raises UserError where a value is out of its range; the sentence names the key.
    """
    node = cfg.MODEL.RETHINK_HEADS
    values: dict[str, Any] = {name: node[name.upper()] for name in SIZES}
    weights = {name: node[name.upper()] for name in TASK_WEIGHTS}
    values |= {name: None if weight < 0 else weight for name, weight in weights.items()}
    try:
        return ModelConfig(
            fpn_channels=channels,
            roi_resolution=resolution,
            smooth_l1_beta=cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
            conventions={LEVEL_FROM: node[LEVEL_FROM.upper()]},  # type: ignore[arg-type]
            **values,
        )
    except ValidationError as error:
        first = error.errors()[0]
        # Of what is nested here, the node has the last name.
        place = ".".join([NODE, *(str(part).upper() for part in first["loc"][-1:])])
        raise UserError(
            f"bad value in the configuration, {place}: {first['msg']}; change it there"
        ) from error


def _refuse_what_heads_lack(cfg: CfgNode) -> None:
    """Raises a UserError for an option of detectron2's box head that ``RethinkROIHeads`` would have to ignore."""
    for key, value, reason in _FIXED:
        if cfg.MODEL.ROI_BOX_HEAD[key] != value:
            raise UserError(
                f"RethinkROIHeads needs MODEL.ROI_BOX_HEAD.{key} {value}, since {reason}: leave it so"
            )
