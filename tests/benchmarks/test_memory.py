"""The synthetic measurements of the benchmark of memory, and what the tables of some thousand objects take."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import MEASUREMENTS, use
from benchmarks.synthetic import (
    DETECTOR,
    HEADS,
    Amount,
    join,
    synthetic_stages,
    write_measurements,
    write_parts,
)
from rethink_heads.measure.stage_boxes import STAGE_COLUMNS
from rethink_heads.measure.store import Measurements


def test_synthetic_measurements_are_as_measuring_leaves_them(tmp_path: Path) -> None:
    amount = Amount(images=3, objects=10, rows_per_bin=2)
    join(write_parts(tmp_path / "parts", amount), tmp_path / "joined")
    write_measurements(tmp_path / "whole", amount)
    for name in ("joined", "whole"):
        found = Measurements.load(tmp_path / name)
        assert (len(found.objects), found.image_ids) == (10, (0, 1, 2))
        assert found.heads == tuple(sorted(HEADS))
        assert len(found.rows((DETECTOR, "fc"))) == 10 * 20 * 2
        # Moments that values could have: no variance is negative.
        bins = found.to_frame()
        assert len(bins) == 10 * 20 * 2
        for variable in ("iou", "score", "regressed_iou", "dx"):
            mean = bins[f"sum_{variable}"] / bins["n"]
            assert (bins[f"sum_{variable}_{variable}"] / bins["n"] >= mean**2).all()
    boxes = synthetic_stages(amount)
    assert tuple(boxes.columns) == STAGE_COLUMNS
    assert len(boxes) == 3 * (200 + 100) * 2


def test_memory_stays_below_that_of_what_is_in_the_files(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    # Ranks, which take most of the time and least of the memory, are left to the benchmark.
    amount = Amount(images=300, objects=3000, rows_per_bin=2)
    used = use("regress", tmp_path, amount)
    kept = sum(path.stat().st_size for path in (tmp_path / MEASUREMENTS).iterdir()) / 2**20
    assert kept > 100
    assert 0 < used["mib"] < kept
    assert used["seconds"] > 0
