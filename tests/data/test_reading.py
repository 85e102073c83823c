"""Files of other people: marks, names that the system refuses, and the path that is really the matter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rethink_heads.data.reading import (
    LARGEST_TEXT,
    is_file,
    open_file,
    read_bytes,
    read_text,
    shown,
)
from rethink_heads.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_the_same_whatever_its_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.txt").write_bytes("Hündin\r\ncat\r\n".encode(encoding))
    assert read_text(tmp_path / "names.txt", "list").splitlines() == ["Hündin", "cat"]


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("Hündin".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot read list .*names\.txt: it is not text .* UTF-8"):
        read_text(tmp_path / "names.txt", "list")


def test_the_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"no such list: .*b\.txt \(there is no folder {tmp_path}/x\)"
    ):
        open_file(tmp_path / "x" / "y" / "b.txt", "list")
    with pytest.raises(UserError, match=r"no such list: .*b\.txt; check the path$"):
        open_file(tmp_path / "b.txt", "list")
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=rf"there is no folder {tmp_path}/x\)"):
        open_file(tmp_path / "x" / "b.txt", "list")


def test_the_folder_that_is_closed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "closed" / "sub" / "a.txt"
    path.parent.mkdir(parents=True)
    path.touch()

    # Nothing is closed to the superuser, as which tests may run.
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"a\.txt: no permission to read it"):
        open_file(path, "list")
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path / "closed")
    with pytest.raises(UserError, match=rf"no permission to enter the folder {tmp_path}/closed;"):
        open_file(path, "list")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="it is a device or pipe, not a file"):
        open_file(tmp_path / "pipe", "list")
    with pytest.raises(UserError, match="it is a folder, not a file"):
        open_file(tmp_path, "list")


@pytest.mark.parametrize(
    ("name", "says"), [("x" * 300, "File name too long"), ("a\0b", "no file can")]
)
def test_names_that_the_system_refuses(tmp_path: Path, name: str, says: str) -> None:
    assert not is_file(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot read list .*: {says}") as caught:
        open_file(tmp_path / name, "list")
    assert str(caught.value).isprintable()


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with open(path, "wb") as stream:
        stream.truncate(LARGEST_TEXT + 1)
    with pytest.raises(UserError, match=r"large\.txt has 16 MiB, more than the 16 MiB"):
        read_bytes(path, "list", LARGEST_TEXT)


def test_names_are_shown_on_one_short_line() -> None:
    assert shown("a b.png") == "a b.png"
    assert shown("a\nb\ud800.png") == r"a\nb\ud800.png"
    assert len(shown("x" * 10_000)) == 120
