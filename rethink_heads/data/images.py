"""Reads images as RGB and checks that they are what their annotations were made for.

What is read, and how it becomes 8-bit RGB:

- *Formats*: JPEG (MPO too), PNG, WebP, BMP, TIFF, GIF and PPM/PGM, told by content, not by name; of several frames or
  pages the first. Others (AVIF, HEIC, EPS, DDS ...) are refused by name.
- *Grey, palette, 1 bit*: as the colours that they stand for. *CMYK, YCbCr*: converted without a colour profile.
- *Transparency* is dropped and nothing is put beneath, as by OpenCV.
- *16 bits a channel*: the high byte, as by OpenCV. Where no value reaches a quarter of the 16 bits' range they hold
  values of 10, 12 or 14 bits, which would be nearly black: refused. PGM and PPM state their largest value and are
  scaled by it.
- *32-bit integers, floating point, Lab*: refused, for no file says what is white.
- *EXIF orientation*: applied, as viewers, OpenCV and detectron2's loader do, where the stated size is the upright one;
  not applied where it is the stored one. Where both are the same (turned by 180 degrees, mirrored, or square) it is
  applied, and one line says so.
- *Size*: the header's is compared with the stated one before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from rethink_heads.console import ProgressReport
from rethink_heads.distributed import single_process
from rethink_heads.errors import UserError, shown
from rethink_heads.files import cache_folder, cannot_read, open_file, sha256, write_text
from rethink_heads.locking import hold
from rethink_heads.machine import core_count

log = logging.getLogger(__name__)

Size = tuple[int, int]
"""Width and height in px."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Pillow's names of the formats that are read; its JPEG reader takes MPO as well."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""What the names of such files end in, in small letters."""
READ_FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF or PPM"

# A file may change once more within the grain of its times: such a fresh one is read again next time.
SETTLED_NS = 2 * 10**9
# Fewer are read in no time.
REPORTED_IMAGES = 2000
HASHING_THREADS = 8

MOST_PIXELS = 2**26
MOST_ASPECT = 100
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# The top quarter of 16 bits: 14 bits, the most that sensors usually give, do not reach it.
_LEAST_BRIGHTEST = 2**14

_ORIENTATION, _IMAGE_WIDTH, _IMAGE_LENGTH = 0x0112, 0x0100, 0x0101
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)
# The turns that undo one; the others undo themselves.
_BACK = {6: 8, 8: 6}
# Annotation files of which the line on orientations was said: once a process, not once an image.
_warned: set[str] = set()


def read_image(path: Path, size: Size, annotations: str) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, RGB, the way up in which it was annotated. ``size``: width and height in px,
    as ``annotations``, the name of the annotation file or set, states them. Raises UserError where the image is
    missing, truncated, unreadable, of another size, or of a format or depth that is not read (see the module).
    """
    with _open_image(path) as image:
        if size not in (image.size, image.size[::-1]):
            raise _size_error(path, image.size, size, annotations)
        # Of the raw mode, which is gone after decoding, as PNG's orientation may need it.
        is_deep = ";16" in str(getattr(image, "tile", [])[:1]) and image.format in ("PNG", "TIFF")
        stored, orientation = _stored_size(image), _orientation(image)
        upright = _upright_size(stored, orientation)
        if size not in (stored, upright):
            raise _size_error(path, stored, size, annotations)
        if orientation != 1 and upright == stored and annotations not in _warned:
            _warned.add(annotations)
            log.warning(
                "image %s has the EXIF orientation %d and the same size either way up, so nobody can tell whether its"
                " boxes were drawn before or after it: it is applied, as viewers do, here and in other such images of"
                " %s",
                shown(path),
                orientation,
                annotations,
            )
        pixels = _to_rgb(image, path, is_deep)
        # Pillow turns TIFFs as it decodes them, and takes the orientation away.
        is_turned = _orientation(image) != orientation
    if is_turned != (orientation != 1 and size == upright):
        way = _UPRIGHT[_BACK.get(orientation, orientation) if is_turned else orientation]
        pixels = np.array(Image.fromarray(pixels).transpose(way))
    return pixels


def check_size(size: Size, image: str, annotations: str) -> None:
    """Raise UserError where an image of the stated size cannot be, or is beyond what a detector can be given."""
    width, height = size
    if min(size) < 1:
        problem = "which cannot be; fix the size"
    elif width * height > MOST_PIXELS:
        problem = f"more than {MOST_PIXELS:,} pixels; cut it into tiles or make it smaller"
    elif max(size) > MOST_ASPECT * min(size):
        problem = (
            f"one side more than {MOST_ASPECT} times the other, too thin to be resized for a"
            " detector; leave it out"
        )
    else:
        return
    raise UserError(f"{annotations} states {width}x{height} px for {image}, {problem}")


def true_size(path: Path, stated: Size) -> Size:
    """Return the stated size where it is the image's, stored or upright; else its upright size.
    Raises UserError where the image is missing or unreadable.
    """
    with _open_image(path) as image:
        # PNG's orientation may stand behind the pixels, which are not decoded where they are too many.
        stored = _stored_size(image)
        if stated == stored or image.width * image.height > MOST_PIXELS:
            return stored
        return _upright_size(stored, _orientation(image))


@contextlib.contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """Yield the image with its header read; what goes wrong until the block ends is a UserError that names it."""
    with open_file(path, "image") as stream:
        try:
            with warnings.catch_warnings():
                # The size is checked by this module, and transparency is dropped on purpose.
                warnings.simplefilter("ignore")
                image = Image.open(stream, formats=FORMATS)
            with image:
                yield image
        except UserError:
            raise
        except UnidentifiedImageError as error:
            raise _unidentified(path) from error
        except Image.DecompressionBombError as error:
            raise UserError(
                f"image {shown(path)} claims to have hundreds of millions of pixels, more than are read; replace it"
            ) from error
        # Pillow's readers raise nearly everything on broken files: struct.error, IndexError, SyntaxError, ...
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"cannot read image {shown(path)} ({shown(reason)}); it is truncated or damaged: replace it"
            ) from error


def _unidentified(path: Path) -> UserError:
    with open_file(path, "image") as stream:
        start = stream.read(32)
    if start[4:8] == b"ftyp":
        found = start[8:12].decode("ascii", "replace").strip().upper()
    else:
        Image.init()
        found = next((name for name in Image.ID if _accepts(name, start)), "")
    if found:
        return UserError(
            f"image {shown(path)} is in the format {shown(found)}, which is not read; save it as {READ_FORMATS}"
        )
    return UserError(
        f"cannot read image {shown(path)}; it is damaged or not an image: replace it by one in {READ_FORMATS}"
    )


def _accepts(name: str, start: bytes) -> bool:
    accepts = Image.OPEN[name][1]
    try:
        return name not in FORMATS and accepts is not None and bool(accepts(start))
    # Not made for files of other kinds, or of a few bytes.
    except Exception:
        return False


def _orientation(image: Image.Image) -> int:
    """Return EXIF's 1 to 8; 1, upright, where there is none or it cannot be read, as viewers have it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _stored_size(image: Image.Image) -> Size:
    """Width and height in px as the file has them, before decoding; newer Pillows give a TIFF's upright size."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[_IMAGE_WIDTH], image.tag_v2[_IMAGE_LENGTH]
    return image.size


def _upright_size(stored: Size, orientation: int) -> Size:
    return (stored[1], stored[0]) if orientation in _SWAPS_SIDES else stored


def _size_error(path: Path, found: Size, stated: Size, annotations: str) -> UserError:
    return UserError(
        f"image {shown(path)} is {found[0]}x{found[1]} px but {annotations} states {stated[0]}x{stated[1]},"
        " so its boxes cannot be trusted; fix either"
    )


def _to_rgb(image: Image.Image, path: Path, is_deep: bool) -> np.ndarray:
    """Return the pixels (H, W, 3); ``is_deep`` where the file has 16 bits a channel.

    Raises UserError where the mode or depth is not read.
    """
    # Older Pillows have 16-bit grey as 32-bit integers.
    is_grey = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    if is_grey:
        values = np.asarray(image).astype(np.uint16)
        pixels = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    elif image.mode in _EIGHT_BIT_MODES:
        image.info.pop("transparency", None)
        pixels = np.array(image.convert("RGB"))
    else:
        raise UserError(
            f"image {shown(path)} has pixels of Pillow's mode {image.mode}, and no file says which of its values is"
            " white; save it with 8 bits a channel"
        )
    if is_deep and pixels.max() < _LEAST_BRIGHTEST >> 8:
        raise UserError(
            f"image {shown(path)} has 16 bits a channel and uses less than a quarter of their range, as images of"
            " 10, 12 or 14 bits do: it would be nearly black; scale it to 8 bits"
        )
    return pixels


def image_hashes(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the SHA-256 of the bytes of images, so that images replaced in place are noticed.

    Hashes are kept in the user's cache with each file's size and times; a file is read again only where these differ,
    so that 100,000 images take a second or two when nothing has changed.
    Raises UserError where an image is not there, or cannot be read.
    """
    folder = Path(folder).resolve()
    digits = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    index = cache_folder() / "images" / digits / "hashes.json"
    # Of several commands that read the same images, one does it. Each machine has a cache of its own.
    with hold(index.parent, together=single_process()):
        known = _known_hashes(index)
        states = [_file_state(folder / name) for name in names]
        new = [n for n, state in zip(names, states, strict=True) if known.get(n, [])[:-1] != state]
        title = f"reading the images in {folder} (once)"
        report = ProgressReport(title, len(new), "images", enabled=len(new) > REPORTED_IMAGES)
        hashes = {name: known[name][-1] for name in set(names).difference(new)}
        with report, ThreadPoolExecutor(min(HASHING_THREADS, core_count())) as pool:
            for name, digest in zip(
                new, pool.map(lambda name: sha256(folder / name), new), strict=True
            ):
                hashes[name] = digest
                report.advance()
        known |= {n: [*state, hashes[n]] for n, state in zip(names, states, strict=True)}
        latest = time.time_ns() - SETTLED_NS
        settled = {name: entry for name, entry in known.items() if max(entry[1:3]) < latest}
        if new and settled:
            # Without a cache that can be written, they are read each time.
            with contextlib.suppress(UserError):
                write_text(index, json.dumps(settled))
    return [hashes[name] for name in names]


def _file_state(path: Path) -> list[int]:
    """Size in bytes, and times of modification and of change of state in ns."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise cannot_read(path, "image", error) from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _known_hashes(index: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        return {
            n: e for n, e in found.items() if len(e) == 4 and all(isinstance(i, int) for i in e[:3])
        }
    except (OSError, ValueError, AttributeError, TypeError):
        # None yet, or damaged: the images are read again.
        return {}
