"""Measurements: what heads made of predefined proposals, as frames that are saved and merged.

The boxes are those of :mod:`rethink_heads.proposals`. A measurement set holds, for every object,
detector, head and IoU bin, the moments of :mod:`rethink_heads.measure.moments`; beside them an
optional sample of raw rows and maps per object for the spatial analyses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.files import write_parquets
from rethink_heads.measure.frames import (
    BIN_COLUMNS,
    ERROR_COLUMNS,
    FRAMES,
    KEY,
    MAP_COLUMNS,
    OBJECT,
    ROW_COLUMNS,
    concatenate,
    conform,
    empty_frame,
    group_columns,
    read_frame,
)
from rethink_heads.measure.provenance import SAMPLING, file_provenance

SIZES = ("small", "medium", "large")
SMALL_AREA = 32**2
MEDIUM_AREA = 96**2


def size_name(area: float) -> str:
    """COCO's name of an object's size; ``area`` in px^2 of the original image."""
    if area < SMALL_AREA:
        return "small"
    return "medium" if area < MEDIUM_AREA else "large"


@dataclass
class Measurements:
    """Moments, sampled rows and maps of one or more heads on one set of objects.

    Attributes:
        bins: one row per object, detector, head and IoU bin with a proposal. Columns: image_id,
            object_id, class_name, size ("small", "medium", "large"), detector (name of the run),
            head, bin (0..19) and the VALUE_COLUMNS of :mod:`rethink_heads.measure.moments`.
        rows: sampled proposals. Columns: image_id, object_id, size, detector, head, bin, weight
            (how many proposals of its bin the row stands for), iou, score, regressed_iou, dx, dy,
            dw, dh.
        maps: one row per object, detector, head (a branch for correlations) and kind. Columns:
            image_id, object_id (both -1 for maps of weights), size ("" for maps of weights),
            detector, head, kind and values (float32 array, the map flattened row by row). Kinds:
            "spatial_correlation" and "weight_correlation" (S^2 x S^2 cosines between RoI cells),
            "displacement_score" (21 x 21 scores; columns displace by dx, rows by dy, from -1 to 1
            of the object's size), "cell_score" and "cell_iou" (S x S changes when one RoI cell is
            zeroed).
        sampling: where some of the proposals were drawn, how far that may put the sums of ``bins``
            from those of the whole grid: one row per object, detector, head and IoU bin of which not
            all proposals were measured, with the SAMPLING_COLUMNS of :mod:`rethink_heads.measure.moments`
            (estimated covariances of the weighted sums). Empty for the whole grid.
        provenance: versions, configuration, hashes and seed, as names and texts.
    """

    bins: pd.DataFrame
    rows: pd.DataFrame = field(default_factory=lambda: empty_frame(ROW_COLUMNS))
    maps: pd.DataFrame = field(default_factory=lambda: empty_frame(MAP_COLUMNS))
    provenance: dict[str, str] = field(default_factory=dict)
    sampling: pd.DataFrame = field(default_factory=lambda: empty_frame(ERROR_COLUMNS))

    def __post_init__(self) -> None:
        for name, columns in FRAMES.items():
            setattr(self, name, conform(getattr(self, name), columns, name))

    @classmethod
    def empty(cls) -> Measurements:
        """Measurements of no object."""
        return cls(bins=empty_frame(BIN_COLUMNS))

    @property
    def objects(self) -> pd.DataFrame:
        """One row per measured object: image_id, object_id, class_name, size."""
        columns = ["image_id", "object_id", "class_name", "size"]
        objects = self.bins[columns].drop_duplicates(["image_id", "object_id"])
        return objects.sort_values(["image_id", "object_id"], ignore_index=True)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images that hold a measured object, sorted."""
        return tuple(int(image_id) for image_id in np.unique(self.bins["image_id"]))

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the measured heads, sorted."""
        return tuple(sorted(self.bins["head"].unique()))

    @property
    def detectors(self) -> tuple[str, ...]:
        """Names of the measured detectors, sorted."""
        return tuple(sorted(self.bins["detector"].unique()))

    @property
    def detector_heads(self) -> tuple[tuple[str, str], ...]:
        """The (detector, head) pairs that were measured, sorted."""
        pairs = self.bins[["detector", "head"]].drop_duplicates()
        return tuple(sorted(pairs.itertuples(index=False, name=None)))

    def groups(self, name: str) -> dict[tuple[str, ...], int]:
        """How many rows of a frame each detector and head (and kind of map) has, sorted.

        Args:
            name: "bins", "rows", "maps" or "sampling".
        """
        counts = getattr(self, name).groupby(group_columns(name), observed=True).size()
        return {tuple(map(str, group)): int(count) for group, count in counts.items()}

    def read(
        self,
        name: str,
        columns: Sequence[str] = (),
        *,
        detector: str | None = None,
        head: str | None = None,
        kind: str | None = None,
    ) -> Iterator[pd.DataFrame]:
        """The rows of a frame part by part: here in one, of stored measurements in as many as memory takes.

        Each part holds whole images, and those of one head come in rising order. There is at least
        one part, perhaps without rows.

        Args:
            name: "bins", "rows", "maps" or "sampling".
            columns: what is read beside image_id, object_id and size.
            detector, head, kind: whose rows; None for all.
        """
        frame: pd.DataFrame = getattr(self, name)
        keep = np.ones(len(frame), dtype=bool)
        for column, wanted in (("detector", detector), ("head", head), ("kind", kind)):
            if wanted is not None:
                keep &= frame[column].to_numpy() == wanted
        yield frame.loc[keep, [*OBJECT, *columns]]

    def select(
        self,
        *,
        heads: Iterable[str] | None = None,
        sizes: Iterable[str] | None = None,
        detectors: Iterable[str] | None = None,
    ) -> Measurements:
        """The part with these heads, sizes and detectors (None: all).

        Maps of weights belong to no object and so pass every choice of sizes.
        """
        chosen = {}
        for name in FRAMES:
            frame = getattr(self, name)
            keep = np.ones(len(frame), dtype=bool)
            if heads is not None:
                keep &= frame["head"].isin(list(heads)).to_numpy()
            if detectors is not None:
                keep &= frame["detector"].isin(list(detectors)).to_numpy()
            if sizes is not None:
                of_objects = frame["object_id"].to_numpy() >= 0
                keep &= frame["size"].isin(list(sizes)).to_numpy() | ~of_objects
            chosen[name] = frame[keep].reset_index(drop=True)
        return Measurements(**chosen, provenance=dict(self.provenance))

    def of_objects(self, objects: Collection[tuple[int, int]]) -> Measurements:
        """The part with these objects, by image_id and object_id, and the maps of weights."""
        wanted = pd.MultiIndex.from_tuples([*objects, (-1, -1)])
        chosen = {}
        for name in FRAMES:
            frame = getattr(self, name)
            keys = pd.MultiIndex.from_frame(frame[["image_id", "object_id"]])
            chosen[name] = frame[keys.isin(wanted)].reset_index(drop=True)
        return Measurements(**chosen, provenance=dict(self.provenance))

    @classmethod
    def merge(cls, parts: Sequence[Measurements]) -> Measurements:
        """All the parts' rows, sorted, whichever the parts' order.

        Maps of weights may come with every part; the first is kept. Where the parts' provenance
        differs, the different texts are joined by "; ".

        Raises:
            ValueError: two parts hold the same object, detector and head.
        """
        if not parts:
            return cls.empty()
        frames = {
            name: concatenate([getattr(part, name) for part in parts], columns)
            for name, columns in FRAMES.items()
        }
        maps = frames["maps"]
        of_weights = maps["object_id"] < 0
        repeated = maps.duplicated([*KEY, "kind"])
        frames["maps"] = maps[~(of_weights & repeated)].reset_index(drop=True)
        for name, extra in (("bins", "bin"), ("sampling", "bin"), ("maps", "kind")):
            twice = frames[name].duplicated([*KEY, extra])
            if twice.any():
                first = frames[name][twice].iloc[0]
                raise ValueError(
                    f"object {first['object_id']} of image {first['image_id']} was measured twice "
                    f"for head {first['head']!r} of {first['detector']!r} ({name})"
                )
        return cls(**frames, provenance=merge_provenance(part.provenance for part in parts))

    def save(self, folder: Path) -> None:
        """Write bins.parquet, rows.parquet, maps.parquet and sampling.parquet, each with the provenance.

        Where one cannot be written, as on a full disk, the folder stays as it was.
        """
        frames = {Path(folder) / f"{name}.parquet": getattr(self, name) for name in FRAMES}
        write_parquets(frames, self.provenance)

    @classmethod
    def load(cls, folder: Path) -> Measurements:
        """Read what :meth:`save` wrote, or measurements from before there were errors of sampling.

        Raises:
            UserError: a file is missing, damaged, not one of measurements, or of another
                provenance than the others.
        """
        folder = Path(folder)
        paths = {name: folder / f"{name}.parquet" for name in FRAMES}
        if not paths[SAMPLING].is_file() and SAMPLING not in (file_provenance(paths["bins"]) or {}):
            del paths[SAMPLING]
        for path in paths.values():
            if not path.is_file():
                raise UserError(
                    f"no measurements in {folder}: {path.name} is missing; measure first"
                )
        frames = {}
        provenances: list[dict[str, str]] = []
        for name, path in paths.items():
            frames[name], provenance = read_frame(path, name)
            provenances.append(provenance)
        if any(provenance != provenances[0] for provenance in provenances):
            raise UserError(
                f"the files in {folder} are not of one measuring: what they state of their making "
                "differs; measure again"
            )
        return cls(**frames, provenance=provenances[0])


def merge_provenance(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    """What several parts state of their making, different texts joined by "; "."""
    texts: dict[str, set[str]] = {}
    for part in parts:
        for key, text in part.items():
            texts.setdefault(key, set()).add(text)
    return {key: "; ".join(sorted(found)) for key, found in sorted(texts.items())}
