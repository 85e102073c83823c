"""Image files of all formats, depths and declared sizes, cut, broken, and turned by EXIF."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from rethink_heads.data.coco import CocoDataset
from tests.fuzz.coco import broken
from tests.fuzz.harness import REFUSED, Case, WrongError

# Modes that come back to the bit, by what is meant to be read; None: of a format that need not be read.
LOSSLESS = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "gif": "GIF", "webp": "WEBP", "jpg": "JPEG"}
OTHERS = {"ppm": "PPM", "tga": "TGA", "pcx": "PCX", "sgi": "SGI", "jp2": "JPEG2000", "ico": "ICO"}
UNREADABLE = {"avif": "AVIF", "dds": "DDS", "blp": "BLP", "eps": "EPS"}
MODES = {
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1"],
    "BMP": ["RGB", "L", "P", "1"],
    "TIFF": ["RGB", "RGBA", "L", "P", "1"],
    "GIF": ["P", "L"],
    "WEBP": ["RGB", "RGBA"],
    "JPEG": ["RGB", "L"],
    "BLP": ["P"],
}
SIDES = [(1, 1), (1, 300), (300, 1), (17, 13), (64, 48), (33, 64), (20_000, 1), (1, 20_000)]
FAR = 13_000
ORIENTATION = 0x0112


def picture(case: Case, width: int, height: int) -> np.ndarray:
    """Smooth RGB (H, W, 3) with four corners of other colours, so that turning and losses can be told apart."""
    y, x = np.mgrid[0:height, 0:width]
    x, y = x / max(width - 1, 1), y / max(height - 1, 1)
    channels = [30 + 190 * x * y, 20 + 200 * y, 240 - 200 * x + 5 * y]
    return np.stack(channels, axis=2).astype(np.uint8)


def seen(image: Image.Image, pixels: np.ndarray) -> np.ndarray:
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
    if kind in ("WEBP",):
        options["lossless"] = options["exact"] = True
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def of_depth(case: Case) -> tuple[bytes, str, np.ndarray]:
    """A grey image of more than 8 bits: its bytes, suffix and what it shows (H, W, 3)."""
    width, height = 40, 30
    grey = picture(case, width, height)[..., 1]
    ramp = grey.astype(np.float64) / 255
    what = case.pick(
        ["16 bits", "12 of 16 bits", "int32", "float", "float 0 to 1", "PGM 16", "negative"]
    )
    case.input = f"depth: {what}"
    if what in ("16 bits", "12 of 16 bits", "PGM 16"):
        most = 4095 if what.startswith("12") else 65535
        image = Image.fromarray(np.round(ramp * most).astype(np.uint16))
        kind = "PPM" if what.startswith("PGM") else case.pick(["PNG", "TIFF"])
    else:
        scale = {"int32": 60_000, "float": 255, "float 0 to 1": 1, "negative": -3e9}[what]
        dtype = np.int32 if what == "int32" else np.float32
        image, kind = Image.fromarray((ramp * scale).astype(dtype)), "TIFF"
    suffix = {"PNG": "png", "TIFF": "tif", "PPM": "pgm"}[kind]
    return saved(image, kind), suffix, np.repeat(grey[..., None], 3, axis=2)


def declared(kind: str, data: bytes, width: int, height: int) -> bytes:
    """A file that states another size than it has."""
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if kind == "GIF":
        # Of the screen and, where it comes first, of the picture.
        changed = bytearray(data[:6] + struct.pack("<HH", width, height) + data[10:])
        place = changed.find(b",", 13)
        changed[place + 5 : place + 9] = struct.pack("<HH", width, height)
        return bytes(changed)
    if kind == "BMP":
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if kind == "JPEG":
        place = data.find(b"\xff\xc0") + 5
        return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]
    # TIFF: the values of the tags 256 and 257.
    changed, start = bytearray(data), struct.unpack("<I", data[4:8])[0]
    for entry in range(
        start + 2, start + 2 + 12 * struct.unpack("<H", data[start : start + 2])[0], 12
    ):
        tag = struct.unpack("<H", data[entry : entry + 2])[0]
        if tag in (256, 257):
            side = width if tag == 256 else height
            changed[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(changed)


def read(case: Case, data: bytes, suffix: str, size: tuple[int, int]) -> Any:
    """The pixels (H, W, 3) that the product reads where an annotation file states ``size``; or its refusal."""
    (case.folder / f"image.{suffix}").write_bytes(data)
    image = {"id": 1, "file_name": f"image.{suffix}", "width": size[0], "height": size[1]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (case.folder / "a.json").write_text(json.dumps(content))
    return case.read(
        lambda: CocoDataset(case.folder / "a.json", case.folder)[0].image.permute(1, 2, 0).numpy()
    )


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
    ways = [
        "whole",
        "whole",
        "depth",
        "turned",
        "cut",
        "bytes",
        "declared",
        "stated",
        "colours",
        "other",
        "unreadable",
    ]
    way = case.pick(ways)
    suffix, kind = case.pick(list(LOSSLESS.items()))
    mode = case.pick(MODES[kind])
    width, height = case.pick(SIDES[:-2] if kind == "WEBP" else SIDES)
    case.input = f"{way}: {kind} {mode} {width}x{height}"
    # A JPEG's smallest part is 8 x 8, and its colours lose a little.
    most = 12 if kind == "JPEG" else 0
    pixels = picture(case, width, height)
    image = Image.fromarray(pixels).convert(mode)
    right = seen(image, pixels)
    size = (width, height)
    if way == "whole":
        options = {"compression": case.pick([None, "tiff_lzw", "jpeg"])} if kind == "TIFF" else {}
        if options.get("compression") == "jpeg":
            options = {}
        data = saved(image, kind, **options) + case.pick([b"", b"", b"\0trailing"])
        if case.chance(0.2):
            suffix = case.pick(["dat", "JPG", "png", "jpeg"])
            case.input += f" called .{suffix}"
        # What is thin as a thread may be refused.
        thin = max(size) > 64 * min(size)
        agree(case, read(case, data, suffix, size), [right], thin, most)
    elif way == "depth":
        data, suffix, right = of_depth(case)
        agree(case, read(case, data, suffix, (40, 30)), [right], True, 2)
    elif way == "turned":
        check_turned(case)
    elif way == "cut":
        # Shorter by at least a third; of the rest something would be missing in the picture, too.
        data = saved(image, kind)
        data = data[: case.random.randrange(max(2 * len(data) // 3, 1))]
        found = read(case, data, suffix, size)
        whole_before = kind in ("GIF", "PNG", "TIFF") and not isinstance(found, Exception)
        agree(case, found, [right] if whole_before else [], True, most)
    elif way == "bytes":
        found = read(case, broken(case, saved(image, kind)), suffix, size)
        if not isinstance(found, Exception) and found.shape != right.shape:
            raise WrongError(f"another size than stated: {found.shape}")
    elif way == "declared":
        kind = case.pick(["PNG", "GIF", "BMP", "JPEG", "TIFF"])
        suffix = kind.lower()
        sides = case.pick([(FAR, FAR), (60_000, 60_000), (65_000, 3), (FAR, FAR - 1)])
        case.input += f"; {kind} that declares {sides[0]}x{sides[1]}"
        data = declared(
            kind,
            saved(Image.fromarray(picture(case, 64, 48)).convert(MODES[kind][0]), kind),
            *sides,
        )
        stated = case.pick([sides, (64, 48), (192, 192)])
        case.input += f", stated {stated[0]}x{stated[1]}"
        # A GIF of few bytes may have as many pixels of one colour.
        found = read(case, data, suffix, stated)
        if not isinstance(found, Exception) and (kind not in ("GIF", "TIFF") or stated != sides):
            raise WrongError(f"a size that it has not: {found.shape}")
    elif way == "stated":
        stated = case.pick(
            [(width + 1, height), (width, height + 2), (0, 0), (-width, height), (10**9, 10**9)]
        )
        case.input += f", stated {stated[0]}x{stated[1]}"
        case.judge(read(case, saved(image, kind), suffix, stated), REFUSED)
    elif way == "colours":
        kind, mode = case.pick(
            [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("TIFF", "LAB"), ("TIFF", "YCbCr")]
        )
        case.input = f"colours: {kind} {mode}"
        image = Image.fromarray(picture(case, 64, 48))
        image = image if mode == "LAB" else image.convert(mode)
        if mode == "LAB":
            image = Image.frombytes("LAB", (64, 48), np.asarray(image).tobytes())
        found = read(case, saved(image, kind), kind.lower(), (64, 48))
        agree(case, found, [] if mode == "LAB" else [picture(case, 64, 48)], True, 40)
    else:
        suffix, kind = case.pick(list((OTHERS if way == "other" else UNREADABLE).items()))
        width, height = (64, 48) if kind != "ICO" else (32, 32)
        case.input = f"{way}: {kind}"
        image = Image.fromarray(picture(case, width, height)).convert(
            "P" if kind == "BLP" else "RGB"
        )
        suffix = case.pick([suffix, "png", "jpg"]) if way == "unreadable" else suffix
        found = read(case, saved(image, kind), suffix, (width, height))
        if way == "other":
            agree(case, found, [picture(case, width, height)], True, 4)
        else:
            case.judge(found, REFUSED, names=["image", kind])


def check_turned(case: Case) -> None:
    """An orientation in EXIF: upright where the stated size is the upright one, a word where nothing tells."""
    kind = case.pick(["JPEG", "PNG", "TIFF", "WEBP"])
    width, height = case.pick([(48, 32), (32, 48), (40, 40)])
    orientation = case.pick([*range(1, 9), 0, 9, 65535])
    upright = picture(case, width, height)
    # From what is shown to what is stored, by the definition of the tag.
    stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[::-1].transpose(1, 0, 2)[::-1][::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[:, ::-1].transpose(1, 0, 2),
    }.get(orientation, upright)
    if orientation == 6:
        # Shown after a quarter turn clockwise, so stored a quarter turn the other way.
        stored = np.rot90(upright, 1)
    if orientation == 8:
        stored = np.rot90(upright, -1)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    as_stored = case.chance(0.3)
    size = (stored.shape[1], stored.shape[0]) if as_stored else (width, height)
    case.input = f"turned: {kind} orientation {orientation}, {width}x{height} upright, stated {size[0]}x{size[1]}"
    found = read(case, data, kind.lower(), size)
    told = stored.shape != upright.shape
    if not 1 < orientation < 9:
        pictures, refusable = [upright], orientation != 1
    elif told and not as_stored:
        pictures, refusable = [upright], False
    elif told:
        pictures, refusable = [stored], True
    else:
        pictures, refusable = [upright], True
    agree(case, found, pictures, refusable, 12 if kind == "JPEG" else 0)
