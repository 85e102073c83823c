"""Image in, network input out: size, resizing, channel order, normalisation, padding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from rethink_heads.config import ConventionsConfig
from rethink_heads.detectors.resizing import frame_size, resize_pixels


class ImageTransform(GeneralizedRCNNTransform):
    """torchvision's transform, with the order of channels, range, sizes and interpolation of the conventions.

    Args:
        min_size, max_size: of the resized image's sides, in pixels.
        image_mean, image_std: in the order and range that the network is fed.
        conventions: see :class:`rethink_heads.config.ConventionsConfig`.
    """

    def __init__(
        self,
        min_size: int,
        max_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        conventions: ConventionsConfig,
    ) -> None:
        super().__init__(
            min_size, max_size, list(image_mean), list(image_std), conventions.pad_multiple
        )
        self.conventions = conventions

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
        """The image resized (and normalised, where that comes after), the target's boxes with it."""
        rule = self.conventions.size_rule
        if rule == "torchvision" and not self._resizes_pixels:
            return super().resize(image, target)
        height, width = image.shape[-2:]
        size = frame_size((height, width), self.min_size[-1], self.max_size, rule)
        if self._resizes_pixels:
            image = self._normalized(resize_pixels(image, size, self.conventions.interpolation))
        else:
            image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], [height, width], list(size))
        return image, target
