"""Frames with a row for each object and IoU bin, which are easier to write down and to change than arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch

from rethink_heads.measure.moments import (
    SAMPLING_COLUMNS,
    VALUE_COLUMNS,
    Array,
    ArrayLike,
    bin_covariances,
    bin_moments,
    proposal_values,
)
from rethink_heads.measure.store import Measurements
from rethink_heads.measure.store_files import (
    IDS,
    MAPS,
    MOMENTS,
    OBJECT_COLUMNS,
    ROW_TYPE,
    ROWS,
    SAMPLING,
    WEIGHTS,
    Name,
)
from rethink_heads.proposals import IOU_BINS, iou_bin


def from_frames(
    bins: pd.DataFrame,
    rows: pd.DataFrame | None = None,
    maps: pd.DataFrame | None = None,
    sampling: pd.DataFrame | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Measurements:
    """Measurements of frames with a row for each object, detector, head and bin, such as `to_frame` gives.

    Args:
        bins: as of `to_frame`.
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
            column = part[field].to_numpy() if field in part else -1
            found[field] = place if field == "object" else column
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
    return Measurements(objects, arrays, provenance)


def _groups(
    what: str, frame: pd.DataFrame | None, columns: list[str]
) -> Iterator[tuple[Name, pd.DataFrame]]:
    if frame is not None and len(frame):
        for group, part in frame.groupby(columns):
            yield (what, *map(str, group)), part


def reduce_values(
    values: dict[str, Array], bins: ArrayLike, weights: ArrayLike | None = None
) -> pd.DataFrame:
    """The moments of each bin with a proposal, and its number."""
    moments = pd.DataFrame(bin_moments(values, bins, weights), columns=list(VALUE_COLUMNS))
    moments.insert(0, "bin", np.arange(IOU_BINS))
    return moments[moments["measured"] > 0].reset_index(drop=True)


def sampling_covariances(
    values: dict[str, Array], bins: ArrayLike, weights: ArrayLike
) -> pd.DataFrame:
    """The covariances of each bin that was not measured whole, and its number."""
    moments = bin_moments(values, bins, weights)
    frame = pd.DataFrame(bin_covariances(values, bins, weights), columns=list(SAMPLING_COLUMNS))
    frame.insert(0, "bin", np.arange(IOU_BINS))
    return frame[moments[:, 1] < moments[:, 0]].reset_index(drop=True)


def reduce_to_bins(
    iou: ArrayLike,
    score: ArrayLike,
    regressed_boxes: ArrayLike,
    object_box: ArrayLike,
    weights: ArrayLike | None = None,
) -> pd.DataFrame:
    """:func:`proposal_values`, then :func:`reduce_values` on the proposals' IoU bins."""
    values = proposal_values(iou, score, regressed_boxes, object_box)
    bins = iou_bin(torch.from_numpy(values["iou"]))
    return reduce_values(values, bins, weights)
