"""Checks what the optional methods of a user's own detector give."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rethink_heads.detectors.answers import (
    brief,
    check_detections,
    check_proposals,
    user_code,
)
from rethink_heads.detectors.base import Detections, Detector, RoIFeatures, supports
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
    # Any: that it has the method is what `supports` says.
    its: Any = detector
    if supports(detector, "propose"):
        with user_code(f"`propose` of {name}"):
            proposed = its.propose(image)
        check_proposals(proposed, f"`propose` of {name}")
    if supports(detector, "detect"):
        with user_code(f"`detect` of {name}"):
            found = its.detect(image)
        check_detections(found, heads, classes, f"`detect` of {name}")
        for head, each in found.items():
            _check_order(each, f"`detect` of {name} ({head})")
    if supports(detector, "output_maps"):
        with user_code(f"`output_maps` of {name}"):
            maps = its.output_maps(pooled)
        count = len(next(iter(pooled.values()))) if pooled else None
        _check_maps(maps, 4, count, f"`output_maps` of {name}")
    if supports(detector, "weight_maps"):
        with user_code(f"`weight_maps` of {name}"):
            weights = its.weight_maps()
        _check_maps(weights, 3, None, f"`weight_maps` of {name}")


def _check_order(found: Detections, name: str) -> None:
    if bool((found.scores[1:] > found.scores[:-1]).any()):
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
            f"{name} gave {brief(maps)}, where a dict of tensors {expected} is expected, or an empty one"
        )
