"""Final detections as a frame: its columns and their order."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

DETECTION_TYPES: Mapping[str, str] = {
    "image_id": "int64",
    "detector": "str",
    "head": "str",
    "label": "int64",
    "x1": "float64",
    "y1": "float64",
    "x2": "float64",
    "y2": "float64",
    "score": "float64",
}
DETECTION_COLUMNS = tuple(DETECTION_TYPES)
CORNERS = ["x1", "y1", "x2", "y2"]
"""``detector`` is a run's name, ``head`` a reading, ``label`` 0..K-1; corners in pixels of the original image."""


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Detections sorted by detector, head, image and falling score, equal scores as they came."""
    falling = frame.assign(falling=-frame["score"])
    keys = ["detector", "head", "image_id", "falling"]
    ordered = falling.sort_values(keys, kind="stable").drop(columns="falling")
    return ordered.astype(DETECTION_TYPES).reset_index(drop=True)
