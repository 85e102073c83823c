"""Coordinates of boxes in the original and in the resized image, and how a framework's boxes end.

Inside a detector a box's sides are edges, whatever its framework calls x2 and y2; so areas, IoUs, deltas and NMS have
one arithmetic. Where a framework's boxes end at a pixel (``conventions.box_ends``), its coordinates are ours less 1
in x2 and y2, and that shows in three places, all of which come through here: scaling with the image, clipping, pooling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

Size = tuple[int, int]


def to_pixels(boxes: Tensor) -> Tensor:
    """Boxes (N, 4) by their edges, as first and last pixel; a box less than a pixel wide is one pixel wide."""
    first = boxes[..., :2]
    return torch.cat([first, first + (boxes[..., 2:] - first - 1).clamp(min=0)], dim=-1)


def to_edges(boxes: Tensor) -> Tensor:
    """Boxes (N, 4) by their first and last pixel, as edges."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] + 1], dim=-1)


def enlarge(boxes: Tensor, factor: float) -> Tensor:
    """Return boxes (N, 4) with width and height multiplied by `factor`, about their centres."""
    if factor == 1:
        return boxes
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    centre = (top_left + bottom_right) / 2
    half = (bottom_right - top_left) * (factor / 2)
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, size: Size, box_ends: str) -> Tensor:
    """Boxes (..., 4) clipped to an image of (height, width) pixels.

    With ``box_ends`` ``pixel`` the pixels are clipped, to 0..W-1 and 0..H-1, so that at least one is left of each box.
    """
    if box_ends == "edge":
        return clip_boxes_to_image(boxes, size)
    height, width = size
    least = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    most = boxes.new_tensor([width - 1.0, height - 1.0, width, height])
    return boxes.maximum(least).minimum(most)


@dataclass(frozen=True)
class ImageFeatures:
    """One image's feature pyramid, the sizes of the resized and the original image, both (height, width).

    Attributes:
        box_ends: ``edge`` or ``pixel``, see :class:`rethink_heads.config.ConventionsConfig`.
    """

    pyramid: dict[str, Tensor]
    size: Size
    original_size: Size
    box_ends: str = "edge"

    def scale(self, like: Tensor) -> Tensor:
        """(4,) factors from the original image's pixels to the resized image's, for xyxy coordinates."""
        y, x = (new / old for new, old in zip(self.size, self.original_size, strict=True))
        return like.new_tensor([x, y, x, y])

    def to_resized(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the original image, in pixels of the resized one."""
        if self.box_ends == "edge":
            return boxes * self.scale(boxes)
        return to_edges(to_pixels(boxes) * self.scale(boxes))

    def to_original(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the resized image, in pixels of the original one.

        With ``box_ends`` ``pixel`` a box that was clipped may pass the original's right and lower border by less than
        a pixel, as it does in its framework's own results.
        """
        if self.box_ends == "edge":
            return boxes / self.scale(boxes)
        pixels = torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1)
        return to_edges(pixels / self.scale(boxes))
