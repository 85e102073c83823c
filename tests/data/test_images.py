"""Images of every kind: the right pixels, or one sentence; hashed once, and again when they are replaced."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from rethink_heads.data import images as module
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.images import check_size, image_hashes, read_image, true_size
from rethink_heads.errors import UserError
from tests.tiny_coco import write_coco

SIZE = (40, 30)
ANNOTATIONS = "some.json"


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def pixel(path: Path, size: tuple[int, int] = SIZE) -> tuple[int, ...]:
    found = read_image(path, size, ANNOTATIONS)
    assert found.shape == (size[1], size[0], 3)
    assert found.dtype == np.uint8
    return tuple(found[5, 4].tolist())


def sentence(path: Path, size: tuple[int, int] = SIZE) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path, size, ANNOTATIONS)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def png(size: tuple[int, int], depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG with these rows of pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 77, "a.png", (77, 77, 77)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("LA", (90, 10), "a.png", (90, 90, 90)),
        ("RGBA", (9, 8, 7, 100), "a.png", (9, 8, 7)),
        ("I;16", 0x4D80, "a.png", (77, 77, 77)),
        ("L", 90, "a.jpg", (90, 90, 90)),
        ("CMYK", (0, 255, 255, 0), "a.jpg", (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "a.tiff", (255, 0, 0)),
        ("YCbCr", (90, 128, 128), "a.tiff", (90, 90, 90)),
        *(("RGB", (255, 0, 0), f"a.{suffix}", (255, 0, 0)) for suffix in ("bmp", "gif", "ppm")),
        *(("RGB", (255, 0, 0), f"a.{suffix}", (255, 0, 0)) for suffix in ("tiff", "webp", "data")),
    ],
)
def test_every_mode_of_every_format_becomes_rgb(
    tmp_path: Path, mode: str, colour: Any, name: str, expected: tuple[int, int, int]
) -> None:
    # Told by content, whatever it is called.
    kind = "png" if name == "a.data" else None
    options = {"lossless": True} if name == "a.webp" else {"quality": 95}
    Image.new(mode, SIZE, colour).save(tmp_path / name, kind, **options)
    found = np.subtract(pixel(tmp_path / name), expected)
    assert np.abs(found).max() <= (2 if name == "a.jpg" else 0)


def test_first_frames_and_broken_exif(tmp_path: Path) -> None:
    red, green = (Image.new("RGB", SIZE, colour) for colour in ((255, 0, 0), (0, 255, 0)))
    for name in ("a.gif", "a.tiff", "a.mpo"):
        red.save(tmp_path / name, save_all=True, append_images=[green])
        lost = np.abs(np.subtract(pixel(tmp_path / name), (255, 0, 0))).max()
        assert lost <= (2 if name == "a.mpo" else 0)
    red.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixel(tmp_path / "a.png") == (255, 0, 0)


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_transparency_of_a_palette_is_dropped(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", SIZE, 0)
    image.putpalette([200, 100, 50, 1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "a.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixel(tmp_path / "a.png") == (200, 100, 50)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
            "in the format AVIF, which is not read; save it as JP",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "in the format HEIC"),
        # It would be handed to Ghostscript, a program.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n", "in the format EPS"),
        (b"DDS " + bytes(124), "in the format DDS"),
        (b"BLP2" + bytes(60), "in the format BLP"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "in the format JPEG2000"),
        *((content, "cannot read image") for content in (b"", b"\0", b"<html>gone</html>")),
        (b"\x89PNG\r\n\x1a\n\0\0", "cannot read image"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert says in sentence(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot read image" in sentence(path)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.full((30, 40), 3000, np.int32)),
        Image.fromarray(np.full((30, 40), 0.5, np.float32)),
        Image.new("LAB", SIZE),
    ],
    ids=lambda image: image.mode,
)
def test_pixels_without_a_white_are_refused(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "a.tiff")
    says = f"mode {image.mode}, and no file says which of its values is white; save it with 8 bits"
    assert says in sentence(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_of_16_bits_that_holds_fewer_is_refused(tmp_path: Path, suffix: str) -> None:
    values = np.zeros((30, 40), np.uint16)
    path = tmp_path / f"a.{suffix}"
    values[5, 4] = 2**14
    Image.fromarray(values).save(path)
    assert pixel(path) == (64, 64, 64)
    values[5, 4] -= 1
    Image.fromarray(values).save(path)
    assert "uses less than a quarter of their range" in sentence(path)


def test_16_bits_in_colour_and_with_a_stated_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for value in (0xFF00, 0x0FFF):
        rows = (b"\0" + struct.pack(">H", value) * 3 * SIZE[0]) * SIZE[1]
        path.write_bytes(png(SIZE, 16, 2, rows))
        if value == 0xFF00:
            assert pixel(path) == (255, 255, 255)
    assert "nearly black" in sentence(path)
    # PGM states its largest value.
    values = np.full((30, 40), 2048, ">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P5 40 30 4095\n" + values)
    assert pixel(tmp_path / "a.pgm") == (128, 128, 128)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "sides"),
    [*((n, (30, 40)) for n in ("a.jpg", "a.png", "a.webp", "lzw.tif")), ("a.tif", (30, 30))],
)
def test_exif_orientation_is_applied_where_the_stated_size_is_the_upright_one(
    tmp_path: Path, orientation: int, name: str, sides: tuple[int, int]
) -> None:
    path = tmp_path / name
    image = Image.fromarray(
        np.linspace(0, 255, 3600).astype(np.uint8)[: 3 * sides[0] * sides[1]].reshape(*sides, 3)
    )
    image.save(path, exif=exif(orientation), compression="tiff_lzw" if name == "lzw.tif" else None)
    if (
        path.suffix != ".tif"
    ):  # Pillow turns these itself; as they are lossless they are what was saved.
        image = Image.open(path)
    stored = np.array(image)
    image.getexif()[0x0112] = orientation
    viewed = np.array(ImageOps.exif_transpose(image))
    height, width = viewed.shape[:2]
    np.testing.assert_array_equal(read_image(path, (width, height), ANNOTATIONS), viewed)
    assert true_size(path, (1, 1)) == (width, height)
    if viewed.shape != stored.shape:
        # Boxes that were drawn on the pixels as they are stored: their size says so.
        np.testing.assert_array_equal(read_image(path, SIZE, ANNOTATIONS), stored)
        assert true_size(path, SIZE) == SIZE


@pytest.mark.parametrize(("size", "orientation"), [(SIZE, 3), ((30, 30), 6)])
def test_one_line_says_where_no_size_tells_the_orientation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: tuple[int, int], orientation: int
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", size).save(tmp_path / name, exif=exif(orientation))
        read_image(tmp_path / name, size, str(tmp_path / "some.json"))
    (line,) = caplog.messages
    assert f"a.png has the EXIF orientation {orientation} and the same size either way" in line


def test_what_is_not_the_stated_image_is_refused(tmp_path: Path) -> None:
    for tags in (Image.Exif(), exif(3), exif(99)):
        Image.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=tags)
        assert "is 40x30 px but some.json states 30x40" in sentence(tmp_path / "a.jpg", (30, 40))
    (tmp_path / "a.png").mkdir()
    assert "it is a folder, not a file" in sentence(tmp_path / "a.png")
    assert "no such image" in sentence(tmp_path / "b.png")


def test_the_size_is_compared_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gif = b"GIF89a" + struct.pack("<HH", 13000, 13000) + b"\x80\0\0" + bytes(6)
    gif += b"," + struct.pack("<HHHH", 0, 0, 13000, 13000) + b"\0\x02\x02\x4c\x01\0;"
    (tmp_path / "a.gif").write_bytes(gif)
    (tmp_path / "a.png").write_bytes(png((13000, 9000)))
    (tmp_path / "b.png").write_bytes(png((60000, 60000)))

    def decode(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.gif", "a.png"):
            assert "px but some.json states 40x30" in sentence(tmp_path / name)
        assert "claims to have hundreds of millions of pixels" in sentence(tmp_path / "b.png")
    assert true_size(tmp_path / "a.png", (9000, 13000)) == (13000, 9000)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((0, 30), "0x30 px for image 7, which cannot be"),
        ((40, -30), "40x-30 px for image 7, which cannot be"),
        ((13000, 13000), "more than 67,108,864 pixels"),
        ((10001, 100), "one side more than 100 times the other"),
        ((8192, 8192), ""),
        ((4000, 60), ""),
    ],
)
def test_sizes_that_no_detector_can_be_given(size: tuple[int, int], says: str) -> None:
    with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
        check_size(size, "image 7", "some.json")


NAMES = ["1.png", "2.png", "3.png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of three images, and a cache that takes files of any age."""
    monkeypatch.setenv("RETHINK_HEADS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED_NS", -(10**9))
    write_coco(tmp_path / "data", images=3)
    return tmp_path / "data" / "val"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are read."""
    names: list[str] = []

    def sha256(path: Path) -> str:
        names.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(module, "sha256", sha256)
    return names


def test_each_image_is_read_once(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES]
    assert image_hashes(folder, NAMES[:2]) == expected[:2]
    assert sorted(read) == NAMES[:2]
    assert image_hashes(folder, NAMES) == expected
    assert image_hashes(folder, NAMES) == expected
    assert sorted(read) == NAMES
    with pytest.raises(UserError, match=r"no such image: .*9\.png"):
        image_hashes(folder, ["9.png"])
    # What has just changed is not trusted.
    monkeypatch.setattr(module, "SETTLED_NS", 10**12)
    shutil.rmtree(Path(os.environ["RETHINK_HEADS_CACHE"]))
    read.clear()
    assert image_hashes(folder, NAMES) == image_hashes(folder, NAMES) == expected
    assert sorted(read) == sorted(2 * NAMES)


def test_an_image_of_the_same_size_and_time_that_was_replaced_is_read_again(
    folder: Path, read: list[str]
) -> None:
    before = image_hashes(folder, NAMES)
    path = folder / "2.png"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    after = image_hashes(folder, NAMES)
    assert read == ["2.png"]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_damaged_index_or_none_that_can_be_written_changes_nothing(
    folder: Path, tmp_path: Path
) -> None:
    before = image_hashes(folder, NAMES)
    (index,) = (tmp_path / "cache" / "images").glob("*/hashes.json")
    index.write_bytes(b"no JSON")
    assert image_hashes(folder, NAMES) == before
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    assert image_hashes(folder, NAMES) == before


def test_the_fingerprint_is_of_the_first_images_wherever_they_lie(
    folder: Path, tmp_path: Path
) -> None:
    def dataset(where: Path) -> CocoDataset:
        return CocoDataset(where / "annotations" / "instances_val.json", where / "val")

    data = folder.parent
    shutil.copytree(data, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "val" / "1.png", ns=(time.time_ns(), 0))
    whole, two = dataset(data).images_fingerprint(), dataset(data).subset(2).images_fingerprint()
    assert dataset(tmp_path / "copy").images_fingerprint() == whole
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes())
    assert dataset(data).images_fingerprint() != whole
    assert dataset(data).images_fingerprint(2) == two
