"""What is added up part by part, however much of it is held at once."""

from __future__ import annotations

import pandas as pd
import pytest

from rethink_heads.statistics.response import response
from tests.synthetic_measurements import synthetic_measurements


@pytest.mark.parametrize("kind", ["displacement_score", "cell_iou"])
def test_response_maps_are_the_same_however_many_places_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found = synthetic_measurements(images=4, objects_per_size=1, rows=False)
    whole = response(found, kind, replicates=20)
    # 40 places of 4 images at 16 bytes.
    monkeypatch.setattr("rethink_heads.statistics.response.BLOCK_BYTES", 40 * 4 * 16)
    pd.testing.assert_frame_equal(response(found, kind, replicates=20), whole, rtol=1e-12)
