"""Regression errors against numpy on the raw rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rethink_heads.statistics.regression import error_components, regressed_iou_by_iou

COMPONENTS = ("dx", "dy", "dw", "dh")


def test_regressed_iou_and_gain_against_raw_rows(simulated: Any) -> None:
    frame = regressed_iou_by_iou(simulated.measurements, replicates=60, seed=2)
    found = frame[(frame["head"] == "fc") & (frame["size"] == "all")].set_index("bin")
    raw = simulated.of("fc")
    rows = raw[raw["bin"] == 15]
    row = found.loc[15]
    assert row["mean"] == pytest.approx(rows["regressed_iou"].mean())
    assert row["std"] == pytest.approx(rows["regressed_iou"].std(ddof=0))
    gain = rows["regressed_iou"] - rows["iou"]
    assert row["gain"] == pytest.approx(gain.mean())
    assert row["gain_low"] < row["gain"] < row["gain_high"]


@pytest.mark.parametrize("size", ["small", "all"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_error_components_against_raw_rows(simulated: Any, size: str, component: str) -> None:
    frame = error_components(simulated.measurements, replicates=50)
    chosen = (frame["head"] == "conv") & (frame["size"] == size)
    row = frame[chosen & (frame["component"] == component)].iloc[0]
    rows = simulated.of("conv", size)
    errors = rows[component]
    assert row["mean"] == pytest.approx(errors.mean())
    assert row["rms"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert row["mae"] == pytest.approx(errors.abs().mean())
    assert row["proposals"] == len(rows)
    assert row["objects"] == rows["object_id"].nunique()
    for name in ("mean", "rms", "mae"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_error_components_by_bin(simulated: Any) -> None:
    frame = error_components(simulated.measurements, by_bin=True, replicates=20)
    assert len(frame) == 2 * 4 * 4 * 20
    chosen = frame[(frame["head"] == "fc") & (frame["size"] == "large")]
    raw = simulated.of("fc", "large")
    row = chosen[(chosen["component"] == "dh") & (chosen["bin"] == 18)].iloc[0]
    errors = raw.loc[raw["bin"] == 18, "dh"]
    assert row["rms"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert row["proposals"] == len(errors)
    assert row["iou_low"] == pytest.approx(0.9)
