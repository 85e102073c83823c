"""Opens and decodes files that others wrote, and says in one sentence what stands in the way."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from rethink_heads.errors import UserError

LARGEST_SETTINGS = 2**20
"""Bytes of the largest file of settings, class map or file of class names that is read."""
LARGEST_LIST = 16 * 2**20
"""Bytes of the largest list of images or XML file that is read."""
# Neither UTF-8, nor Parquet, nor a file name can hold them.
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def open_file(path: Path, kind: str) -> BinaryIO:
    """Open a regular file for reading, in binary.

    Args:
        path: the file.
        kind: what it is, for messages: "image", "annotation file".

    Raises:
        UserError: it is not there, is a folder or a pipe, may not be read, or has a name that no file can have. The
            message names the folder that is missing or closed where it is not the file itself.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
            raise UserError(f"cannot read {kind} {shown(path)}: it is {what}, not a file")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise cannot_read(path, kind, error) from error


def read_bytes(path: Path, kind: str, largest: int) -> bytes:
    """Return what a file holds.

    Raises:
        UserError: as of :func:`open_file`, or it has more than ``largest`` bytes.
    """
    with open_file(path, kind) as stream:
        if os.fstat(stream.fileno()).st_size > largest:
            raise UserError(
                f"{kind} {shown(path)} is larger than {largest / 2**20:,g} MiB, the most that is read;"
                " give a smaller one"
            )
        try:
            return stream.read()
        except OSError as error:
            raise cannot_read(path, kind, error) from error


def read_text(path: Path, kind: str = "file", largest: int = LARGEST_SETTINGS) -> str:
    """Return a file's text: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        UserError: as of :func:`read_bytes`, or it is not text in one of these encodings.
    """
    content = read_bytes(path, kind, largest)
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if is_wide else "UTF-8"
        raise UserError(
            f"{kind} {shown(path)}, line {line}: byte 0x{content[error.start]:02x} is not {encoding}; save it as UTF-8"
        ) from error


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; there is none of a name that the system refuses."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name, as far as one is allowed to see."""
    return stat.S_ISDIR(_mode(path))


def cannot_read(path: Path, kind: str, error: OSError | ValueError) -> UserError:
    """Return the sentence for a file or folder that the system refuses, with the path that is the matter."""
    name, missing = f"{kind} {shown(path)}", f"no such {kind}: {shown(path)}"
    if isinstance(error, PermissionError):
        for folder in reversed(Path(path).absolute().parents):
            if is_folder(folder) and not os.access(folder, os.X_OK):
                return UserError(
                    f"cannot read {name}: no permission to enter the folder {shown(folder)}; ask for it"
                )
        return UserError(f"cannot read {name}: no permission to read it; ask for it")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        for folder in reversed(Path(path).absolute().parents):
            if not is_folder(folder):
                return UserError(f"{missing} (there is no folder {shown(folder)}); check the path")
        return UserError(f"{missing}; check the path")
    reason = getattr(error, "strerror", None) or "no file can have this name"
    return UserError(f"cannot read {name}: {reason}")


def shown(name: str | Path) -> str:
    """Return a name as messages show it: on one line, printable, and not too long."""
    text = str(name)
    return shorten(text if text.isprintable() else ascii(text)[1:-1], 200)


def unwritable(text: str) -> str | None:
    """Return the first character that no text file can hold, a NUL or half of a surrogate pair: ``U+D800``."""
    found = _UNWRITABLE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def check_writable(text: str, whose: str) -> str:
    """Return a text that files and folders can be named and written with.

    Raises:
        UserError: it has a character that none can hold.
    """
    if character := unwritable(text):
        raise UserError(
            f"{whose} {shorten(text)!r} has the character {character}, which no text file can hold; write it in UTF-8"
        )
    return text


def shorten(text: str, longest: int = 100) -> str:
    """Return a text's beginning and end where it is longer than ``longest`` characters."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def expand_home(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~name`` expanded; where there is no such user, as it is, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    # A name that is too long, or with characters that no name has, or in a folder that is closed.
    except (OSError, ValueError):
        return 0
