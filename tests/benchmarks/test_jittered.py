"""Ground truth with shaken boxes loses by localization alone, and as much as its IoUs say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.jittered import command
from tests.made_detections import make_dataset


def test_what_is_lost_is_what_the_boxes_must_lose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data", images=25, seed=2, crowds=False)
    command(dataset.annotations_path, tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "jittered.csv").set_index("results")
    ranked = found.drop("off-by-5-shuffled")
    assert ranked["certain"].is_monotonic_increasing
    assert ranked["certain"].iloc[-1] > 0.2
    assert (1 - ranked["ap"]).tolist() == pytest.approx(ranked["certain"].tolist(), abs=0.02)
    assert ranked["localization"].tolist() == pytest.approx(ranked["certain"].tolist(), abs=0.02)
    shuffled = found.loc["off-by-5-shuffled"]
    more = 1 - shuffled["ap"] - found.loc["off-by-5", "certain"]
    assert more > 0.01
    assert shuffled["ranking"] == pytest.approx(more / 4, abs=0.01)
    printed = capsys.readouterr().out
    assert all(f"\n| {name} | " in printed for name in found.index)
