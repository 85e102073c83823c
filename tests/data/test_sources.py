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
    ("files", "folders", "split", "annotations", "images"),
    [
        (["test", "train"], ["images"], "train", "instances_train.json", "images"),
        (["val2017"], ["val2017"], "val", "instances_val2017.json", "val2017"),
        (["val2017"], ["val2017"], "val2017", "instances_val2017.json", "val2017"),
        # A split of its own comes before images.
        (["val"], ["images", "val", "val2017"], "val", "instances_val.json", "val"),
        (["val"], ["images", "val2017"], "val", "instances_val.json", "val2017"),
    ],
)
def test_layouts(
    tmp_path: Path,
    files: list[str],
    folders: list[str],
    split: str,
    annotations: str,
    images: str,
) -> None:
    source = make(tmp_path, files, folders)
    expected = (tmp_path / "annotations" / annotations, tmp_path / images)
    assert resolve_split(source, split) == expected


@pytest.mark.parametrize(
    ("files", "split", "says"),
    [
        (["train2017", "val2017"], "test", r'no split "test" .*: it has train2017, val2017'),
        ([], "val", "it has no splits at all"),
        (["val"], "val", 'no images for the split "val"'),
        (["val"], "x" * 300, "has no split .*: it has val"),
        (["val"], "a\0b", "has no split .*: it has val"),
    ],
)
def test_splits_that_are_not_there(tmp_path: Path, files: list[str], split: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        resolve_split(make(tmp_path, files, []), split)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no/such/folder", r'no such data folder: no/such/folder; give "shapes", a folder'),
        ("x" * 300, "cannot read data folder x+.*File name too long"),
        ("a\0b", r"cannot read data folder a\\x00b: no file can have this name"),
        ("~nobody-of-this-name/data", "no such data folder: ~nobody"),
    ],
)
def test_folders_that_are_not_there(source: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        resolve_split(source, "val")


def test_a_closed_folder_of_annotations_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    # Nothing is closed to the superuser, as which tests may run.
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(UserError, match=rf"folder of annotations {tmp_path}/annotations: no permi"):
        resolve_split(str(tmp_path), "val")


def test_shapes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, ["train", "val"], ["train", "val"])
    monkeypatch.setattr(sources, "shapes_root", lambda: Path(source))
    expected = (tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    assert resolve_split("shapes", "val") == expected
    with pytest.raises(UserError, match="it has train, val"):
        resolve_split("shapes", "test")
