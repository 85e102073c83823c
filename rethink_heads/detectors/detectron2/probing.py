"""detectron2's fc-heads on many proposals of one object, and its pooling by factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from rethink_heads.detectors.coordinates import ImageFeatures, clip_boxes
from rethink_heads.fastpath.fc import fast_fc, is_unmodified
from rethink_heads.fastpath.heads import ClassPredictor, HeadsFastPath, single_head
from rethink_heads.fastpath.pooling import PyramidRoIs, RoIAlignRule


def can_place(pooler: Any) -> bool:
    """Whether a pooler is detectron2's own, of RoIAlign alike on all levels, with square RoI features."""
    if not is_unmodified(pooler, ROIPooler):
        return False
    levels: list[Any] = list(pooler.level_poolers)
    return bool(
        all(is_unmodified(level, ROIAlign) for level in levels)
        and len({(level.sampling_ratio, level.aligned) for level in levels}) == 1
        and all(tuple(level.output_size) == tuple(pooler.output_size) for level in levels)
        and pooler.output_size[0] == pooler.output_size[1]
    )


def place(pooler: Any, levels: Sequence[Tensor], boxes: Tensor) -> PyramidRoIs:
    """Where a pooler that ``can_place`` pools one image's boxes (N, 4), in the detector's frame, from.

    Args:
        pooler: detectron2's.
        levels: the feature maps (1, C, H, W) that it is given.
        boxes: float32, as detectron2 keeps them.
    """
    chosen = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if len(levels) > 1:
        chosen = assign_boxes_to_levels(
            [Boxes(boxes)],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
    first = pooler.level_poolers[0]
    rule = RoIAlignRule(pooler.output_size[0], first.sampling_ratio, first.aligned)
    scales = [level.spatial_scale for level in pooler.level_poolers]
    return PyramidRoIs([each[0] for each in levels], scales, boxes, chosen, rule)


def pool(pooler: nn.Module, levels: list[Tensor], boxes: Tensor) -> Tensor:
    """What a pooler makes of one image's boxes (N, 4) in the detector's frame: RoI features (N, C, S, S)."""
    if len(levels[0]) == 1 and boxes.dtype == torch.float32 and can_place(pooler):
        return place(pooler, levels, boxes).pool()
    found: Tensor = pooler(levels, [Boxes(boxes)])
    return found


def fast_path_of(
    roi_heads: Any,
    head: str,
    dtype: torch.dtype,
    extract: Callable[[Tensor], ImageFeatures],
) -> HeadsFastPath | None:
    """The fast path of ``StandardROIHeads`` with detectron2's own pooler, ``FastRCNNConvFCHead`` and output layers.

    Args:
        roi_heads: in evaluation mode.
        head: its name.
        dtype: of the head's arithmetic.
        extract: the detector's.

    Returns:
        None where one of them is something else, where the box head has convolutions, and where its classes are no
        softmax.
    """
    layers = _linear_layers(roi_heads.box_head)
    predictor = roi_heads.box_predictor
    if not layers or not _is_usual(predictor) or not can_place(roi_heads.box_pooler):
        return None
    if any(each.weight.dtype != torch.float32 for each in [*layers, predictor.cls_score]):
        return None
    layers_before = fast_fc(layers, roi_heads.box_pooler.output_size, dtype)
    if layers_before is None:
        return None

    def located(features: ImageFeatures, boxes: Tensor) -> PyramidRoIs:
        levels = [features.pyramid[name] for name in roi_heads.box_in_features]
        return place(roi_heads.box_pooler, levels, boxes)

    def decode(features: ImageFeatures, deltas: Tensor, boxes: Tensor) -> Tensor:
        decoded = predictor.box2box_transform.apply_deltas(deltas, boxes)
        scaled = features.to_original(clip_boxes_to_image(decoded, features.size))
        # As detectron2 does: clipped to the resized image, scaled, and clipped again to the original.
        return clip_boxes(scaled, features.original_size, "edge")

    # detectron2 puts background last.
    of_class = ClassPredictor(predictor.cls_score, predictor.bbox_pred, 0, 0)
    return single_head(
        head,
        layers_before,
        of_class,
        extract,
        lambda features, boxes: features.to_resized(boxes).float(),
        located,
        decode,
    )


def _linear_layers(box_head: Any) -> list[nn.Linear]:
    """The layers of a ``FastRCNNConvFCHead`` that flattens, and then has linear layers with ReLU only; else none."""
    if not is_unmodified(box_head, FastRCNNConvFCHead):
        return []
    first, *others = box_head.children()
    linear, rectified = others[::2], others[1::2]
    if (
        is_unmodified(first, nn.Flatten)
        and len(linear) == len(rectified)
        and all(is_unmodified(each, nn.Linear) for each in linear)
        and all(is_unmodified(each, nn.ReLU) for each in rectified)
    ):
        return linear
    return []


def _is_usual(predictor: Any) -> bool:
    """Whether a predictor is detectron2's own, by softmax, with a box for each class or one for all."""
    if not is_unmodified(predictor, FastRCNNOutputLayers) or predictor.use_sigmoid_ce:
        return False
    last = (predictor.cls_score, predictor.bbox_pred)
    if not all(is_unmodified(layer, nn.Linear) for layer in last):
        return False
    classes = predictor.cls_score.out_features - 1
    return (
        classes == predictor.num_classes
        and predictor.bbox_pred.out_features in (4, 4 * classes)
        and type(predictor.box2box_transform) is Box2BoxTransform
    )
