"""Image files of all formats that are read: whole, cut, broken, or of another size than stated."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from rethink_heads.data.coco import CocoDataset
from tests.fuzz.coco import broken
from tests.fuzz.harness import REFUSED, Case, WrongError

# Without loss but for JPEG.
READ = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "gif": "GIF", "webp": "WEBP", "jpg": "JPEG"}
MODES = {
    kind: modes.split()
    for kind, modes in {
        "PNG": "RGB RGBA L LA P 1",
        "TIFF": "RGB RGBA L P 1",
        "BMP": "RGB L P 1",
        "GIF": "P L",
        "WEBP": "RGB RGBA",
        "JPEG": "RGB L",
    }.items()
}
SIDES = [(1, 1), (1, 300), (300, 1), (17, 13), (64, 48), (33, 64), (20_000, 1), (1, 20_000)]


def picture(width: int, height: int) -> np.ndarray:
    """Smooth RGB (H, W, 3) with four corners of other colours, so that turning and losses can be told apart."""
    y, x = np.mgrid[0:height, 0:width]
    x, y = x / max(width - 1, 1), y / max(height - 1, 1)
    channels = [30 + 190 * x * y, 20 + 200 * y, 240 - 200 * x + 5 * y]
    return np.stack(channels, axis=2).astype(np.uint8)


def seen(image: Image.Image) -> np.ndarray:
    """RGB (H, W, 3) that an 8-bit image of a mode shows, by its own values."""
    values = np.asarray(image)
    if image.mode == "P":
        return np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[values]
    if image.mode == "1":
        values = values.astype(np.uint8) * 255
    if image.mode == "LA":
        values = values[..., 0]
    return np.repeat(values[..., None], 3, 2) if values.ndim == 2 else values[..., :3]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if kind == "WEBP":
        options |= {"lossless": True, "exact": True}
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def read(case: Case, data: bytes, suffix: str, size: tuple[int, int]) -> Any:
    """The pixels (H, W, 3) that the product reads where an annotation file states ``size``; or its refusal."""
    (case.folder / f"image.{suffix}").write_bytes(data)
    image = {"id": 1, "file_name": f"image.{suffix}", "width": size[0], "height": size[1]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (case.folder / "a.json").write_text(json.dumps(content))
    dataset = lambda: CocoDataset(case.folder / "a.json", case.folder)  # noqa: E731
    return case.read(lambda: dataset()[0].image.permute(1, 2, 0).numpy())


def agree(
    case: Case, found: Any, pictures: list[np.ndarray], refusable: bool, most: float = 0
) -> None:
    """Raise WrongError unless ``found`` is one of the pictures up to ``most`` levels, or a refusal where it may be."""
    if isinstance(found, Exception):
        case.judge(found, *([REFUSED] if refusable else []), names=["image"])
        return
    apart = [
        np.abs(found.astype(int) - each).max() if found.shape == each.shape else 999
        for each in pictures
    ]
    if not apart or min(apart) > most:
        best = f"pixels differ by up to {min(apart)}" if apart else "must be refused"
        raise WrongError(
            f"taken for another picture: {best}, mean {found.mean():.1f} of shape {found.shape}"
        )


def check(case: Case) -> None:
    """Read one image: its pixels by an independent account, or a refusal."""
    suffix, kind = case.pick(list(READ.items()))
    mode = case.pick(MODES[kind])
    size = width, height = case.pick(SIDES[:-2] if kind == "WEBP" else SIDES)
    way = case.pick(["whole", "whole", "cut", "bytes", "stated"])
    case.input = f"{way}: {kind} {mode} {width}x{height}"
    # A JPEG's smallest part is 8 x 8, and its colours lose a little.
    most = 12 if kind == "JPEG" else 0
    image = Image.fromarray(picture(width, height)).convert(mode)
    right = seen(image)
    packed = case.pick([{}, {"compression": "tiff_lzw"}]) if kind == "TIFF" else {}
    data = saved(image, kind, **packed)
    if way == "whole":
        suffix = case.pick([suffix] * 16 + ["dat", "JPG", "png", "jpeg"])
        case.input += f" called .{suffix}"
        found = read(case, data + case.pick([b"", b"", b"\0trailing"]), suffix, size)
        # What is thin as a thread may be refused.
        agree(case, found, [right], max(size) > 64 * min(size), most)
    elif way == "cut":
        # Shorter by at least a third; of the rest something would be missing in the picture, too.
        found = read(case, data[: case.random.randrange(max(2 * len(data) // 3, 1))], suffix, size)
        whole_before = kind in ("GIF", "PNG", "TIFF") and not isinstance(found, Exception)
        agree(case, found, [right] if whole_before else [], True, most)
    elif way == "bytes":
        found = read(case, broken(case, data), suffix, size)
        if not isinstance(found, Exception) and found.shape != right.shape:
            raise WrongError(f"another size than stated: {found.shape}")
    else:
        others = [(width + 1, height), (width, height + 2), (0, 0), (-width, height), (10**9,) * 2]
        stated = case.pick(others)
        case.input += f", stated {stated[0]}x{stated[1]}"
        case.judge(read(case, data, suffix, stated), REFUSED)
