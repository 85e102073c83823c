"""All tables of final detections from files, a few detections at a time, against those of one frame in memory."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.detection_results import detection_tables
from rethink_heads.files import write_parquet
from rethink_heads.measure.detections import DETECTIONS_NAME
from rethink_heads.measure.kept_detections import (
    FileDetections,
    FrameDetections,
    open_detections,
)
from rethink_heads.statistics import matches, ranking, weighted_precision
from rethink_heads.statistics.average_precision import precision_table
from tests.made_detections import keep_detections_in, make_dataset, make_detections

SIDES = [("run", "conv"), ("run", "fc"), ("run", "nothing")]


@pytest.mark.parametrize("replicates", [40, 20], ids=["fewer images", "more images"])
def test_turns_and_files_change_no_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicates: int
) -> None:
    dataset = make_dataset(tmp_path / "data", images=30)
    heads = [make_detections(dataset, seed, head=head) for seed, head in enumerate(("fc", "conv"))]
    frame = pd.concat(heads, ignore_index=True)
    options = {"errors": True, "calibration": True, "replicates": replicates}
    pairs = [(SIDES[0], SIDES[1])]
    whole = detection_tables(frame, dataset, SIDES, pairs=pairs, **options)
    assert set(whole["ap"]["head"]) == {"fc", "conv", "nothing"}
    stored = open_detections([keep_detections_in(frame, tmp_path / "kept")], memory_mb=1)
    assert isinstance(stored, FileDetections)
    turns = []

    def counted(*args: object) -> list[ranking.Turn]:
        turns.append(ranking.turns_of(*args))  # type: ignore[arg-type]
        return turns[-1]

    for name in ("average_precision", "detection_errors", "calibration"):
        monkeypatch.setattr(f"rethink_heads.statistics.{name}.turns_of", counted)
    room = ranking.MIB // ranking._PART_OF_MEMORY
    # One turn, a turn a class, and several turns a class; few images at once, and few sets of weights.
    monkeypatch.setattr(matches, "_MATCHED_AT_ONCE", 10)
    monkeypatch.setattr(weighted_precision, "_MOST_AT_ONCE", 200)
    for most, least_turns in ((10_000, 1), (len(heads[0]) // 2, 2), (11, 6)):
        monkeypatch.setattr(ranking, "_BYTES_EACH", room // most)
        found = detection_tables(stored, dataset, SIDES, pairs=pairs, **options)
        assert list(found) == list(whole)
        for name, table in whole.items():
            pd.testing.assert_frame_equal(found[name], table, rtol=0, atol=1e-15)
        assert found["ap"].equals(whole["ap"])
        assert len(turns[0]) >= least_turns
        turns.clear()


def test_files_of_before_row_groups_give_the_same(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", images=12)
    heads = [make_detections(dataset, seed, head=head) for seed, head in enumerate(("conv", "fc"))]
    frame = pd.concat(heads, ignore_index=True)
    write_parquet(frame, tmp_path / "old" / DETECTIONS_NAME, {})
    old = open_detections([tmp_path / "old"]).of_images(dataset.image_ids)
    assert isinstance(old, FrameDetections)
    new = open_detections([keep_detections_in(frame, tmp_path / "new")])
    options = {"errors": True, "calibration": True, "replicates": 20}
    tables = [detection_tables(found, dataset, SIDES, **options) for found in (old, new)]
    for name, table in tables[0].items():
        pd.testing.assert_frame_equal(table, tables[1][name])


def test_detections_of_the_dataset_alone_are_looked_at(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", images=20)
    frame = make_detections(dataset)
    folder = keep_detections_in(frame, tmp_path / "kept")
    few = dataset.subset(8)
    found = open_detections([folder]).of_images(few.image_ids)
    expected = frame[frame["image_id"].isin(few.image_ids)].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        precision_table(found, few, replicates=20), precision_table(expected, few, replicates=20)
    )
