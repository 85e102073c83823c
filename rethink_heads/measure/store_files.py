"""Files of measurements: an array a file, written some objects after others, and what lists them."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.files import atomic_path, cannot_read, remove, write_parquet, write_text

MOMENTS, SAMPLING, ROWS, MAPS, WEIGHTS = "moments", "sampling", "rows", "maps", "weights"
OBJECT_COLUMNS = {"image_id": "int64", "object_id": "int64", "class_name": "str", "size": "str"}
IDS = ["image_id", "object_id"]
ROW_TYPE = np.dtype(
    [
        ("object", "<i4"),
        ("proposal", "<i4"),
        ("bin", "u1"),
        ("weight", "<f8"),
        ("iou", "<f8"),
        ("score", "<f8"),
    ]
)
META_NAME, OBJECTS_NAME = "meta.json", "objects.parquet"
# Objects whose rows are copied at once.
BLOCK = 1024

Name = tuple[str, ...]
"""Of an array: what it is (MOMENTS, ...), detector and head; of MAPS and WEIGHTS detector, branch or head, kind."""
Array = npt.NDArray[Any]


@contextlib.contextmanager
def write_store(
    folder: Path, objects: pd.DataFrame, provenance: Mapping[str, str]
) -> Iterator[Callable[[Name, int, Array], None]]:
    """Write measurements into a folder, some objects after others, all of it or nothing.
    Raises UserError where a file cannot be written, or the rows of an array differ in shape.

    Yields:
        What appends rows to an array: its name, the first row's number (of sampled proposals and of weights: any), and
        the rows. What was left out before it is filled with nan in maps, with zeros elsewhere.
    """
    folder, files = Path(folder), dict[Name, _ArrayFile]()
    with contextlib.ExitStack() as stack:
        # The first entered takes its name last: where it is, so are the others.
        meta = stack.enter_context(atomic_path(folder / META_NAME))
        frame = stack.enter_context(atomic_path(folder / OBJECTS_NAME))
        write_parquet(objects, frame, {})

        def append(name: Name, first: int, values: Array) -> None:
            if name not in files:
                path = folder / f"{name[0]}-{len(files)}.npy"
                stream = stack.enter_context(open(stack.enter_context(atomic_path(path)), "wb"))
                files[name] = _ArrayFile(path.name, stream, name, values.dtype, values.shape[1:])
            files[name].append(first, values)

        yield append
        for file in files.values():
            file.close(len(objects))
        arrays = [file.stated for file in files.values()]
        stated = {"provenance": dict(provenance), "objects": frame.stat().st_size, "arrays": arrays}
        meta.write_text(json.dumps(stated, indent=1), encoding="utf-8")
        # From here on what was there before is not complete.
        (folder / META_NAME).unlink(missing_ok=True)
    for path in {*folder.glob("*.npy")} - {folder / each["file"] for each in arrays}:
        remove(path)


def write_part(objects: pd.DataFrame, arrays: Mapping[Name, Array], path: Path) -> None:
    """Write the measurements of one image into one file."""
    columns: dict[str, Any] = {
        name: objects[name].to_numpy(np.int64 if kind == "int64" else np.str_)
        for name, kind in OBJECT_COLUMNS.items()
    }
    columns |= {json.dumps(name): values for name, values in arrays.items()}
    with open(path, "wb") as stream:
        np.savez(stream, **columns)


def join_parts(
    parts: Sequence[Path],
    folder: Path,
    detector: str,
    weights: Mapping[Name, Array],
    provenance: Mapping[str, str],
) -> None:
    """Write the measurements of all images into a folder: what :meth:`Measurements.load` reads.
    Raises UserError where a part is missing or damaged, or the folder cannot be written.

    Args:
        parts: files of :func:`write_part`, in the order of their images' ids.
        detector: its name, whatever it was when the parts were made.
        weights: maps of the detector's weights, which belong to no image.
    """
    objects = pd.concat([pd.DataFrame(_read_part(path, list(OBJECT_COLUMNS))) for path in parts])
    objects = objects.astype(OBJECT_COLUMNS).reset_index(drop=True)
    first = 0
    with write_store(folder, objects, provenance) as append:
        for path in parts:
            part = _read_part(path)
            for text, values in part.items():
                if text not in OBJECT_COLUMNS:
                    what, _, *rest = json.loads(text)
                    if what == ROWS:
                        values["object"] += first
                    append((what, detector, *rest), first, values)
            first += len(part["object_id"])
        for name, values in weights.items():
            append(name, 0, values)


def _read_part(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays of a part; None: all."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path} ({error}); delete it and measure again") from error


def stored_provenance(folder: Path) -> dict[str, str] | None:
    """Provenance of the complete measurements in a folder; None where there are none, or a file is missing or cut."""
    try:
        meta = read_meta(Path(folder))
        sizes = {each["file"]: each["bytes"] for each in meta["arrays"]}
        sizes[OBJECTS_NAME] = meta["objects"]
        complete = all((Path(folder) / f).stat().st_size == size for f, size in sizes.items())
        return dict(meta["provenance"]) if complete else None
    except PermissionError as error:
        # It is not to be made again: it is there, and perhaps all right.
        raise cannot_read(Path(folder) / META_NAME, "file", error) from error
    except (OSError, UserError, KeyError, TypeError):
        return None


def relabel(folder: Path, detector: str, dry: bool = False) -> bool:
    """Have the measurements of one detector in a folder call it by another name, unless ``dry``.

    Returns:
        Whether they did not.
    """
    meta = read_meta(Path(folder))
    differs = any(each["name"][1] != detector for each in meta["arrays"])
    if differs and not dry:
        for each in meta["arrays"]:
            each["name"][1] = detector
        write_text(Path(folder) / META_NAME, json.dumps(meta, indent=1))
    return differs


def read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META_NAME
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if any(Path(each["file"]).name != each["file"] for each in meta["arrays"]):
            raise ValueError("a file is not in the folder")
        return dict(meta)
    except FileNotFoundError as error:
        raise UserError(
            f"no measurements in {folder}: {path.name} is missing; measure first"
        ) from (error)
    except PermissionError as error:
        raise cannot_read(path, "file", error) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise no_measurements(folder, error) from error


def no_measurements(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder} does not hold measurements ({error}); delete it and measure again")


class StoredArray:
    """An array in a .npy file: called, it is mapped anew, so that pages that were read are given back with it."""

    def __init__(self, path: Path, crc: int) -> None:
        if not path.is_file():
            raise UserError(
                f"no measurements in {path.parent}: {path.name} is missing; measure first"
            )
        self._path, self._crc = path, crc
        self._checked: tuple[int, int] | None = None

    def __call__(self) -> Array:
        try:
            values = np.load(self._path, mmap_mode="r", allow_pickle=False)
            self._check(values.offset)
            return np.asarray(values)
        except PermissionError as error:
            raise cannot_read(self._path, "file", error) from error
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read {self._path} ({error}); delete {self._path.parent} and measure again"
            ) from error

    def _check(self, offset: int) -> None:
        """Raise ValueError unless the content is what was written; again when the file was replaced."""
        with open(self._path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if self._checked == (found := (status.st_ino, status.st_mtime_ns)):
                return
            crc = 0
            stream.seek(offset)
            while block := stream.read(2**20):
                crc = zlib.crc32(block, crc)
        if crc != self._crc:
            raise ValueError("its content is not what was written")
        self._checked = found


class _ArrayFile:
    """A .npy file that rows are appended to."""

    def __init__(
        self, file: str, stream: Any, name: Name, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self._stream, self._name = stream, name
        self._dtype, self._shape = dtype, shape
        self._rows = self._crc = 0
        self.stated: dict[str, Any] = {"name": list(name), "file": file}
        self._write_header()

    def _write_header(self) -> None:
        # As long whatever the number of rows: numpy leaves room for it.
        self._stream.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        shape = (self._rows, *self._shape)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, first: int, values: Array) -> None:
        if (values.dtype, values.shape[1:]) != (self._dtype, self._shape):
            raise UserError(
                f"{' '.join(self._name)} has {values.shape[1:]} values of one object and"
                f" {self._shape} of another; a detector has to give as many of each"
            )
        if self._name[0] not in (ROWS, WEIGHTS):
            self._fill(first)
        self._put(values)

    def _put(self, values: Array) -> None:
        content = values.tobytes()
        self._crc = zlib.crc32(content, self._crc)
        self._stream.write(content)
        self._rows += len(values)

    def _fill(self, until: int) -> None:
        fill = np.nan if self._name[0] == MAPS else 0
        while self._rows < until:
            count = min(BLOCK, until - self._rows)
            self._put(np.full((count, *self._shape), fill, self._dtype))

    def close(self, objects: int) -> None:
        if self._name[0] not in (ROWS, WEIGHTS):
            self._fill(objects)
        size = self._stream.tell()
        self._write_header()
        self._stream.close()
        self.stated.update(bytes=size, crc32=self._crc)
