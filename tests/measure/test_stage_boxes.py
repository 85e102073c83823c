"""Boxes of the later stages read part by part from files, against the same boxes in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rethink_heads.errors import UserError
from rethink_heads.files import write_parquet
from rethink_heads.measure.detections import (
    DETECTION_TYPES,
    DETECTIONS_NAME,
    DetectionsByImage,
    in_order,
)
from rethink_heads.measure.row_groups import arrow_schema, groups_of_file, write_by_group
from rethink_heads.measure.stage_boxes import (
    FileBoxes,
    FrameBoxes,
    open_stages,
    sides_of,
    stages_of,
)
from rethink_heads.measure.stage_frame import (
    STAGE_GROUP,
    STAGE_TYPES,
    STAGES_NAME,
    load_stages,
)
from rethink_heads.stage_results import stage_tables
from rethink_heads.statistics import stage_sums
from rethink_heads.statistics.bootstrap import ImageBootstrap
from rethink_heads.statistics.stage_sums import side_boxes
from rethink_heads.statistics.stages import stage_correlation
from tests.statistics.test_stages import SIDES, boxes

COUNTS = {"replicates": 20, "rank_replicates": 10}


def keep(frame: pd.DataFrame, folder: Path, bound: float = 3000) -> Path:
    """Write boxes as measuring does, an image a table, a few images a row group."""
    tables = [
        pa.Table.from_pandas(rows, preserve_index=False).cast(arrow_schema(STAGE_TYPES))
        for _, rows in frame.groupby("image_id")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_by_group(tables, folder / STAGES_NAME, STAGE_TYPES, STAGE_GROUP, {"a": "b"}, bound)
    return folder


def test_row_groups_are_of_one_group_and_hold_all(tmp_path: Path) -> None:
    frame = boxes()
    groups = groups_of_file(keep(frame, tmp_path) / STAGES_NAME, STAGE_GROUP)
    assert groups is not None
    assert len(groups) > len(set(groups)) == 2 * 2
    loaded, provenance = load_stages(tmp_path)
    assert provenance == {"a": "b"}
    keys = ["detector", "head", "stage", "image_id"]
    expected = frame.sort_values(keys, kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(loaded, expected.astype(dict(STAGE_TYPES)))


def test_tables_of_files_are_those_of_frames(tmp_path: Path) -> None:
    frame = boxes(images=9)
    stored = open_stages([keep(frame, tmp_path)])
    assert isinstance(stored, FileBoxes)
    assert sides_of(stored) == tuple(sorted(SIDES))
    found = stage_tables(stored, None, [SIDES], **COUNTS)
    expected = stage_tables(frame, None, [SIDES], **COUNTS)
    assert set(found) == set(expected)
    assert len(found["rank_level_comparisons"])
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=False, rtol=1e-9, atol=1e-12)


def test_several_files_are_one(tmp_path: Path) -> None:
    frame = boxes()
    folders = [
        keep(frame[frame["head"] == head], tmp_path / head) for head in frame["head"].unique()
    ]
    found = stage_correlation(open_stages(folders), **COUNTS)
    expected = stage_correlation(frame, **COUNTS)
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stored", [True, False])
def test_some_stages_and_heads_are_chosen(tmp_path: Path, stored: bool) -> None:
    frame = boxes()
    every = open_stages([keep(frame, tmp_path)]) if stored else FrameBoxes(frame)
    chosen = every.only(["rpn"], ["fc"])
    assert stages_of(chosen) == {"rpn"}
    assert sides_of(chosen) == (("run", "fc"),)
    read = pd.concat(list(chosen.read(("run", "fc"), "rpn", ["iou"])))
    of = frame[(frame["stage"] == "rpn") & (frame["head"] == "fc") & (frame["object_id"] >= 0)]
    assert sorted(read["iou"]) == sorted(of["iou"])
    assert list(chosen.read(("run", "conv"), "rpn", ["iou"])) == [] or not stored
    assert sides_of(every.only(["rpn"], None)) == tuple(sorted(SIDES))


def test_files_of_before_there_were_groups_are_read_whole(tmp_path: Path) -> None:
    frame = boxes()
    write_parquet(frame, tmp_path / STAGES_NAME, {})
    found = open_stages([tmp_path])
    assert isinstance(found, FrameBoxes)
    pd.testing.assert_frame_equal(
        stage_correlation(found, **COUNTS), stage_correlation(frame, **COUNTS)
    )


def test_what_is_not_there_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_stages([tmp_path])
    (tmp_path / STAGES_NAME).write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="delete it and run the command again"):
        open_stages([tmp_path])


def test_ranks_are_of_a_part_of_many_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = boxes(images=30, count=400, sides=SIDES[:1], stages=("rpn",))
    whole = FrameBoxes(frame)
    bootstrap = ImageBootstrap(whole.image_ids, 5)
    arguments = (SIDES[0], "rpn", (0.0, 1.0), bootstrap)
    expected = side_boxes(whole, *arguments)
    monkeypatch.setattr(stage_sums, "MOST_RANKED", 1000)
    found = side_boxes(whole, *arguments)
    assert expected.count("all") == found.count("all") == len(expected.ranked)
    assert 900 < len(found.ranked) <= 1100
    assert (found.ranked["weight"] == found.ranked["weight"].iloc[0]).all()
    assert found.ranked["weight"].iloc[0] == -(-len(expected.ranked) // 1000)
    values = [
        float(each.resampled("spearman", "all", bootstrap).value) for each in (expected, found)
    ]
    assert values[0] == pytest.approx(values[1], abs=0.03)
    stored = side_boxes(open_stages([keep(frame, tmp_path)]), *arguments)
    keys = ["image_id", "object_id", "iou"]
    rows = [each.ranked.sort_values(keys, ignore_index=True) for each in (found, stored)]
    pd.testing.assert_frame_equal(rows[0][keys], rows[1][keys])


def test_detections_of_an_image_are_read_with_few_others(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    count = 600
    frame = pd.DataFrame(
        {
            "image_id": np.sort(generator.integers(-3, 20, count)),
            "detector": "run",
            "head": np.array(["fc", "conv"])[generator.integers(0, 2, count)],
            "label": generator.integers(0, 3, count),
            **{name: generator.random(count) for name in ("x1", "y1", "x2", "y2")},
            "score": generator.random(count).round(1),
        }
    )
    tables = [
        pa.Table.from_pandas(rows, preserve_index=False).cast(arrow_schema(DETECTION_TYPES))
        for _, rows in frame.groupby("image_id")
    ]
    path = tmp_path / DETECTIONS_NAME
    write_by_group(tables, path, DETECTION_TYPES, ("detector", "head"), {}, 5000)
    assert pq.read_metadata(path).num_row_groups > 6
    found = DetectionsByImage(tmp_path)
    for image in [*generator.permutation(np.arange(-3, 20)).tolist(), 99]:
        of_image = in_order(frame[frame["image_id"] == image])
        pd.testing.assert_frame_equal(found[image], of_image)
        assert len(found._held) <= 4
