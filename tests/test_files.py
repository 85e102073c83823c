"""Files of other people told in a sentence, own ones whole or not at all, whatever goes wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads import files
from rethink_heads.errors import UserError, check_writable, shorten, shown
from rethink_heads.files import is_file, open_file, read_text


def test_writes_through_a_temporary_name_in_the_same_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with files.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        temporary.write_text("a\n")
        assert not path.exists()
    assert path.read_text() == "a\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException, is_folder: bool
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail() -> None:
        with files.atomic_path(path) as temporary:
            half = temporary / "half.txt" if is_folder else temporary
            half.parent.mkdir(exist_ok=True)
            half.write_text("half of the new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


FRAME = pd.DataFrame({"name": ["a", "b"], "value": [0.1, float("nan")]})


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: files.write_text(path, "text"),
    "csv": lambda path: files.write_csv(FRAME, path),
    "parquet": lambda path: files.write_parquet(FRAME, path, {}),
    "torch": lambda path: files.write_torch({"weights": torch.zeros(3_000_000)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to stand for a full disk")
    path = tmp_path / "result.bin"
    path.write_text("old")
    # What is written under the temporary name goes to a device that is full.
    monkeypatch.setattr("secrets.token_hex", lambda size: "token")
    (tmp_path / f".result-{os.getpid()}-token-unfinished.bin").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*result.bin: No space left on device"):
        WRITERS[kind](path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_no_folder_can_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.write_text(tmp_path / "file" / "below.txt", "text")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [1, 2**60], "name": ["a", "ä"], "value": [1 / 3, float("nan")]})
    files.write_csv(frame, tmp_path / "x.csv")
    pd.testing.assert_frame_equal(files.read_csv(tmp_path / "x.csv"), frame, check_exact=True)
    assert b"\r" not in (tmp_path / "x.csv").read_bytes()
    frame["values"] = [[1.0, 2.0], []]
    files.write_parquet(frame, tmp_path / "x.parquet", {"seed": "0", "data": "ä"})
    again, metadata = files.read_parquet(tmp_path / "x.parquet")
    again["values"] = [list(values) for values in again["values"]]
    pd.testing.assert_frame_equal(again, frame)
    assert metadata == {"seed": "0", "data": "ä"}
    frame.to_parquet(tmp_path / "others.parquet")
    assert files.read_parquet(tmp_path / "others.parquet")[1] == {}


def test_a_wrong_bit_is_not_read_as_another_number(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    files.write_parquet(pd.DataFrame({"value": np.arange(1000) / 7}), path, {})
    whole = path.read_bytes()
    place = len(whole) // 4
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for damaged in (flipped, whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.parquet.*delete it and run the command again"):
            files.read_parquet(path)
    for read in (files.read_parquet, files.sha256):
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "y")


def test_no_permission_to_read_is_said_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    files.write_parquet(pd.DataFrame({"a": [1]}), path, {})

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    for read in (files.read_parquet, files.sha256):
        with pytest.raises(UserError, match=r"cannot read .*a\.parquet: no permission"):
            read(path)


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
    for path, kind in ((tmp_path / "pipe", "a device or pipe"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=f"it is {kind}, not a file"):
            open_file(path, "list")


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
        stream.truncate(2**20 + 1)
    with pytest.raises(UserError, match=r"list .*large\.txt is larger than 1 MiB, the most"):
        read_text(path, "list")


@pytest.mark.parametrize("text", ["a\0b", "\ud83d", "x\udcff"])
def test_names_that_no_file_can_hold(text: str) -> None:
    with pytest.raises(UserError, match=r"class .* has the character U\+"):
        check_writable(text, "class")
    assert check_writable("dög 🐕", "class") == "dög 🐕"


def test_names_are_shown_on_one_short_line() -> None:
    assert shown("a b.png") == "a b.png"
    assert shown("a\nb\ud800.png") == r"a\nb\ud800.png"
    assert len(shown("x" * 10_000)) == 200


@given(st.text("ab é;.", max_size=300), st.integers(20, 200))
@settings(max_examples=50, deadline=None)
def test_short_texts_stay_and_long_ones_keep_their_ends(text: str, longest: int) -> None:
    short = shorten(text, longest)
    assert len(short) <= longest
    assert short == text or (len(text) > longest and text.startswith(short.split(" ... ")[0]))
