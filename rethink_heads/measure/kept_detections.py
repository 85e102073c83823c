"""Final detections read one head and some images at a time: of frames or of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.detections import load_detections

Side = tuple[str, str]
"""Detector and head."""

DEFAULT_MEMORY_MB = 512
_SIDE = ["detector", "head"]
_ORDER = ["image_id", "score"]


class KeptDetections(Protocol):
    """Final detections of any detectors and heads, in the columns of ``DETECTION_TYPES``."""

    @property
    def memory_mb(self) -> int:
        """Bound on what statistics hold at once of them, in MiB."""
        ...

    @property
    def sides(self) -> Sequence[Side]:
        """(detector, head) of all that found anything, in whatever images, in the order of the rows."""
        ...

    def read(self, side: Side, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """One head's detections in parts of whole images: these columns, rows numbered from 0.

        Images come in rising order, each one's detections by falling score, those of equal score as they were found.
        """
        ...


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """Detections that are in memory.

    Attributes:
        frame: in the columns of ``DETECTION_TYPES``.
        memory_mb: see :class:`KeptDetections`.
        image_ids: those of other images are left out; None: none are.
    """

    frame: pd.DataFrame
    memory_mb: int = DEFAULT_MEMORY_MB
    image_ids: npt.NDArray[np.int64] | None = None

    @property
    def sides(self) -> list[Side]:
        """See :class:`KeptDetections`."""
        found = self.frame[_SIDE].drop_duplicates()
        return [(str(detector), str(head)) for detector, head in found.to_numpy()]

    def read(self, side: Side, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """See :class:`KeptDetections`; one part."""
        detector, head = side
        chosen = (self.frame["detector"] == detector) & (self.frame["head"] == head)
        yield _in_order(_of_images(self.frame.loc[chosen], self.image_ids), columns)

    def of_images(self, image_ids: Sequence[int]) -> FrameDetections:
        """Those of some images."""
        return replace(self, image_ids=np.asarray(image_ids, np.int64))


@dataclass(frozen=True)
class HeadDetections:
    """The detections of one head, of which there may be none."""

    found: KeptDetections
    side: Side

    @property
    def memory_mb(self) -> int:
        """Bound on what statistics hold at once of them, in MiB."""
        return self.found.memory_mb

    def read(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Parts of whole images, as :meth:`KeptDetections.read` gives them."""
        return self.found.read(self.side, columns)


def open_detections(folders: Sequence[Path], memory_mb: int = DEFAULT_MEMORY_MB) -> FrameDetections:
    """The detections that ``detect_dataset`` left in folders, one for each detector.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    frames = [load_detections(each)[0] for each in folders]
    return FrameDetections(pd.concat(frames, ignore_index=True), memory_mb)


def as_detections(given: pd.DataFrame | KeptDetections) -> KeptDetections:
    """Detections of what a function of the statistics is given."""
    return FrameDetections(given) if isinstance(given, pd.DataFrame) else given


def _of_images(frame: pd.DataFrame, image_ids: npt.NDArray[np.int64] | None) -> pd.DataFrame:
    return frame if image_ids is None else frame[frame["image_id"].isin(image_ids)]


def _in_order(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    order = np.lexsort((-frame["score"].to_numpy(), frame["image_id"].to_numpy()))
    return frame[list(columns)].iloc[order].reset_index(drop=True)
