"""Measurements: what heads made of predefined proposals, one dense array of moments for each head.

The boxes are those of :mod:`rethink_heads.proposals`. Every array has a row for each object, in one order, so that
which row an object has is known before anything is measured: parts of images are put together by copying them into
their places, and a statistic is a formula on sums of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.files import read_parquet
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.store_files import (
    BLOCK,
    IDS,
    MAPS,
    MOMENTS,
    OBJECT_COLUMNS,
    OBJECTS_NAME,
    ROW_TYPE,
    ROWS,
    SAMPLING,
    WEIGHTS,
    Array,
    Name,
    StoredArray,
    no_measurements,
    read_meta,
    write_store,
)

Key = tuple[str, str]
"""Detector and head."""
Indices = npt.NDArray[np.int64]

SIZES = ("small", "medium", "large")
SMALL_AREA, MEDIUM_AREA = 32**2, 96**2


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

        Raises:
            ValueError: the objects are not sorted, or one is there twice.
        """
        self.objects = objects[list(OBJECT_COLUMNS)].astype(OBJECT_COLUMNS).reset_index(drop=True)
        index = pd.MultiIndex.from_frame(self.objects[IDS])
        if not (index.is_monotonic_increasing and index.is_unique):
            raise ValueError("objects of measurements have to be sorted, each there once")
        self._views = {
            name: values if isinstance(values, View) else View(partial(np.asarray, values))
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
        return tuple(sorted((name[1], name[2]) for name in self._views if name[0] == MOMENTS))

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
        return any(name[0] == ROWS for name in self._views)

    def map_keys(self, kind: str) -> tuple[Key, ...]:
        """The (detector, branch or head) pairs that have maps of a kind, of objects or of weights; sorted."""
        found = (n for n in self._views if n[0] in (MAPS, WEIGHTS) and n[3] == kind)
        return tuple(sorted((name[1], name[2]) for name in found))

    def moments(self, key: Key) -> npt.NDArray[np.float64]:
        """(O, 20, M) float64: the VALUE_COLUMNS of each object and IoU bin, zeros where nothing was measured.

        Raises:
            UserError: the head was not measured.
        """
        if (found := self.array((MOMENTS, *key))) is None:
            there = ", ".join(map("/".join, self.keys)) or "nothing"
            raise UserError(f"no measurements of {'/'.join(key)}; there are those of {there}")
        return found

    def sampling(self, key: Key) -> npt.NDArray[np.float64] | None:
        """(O, 20, C) float64: the SAMPLING_COLUMNS, how far drawing proposals may put the sums of ``moments``.

        Zeros for what was measured whole, nan for what is not known: of a bin of which one proposal stands for several.
        None where nothing was drawn.
        """
        return self.array((SAMPLING, *key))

    def rows(self, key: Key) -> Array:
        """Sampled proposals (R,) of ROW_TYPE, sorted by object; ``pd.DataFrame`` makes a frame of them.

        Fields: object (its row in ``objects``), proposal (its number in :func:`rethink_heads.proposals.grid` of the
        object, -1 where unknown), bin, weight (how many proposals of its bin it stands for), iou, score.
        """
        found = self.array((ROWS, *key))
        return np.empty(0, ROW_TYPE) if found is None else found

    def maps(self, key: Key, kind: str) -> npt.NDArray[np.float32] | None:
        """(O, W) float32: each object's map, flattened row by row; nan for objects without. None: there are none.

        Kinds: "spatial_correlation" (S^2 x S^2 cosines of RoI positions; of a branch), "displacement_score" (21 x 21
        scores; columns displace by dx, rows by dy, from -1 to 1 of the object's size), "cell_score" and "cell_iou"
        (S x S changes when one RoI position is zeroed).
        """
        return self.array((MAPS, *key, kind))

    def weights(self, key: Key, kind: str) -> npt.NDArray[np.float32] | None:
        """(W,) float32: a map of the detector's weights, of kind "weight_correlation"; None: there is none."""
        return self.array((WEIGHTS, *key, kind))

    @property
    def names(self) -> tuple[Name, ...]:
        """The names of all arrays."""
        return tuple(self._views)

    def array(self, name: Name) -> Array | None:
        """An array by its name; None: there is none."""
        view = self._views.get(name)
        if view is None:
            return None
        if name[0] == WEIGHTS:
            return view.source()
        if name[0] == ROWS:
            return view.proposals()
        return view.take(np.nan if name[0] == MAPS else 0)

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
            for name, view in self._views.items()
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
            for name, view in self._views.items()
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
            for name, view in part._views.items():
                if name in arrays:
                    raise ValueError(f"{name[2]!r} of {name[1]!r} was measured twice ({name[0]})")
                arrays[name] = view if same or name[0] == WEIGHTS else view.at(place)
        return cls(objects, arrays, merge_provenance(part.provenance for part in parts))

    def copy(self) -> Measurements:
        """The same in memory, which needs no files."""
        arrays = {name: np.array(self.array(name)) for name in self.names}
        return Measurements(self.objects, arrays, self.provenance)

    def save(self, folder: Path) -> None:
        """Write objects.parquet, a .npy for each array, and meta.json, which lists them and has the provenance.

        Where one cannot be written, as on a full disk, the folder stays as it was.
        """
        with write_store(folder, self.objects, self.provenance) as append:
            for name in self.names:
                values = np.asarray(self.array(name))
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
        meta = read_meta(folder)
        objects, _ = read_parquet(folder / OBJECTS_NAME)
        try:
            arrays = {
                tuple(each["name"]): View(StoredArray(folder / each["file"], each["crc32"]))
                for each in meta["arrays"]
            }
            found = cls(objects, arrays, meta["provenance"])
        except (ValueError, KeyError, TypeError) as error:
            raise no_measurements(folder, error) from error
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


def merge_provenance(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What several parts state of their making, different texts joined by "; "."""
    texts: dict[str, set[str]] = {}
    for part in parts:
        for key, text in part.items():
            texts.setdefault(key, set()).add(text)
    return {key: "; ".join(sorted(found)) for key, found in sorted(texts.items())}


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


def _set(chosen: Iterable[str] | None) -> frozenset[str] | None:
    return None if chosen is None else frozenset(chosen)
