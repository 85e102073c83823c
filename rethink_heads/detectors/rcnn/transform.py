"""Image in, network input out: size, resizing, channel order, normalisation and padding by each framework's rules."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from rethink_heads.config import ModelConfig
from rethink_heads.detectors.coordinates import Size
from rethink_heads.errors import UserError

WHITE = 255
# OpenCV's bilinear weights are whole numbers of this many bits; between the axes four bits are dropped.
WEIGHT_BITS = 11
DROPPED_BITS = 4


class ImageTransform(GeneralizedRCNNTransform):
    """torchvision's transform, with the order of channels, range, sizes and interpolation of the conventions."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(
            model.min_size,
            model.max_size,
            list(model.image_mean),
            list(model.image_std),
            model.conventions.pad_multiple,
        )
        self.conventions = model.conventions

    @property
    def _resizes_pixels(self) -> bool:
        return self.conventions.interpolation != "float"

    def normalize(self, image: Tensor) -> Tensor:
        """An RGB image (3, H, W) in [0, 1] as the network is fed; as it is where pixels are to be resized first."""
        return image if self._resizes_pixels else self._normalized(image)

    def _normalized(self, image: Tensor) -> Tensor:
        if self.conventions.channel_order == "bgr":
            image = image.flip(0)
        if self.conventions.pixel_range != 1:
            image = image * self.conventions.pixel_range
        return super().normalize(image)

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The image resized (and normalised, where that comes after), the target's boxes with it.
        Raises UserError where nothing would be left of its shorter side.
        """
        rule = self.conventions.size_rule
        height, width = image.shape[-2:]
        size = resized_size((height, width), self.min_size[-1], self.max_size, rule)
        if min(size) < 1:
            raise UserError(
                f"an image of {width}x{height} px is too thin for model.max_size={self.max_size}: resized it would be"
                f" {size[1]}x{size[0]} px; leave it out"
            )
        if rule == "torchvision" and not self._resizes_pixels:
            return super().resize(image, target)
        if self._resizes_pixels:
            image = self._normalized(resize_pixels(image, size, self.conventions.interpolation))
        else:
            image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], [height, width], list(size))
        return image, target


def resized_size(size: Size, min_size: int, max_size: int, rule: str) -> Size:
    """(height, width) of the resized image: the shorter side ``min_size`` unless the longer would pass ``max_size``.

    Args:
        size: (height, width) of the image.
        min_size, max_size: in pixels.
        rule: ``torchvision`` rounds both sides down; ``maskrcnn-benchmark`` gives the shorter side exactly, the longer
            rounded down; ``mmdetection`` and ``detectron2`` round both to the nearest, from scales computed in one step
            and in two.
    """
    height, width = size
    shorter, longer = min(size), max(size)
    if rule == "maskrcnn-benchmark":
        side = min_size
        if longer / shorter * side > max_size:
            side = round(max_size * shorter / longer)
        if width < height:
            return int(side * height / width), side
        return side, int(side * width / height)
    if rule == "detectron2":
        # The shorter side is brought to min_size, then the longer, if need be, to max_size.
        scale = min_size / shorter
        sides = [float(min_size) if side == shorter else scale * side for side in size]
        again = min(1.0, max_size / max(sides))
        return int(sides[0] * again + 0.5), int(sides[1] * again + 0.5)
    scale = min(min_size / shorter, max_size / longer)
    half = 0.5 if rule == "mmdetection" else 0.0
    return math.floor(height * scale + half), math.floor(width * scale + half)


def resize_pixels(image: Tensor, size: Size, interpolation: str) -> Tensor:
    """A float image (3, H, W) of 8-bit pixels divided by 255, resized to ``size`` and rounded to 8 bits again.

    Args:
        image: on any device.
        size: (height, width).
        interpolation: ``pillow`` or ``opencv``.
    """
    pixels = (image * WHITE).round()
    if interpolation == "opencv":
        return _opencv(pixels.int(), size).to(image.dtype) / WHITE
    # Pillow's own resizing, on the CPU: its integer arithmetic is part of the convention.
    height, width = size
    array = pixels.byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
    back = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return back.to(device=image.device, dtype=image.dtype) / WHITE


def _opencv(pixels: Tensor, size: Size) -> Tensor:
    """Whole pixels (3, H, W) resized as OpenCV's ``INTER_LINEAR`` does.

    Measured against OpenCV 4: of random pixels all but 3 in 1,000 or fewer are the same, those one level off.
    """
    height, width = size
    low, high, low_weight, high_weight = _neighbours(pixels.shape[2], width, pixels.device)
    rows = pixels[:, :, low] * low_weight + pixels[:, :, high] * high_weight
    low, high, low_weight, high_weight = _neighbours(pixels.shape[1], height, pixels.device)
    rows = rows >> DROPPED_BITS
    # 2 bits are left for rounding.
    shift = 2 * WEIGHT_BITS - DROPPED_BITS - 2
    above = (rows[:, low] * low_weight[:, None]) >> shift
    below = (rows[:, high] * high_weight[:, None]) >> shift
    return ((above + below + 2) >> 2).clamp(0, WHITE)


def _neighbours(
    before: int, after: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each new pixel of an axis its two old ones, and their weights out of 2 ** WEIGHT_BITS."""
    middle = torch.arange(after, dtype=torch.float64, device=device) + 0.5
    position = (middle * (before / after) - 0.5).float().clamp(0, before - 1)
    low = position.floor()
    share = position - low
    whole = 2**WEIGHT_BITS
    low_weight, high_weight = ((part * whole).round().int() for part in (1 - share, share))
    low = low.long()
    return low, (low + 1).clamp(max=before - 1), low_weight, high_weight
