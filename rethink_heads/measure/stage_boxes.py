"""Boxes matched to objects at a detector's later stages, read a part at a time: of frames or of files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.row_groups import Group, Place, places_in, read_places
from rethink_heads.measure.stage_frame import STAGE_GROUP, STAGES_NAME, load_stages

Side = tuple[str, str]
"""Detector and head."""

MATCHED = ["image_id", "object_id"]


class StageBoxes(Protocol):
    """Boxes of any detectors, heads and stages, in the columns of ``STAGE_TYPES``."""

    @property
    def groups(self) -> Collection[Group]:
        """(detector, head, stage) of all that has boxes."""
        ...

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """The images, in rising order, that hold an object which any box is matched to."""
        ...

    def read(self, side: Side, stage: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Boxes that are matched to an object, in parts of whole images: these columns and the ids'."""
        ...


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes that are in memory, as ``load_stages`` gives them."""

    frame: pd.DataFrame

    @cached_property
    def groups(self) -> set[Group]:
        """See :class:`StageBoxes`."""
        found = self.frame[list(STAGE_GROUP)].drop_duplicates()
        return set(found.itertuples(index=False, name=None))

    @cached_property
    def _matched(self) -> pd.DataFrame:
        return self.frame[self.frame["object_id"] >= 0]

    @cached_property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """See :class:`StageBoxes`."""
        return np.unique(self._matched["image_id"].to_numpy(np.int64))

    def read(self, side: Side, stage: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """See :class:`StageBoxes`; one part."""
        boxes = self._matched
        chosen = (boxes["stage"] == stage) & (boxes["detector"] == side[0])
        yield boxes.loc[chosen & (boxes["head"] == side[1]), _with_ids(columns)]

    def only(self, stages: Collection[str], heads: Collection[str] | None) -> FrameBoxes:
        """Those of some stages and heads; None: all heads."""
        kept = self.frame["stage"].isin(list(stages))
        if heads is not None:
            kept &= self.frame["head"].isin(list(heads))
        return FrameBoxes(self.frame[kept])


@dataclass(frozen=True)
class FileBoxes:
    """Boxes of files whose row groups are of one detector, head and stage each.

    Attributes:
        places: of each row group the file, its number there, and what it is of.
    """

    places: tuple[Place, ...]

    @property
    def groups(self) -> set[Group]:
        """See :class:`StageBoxes`."""
        return {group for _, _, group in self.places}

    @cached_property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """See :class:`StageBoxes`."""
        found = np.zeros(0, np.int64)
        for part in _parts(self.places, MATCHED):
            found = np.union1d(found, part["image_id"].to_numpy(np.int64))
        return found

    def read(self, side: Side, stage: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """See :class:`StageBoxes`."""
        chosen = [place for place in self.places if place[2] == (*side, stage)]
        yield from _parts(chosen, _with_ids(columns))

    def only(self, stages: Collection[str], heads: Collection[str] | None) -> FileBoxes:
        """Those of some stages and heads; None: all heads."""
        return FileBoxes(
            tuple(
                place
                for place in self.places
                if place[2][2] in stages and (heads is None or place[2][1] in heads)
            )
        )


def open_stages(folders: Sequence[Path]) -> FileBoxes | FrameBoxes:
    """The boxes that ``measure_stages`` left in folders, without reading them.

    Files of before row groups had one group each are read whole.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    places = places_in([Path(folder) / STAGES_NAME for folder in folders], STAGE_GROUP)
    if places is None:
        frames = [load_stages(each)[0] for each in folders]
        return FrameBoxes(pd.concat(frames, ignore_index=True))
    return FileBoxes(places)


def as_boxes(given: pd.DataFrame | StageBoxes) -> StageBoxes:
    """Boxes of what a function of the statistics is given."""
    return FrameBoxes(given) if isinstance(given, pd.DataFrame) else given


def sides_of(boxes: StageBoxes) -> tuple[Side, ...]:
    """(detector, head) of all that has boxes, in rising order."""
    return tuple(sorted({(detector, head) for detector, head, _ in boxes.groups}))


def stages_of(boxes: StageBoxes) -> set[str]:
    """The stages that have boxes."""
    return {stage for _, _, stage in boxes.groups}


def _with_ids(columns: Sequence[str]) -> list[str]:
    return [*MATCHED, *(column for column in columns if column not in MATCHED)]


def _parts(places: Iterable[Place], columns: list[str]) -> Iterator[pd.DataFrame]:
    """The matched boxes of each of some row groups."""
    return (frame[frame["object_id"] >= 0] for frame in read_places(places, columns))
