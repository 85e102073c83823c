"""Reads images as RGB and checks that they are what their annotations were made for."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from rethink_heads.errors import UserError


def read_image(path: Path, size: tuple[int, int], annotations: Path) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, RGB.

    Args:
        path: the image file.
        size: width and height in px, as ``annotations``, the annotation file, states them.

    Raises:
        UserError: the image is missing, truncated or unreadable, or of another size.
    """
    try:
        with Image.open(path) as image:
            pixels = _to_rgb(image)
    except FileNotFoundError as error:
        raise UserError(f"no such image: {path}; add it or remove it from the set") from error
    except (
        OSError,
        SyntaxError,  # PIL's word for a broken PNG
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(
            f"cannot read image {path} ({error}); it is truncated or not an image: replace it"
        ) from error
    height, width = pixels.shape[:2]
    if (width, height) != size:
        raise UserError(
            f"image {path} is {width}x{height} px but {annotations} states {size[0]}x{size[1]},"
            " so its boxes cannot be trusted; mend either"
        )
    return pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # PIL's own conversion clips 16-bit values at 255, which leaves a white image.
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))
