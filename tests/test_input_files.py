"""Files of other people: marks, names that the system refuses, and the path that is really the matter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.errors import UserError, check_writable, shorten, shown
from rethink_heads.files import LARGEST_LIST, LARGEST_SETTINGS, is_file, open_file, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_the_same_whatever_its_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.txt").write_bytes("Hündin\r\ncat\r\n".encode(encoding))
    assert read_text(tmp_path / "names.txt", "list").splitlines() == ["Hündin", "cat"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"dog\nch\xe2t\n", "line 2: byte 0xe2 is not UTF-8"),
        (b"\xff\xfe\0", "line 1: byte 0x00 is not UTF-16"),
    ],
)
def test_the_line_that_is_no_text_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"^list .*names\.txt, {says}; save it as UTF-8$"):
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
    with pytest.raises(UserError, match="it is a device or pipe, not a file"):
        read_text(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("name", "says"), [("x" * 300, "File name too long"), ("a\0b", "no file can")]
)
def test_names_that_the_system_refuses(tmp_path: Path, name: str, says: str) -> None:
    assert not is_file(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot read list .*: {says}") as caught:
        open_file(tmp_path / name, "list")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("largest", [LARGEST_SETTINGS, LARGEST_LIST])
def test_files_that_are_too_large_are_not_read(tmp_path: Path, largest: int) -> None:
    path = tmp_path / "large.txt"
    with open(path, "wb") as stream:
        stream.truncate(largest + 1)
    size = rf"{largest // 2**20} MiB"
    with pytest.raises(UserError, match=rf"list .*large\.txt is larger than {size}, the most"):
        read_text(path, "list", largest)


@pytest.mark.parametrize("text", ["a\0b", "\ud83d", "x\udcff"])
def test_names_that_no_file_can_hold(text: str) -> None:
    with pytest.raises(UserError, match=r"class .* has the character U\+"):
        check_writable(text, "class")
    assert check_writable("dög 🐕", "class") == "dög 🐕"


def test_names_are_shown_on_one_short_line() -> None:
    assert shown("a b.png") == "a b.png"
    assert shown("a\nb\ud800.png") == r"a\nb\ud800.png"
    assert len(shown("x" * 10_000)) == 200


@given(st.text(max_size=300), st.integers(20, 200))
def test_short_texts_stay_and_long_ones_keep_their_ends(text: str, longest: int) -> None:
    short = shorten(text, longest)
    assert len(short) <= longest
    assert short == text or (len(text) > longest and text.startswith(short.split(" ... ")[0]))
