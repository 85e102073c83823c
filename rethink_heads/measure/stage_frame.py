"""The frame of a detector's boxes matched to objects, as it is kept in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from rethink_heads.files import read_parquet

STAGES_NAME = "stages.parquet"
RPN, DETECTIONS = "rpn", "detections"
STAGE_TYPES: Mapping[str, str] = {
    "image_id": "int64",
    "object_id": "int64",
    "class_name": "str",
    "size": "str",
    "detector": "str",
    "head": "str",
    "stage": "str",
    "score": "float64",
    "iou": "float64",
    "regressed_iou": "float64",
    "true_positive_iou": "float64",
}
STAGE_COLUMNS = tuple(STAGE_TYPES)
STAGE_GROUP = ("detector", "head", "stage")


def load_stages(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the stages that :func:`measure_stages` left in ``folder``, and their provenance.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    frame, provenance = read_parquet(Path(folder) / STAGES_NAME)
    return in_order(frame), provenance


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Boxes sorted by detector, head, stage and image; those of one image as they came."""
    keys = ["detector", "head", "stage", "image_id"]
    ordered = frame.sort_values(keys, kind="stable", ignore_index=True)
    return ordered.astype(STAGE_TYPES)[list(STAGE_COLUMNS)]
