"""resolve_split on the layouts that it accepts, and on those that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink_heads.data import sources
from rethink_heads.data.sources import resolve_split
from rethink_heads.errors import UserError


def make(root: Path, files: list[str], folders: list[str]) -> str:
    (root / "annotations").mkdir()
    for name in files:
        (root / "annotations" / f"instances_{name}.json").write_text("{}")
    for name in folders:
        (root / name).mkdir()
    return str(root)


@pytest.mark.parametrize(
    ("folder", "split", "annotations", "images"),
    [
        ("bccd", "test", "instances_test.json", "images"),
        ("bccd", "train", "instances_train.json", "images"),
        ("coco-sample", "val", "instances_val2017.json", "val2017"),
        ("coco-sample", "val2017", "instances_val2017.json", "val2017"),
        ("coco-sample", "train", "instances_train2017.json", "train2017"),
    ],
)
def test_real_layouts(
    shared_data: Path, folder: str, split: str, annotations: str, images: str
) -> None:
    root = shared_data / folder
    assert resolve_split(str(root), split) == (root / "annotations" / annotations, root / images)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [(["images", "val", "val2017"], "val"), (["images", "val2017"], "val2017")],
)
def test_a_split_of_its_own_comes_before_images(
    tmp_path: Path, folders: list[str], expected: str
) -> None:
    source = make(tmp_path, ["val"], folders)
    assert resolve_split(source, "val")[1] == tmp_path / expected


def test_unknown_split_lists_the_splits(tmp_path: Path) -> None:
    source = make(tmp_path, ["train2017", "val2017"], ["images"])
    with pytest.raises(UserError, match=r'no split "test" .*: it has train2017, val2017'):
        resolve_split(source, "test")


def test_folder_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has no splits at all"):
        resolve_split(str(tmp_path), "val")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no such data folder: .*none; give "shapes", a folder'):
        resolve_split(str(tmp_path / "none"), "val")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x" * 300, "cannot read data folder x+.*File name too long"),
        ("a\0b", r"cannot read data folder a\\x00b: no file can have this name"),
        ("~nobody-of-this-name/data", "no such data folder: ~nobody"),
    ],
)
def test_names_that_the_system_refuses(source: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        resolve_split(source, "val")


def test_a_split_with_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    source = make(tmp_path, ["val"], ["images"])
    for split in ("x" * 300, "a\0b"):
        with pytest.raises(UserError, match=r"has no split .*: it has val") as caught:
            resolve_split(source, split)
        assert str(caught.value).isprintable()


def test_a_closed_folder_of_annotations_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    # Nothing is closed to the superuser, as which tests may run.
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(UserError, match=rf"folder of annotations {tmp_path}/annotations: no permi"):
        resolve_split(str(tmp_path), "val")


def test_no_images(tmp_path: Path) -> None:
    source = make(tmp_path, ["val"], ["train"])
    with pytest.raises(UserError, match='no images for the split "val"'):
        resolve_split(source, "val")


def test_shapes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, ["train", "val"], ["train", "val"])
    monkeypatch.setattr(sources, "shapes_root", lambda: Path(source))
    expected = (tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    assert resolve_split("shapes", "val") == expected
    with pytest.raises(UserError, match="it has train, val"):
        resolve_split("shapes", "test")
