"""One image with its objects, as every reader of a dataset gives it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """An image and its N objects, in pixels of the original image.

    Attributes:
        image_id: the image's id in the annotation file.
        image: (3, H, W) uint8, RGB.
        boxes: (N, 4) float32, xyxy, inside the image.
        labels: (N,) int64 in 0..K-1, in the dataset's class order.
        areas: (N,) float32, px^2: the annotation's ``area``, or else the box's width x height.
        object_ids: (N,) int64, the annotations' ids.
    """

    image_id: int
    image: Tensor
    boxes: Tensor
    labels: Tensor
    areas: Tensor
    object_ids: Tensor
