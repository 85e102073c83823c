"""Measurements that stay in their files: what analyses need of them is read part by part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from rethink_heads.measure.frames import (
    FRAMES,
    OBJECT,
    concatenate,
    conform,
    empty_frame,
)
from rethink_heads.measure.measurements import Measurements, merge_provenance
from rethink_heads.measure.provenance import saved_provenance
from rethink_heads.measure.reading import Groups, MeasurementFiles

# Of the bound on memory: measurements that take up to this part of it are loaded whole.
_WHOLE = 1 / 4


def open_measurements(folder: Path, memory_mb: int) -> Measurements:
    """The measurements of a folder: loaded, or, where they would take too much memory, left in their files.

    Args:
        folder: what :meth:`Measurements.save` or :func:`rethink_heads.measure.merging.merge_folders` wrote.
        memory_mb: bound on what the analyses may hold at once, in MiB.

    Raises:
        UserError: as of :meth:`Measurements.load`.
    """
    provenance = saved_provenance(folder)
    if provenance is None:
        # Which file is wrong, and what about it.
        return Measurements.load(folder)
    files = MeasurementFiles(Path(folder), provenance)
    if files.memory() <= memory_mb * 2**20 * _WHOLE or not files.by_group:
        return Measurements.load(folder)
    return StoredMeasurements((files,), memory_mb)


def merged(found: Sequence[Measurements]) -> Measurements:
    """As :meth:`Measurements.merge`; where some are in files, all of them stay where they are.

    Raises:
        ValueError: two of them hold the same detector and head (in files), or the same object besides.
    """
    stored = [each for each in found if isinstance(each, StoredMeasurements)]
    if not stored:
        return Measurements.merge(found)
    groups = [pair for each in found for pair in each.groups("bins")]
    twice = sorted({pair for pair in groups if groups.count(pair) > 1})
    if twice:
        raise ValueError(f"head {twice[0][1]!r} of {twice[0][0]!r} was measured twice")
    return StoredMeasurements(tuple(found), min(each.memory_mb for each in stored))


@dataclass(frozen=True)
class _Choice:
    """What is looked at of what is in the files; None: all."""

    heads: frozenset[str] | None = None
    sizes: frozenset[str] | None = None
    detectors: frozenset[str] | None = None
    objects: pd.MultiIndex | None = None

    def has(self, group: tuple[str, ...]) -> bool:
        detector, head, *_ = group
        return (self.detectors is None or detector in self.detectors) and (
            self.heads is None or head in self.heads
        )

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        if self.sizes is None and self.objects is None:
            return frame
        keep = np.ones(len(frame), dtype=bool)
        if self.sizes is not None:
            of_weights = frame["object_id"].to_numpy() < 0
            keep &= frame["size"].isin(list(self.sizes)).to_numpy() | of_weights
        if self.objects is not None:
            keys = pd.MultiIndex.from_frame(frame[OBJECT[:2]])
            keep &= keys.isin(self.objects)
        return frame[keep]


class StoredMeasurements(Measurements):
    """Measurements in files, of which :meth:`read` gives one part after another.

    Everything else is as of :class:`Measurements`: ``bins``, ``rows``, ``maps`` and ``sampling`` load
    all of it, whatever the bound.
    """

    def __init__(
        self,
        sources: tuple[MeasurementFiles | Measurements, ...],
        memory_mb: int,
        choice: _Choice | None = None,
    ) -> None:
        self._sources, self.memory_mb = sources, memory_mb
        self._choice = choice or _Choice()
        self.provenance = merge_provenance(source.provenance for source in sources)

    def __repr__(self) -> str:
        return f"<measurements in files of {', '.join(map('/'.join, self.detector_heads))}>"

    def groups(self, name: str) -> Groups:
        """As of :class:`Measurements`; the numbers are those before a choice of sizes or objects."""
        found = {g: n for source in self._sources for g, n in source.groups(name).items()}
        return {group: found[group] for group in sorted(found) if self._choice.has(group)}

    def read(
        self,
        name: str,
        columns: Sequence[str] = (),
        *,
        detector: str | None = None,
        head: str | None = None,
        kind: str | None = None,
    ) -> Iterator[pd.DataFrame]:
        """The rows of a frame part by part; see :class:`Measurements`. Texts are categories."""
        wanted = (detector, head, kind)
        is_empty = True
        for group in self.groups(name):
            if not all(text in (None, own) for text, own in zip(wanted, group, strict=False)):
                continue
            of_group = dict(zip(("detector", "head", "kind"), group, strict=False))
            for source in self._sources:
                if group in source.groups(name):
                    for frame in source.read(name, columns, **of_group):
                        is_empty = False
                        yield self._choice.of(frame)
        if is_empty:
            ordered = [*OBJECT, *(column for column in columns if column not in OBJECT)]
            yield empty_frame({column: FRAMES[name][column] for column in ordered})

    @cached_property
    def objects(self) -> pd.DataFrame:
        """One row per measured object: image_id, object_id, class_name, size."""
        columns = ["image_id", "object_id", "class_name", "size"]
        ids = columns[:2]
        found = pd.DataFrame()
        for frame in self.read("bins", ["class_name"]):
            new = frame[columns].drop_duplicates(ids).astype({"class_name": "str", "size": "str"})
            found = pd.concat([found, new], ignore_index=True).drop_duplicates(ids)
        return found.sort_values(ids, ignore_index=True)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images that hold a measured object, sorted."""
        return tuple(int(image_id) for image_id in np.unique(self.objects["image_id"]))

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the measured heads, sorted."""
        return tuple(sorted({head for _, head in self.detector_heads}))

    @property
    def detectors(self) -> tuple[str, ...]:
        """Names of the measured detectors, sorted."""
        return tuple(sorted({detector for detector, _ in self.detector_heads}))

    @property
    def detector_heads(self) -> tuple[tuple[str, str], ...]:
        """The (detector, head) pairs that were measured, sorted."""
        return tuple((detector, head) for detector, head in self.groups("bins"))

    @property
    def bins(self) -> pd.DataFrame:  # type: ignore[override]
        """All of them, loaded."""
        return self._whole("bins")

    @property
    def rows(self) -> pd.DataFrame:  # type: ignore[override]
        """All of them, loaded."""
        return self._whole("rows")

    @property
    def maps(self) -> pd.DataFrame:  # type: ignore[override]
        """All of them, loaded."""
        return self._whole("maps")

    @property
    def sampling(self) -> pd.DataFrame:  # type: ignore[override]
        """All of them, loaded."""
        return self._whole("sampling")

    def _whole(self, name: str) -> pd.DataFrame:
        found = [conform(f, FRAMES[name], name) for f in self.read(name, list(FRAMES[name]))]
        return concatenate(found, FRAMES[name])

    def select(
        self,
        *,
        heads: Iterable[str] | None = None,
        sizes: Iterable[str] | None = None,
        detectors: Iterable[str] | None = None,
    ) -> Measurements:
        """As of :class:`Measurements`, in the files."""
        choice = replace(
            self._choice,
            heads=_both(self._choice.heads, heads),
            sizes=_both(self._choice.sizes, sizes),
            detectors=_both(self._choice.detectors, detectors),
        )
        return self._with(choice)

    def of_objects(self, objects: Collection[tuple[int, int]]) -> Measurements:
        """As of :class:`Measurements`, in the files."""
        wanted = pd.MultiIndex.from_tuples([*objects, (-1, -1)])
        if self._choice.objects is not None:
            wanted = wanted[wanted.isin(self._choice.objects)]
        return self._with(replace(self._choice, objects=wanted))

    def _with(self, choice: _Choice) -> StoredMeasurements:
        return StoredMeasurements(self._sources, self.memory_mb, choice)


def _both(before: frozenset[str] | None, chosen: Iterable[str] | None) -> frozenset[str] | None:
    """What two choices leave; None: all."""
    if chosen is None:
        return before
    return frozenset(chosen) if before is None else before & frozenset(chosen)
