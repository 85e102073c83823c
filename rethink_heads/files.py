"""Files of others opened and decoded, own files written whole or not at all; what stands in the way is one sentence."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from platformdirs import user_cache_path

from rethink_heads.errors import UserError, shown

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CACHE_VARIABLE = "RETHINK_HEADS_CACHE"
METADATA_KEY = b"rethink_heads"
VISIBLE_SECONDS, VISIBLE_PAUSE = 120.0, 0.05
# In every temporary name, and in no other.
UNFINISHED = "-unfinished"
LARGEST_SETTINGS = 2**20
"""Bytes of the largest file of settings, class map or file of class names that is read."""
LARGEST_LIST = 16 * 2**20
"""Bytes of the largest list of images or XML file that is read."""


def open_file(path: Path, kind: str) -> BinaryIO:
    """Open a regular file for reading, in binary. ``kind`` is what it is, for messages: "image", "annotation file".

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
    """Return what a file holds. Raises UserError as :func:`open_file`, or if it has more than ``largest`` bytes."""
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
    Raises UserError as :func:`read_bytes`, or if it is not text in one of these encodings.
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
    """Return whether there is a file of this name; there is none of a name that the system refuses."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Return whether there is a folder of this name, as far as one is allowed to see."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    # A name that is too long, or with characters that no name has, or in a folder that is closed.
    except (OSError, ValueError):
        return 0


def cannot_read(path: Path, kind: str, error: OSError | ValueError) -> UserError:
    """Return the sentence for a file or folder that the system refuses, with the path that is the matter."""
    name, missing = f"{kind} {shown(path)}", f"no such {kind}: {shown(path)}"
    parents = list(reversed(Path(path).absolute().parents))
    if isinstance(error, PermissionError):
        for folder in parents:
            if is_folder(folder) and not os.access(folder, os.X_OK):
                return UserError(
                    f"cannot read {name}: no permission to enter the folder {shown(folder)};"
                    " have its owner allow it (chmod a+rx)"
                )
        return UserError(
            f"cannot read {name}: no permission to read it; have its owner allow it (chmod a+r)"
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        absent = next((folder for folder in parents if not is_folder(folder)), None)
        why = f" (there is no folder {shown(absent)})" if absent else ""
        return UserError(f"{missing}{why}; check the path")
    reason = getattr(error, "strerror", None) or "no file can have this name"
    return UserError(f"cannot read {name}: {reason}")


def expand_home(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~name`` expanded; where there is no such user, as it is, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_folder() -> Path:
    """Return the folder for what is made once: the one that the environment names, or the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    return expand_home(named) if named else user_cache_path("rethink-heads")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.
    Raises UserError where there is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, "file", error) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    The temporary path keeps the suffix and does not exist yet; the block may make a file or a folder there. On any
    exception it is deleted and ``path`` stays as it was. Parent folders are made. A folder can take the place of
    nothing or of an empty folder only.
    Raises UserError where the file cannot be written (disk full, no permission, not a folder, ...).
    """
    path = Path(path)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.stem}-{unique}{UNFINISHED}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # pyarrow wraps the system's words in its own; the number is the same.
        reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
        raise UserError(
            f"cannot write {path}: {reason}; free some space or choose another folder"
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"cannot write {path}: a name in it has U+{ord(error.object[error.start]):04X}, which no text file can"
            " hold; write that name in UTF-8"
        ) from error
    finally:
        # After a rename there is nothing left under the temporary name.
        remove(temporary)


def unfinished_in(folders: Iterable[Path]) -> list[Path]:
    """Return what killed processes left under temporary names of :func:`atomic_path` in folders, not below them."""
    return sorted(path for folder in folders for path in folder.glob(f".*{UNFINISHED}*"))


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there. Never raises, so as not to hide the first error."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def until_visible(
    is_there: Callable[[], bool], what: str, seconds: float = VISIBLE_SECONDS
) -> None:
    """Wait for something that another process has written; a network's folders show it with some delay.
    Raises UserError where it does not come.
    """
    last = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > last:
            raise UserError(
                f"{what} cannot be seen here, though another process wrote it: give all machines the same shared folder"
            )
        time.sleep(VISIBLE_PAUSE)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with Unix line ends."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_torch(value: Any, path: Path, hash_path: Path | None = None) -> None:
    """Write ``value`` with ``torch.save``.
    ``hash_path``: gets the file's SHA-256, in the form of ``sha256sum``; where the file is, so is its hash.
    """
    import torch

    # Given a path, torch.save turns a full disk into a RuntimeError about file positions; through
    # an open file it stays the OSError that it is.
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as stream:
            try:
                torch.save(value, stream)
            except RuntimeError as error:
                # Closing the archive fails in its own words after a write that failed.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        if hash_path is not None:
            write_text(hash_path, f"{sha256(temporary)}  {path.name}\n")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV without its index. Floats keep all their digits."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(csv_bytes(frame))


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Return what :func:`write_csv` writes."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def read_csv(path: Path) -> pd.DataFrame:
    """Read what :func:`write_csv` wrote: every float is the one that was written.
    Raises UserError where there is no such file, or it is not CSV.
    """
    import pandas as pd

    # Before 3.1 the last digit of a float may be another by default; from then on never.
    is_exact = tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1)
    try:
        return pd.read_csv(path) if is_exact else pd.read_csv(path, float_precision="round_trip")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as CSV: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def write_parquet(frame: pd.DataFrame, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a frame as Parquet, without its index, with ``metadata`` in the file's schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    encoded = json.dumps(dict(metadata), sort_keys=True).encode()
    named = table.replace_schema_metadata(
        dict(table.schema.metadata or {}) | {METADATA_KEY: encoded}
    )
    with atomic_path(path) as temporary:
        # A page with a wrong bit can be read without an error otherwise, as other numbers.
        pq.write_table(named, temporary, write_page_checksum=True)


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read what :func:`write_parquet` wrote: the frame and its metadata ({} if it has none).
    Raises UserError where there is no such file, or it is not Parquet or damaged.
    """
    table, metadata = read_table(path)
    return table.to_pandas(), metadata


def read_table(path: Path) -> tuple[pa.Table, dict[str, str]]:
    """As :func:`read_parquet`, an Arrow table."""
    import pyarrow.parquet as pq

    with reading_parquet(path):
        # Not through pyarrow's data sets, which take several times as long for a small file.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            table = file.read(use_threads=False)
        metadata = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    return table, metadata


@contextlib.contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a Parquet file is read into a UserError that names it."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except PermissionError as error:
        raise cannot_read(path, "file", error) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} as Parquet ({_first_line(error)}); delete it and run the command again"
        ) from error
