"""Parts written into one folder row group by row group, against merging them in memory."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.errors import UserError
from rethink_heads.measure.frames import FRAMES, group_columns
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.merging import merge_folders
from rethink_heads.measure.parts import Parts
from tests.synthetic_measurements import synthetic_measurements

PROVENANCE = {"seed": "0"}
WHOLE = replace(
    synthetic_measurements(images=5, sides=(20.0, 60.0), objects_per_size=1), provenance=PROVENANCE
)
OF_WEIGHTS = Measurements(
    bins=Measurements.empty().bins, maps=WHOLE.maps[WHOLE.maps["image_id"] < 0]
)


def part_of(images: list[int]) -> Measurements:
    frames = {name: getattr(WHOLE, name) for name in FRAMES}
    kept = {name: frame[frame["image_id"].isin(images)] for name, frame in frames.items()}
    return Measurements(**kept)


def write_parts(folder: Path, images: tuple[int, ...] = WHOLE.image_ids) -> Parts:
    parts = Parts(folder / "parts", PROVENANCE)
    for image_id in images:
        parts.write(image_id, part_of([image_id]))
    return parts


def assert_equal(first: Measurements, second: Measurements) -> None:
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert first.provenance == second.provenance


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(WHOLE.image_ids), memory_mb=st.sampled_from([0, 1, 2, 512]))
def test_merged_files_are_what_merging_in_memory_gives(order: list[int], memory_mb: int) -> None:
    with tempfile.TemporaryDirectory() as passing:
        parts = write_parts(Path(passing))
        parts.merge_into(Path(passing), order, OF_WEIGHTS, memory_mb)
        merged = Measurements.load(Path(passing))
    expected = Measurements.merge([OF_WEIGHTS, *(part_of([image]) for image in order)])
    assert_equal(merged, replace(expected, provenance=PROVENANCE))


def test_parts_of_several_images_are_merged_alike(tmp_path: Path) -> None:
    part_of([0, 1, 2]).save(tmp_path / "a")
    part_of([3, 4]).save(tmp_path / "b")
    folders = [tmp_path / "a", tmp_path / "b"]
    merge_folders(folders, OF_WEIGHTS, tmp_path / "merged", PROVENANCE, memory_mb=0)
    assert_equal(Measurements.load(tmp_path / "merged"), Measurements.merge([WHOLE]))


@pytest.mark.parametrize("name", ["bins", "rows", "maps"])
def test_a_row_group_is_of_one_group_and_of_whole_images(tmp_path: Path, name: str) -> None:
    write_parts(tmp_path).merge_into(tmp_path, WHOLE.image_ids, OF_WEIGHTS, memory_mb=0)
    seen = set()
    with pq.ParquetFile(tmp_path / f"{name}.parquet") as file:
        assert file.num_row_groups > 2
        for number in range(file.num_row_groups):
            table = file.read_row_group(number).to_pandas()
            groups = table[group_columns(name)].drop_duplicates()
            assert len(groups) == 1
            for image_id in table["image_id"].unique():
                key = (*groups.iloc[0], image_id)
                assert key not in seen
                seen.add(key)


def test_parts_of_before_there_were_errors_of_sampling_are_merged(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    for path in (tmp_path / "parts").glob("*/sampling.parquet"):
        path.unlink()
    parts.merge_into(tmp_path, WHOLE.image_ids, OF_WEIGHTS)
    assert_equal(Measurements.load(tmp_path), Measurements.merge([WHOLE]))


def test_nothing_measured_gives_empty_measurements(tmp_path: Path) -> None:
    Parts(tmp_path / "parts", PROVENANCE).merge_into(tmp_path, [], Measurements.empty())
    assert_equal(Measurements.load(tmp_path), replace(Measurements.empty(), provenance=PROVENANCE))


def test_an_object_measured_twice_is_refused(tmp_path: Path) -> None:
    twice = part_of([1])
    both = replace(twice, bins=pd.concat([twice.bins, twice.bins]))
    both.save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"object 100 of image 1 was measured twice .*\(bins\)"):
        merge_folders([tmp_path / "a"], OF_WEIGHTS, tmp_path / "merged", PROVENANCE, 512)
    assert not list((tmp_path / "merged").glob("*"))


@pytest.mark.parametrize("name", ["bins", "rows", "maps", "sampling"])
def test_a_damaged_part_is_named(tmp_path: Path, name: str) -> None:
    parts = write_parts(tmp_path)
    damaged = tmp_path / "parts" / "3" / f"{name}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"parts/3/{name}\.parquet"):
        parts.merge_into(tmp_path, WHOLE.image_ids, OF_WEIGHTS)
    assert not (tmp_path / "bins.parquet").exists()


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, WHOLE.image_ids[:3])
    with pytest.raises(UserError, match=r"no such file: .*parts/3/bins\.parquet"):
        parts.merge_into(tmp_path, WHOLE.image_ids, OF_WEIGHTS)


def test_a_part_that_holds_something_else_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "parts" / "2" / "rows.parquet")
    with pytest.raises(UserError, match=r"parts/2/rows\.parquet does not hold measurements"):
        parts.merge_into(tmp_path, WHOLE.image_ids, OF_WEIGHTS)


def test_a_part_of_two_measurings_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    replace(part_of([2]), provenance={"seed": "1"}).save(tmp_path / "other")
    (tmp_path / "other" / "maps.parquet").replace(tmp_path / "parts" / "2" / "maps.parquet")
    with pytest.raises(UserError, match=r"parts/2 are not of one measuring"):
        parts.merge_into(tmp_path, WHOLE.image_ids, OF_WEIGHTS)


@pytest.mark.parametrize("saved_before", [True, False])
def test_a_disk_that_fills_up_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_before: bool
) -> None:
    parts = write_parts(tmp_path)
    merged = tmp_path / "merged"
    if saved_before:
        part_of([1]).save(merged)
    before = {path.name: path.read_bytes() for path in merged.glob("*")}
    written = []
    write = pq.ParquetWriter.write_table

    def fills_up(writer: object, table: object, **options: object) -> None:
        written.append(table)
        write(writer, table, **options)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", fills_up)
    with pytest.raises(UserError, match=r"cannot write .*merged/\w+\.parquet: No space left"):
        parts.merge_into(merged, WHOLE.image_ids, OF_WEIGHTS, 0)
    assert len(written) == 5
    assert {path.name: path.read_bytes() for path in merged.glob("*")} == before


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_a_disk_that_is_full_when_a_file_is_closed_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """All are closed before the first takes its name."""
    parts = write_parts(tmp_path)
    merged = tmp_path / "merged"
    part_of([1]).save(merged)
    before = {path.name: path.read_bytes() for path in merged.iterdir()}
    closed = []
    close = pq.ParquetWriter.close

    def fills_up(writer: pq.ParquetWriter) -> None:
        close(writer)
        closed.append(writer)
        if len(closed) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.close", fills_up)
    with pytest.raises(UserError, match=r"cannot write .*merged/\w+\.parquet: No space left"):
        parts.merge_into(merged, WHOLE.image_ids, OF_WEIGHTS)
    assert {path.name: path.read_bytes() for path in merged.iterdir()} == before


def test_a_part_that_is_there_already_stays(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, (1, 2))
    place = tmp_path / "parts" / "1"
    before = {path.name: path.stat().st_ino for path in place.iterdir()}
    parts.write(1, part_of([1]))
    assert {path.name: path.stat().st_ino for path in place.iterdir()} == before
    assert parts.complete == {1, 2}
    assert not list((tmp_path / "parts").glob(".*"))
    (tmp_path / "parts" / "3").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*parts/3"):
        parts.write(3, part_of([3]))
