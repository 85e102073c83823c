"""The study of coverage: its measure on intervals that are known, and each of its kinds of statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.coverage import KINDS, Size, Trials, summarize


def test_normal_intervals_hold_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        value = generator.normal([3.0, 5.0], [1.0, 0.2])
        half = np.array([1.96, 0.5 * 1.96 * 0.2])
        table = pd.DataFrame({"value": value, "low": value - half, "high": value + half})
        found.append(table.assign(statistic=["proper", "half"], item=""))
    # A statistic of a set that lacks it, and one without an interval, count where they are there.
    found[0].loc[0, ["low", "high"]] = np.nan
    found[1] = found[1].iloc[1:]
    table = summarize(found, found[2].assign(value=[3.0, 9.0])).set_index("statistic")
    assert table.loc["proper", "held"] == pytest.approx(95, abs=1.5)
    assert table.loc["half", "held"] == pytest.approx(67.3, abs=3)
    np.testing.assert_allclose(table["width"], [1, 0.5], rtol=0.05)
    assert table["held_of_all"].tolist() == [pytest.approx(95, abs=1.5), 0]
    assert table["outside"].tolist() == [0, 0]
    assert table.loc["proper", "no_interval"] == pytest.approx(100 / 3999)


@pytest.mark.parametrize("kind", KINDS)
def test_sets_are_kept_and_no_value_lies_outside_its_interval(kind: str, tmp_path: Path) -> None:
    trials = Trials(kind, Size(2, 30, 4.0), 20, tmp_path)
    found = list(trials.run(seconds=0))
    assert len(found) == 3
    for table in found:
        there = table.dropna()
        assert len(there) >= len(table) / 2
        assert ((there["low"] <= there["value"]) & (there["value"] <= there["high"])).all()
        assert not table.duplicated(["statistic", "item"]).any()
    again = list(Trials(kind, Size(2, 30, 4.0), 20, tmp_path).run(seconds=0))
    for one, other in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
    path = tmp_path / kind / "2-30-4" / "0.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), found[0])
