"""Final detections read head by head, from files and from a frame."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from rethink_heads.errors import UserError
from rethink_heads.measure.detections import DETECTIONS_NAME, in_order
from rethink_heads.measure.kept_detections import FrameDetections, open_detections
from tests.made_detections import head_of, keep_detections_in, make_dataset, make_detections

COLUMNS = ["image_id", "label", "x1", "score"]
SIDES = [("run", "conv"), ("run", "fc")]


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """Two heads' detections as a detector finds them: not by falling score."""
    dataset = make_dataset(tmp_path / "data", images=12)
    both = [make_detections(dataset, seed, head=head) for seed, head in enumerate(("fc", "conv"))]
    return pd.concat(both).sample(frac=1, random_state=1).sort_values("image_id", kind="stable")


def rows_of(frame: pd.DataFrame, head: str) -> pd.DataFrame:
    chosen = in_order(frame)
    return chosen.loc[chosen["head"] == head, COLUMNS].reset_index(drop=True)


def test_files_hold_what_a_frame_holds(frame: pd.DataFrame, tmp_path: Path) -> None:
    stored = open_detections([keep_detections_in(frame, tmp_path / "kept")], memory_mb=7)
    assert (stored.sides, stored.memory_mb) == (SIDES, 7)
    for found in (stored, FrameDetections(frame)):
        assert sorted(found.sides) == SIDES
        for side in SIDES:
            (part,) = found.read(side, COLUMNS)
            pd.testing.assert_frame_equal(part, rows_of(frame, side[1]))


def test_those_of_some_images(frame: pd.DataFrame, tmp_path: Path) -> None:
    folder = keep_detections_in(frame, tmp_path / "kept")
    few = [1, 5, 6]
    expected = rows_of(frame[frame["image_id"].isin(few)], "fc")
    for found in (open_detections([folder]), FrameDetections(frame)):
        parts = list(found.of_images(few).read(("run", "fc"), COLUMNS))
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected)
        # A head that found nothing in them is there all the same.
        assert sorted(found.of_images([]).sides) == SIDES
        assert sum(map(len, found.of_images([]).read(("run", "fc"), COLUMNS))) == 0


def test_several_detectors_keep_their_order(frame: pd.DataFrame, tmp_path: Path) -> None:
    folders = [
        keep_detections_in(frame.assign(detector=name), tmp_path / name) for name in ("b", "a")
    ]
    found = open_detections(folders)
    assert found.sides == [("b", "conv"), ("b", "fc"), ("a", "conv"), ("a", "fc")]
    rows = pd.concat(list(found.read(("a", "fc"), COLUMNS)), ignore_index=True)
    pd.testing.assert_frame_equal(rows, rows_of(frame, "fc"))


def test_mistakes(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_detections([tmp_path / "none"])
    folder = keep_detections_in(frame, tmp_path / "kept")
    path = folder / DETECTIONS_NAME
    content = bytearray(path.read_bytes())
    scores = pq.read_metadata(path).row_group(0).column(8)
    assert scores.path_in_schema == "score"
    first = min(scores.data_page_offset, scores.dictionary_page_offset or scores.data_page_offset)
    content[first + scores.total_compressed_size - 1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"detections\.parquet as Parquet"):
        open_detections([folder])


def test_one_head_or_none(frame: pd.DataFrame) -> None:
    head = head_of(frame[frame["head"] == "fc"])
    assert head.side == ("run", "fc")
    assert sum(len(part) for part in head_of(frame[:0]).read(COLUMNS)) == 0
