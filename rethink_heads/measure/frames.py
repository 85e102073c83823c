"""The frames that measurements consist of: their columns, and what all of them go through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.files import read_table
from rethink_heads.measure.moments import ERRORS, SAMPLING_COLUMNS, VALUE_COLUMNS
from rethink_heads.measure.provenance import SAMPLING

_INTEGERS = dict.fromkeys(("image_id", "object_id"), "int64")
_NAMES = dict.fromkeys(("size", "detector", "head"), "str")
BIN_COLUMNS: dict[str, str] = {
    **_INTEGERS,
    "class_name": "str",
    **_NAMES,
    "bin": "int64",
    **dict.fromkeys(VALUE_COLUMNS, "float64"),
}
ROW_COLUMNS: dict[str, str] = {
    **_INTEGERS,
    **_NAMES,
    "bin": "int64",
    **dict.fromkeys(("weight", "iou", "score", "regressed_iou", *ERRORS), "float64"),
}
MAP_COLUMNS: dict[str, str] = {**_INTEGERS, **_NAMES, "kind": "str", "values": "object"}
ERROR_COLUMNS: dict[str, str] = {
    **_INTEGERS,
    **_NAMES,
    "bin": "int64",
    **dict.fromkeys(SAMPLING_COLUMNS, "float64"),
}
FRAMES = {
    "bins": BIN_COLUMNS,
    "rows": ROW_COLUMNS,
    "maps": MAP_COLUMNS,
    SAMPLING: ERROR_COLUMNS,
}
KEY = ["detector", "head", "image_id", "object_id"]
OBJECT = ["image_id", "object_id", "size"]
BY_GROUP = b"rethink_heads.by_group"
"""In the metadata of a file whose row groups are of one group each (see :func:`group_columns`)."""


def group_columns(name: str) -> list[str]:
    """By what a frame is in groups: detector and head, of maps also their kind."""
    return ["detector", "head", *(["kind"] if "kind" in FRAMES[name] else [])]


def read_frame(path: Path, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """One of FRAMES from its file, and the provenance.

    Raises:
        UserError: the file is missing, damaged, or not one of measurements.
    """
    table, provenance = read_table(path)
    try:
        frame = conform(table.to_pandas(), FRAMES[name], name)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not hold measurements ({error}); delete it and measure again"
        ) from error
    if BY_GROUP in (table.schema.metadata or {}):
        frame = concatenate([frame], FRAMES[name])
    return frame, provenance


def empty_frame(columns: dict[str, str]) -> pd.DataFrame:
    """A frame without rows, with columns of these names and types."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})


def conform(frame: pd.DataFrame, columns: dict[str, str], name: str) -> pd.DataFrame:
    """A frame with these columns and types, and an index from 0.

    Raises:
        ValueError, TypeError: it lacks a column, or holds something else there.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} lack the columns {', '.join(missing)}")
    frame = frame[list(columns)].astype(columns).reset_index(drop=True)
    if "values" in columns:
        arrays = [np.asarray(values, dtype=np.float32) for values in frame["values"]]
        frame["values"] = pd.Series(arrays, index=frame.index, dtype=object)
    return frame


def concatenate(frames: list[pd.DataFrame], columns: dict[str, str]) -> pd.DataFrame:
    """Frames of one kind in one, sorted."""
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return empty_frame(columns)
    key = [*KEY, *(column for column in ("bin", "kind") if column in columns)]
    # Stable, so that the sampled rows of one object and bin keep their order.
    return pd.concat(filled, ignore_index=True).sort_values(key, kind="stable", ignore_index=True)
