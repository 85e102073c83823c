"""The bound on memory, on some thousand objects."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.made_up import HEADS, Amount, write_parts
from benchmarks.made_up_detections import write_detections
from benchmarks.memory import EVALUATE, MIB, PROVENANCE, RESULTS, use_of
from rethink_heads.measure.detections import DETECTIONS_NAME
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.parts import Parts
from rethink_heads.measure.reading import MeasurementFiles
from rethink_heads.measure.stage_frame import STAGES_NAME
from rethink_heads.measure.stored import StoredMeasurements, open_measurements

# Less than a tenth of what the benchmark takes: some 30 MiB are Arrow's whatever the number of objects.
MEMORY_MB = 40


def test_made_up_parts_are_as_measuring_leaves_them(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", Amount(images=3, objects=10, rows_per_bin=2), PROVENANCE)
    parts = Parts(tmp_path / "parts", PROVENANCE)
    assert parts.complete == {0, 1, 2}
    found = Measurements.merge([Measurements.load(parts.folder / str(i)) for i in range(3)])
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
    # Many objects an image, since the time goes into files.
    amount = Amount(images=50, objects=2500, rows_per_bin=1, proposals=4000)
    write_parts(tmp_path / "parts", amount, PROVENANCE)
    found_in = Amount(images=50, objects=250, proposals=16000)
    write_detections(tmp_path / EVALUATE, found_in)

    def growth(name: str) -> float:
        use = use_of(name, tmp_path, MEMORY_MB, amount, replicates=10)
        return use.growth_mib

    # One after another: a process that waits for a core holds more of what it reads.
    used = {name: growth(name) for name in RESULTS}
    folder = tmp_path / "measurements"
    found = open_measurements(folder, MEMORY_MB)
    assert isinstance(found, StoredMeasurements)
    assert len(found.objects) == amount.objects
    # Loaded, it would take more than that: half of it the sums, which are there twice while frames are put together.
    assert MeasurementFiles(folder, found.provenance).memory() > 1.25 * MEMORY_MB * MIB
    boxes = pd.read_parquet(folder.parent / STAGES_NAME)
    assert len(boxes) == amount.images * amount.proposals * 3
    assert boxes.memory_usage(deep=True).sum() > 1.5 * MEMORY_MB * MIB
    detections = pd.read_parquet(tmp_path / EVALUATE / DETECTIONS_NAME)
    assert len(detections) == found_in.images * found_in.proposals
    # Evaluating holds one head's detections, half of those here, with a flag for each size and IoU threshold.
    evaluating = used.pop(EVALUATE)
    assert evaluating < 2**10 * len(detections) / 2 / MIB
    assert max(used.values()) < MEMORY_MB, used
