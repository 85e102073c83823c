"""Images are read once; replaced ones are noticed, copied and touched ones are not mistaken for others."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from rethink_heads.data import images as module
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.images import image_hashes
from rethink_heads.errors import UserError
from tests.tiny_coco import write_coco

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


def test_each_image_is_read_once(folder: Path, read: list[str]) -> None:
    expected = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES]
    assert image_hashes(folder, NAMES[:2]) == expected[:2]
    assert sorted(read) == NAMES[:2]
    assert image_hashes(folder, NAMES) == expected
    assert image_hashes(folder, NAMES) == expected
    assert sorted(read) == NAMES


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


def test_a_file_that_has_just_changed_is_not_trusted(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_NS", 10**12)
    image_hashes(folder, NAMES)
    image_hashes(folder, NAMES)
    assert sorted(read) == sorted(2 * NAMES)


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


def test_an_image_that_is_gone_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no such image: .*9\.png"):
        image_hashes(folder, ["9.png"])
