"""torchvision's fc-heads on many proposals of one object."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from rethink_heads.detectors.box_heads import cells_of
from rethink_heads.detectors.frames import ImageFeatures, clip_to_frame
from rethink_heads.detectors.linear_probing import LinearProber, is_just, probe_of
from rethink_heads.detectors.torchvision.pooling import can_place, place
from rethink_heads.probing.predictor import ClassPredictor


def prober_of(
    roi_heads: RoIHeads, head: str, classes: int, dtype: torch.dtype
) -> LinearProber | None:
    """A prober of torchvision's ``TwoMLPHead``, ``FastRCNNPredictor`` and ``MultiScaleRoIAlign``.

    Args:
        roi_heads: in evaluation mode.
        head: the name of its reading.
        classes: foreground classes K.
        dtype: of the head's arithmetic; a head in float64 keeps to its own.

    Returns:
        None where one of the three, or the coder of boxes, is something else.
    """
    box_head, predictor = roi_heads.box_head, roi_heads.box_predictor
    if not (
        is_just(box_head, TwoMLPHead)
        and is_just(predictor, FastRCNNPredictor)
        and can_place(roi_heads.box_roi_pool)
        and type(roi_heads.box_coder) is BoxCoder
    ):
        return None
    layers: list[Any] = [box_head.fc6, box_head.fc7]
    last: list[Any] = [predictor.cls_score, predictor.bbox_pred]
    if not all(is_just(layer, nn.Linear) for layer in [*layers, *last]):
        return None
    # With other numbers `predict` says what is wrong.
    if [layer.out_features for layer in last] != [classes + 1, 4 * (classes + 1)]:
        return None
    precision = last[0].weight.dtype
    probe = probe_of(
        layers,
        cells_of(roi_heads.box_roi_pool),
        torch.float64 if precision == torch.float64 else dtype,
    )
    if probe is None:
        return None

    def decode(features: ImageFeatures, deltas: Tensor, boxes: Tensor) -> Tensor:
        decoded = roi_heads.box_coder.decode(deltas, [boxes]).reshape(len(boxes), 4)
        return features.out_of_frame(clip_to_frame(decoded, features.size, "edge"))

    return LinearProber(
        head,
        probe,
        ClassPredictor(*last),
        lambda features, boxes: features.into_frame(boxes.to(precision)),
        lambda features, boxes: place(roi_heads.box_roi_pool, features, boxes),
        decode,
    )
