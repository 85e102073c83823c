"""Tables of made-up measurements, computed once."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest

from rethink_heads.report.results import compute_tables
from tests.synthetic_measurements import synthetic_measurements

mpl.use("agg")

# Enough to draw: a figure shows what the tables say.
REPLICATES = 50
# Maps of correlation belong to branches, not to readings.
BRANCHES_ONLY = ("correlation_maps", "decay", "spatial_correlation")
# Six heads of three detectors, with the head whose rows they are drawn from.
MANY = {
    ("bccd-small-fc-seed0", "fc"): "fc",
    ("bccd-small-conv-seed0", "conv"): "conv",
    ("bccd-small-double-ext-with-a-long-name", "fc"): "fc",
    ("bccd-small-double-ext-with-a-long-name", "conv"): "conv",
    ("bccd-small-double-ext-with-a-long-name", "double"): "fc",
    ("bccd-small-double-ext-with-a-long-name", "double-ext"): "fc",
}


@pytest.fixture(scope="session")
def tables() -> dict[str, pd.DataFrame]:
    """fc-head and conv-head of one detector."""
    measurements = synthetic_measurements(images=5, objects_per_size=1)
    return compute_tables(measurements, replicates=REPLICATES)


@pytest.fixture(scope="session")
def many_tables(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Many heads with long names, two of them with a head of the same name."""
    return {
        name: pd.concat(
            [
                # With the place, no two have the same numbers.
                table[table["head"] == source].assign(detector=detector, head=head, place=place)
                for place, ((detector, head), source) in enumerate(MANY.items())
                if name not in BRANCHES_ONLY or head == source
            ],
            ignore_index=True,
        )
        for name, table in tables.items()
        if "head" in table
    }
