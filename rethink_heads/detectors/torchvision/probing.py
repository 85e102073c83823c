"""torchvision's fc-heads on many proposals of one object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from rethink_heads.detectors.box_heads import pooled_size
from rethink_heads.detectors.coordinates import ImageFeatures, clip_boxes
from rethink_heads.detectors.torchvision.pooling import can_place, place
from rethink_heads.fastpath.fc import fast_fc, is_unmodified
from rethink_heads.fastpath.heads import ClassPredictor, HeadsFastPath, single_head


def fast_path_of(
    roi_heads: RoIHeads,
    head: str,
    classes: int,
    dtype: torch.dtype,
    extract: Callable[[Tensor], ImageFeatures],
) -> HeadsFastPath | None:
    """The fast path of torchvision's ``TwoMLPHead``, ``FastRCNNPredictor`` and ``MultiScaleRoIAlign``.

    Args:
        roi_heads: in evaluation mode.
        head: its name.
        classes: foreground classes K.
        dtype: of the head's arithmetic; a head in float64 keeps to its own.
        extract: the detector's.

    Returns:
        None where one of the three, or the coder of boxes, is something else.
    """
    box_head, predictor = roi_heads.box_head, roi_heads.box_predictor
    if not (
        is_unmodified(box_head, TwoMLPHead)
        and is_unmodified(predictor, FastRCNNPredictor)
        and can_place(roi_heads.box_roi_pool)
        and type(roi_heads.box_coder) is BoxCoder
    ):
        return None
    layers: list[Any] = [box_head.fc6, box_head.fc7]
    last: list[Any] = [predictor.cls_score, predictor.bbox_pred]
    if not all(is_unmodified(layer, nn.Linear) for layer in [*layers, *last]):
        return None
    # With other numbers `predict` says what is wrong.
    if [layer.out_features for layer in last] != [classes + 1, 4 * (classes + 1)]:
        return None
    precision = last[0].weight.dtype
    layers_before = fast_fc(
        layers,
        pooled_size(roi_heads.box_roi_pool),
        torch.float64 if precision == torch.float64 else dtype,
    )
    if layers_before is None:
        return None

    def decode(features: ImageFeatures, deltas: Tensor, boxes: Tensor) -> Tensor:
        decoded = roi_heads.box_coder.decode(deltas, [boxes]).reshape(len(boxes), 4)
        return features.to_original(clip_boxes(decoded, features.size, "edge"))

    return single_head(
        head,
        layers_before,
        ClassPredictor(*last),
        extract,
        lambda features, boxes: features.to_resized(boxes.to(precision)),
        lambda features, boxes: place(roi_heads.box_roi_pool, features, boxes),
        decode,
    )
