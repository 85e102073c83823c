"""Measurements: what heads made of predefined proposals, one dense array of moments for each head.

The boxes are those of :mod:`rethink_heads.proposals`. Every array has a row for each object, in one order, so that
which row an object has is known before anything is measured: parts of images are put together by copying them into
their places, and a statistic is a formula on sums of rows.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.files import atomic_path, read_parquet, remove, unreadable, write_parquet
from rethink_heads.measure.moments import SAMPLING_COLUMNS, VALUE_COLUMNS
from rethink_heads.proposals import IOU_BINS

SIZES = ("small", "medium", "large")
SMALL_AREA, MEDIUM_AREA = 32**2, 96**2

MOMENTS, SAMPLING, ROWS, MAPS, WEIGHTS = "moments", "sampling", "rows", "maps", "weights"
OBJECT_COLUMNS = {"image_id": "int64", "object_id": "int64", "class_name": "str", "size": "str"}
IDS = ["image_id", "object_id"]
ROW_TYPE = np.dtype(
    [("object", "<i4"), ("bin", "u1"), ("weight", "<f8"), ("iou", "<f8"), ("score", "<f8")]
)
META_NAME, OBJECTS_NAME = "meta.json", "objects.parquet"
# Objects whose rows are copied at once.
BLOCK = 1024

Key = tuple[str, str]
"""Detector and head."""
Name = tuple[str, ...]
"""Of an array: what it is (MOMENTS, ...), detector and head; of MAPS and WEIGHTS detector, branch or head, kind."""
Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


def size_name(area: float) -> str:
    """COCO's name of an object's size; ``area`` in px^2 of the original image."""
    if area < SMALL_AREA:
        return "small"
    return "medium" if area < MEDIUM_AREA else "large"


class Measurements:
    """Moments, sampled proposals and maps of one or more heads on one set of objects.

    ``keys`` are (detector, head) pairs; O is the number of objects. Arrays that were loaded from a folder are mapped
    from their files anew each time that they are asked for, and so take no memory that has to be kept.

    Attributes:
        objects: O rows with image_id, object_id, class_name and size ("small", "medium", "large"), sorted by the ids.
            All objects that were to be measured are there, also one whose proposals were all clipped to nothing.
        provenance: versions, configuration, hashes and seed, as names and texts.
    """

    def __init__(
        self,
        objects: pd.DataFrame,
        arrays: Mapping[Name, Array | View],
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        """Hold arrays of some objects.

        Args:
            objects: sorted by image_id and object_id.
            arrays: by their names: ("moments", detector, head), ("sampling", detector, head), ("rows", detector, head),
                ("maps", detector, branch, kind), ("weights", detector, branch, kind); see the methods of these names.
            provenance: of all of it.

        Raises:
            ValueError: the objects are not sorted, or one is there twice.
        """
        self.objects = objects[list(OBJECT_COLUMNS)].astype(OBJECT_COLUMNS).reset_index(drop=True)
        index = pd.MultiIndex.from_frame(self.objects[IDS])
        if not (index.is_monotonic_increasing and index.is_unique):
            raise ValueError("objects of measurements have to be sorted, each there once")
        self._arrays = {
            name: values if isinstance(values, View) else View(_Held(values))
            for name, values in arrays.items()
        }
        self.provenance = dict(provenance or {})

    def __repr__(self) -> str:
        heads = ", ".join(map("/".join, self.keys)) or "no head"
        count, images = len(self.objects), len(self.image_ids)
        return f"<Measurements of {count} objects in {images} images: {heads}>"

    @classmethod
    def empty(cls) -> Measurements:
        """Measurements of no object."""
        return cls(pd.DataFrame(columns=list(OBJECT_COLUMNS)), {})

    @cached_property
    def image_ids(self) -> tuple[int, ...]:
        """The images that hold an object, sorted."""
        return tuple(np.unique(self.objects["image_id"].to_numpy()).tolist())

    @property
    def keys(self) -> tuple[Key, ...]:
        """The (detector, head) pairs that were measured, sorted."""
        return tuple(sorted((name[1], name[2]) for name in self._arrays if name[0] == MOMENTS))

    @property
    def detectors(self) -> tuple[str, ...]:
        """Names of the measured detectors, sorted."""
        return tuple(sorted({detector for detector, _ in self.keys}))

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the measured heads, sorted."""
        return tuple(sorted({head for _, head in self.keys}))

    @property
    def has_rows(self) -> bool:
        """Whether there are sampled proposals of any head."""
        return any(name[0] == ROWS for name in self._arrays)

    def map_keys(self, kind: str) -> tuple[Key, ...]:
        """The (detector, branch or head) pairs that have maps of a kind, of objects or of weights; sorted."""
        found = (n for n in self._arrays if n[0] in (MAPS, WEIGHTS) and n[3] == kind)
        return tuple(sorted((name[1], name[2]) for name in found))

    def moments(self, key: Key) -> npt.NDArray[np.float64]:
        """(O, 20, M) float64: the VALUE_COLUMNS of each object and IoU bin, zeros where nothing was measured.

        Raises:
            UserError: the head was not measured.
        """
        if (found := self._take((MOMENTS, *key), 0)) is None:
            there = ", ".join(map("/".join, self.keys)) or "nothing"
            raise UserError(f"no measurements of {'/'.join(key)}; there are those of {there}")
        return found

    def sampling(self, key: Key) -> npt.NDArray[np.float64] | None:
        """(O, 20, C) float64: the SAMPLING_COLUMNS, how far drawing proposals may put the sums of ``moments``.

        Zeros for what was measured whole, nan for what is not known: of a bin of which one proposal stands for several.
        None where nothing was drawn.
        """
        return self._take((SAMPLING, *key), 0)

    def rows(self, key: Key) -> Array:
        """Sampled proposals (R,) of ROW_TYPE, sorted by object; ``pd.DataFrame`` makes a frame of them.

        Fields: object (its row in ``objects``), bin, weight (how many proposals of its bin it stands for), iou, score.
        """
        view = self._arrays.get((ROWS, *key))
        return np.empty(0, ROW_TYPE) if view is None else view.proposals()

    def maps(self, key: Key, kind: str) -> npt.NDArray[np.float32] | None:
        """(O, W) float32: each object's map, flattened row by row; nan for objects without. None: there are none.

        Kinds: "spatial_correlation" (S^2 x S^2 cosines between RoI cells; of a branch), "displacement_score" (21 x 21
        scores; columns displace by dx, rows by dy, from -1 to 1 of the object's size), "cell_score" and "cell_iou"
        (S x S changes when one RoI cell is zeroed).
        """
        return self._take((MAPS, *key, kind), np.nan)

    def weights(self, key: Key, kind: str) -> npt.NDArray[np.float32] | None:
        """(W,) float32: a map of the detector's weights, of kind "weight_correlation"; None: there is none."""
        view = self._arrays.get((WEIGHTS, *key, kind))
        return None if view is None else view.source()

    def _take(self, name: Name, fill: float) -> Array | None:
        view = self._arrays.get(name)
        return None if view is None else view.take(fill)

    def select(
        self,
        *,
        heads: Iterable[str] | None = None,
        sizes: Iterable[str] | None = None,
        detectors: Iterable[str] | None = None,
    ) -> Measurements:
        """The part with these heads, sizes and detectors; None selects all.

        Objects that only other detectors were measured on go; maps of weights belong to no object and stay.
        """
        wanted_heads, wanted_detectors = _set(heads), _set(detectors)
        arrays = {
            name: view
            for name, view in self._arrays.items()
            if (wanted_detectors is None or name[1] in wanted_detectors)
            and (wanted_heads is None or name[2] in wanted_heads)
        }
        keep = np.zeros(len(self.objects), bool)
        for name, view in arrays.items():
            if name[0] == MOMENTS:
                keep |= True if view.place is None else view.place >= 0
        if sizes is not None:
            keep &= self.objects["size"].isin(list(sizes)).to_numpy()
        return Measurements(self.objects, arrays, self.provenance)._pick(keep)

    def restrict(self, objects: Collection[tuple[int, int]]) -> Measurements:
        """The part with these objects, by image_id and object_id, and the maps of weights."""
        wanted = pd.MultiIndex.from_tuples(list(objects), names=IDS)
        return self._pick(np.asarray(pd.MultiIndex.from_frame(self.objects[IDS]).isin(wanted)))

    def _pick(self, keep: npt.NDArray[np.bool_]) -> Measurements:
        if keep.all():
            return self
        place = np.flatnonzero(keep)
        arrays = {
            name: view if name[0] == WEIGHTS else view.at(place)
            for name, view in self._arrays.items()
        }
        return Measurements(self.objects[keep], arrays, self.provenance)

    @classmethod
    def merge(cls, parts: Sequence[Measurements]) -> Measurements:
        """The union of the objects with the arrays of all parts; objects that a part lacks were not measured there.

        Where the parts' provenance differs, the different texts are joined by "; ".

        Raises:
            ValueError: two parts hold the same detector and head.
        """
        if not parts:
            return cls.empty()
        objects = pd.concat([part.objects for part in parts]).drop_duplicates(IDS).sort_values(IDS)
        index = pd.MultiIndex.from_frame(objects[IDS])
        arrays: dict[Name, View] = {}
        for part in parts:
            place = pd.MultiIndex.from_frame(part.objects[IDS]).get_indexer(index)
            same = np.array_equal(place, np.arange(len(part.objects)))
            for name, view in part._arrays.items():
                if name in arrays:
                    raise ValueError(f"{name[2]!r} of {name[1]!r} was measured twice ({name[0]})")
                arrays[name] = view if same or name[0] == WEIGHTS else view.at(place)
        return cls(objects, arrays, merge_provenance(part.provenance for part in parts))

    def save(self, folder: Path) -> None:
        """Write objects.parquet, a .npy for each array, and meta.json, which lists them and has the provenance.

        Where one cannot be written, as on a full disk, the folder stays as it was.
        """
        with write_store(folder, self.objects, self.provenance) as append:
            for name in self._arrays:
                what, key = name[0], (name[1], name[2])
                if what == WEIGHTS:
                    append(name, 0, self._arrays[name].source())
                elif what == ROWS:
                    append(name, 0, self.rows(key))
                else:
                    values = self._arrays[name].take(np.nan if what == MAPS else 0)
                    for start in range(0, len(values), BLOCK):
                        append(name, start, values[start : start + BLOCK])

    @classmethod
    def load(cls, folder: Path) -> Measurements:
        """Read what :meth:`save` wrote, or what measuring left; arrays are read when they are asked for.

        Raises:
            UserError: there are no measurements, or a file is missing or damaged. That an array was changed is found
                when it is first asked for.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        objects, _ = read_parquet(folder / OBJECTS_NAME)
        try:
            arrays = {
                tuple(each["name"]): View(_File(folder / each["file"], each["crc32"]))
                for each in meta["arrays"]
            }
            found = cls(objects, arrays, meta["provenance"])
        except (ValueError, KeyError, TypeError) as error:
            raise _no_measurements(folder, error) from error
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per detector, head, object and IoU bin with a proposal, in that order.

        Columns: image_id, object_id, class_name, size, detector, head, bin (0..19), VALUE_COLUMNS.
        """
        frames = []
        for detector, head in self.keys:
            moments = self.moments((detector, head))
            rows, bins = np.nonzero(moments[..., VALUE_COLUMNS.index("measured")])
            named = self.objects.iloc[rows].reset_index(drop=True)
            named = named.assign(detector=detector, head=head, bin=bins)
            values = pd.DataFrame(moments[rows, bins], columns=list(VALUE_COLUMNS))
            frames.append(pd.concat([named, values], axis=1))
        columns = [*OBJECT_COLUMNS, "detector", "head", "bin", *VALUE_COLUMNS]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    @classmethod
    def from_frames(
        cls,
        bins: pd.DataFrame,
        rows: pd.DataFrame | None = None,
        maps: pd.DataFrame | None = None,
        sampling: pd.DataFrame | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Measurements:
        """Measurements of frames with a row for each object, detector, head and bin, such as :meth:`to_frame` gives.

        Args:
            bins: as of :meth:`to_frame`.
            rows: sampled proposals: image_id, object_id, detector, head, bin, weight, iou, score.
            maps: image_id, object_id (both -1 for maps of weights), detector, head, kind, values.
            sampling: image_id, object_id, detector, head, bin, SAMPLING_COLUMNS.
            provenance: of all of it.

        Raises:
            ValueError: a bin or a map is there twice.
        """
        objects = bins[list(OBJECT_COLUMNS)].drop_duplicates(IDS).sort_values(IDS)
        index = pd.MultiIndex.from_frame(objects[IDS].astype("int64"))
        arrays: dict[Name, Array] = {}
        for what, frame, columns in (
            (MOMENTS, bins, VALUE_COLUMNS),
            (SAMPLING, sampling, SAMPLING_COLUMNS),
        ):
            for name, part in _groups(what, frame, ["detector", "head"]):
                if part.duplicated([*IDS, "bin"]).any():
                    raise ValueError(f"an object was measured twice for {'/'.join(name[1:])}")
                values = np.zeros((len(objects), IOU_BINS, len(columns)))
                place = index.get_indexer(pd.MultiIndex.from_frame(part[IDS]))
                values[place, part["bin"].to_numpy()] = part[list(columns)].to_numpy(np.float64)
                arrays[name] = values
        for name, part in _groups(ROWS, rows, ["detector", "head"]):
            place = index.get_indexer(pd.MultiIndex.from_frame(part[IDS]))
            found = np.empty(len(part), ROW_TYPE)
            for field in ROW_TYPE.names or ():
                found[field] = place if field == "object" else part[field].to_numpy()
            arrays[name] = found[np.argsort(place, kind="stable")]
        for name, part in _groups(MAPS, maps, ["detector", "head", "kind"]):
            values = np.stack([np.asarray(each, np.float32) for each in part["values"]])
            if (part["object_id"] < 0).all():
                arrays[WEIGHTS, *name[1:]] = values[0]
                continue
            if part.duplicated(IDS).any():
                raise ValueError(f"an object has two maps of {'/'.join(name[1:])}")
            whole = np.full((len(objects), values.shape[1]), np.nan, np.float32)
            whole[index.get_indexer(pd.MultiIndex.from_frame(part[IDS]))] = values
            arrays[name] = whole
        return cls(objects, arrays, provenance)


def merge_provenance(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What several parts state of their making, different texts joined by "; "."""
    texts: dict[str, set[str]] = {}
    for part in parts:
        for key, text in part.items():
            texts.setdefault(key, set()).add(text)
    return {key: "; ".join(sorted(found)) for key, found in sorted(texts.items())}


def stored_provenance(folder: Path) -> dict[str, str] | None:
    """Provenance of the complete measurements in a folder; None where there are none, or a file is missing or cut."""
    try:
        meta = _read_meta(Path(folder))
        complete = all(
            (Path(folder) / each["file"]).stat().st_size == each["bytes"] for each in meta["arrays"]
        )
        return dict(meta["provenance"]) if complete else None
    except PermissionError as error:
        # It is not to be made again: it is there, and perhaps all right.
        raise unreadable(Path(folder) / META_NAME, error) from error
    except (OSError, UserError, KeyError, TypeError):
        return None


def rename_detector(folder: Path, detector: str) -> None:
    """Have the measurements of one detector in a folder call it by its present name: its run may have been renamed."""
    meta = _read_meta(Path(folder))
    if any(each["name"][1] != detector for each in meta["arrays"]):
        for each in meta["arrays"]:
            each["name"][1] = detector
        with atomic_path(Path(folder) / META_NAME) as temporary:
            temporary.write_text(json.dumps(meta, indent=1), encoding="utf-8")


@contextlib.contextmanager
def write_store(
    folder: Path, objects: pd.DataFrame, provenance: Mapping[str, str]
) -> Iterator[Callable[[Name, int, Array], None]]:
    """Write measurements into a folder, some objects after others, all of it or nothing.

    Yields:
        What appends rows to an array: its name, the first row's number (of sampled proposals and of weights: any), and
        the rows. What was left out before it is filled with nan in maps, with zeros elsewhere.

    Raises:
        UserError: a file cannot be written, or the rows of an array differ in shape.
    """
    folder, files = Path(folder), dict[Name, _ArrayFile]()
    with contextlib.ExitStack() as stack:
        # The first entered takes its name last: where it is, so are the others.
        meta = stack.enter_context(atomic_path(folder / META_NAME))
        write_parquet(objects, stack.enter_context(atomic_path(folder / OBJECTS_NAME)), {})

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
        stated = {"provenance": dict(provenance), "arrays": arrays}
        meta.write_text(json.dumps(stated, indent=1), encoding="utf-8")
        # From here on what was there before is not complete.
        (folder / META_NAME).unlink(missing_ok=True)
    for path in {*folder.glob("*.npy")} - {folder / each["file"] for each in arrays}:
        remove(path)


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


@dataclass(frozen=True)
class View:
    """Rows of an array in the order of some objects.

    Attributes:
        source: opens the array, or gives it.
        place: (O,) the row there of each object, -1 for none; None: the objects are those of the array.
    """

    source: Callable[[], Array]
    place: Indices | None = None

    def at(self, place: Indices) -> View:
        """The rows of other objects, by their rows here (-1: none)."""
        if self.place is not None:
            place = np.where(place < 0, -1, self.place[place]) if len(self.place) else place
        return View(self.source, place)

    def take(self, fill: float) -> Array:
        """The array (O, ...) with ``fill`` for objects that it has no row of."""
        values = self.source()
        if self.place is None:
            return values
        found = np.full((len(self.place), *values.shape[1:]), fill, values.dtype)
        found[self.place >= 0] = values[self.place[self.place >= 0]]
        return found

    def proposals(self) -> Array:
        """Sampled proposals, their objects counted anew."""
        values = self.source()
        if self.place is None:
            return values
        there = np.flatnonzero(self.place >= 0)
        count = max(int(values["object"].max(initial=-1)), int(self.place.max(initial=-1))) + 1
        number = np.full(count, -1)
        number[self.place[there]] = there
        number = number[values["object"]]
        found = values[number >= 0]
        found["object"] = number[number >= 0]
        return found


@dataclass(frozen=True)
class _Held:
    """An array in memory."""

    values: Array

    def __call__(self) -> Array:
        return self.values


class _File:
    """An array in a .npy file."""

    def __init__(self, path: Path, crc: int) -> None:
        if not path.is_file():
            raise UserError(
                f"no measurements in {path.parent}: {path.name} is missing; measure first"
            )
        self._path, self._crc = path, crc
        self._checked = False

    def __call__(self) -> Array:
        try:
            # Mapped anew each time: pages that were read are given back with the array.
            values = np.load(self._path, mmap_mode="r", allow_pickle=False)
            if not self._checked:
                self._check(values.offset)
            return np.asarray(values)
        except PermissionError as error:
            raise unreadable(self._path, error) from error
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read {self._path} ({error}); delete {self._path.parent} and measure again"
            ) from error

    def _check(self, offset: int) -> None:
        found = 0
        with open(self._path, "rb") as stream:
            stream.seek(offset)
            while block := stream.read(2**20):
                found = zlib.crc32(block, found)
        if found != self._crc:
            raise ValueError("its content is not what was written")
        self._checked = True


def _read_meta(folder: Path) -> dict[str, Any]:
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
        raise unreadable(path, error) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_measurements(folder, error) from error


def _no_measurements(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder} does not hold measurements ({error}); delete it and measure again")


def _groups(
    what: str, frame: pd.DataFrame | None, columns: list[str]
) -> Iterator[tuple[Name, pd.DataFrame]]:
    if frame is not None and len(frame):
        for group, part in frame.groupby(columns):
            yield (what, *map(str, group)), part


def _set(chosen: Iterable[str] | None) -> frozenset[str] | None:
    return None if chosen is None else frozenset(chosen)
