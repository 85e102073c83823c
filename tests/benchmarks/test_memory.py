"""The bound on memory, on a twentieth of the objects that the benchmark takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.made_up import HEADS, Amount, write_parts
from benchmarks.memory import MIB, PROVENANCE, RESULTS, use_of
from rethink_heads.measure.parts import Parts
from rethink_heads.measure.reading import MeasurementFiles
from rethink_heads.measure.stored import StoredMeasurements, open_measurements

# A twentieth of the objects that the benchmark takes, and an eighth of its memory: some 40 MiB are Arrow's whatever
# the number of objects.
MEMORY_MB = 64


def test_made_up_parts_are_as_measuring_leaves_them(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", Amount(images=3, objects=10, rows_per_bin=2), PROVENANCE)
    parts = Parts(tmp_path / "parts", PROVENANCE)
    assert parts.complete == {0, 1, 2}
    found = parts.merge(range(3))
    assert len(found.objects) == 10
    assert found.heads == tuple(sorted(HEADS))
    assert len(found.bins) == 10 * 20 * 2
    assert len(found.rows) == 10 * 20 * 2 * 2
    assert len(found.maps) == 10 * 4 * 2
    # Moments that values could have: no variance is negative.
    bins = found.bins
    for name in ("iou", "score", "regressed_iou", "dx"):
        mean = bins[f"sum_{name}"] / bins["n"]
        assert (bins[f"sum_{name}_{name}"] / bins["n"] >= mean**2).all()


def test_memory_stays_within_its_bound_whatever_the_number_of_objects(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    amount = Amount(images=700, objects=5000, rows_per_bin=5)
    write_parts(tmp_path / "parts", amount, PROVENANCE)
    used = {
        name: use_of(name, tmp_path, MEMORY_MB, replicates=50, images=amount.images).growth_mib
        for name in RESULTS
    }
    folder = tmp_path / "measurements"
    found = open_measurements(folder, MEMORY_MB)
    assert isinstance(found, StoredMeasurements)
    assert len(found.objects) == amount.objects
    # Loaded, it would take several times as much.
    assert MeasurementFiles(folder, found.provenance).memory() > 3 * MEMORY_MB * MIB
    assert max(used.values()) < MEMORY_MB, used
