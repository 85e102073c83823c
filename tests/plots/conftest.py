"""Tables of made-up measurements, computed once."""

from __future__ import annotations

from unittest.mock import patch

import matplotlib as mpl
import pandas as pd
import pytest

from rethink_heads.report.results import compute_tables
from tests.synthetic_measurements import synthetic_measurements

mpl.use("agg")

# Enough to draw: a figure shows what the tables say.
REPLICATES = 50


@pytest.fixture(scope="session")
def tables() -> dict[str, pd.DataFrame]:
    """fc-head and conv-head of one detector."""
    measurements = synthetic_measurements(images=5, objects_per_size=1)
    # Fewer images than the package gives intervals of.
    with patch("rethink_heads.statistics.bootstrap.FEWEST_IMAGES", 2):
        return compute_tables(measurements, replicates=REPLICATES)
