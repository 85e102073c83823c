"""Sums of measurements, taken part by part, so that measurements need not be in memory.

Statistics need sums within images (for the bootstrap) or within objects, far fewer numbers than the
measurements hold. Parts hold whole images, so that it makes no difference to the sums how many parts
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.proposals import IOU_BINS
from rethink_heads.statistics.bootstrap import Array, ImageBootstrap
from rethink_heads.statistics.selection import (
    ALL_SIZES,
    WHOLE_RANGE,
    bin_range,
    count_objects,
    in_range,
    of_size,
)
from rethink_heads.statistics.sums import PEARSON_SUMS

_OBJECT = ["image_id", "object_id"]


class Reduction(Protocol):
    """What takes one part of a head's rows after another and keeps their sums."""

    def add(self, frame: pd.DataFrame) -> None:
        """Take the rows of whole images."""
        ...


R = TypeVar("R", bound=Reduction)


def by_size(
    measurements: Measurements,
    name: str,
    columns: Sequence[str],
    make: Callable[[], R],
    *,
    detector: str,
    head: str,
    kind: str | None = None,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    objects: pd.MultiIndex | None = None,
    sizes: Sequence[str] = ALL_SIZES,
) -> dict[str, R]:
    """A reduction of one head's objects of each size and of all, by the size.

    Args:
        measurements: of any heads.
        name: of the frame.
        columns: of it that the reduction needs, beside image_id, object_id and size.
        make: a reduction without rows.
        detector, head, kind: whose rows; a kind only of maps.
        iou_range: proposals that count, of a frame with a column "bin" that is among the columns.
        objects: (image_id, object_id) of those that count; None: all.
        sizes: those to tell apart.
    """
    found = {size: make() for size in sizes}
    for part in measurements.read(name, columns, detector=detector, head=head, kind=kind):
        frame = in_range(part, iou_range) if iou_range != WHOLE_RANGE else part
        if objects is not None:
            frame = frame[pd.MultiIndex.from_frame(frame[_OBJECT]).isin(objects)]
        for size, reduction in found.items():
            reduction.add(of_size(frame, size))
    return found


def by_head(
    measurements: Measurements,
    name: str,
    columns: Sequence[str],
    make: Callable[[], R],
    iou_range: tuple[float, float] = WHOLE_RANGE,
) -> Iterator[tuple[dict[str, str], R]]:
    """Each head's objects of each size and of all: the keys of a result's row, and a reduction.

    A size without objects comes with a reduction without rows.

    Raises:
        UserError: the range is not one of whole bins.
    """
    bin_range(iou_range)
    for detector, head in measurements.detector_heads:
        found = by_size(
            measurements, name, columns, make, iou_range=iou_range, detector=detector, head=head
        )
        for size, reduction in found.items():
            yield {"detector": detector, "head": head, "size": size}, reduction


class BinSums:
    """Columns of bins added up within images and IoU bins.

    Attributes:
        sums: (I, 20, M).
        objects: (20,) with proposals in each bin.
        measured: (20,) proposals that were measured in each bin.
        object_count: in any bin.
    """

    def __init__(self, bootstrap: ImageBootstrap, columns: Sequence[str]) -> None:
        self._bootstrap, self._columns = bootstrap, list(columns)
        self.sums = np.zeros((len(bootstrap.image_ids), IOU_BINS, len(columns)))
        self.objects = np.zeros(IOU_BINS, np.int64)
        self.measured = np.zeros(IOU_BINS)
        self.object_count = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Take rows of bins."""
        bins = frame["bin"].to_numpy()
        images, values = frame["image_id"].to_numpy(), frame[self._columns].to_numpy()
        self._bootstrap.add_by_image(self.sums, images, values, bins)
        self.objects += np.bincount(bins, minlength=IOU_BINS)
        self.measured += np.bincount(bins, frame["measured"].to_numpy(), IOU_BINS)
        self.object_count += count_objects(frame)

    @property
    def counts(self) -> dict[str, npt.NDArray[Any]]:
        """Columns "proposals" (of the whole grid), "measured" (of these) and "objects" of all IoU bins.

        The first of the sums has to be "n".
        """
        proposals, measured = (
            np.rint(total).astype(np.int64)
            for total in (self.sums[..., 0].sum(axis=0), self.measured)
        )
        return {"proposals": proposals, "measured": measured, "objects": self.objects}


class ObjectSums:
    """PEARSON_SUMS of each object, over its bins; and how many proposals were measured of all of them."""

    def __init__(self) -> None:
        self._objects: list[pd.DataFrame] = []
        self._sums: list[Array] = []
        self.measured = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Take rows of bins."""
        by_object = frame.groupby(_OBJECT, sort=True)[list(PEARSON_SUMS)].sum()
        self.measured += round(frame["measured"].sum())
        self._objects.append(by_object.index.to_frame(index=False))
        self._sums.append(by_object.to_numpy(np.float64))

    @property
    def objects(self) -> pd.MultiIndex:
        """(image_id, object_id) of each of the O objects."""
        return pd.MultiIndex.from_frame(pd.concat(self._objects, ignore_index=True))

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """Image id (O,) of each object."""
        return np.concatenate([ids["image_id"].to_numpy(np.int64) for ids in self._objects])

    @property
    def sums(self) -> Array:
        """PEARSON_SUMS (O, 6) of each object."""
        return np.concatenate(self._sums)


class MapSums:
    """Maps of one kind, or what becomes of them, added up within images.

    A value that is nan, as the score of a box displaced out of the image, counts in its place as not
    measured.

    Attributes:
        sums: (I, M, 2), how many values and their sum; without maps (I, 0, 2).
        width: number of values of a map; 0 without maps.
        objects: number of maps.
    """

    def __init__(
        self, bootstrap: ImageBootstrap, values_of: Callable[[Array], Array] | None = None
    ) -> None:
        """Begin without maps; ``values_of`` makes of maps (O, width) what is added up (O, M)."""
        self._bootstrap, self._values_of = bootstrap, values_of
        self.sums = np.zeros((len(bootstrap.image_ids), 0, 2))
        self.width = 0
        self.objects = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Take rows of maps of one kind."""
        if frame.empty:
            return
        maps = stack(frame)
        values = maps if self._values_of is None else self._values_of(maps)
        if not self.objects:
            self.width = maps.shape[1]
            self.sums = np.zeros((len(self.sums), values.shape[1], 2))
        images, there = frame["image_id"].to_numpy(), np.isfinite(values)
        of_places = np.stack([there, np.where(there, values, 0.0)], axis=-1)
        flat = self.sums.reshape(len(self.sums), 1, -1)
        self._bootstrap.add_by_image(flat, images, of_places.reshape(len(frame), -1))
        self.objects += len(frame)

    def like(self, other: MapSums) -> MapSums:
        """These sums; where there are none, zeros of the other's shape."""
        if not self.objects:
            self.width, self.sums = other.width, np.zeros_like(other.sums)
        return self


class MapTotal:
    """Maps of one kind added up over all objects.

    Attributes:
        total: (width,).
        objects: number of maps.
    """

    def __init__(self) -> None:
        self.total: Array = np.zeros(1)
        self.objects = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Take rows of maps of one kind."""
        if frame.empty:
            return
        total = stack(frame).sum(axis=0)
        self.total = self.total + total if self.objects else total
        self.objects += len(frame)


def stack(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The maps (O, values) of a frame of maps of one kind."""
    if frame.empty:
        return np.zeros((0, 1))
    return np.stack(frame["values"].to_list()).astype(np.float64)
