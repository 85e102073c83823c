"""Checks what the optional methods of a user's own detector give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rethink_heads.detectors.base import Detections, Detector, RoIFeatures, offers
from rethink_heads.detectors.opening.messages import given, telling
from rethink_heads.errors import UserError


def check_offers(
    detector: Detector,
    image: Tensor,
    pooled: RoIFeatures,
    heads: tuple[str, ...],
    classes: int,
    name: str,
) -> None:
    """Call each optional method that a detector has, and look at what it gives.

    Args:
        detector: a user's own.
        image: uint8 RGB (3, H, W), on its device.
        pooled: RoI features of some boxes in it.
        heads, classes: the detector's heads, and how many classes it has.
        name: how messages call it.

    Raises:
        UserError: a method gives something else than :mod:`rethink_heads.detectors.base` says, or raises something.
    """
    # Any: that it has the method is what `offers` says.
    its: Any = detector
    if offers(detector, "propose"):
        with telling(f"`propose` of {name}"):
            proposed = its.propose(image)
        _check_proposed(proposed, name)
    if offers(detector, "detect"):
        with telling(f"`detect` of {name}"):
            found = its.detect(image)
        _check_detected(found, heads, classes, name)
    if offers(detector, "output_maps"):
        with telling(f"`output_maps` of {name}"):
            maps = its.output_maps(pooled)
        count = len(next(iter(pooled.values()))) if pooled else None
        _check_maps(maps, 4, count, f"`output_maps` of {name}")
    if offers(detector, "weight_maps"):
        with telling(f"`weight_maps` of {name}"):
            weights = its.weight_maps()
        _check_maps(weights, 3, None, f"`weight_maps` of {name}")


def _check_proposed(proposed: Any, name: str) -> None:
    is_pair = isinstance(proposed, tuple | list) and len(proposed) == 2
    if not is_pair or not _are_boxes(proposed[1]):
        raise UserError(
            f"`propose` of {name} gave {given(proposed)}, where the image's features and boxes (M, 4) are expected"
        )


def _check_detected(found: Any, heads: tuple[str, ...], classes: int, name: str) -> None:
    is_by_head = isinstance(found, dict) and found and set(found) <= set(heads)
    if not is_by_head or not all(isinstance(each, Detections) for each in found.values()):
        raise UserError(
            f"`detect` of {name} gave {given(found)}, where a dict of Detections by the heads"
            f" {', '.join(heads)} is expected"
        )
    for head, each in found.items():
        _check_detections(each, classes, f"`detect` of {name} ({head})")


def _check_detections(found: Detections, classes: int, name: str) -> None:
    boxes, scores, labels = found.boxes, found.scores, found.labels
    shapes = f"boxes of {given(boxes)}, scores of {given(scores)}, labels of {given(labels)}"
    fine = _are_boxes(boxes) and all(
        isinstance(each, Tensor) and tuple(each.shape) == (len(boxes),) for each in (scores, labels)
    )
    if not fine:
        raise UserError(f"{name} gave {shapes}, where the shapes (M, 4), (M,), (M,) are expected")
    if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
        raise UserError(f"{name} gave boxes or scores that are not finite; are its weights loaded?")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UserError(f"{name} gave labels of type {labels.dtype}, where integers are expected")
    if bool(((labels < 0) | (labels >= classes)).any()):
        low, high = int(labels.min()), int(labels.max())
        raise UserError(
            f"{name} gave labels from {low} to {high}, where 0 to {classes - 1} are expected: {classes} classes without"
            " background"
        )
    if bool(((scores < 0) | (scores > 1)).any()):
        raise UserError(
            f"{name} gave scores outside 0 to 1; probabilities are expected, not logits"
        )
    if bool((scores[1:] > scores[:-1]).any()):
        raise UserError(
            f"{name} gave detections out of order; the best first, by falling score, are expected"
        )


def _check_maps(maps: Any, dimensions: int, count: int | None, name: str) -> None:
    """Maps by branch: of boxes (N, C, S, S), of weights (W, S, S)."""
    fine = isinstance(maps, dict) and all(
        isinstance(each, Tensor)
        and each.dim() == dimensions
        and each.shape[-2] == each.shape[-1]
        and (count is None or len(each) == count)
        for each in maps.values()
    )
    if not fine:
        boxes = "N" if count is None else str(count)
        expected = f"({boxes}, C, S, S)" if dimensions == 4 else "(W, S, S)"
        raise UserError(
            f"{name} gave {given(maps)}, where a dict of tensors {expected} is expected, or an empty one"
        )


def _are_boxes(boxes: Any) -> bool:
    return isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4
