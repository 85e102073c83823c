"""The groups that statistics are taken over: heads, sizes and ranges of IoU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import SIZES
from rethink_heads.proposals import IOU_BINS

ALL_SIZES = (*SIZES, "all")
WHOLE_RANGE = (0.0, 1.0)


def bin_range(iou_range: tuple[float, float]) -> tuple[int, int]:
    """First bin and the bin after the last of an IoU range.

    Raises:
        UserError: the ends are not multiples of the bins' width, or not 0 <= low < high <= 1.
    """
    low, high = (float(end) for end in iou_range)
    if not 0 <= low < high <= 1:
        raise UserError(
            f"the IoU range {low:g} to {high:g} must have 0 <= low < high <= 1; give for example "
            "0.5 1.0"
        )
    edges = np.array([low, high]) * IOU_BINS
    if np.abs(edges - np.rint(edges)).max() > 1e-6:
        raise UserError(
            f"the ends of the IoU range {low:g} to {high:g} must be multiples of "
            f"{1 / IOU_BINS:g}, the width of the IoU bins that measurements are kept in"
        )
    first, after = np.rint(edges).astype(int)
    return int(first), int(after)


def in_range(frame: pd.DataFrame, iou_range: tuple[float, float]) -> pd.DataFrame:
    """The rows of a frame with a column "bin" whose bin lies in the IoU range."""
    first, after = bin_range(iou_range)
    bins = frame["bin"].to_numpy()
    return frame[(bins >= first) & (bins < after)]


def groups(
    frame: pd.DataFrame, detector_heads: tuple[tuple[str, str], ...]
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Each head's objects of each size and of all: the keys of a result's row, and the rows.

    A size without objects comes with an empty frame.
    """
    for detector, head in detector_heads:
        of_head = frame[(frame["detector"] == detector) & (frame["head"] == head)]
        for size in ALL_SIZES:
            keys = {"detector": detector, "head": head, "size": size}
            yield keys, of_size(of_head, size)


def of_size(frame: pd.DataFrame, size: str) -> pd.DataFrame:
    """The rows of objects of one size, or of all."""
    return frame if size == "all" else frame[frame["size"] == size]


def count_objects(frame: pd.DataFrame) -> int:
    """Number of different objects in a frame."""
    return len(frame[["image_id", "object_id"]].drop_duplicates())
