"""Measurements: columns, merging, choosing, saving and loading."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import (
    BIN_COLUMNS,
    MAP_COLUMNS,
    ROW_COLUMNS,
    Measurements,
    size_name,
)
from rethink_heads.measure.moments import reduce_to_bins

HEADS = ("fc", "conv")
SIZES = ("small", "large", "medium")


@cache
def measure_image(image_id: int, objects: int = 2) -> Measurements:
    """What measuring an image of random objects leaves, with rows, maps and a map of weights."""
    generator = np.random.default_rng(image_id)
    bins, rows, maps = [], [], []
    for number in range(objects):
        keys = {
            "image_id": image_id,
            "object_id": image_id * 100 + number,
            "size": SIZES[(image_id + number) % 3],
            "detector": "run",
        }
        for head in HEADS:
            iou, score = generator.random((2, 30))
            boxes = np.array([0, 0, 10, 10]) + generator.normal(size=(30, 4))
            moments = reduce_to_bins(iou, score, boxes, [0, 0, 10, 10])
            bins.append(moments.assign(**keys, head=head, class_name="cat"))
            errors = dict.fromkeys(("dx", "dy", "dw", "dh"), 0.0)
            row = {**keys, **errors, "head": head, "bin": 3, "weight": 2.0, "iou": iou[0]}
            rows += [{**row, "score": score[i], "regressed_iou": 0.5} for i in range(2)]
            values = generator.random(9).astype(np.float32)
            maps.append({**keys, "head": head, "kind": "cell_score", "values": values})
    weights = {"image_id": -1, "object_id": -1, "size": "", "detector": "run", "head": "fc"}
    maps.append({**weights, "kind": "weight_correlation", "values": np.ones(4, np.float32)})
    return Measurements(
        pd.concat(bins), pd.DataFrame(rows), pd.DataFrame(maps), {"seed": "0", "part": "x"}
    )


def assert_equal(first: Measurements, second: Measurements) -> None:
    for name in ("bins", "rows", "maps"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert first.provenance == second.provenance


@pytest.mark.parametrize(
    ("area", "name"),
    [
        (0, "small"),
        (1023.9, "small"),
        (1024, "medium"),
        (9215.9, "medium"),
        (9216, "large"),
        (1e6, "large"),
    ],
)
def test_size_names_at_the_bounds(area: float, name: str) -> None:
    assert size_name(area) == name


def test_columns_and_their_types_are_those_documented() -> None:
    for measured in (Measurements.empty(), measure_image(1)):
        assert list(measured.bins.columns) == list(BIN_COLUMNS)
        assert list(measured.rows.columns) == list(ROW_COLUMNS)
        assert list(measured.maps.columns) == list(MAP_COLUMNS)
        assert measured.bins["image_id"].dtype == np.int64
        assert measured.bins["n"].dtype == np.float64
        assert measured.maps["values"].dtype == object
        assert all(values.dtype == np.float32 for values in measured.maps["values"])


def test_a_frame_that_lacks_a_column_is_refused() -> None:
    bins = measure_image(1).bins.drop(columns=["sum_score"])
    with pytest.raises(ValueError, match="bins lack the columns sum_score"):
        Measurements(bins)


def test_objects_images_and_heads() -> None:
    merged = Measurements.merge([measure_image(7), measure_image(3)])
    assert merged.objects["object_id"].tolist() == [300, 301, 700, 701]
    assert merged.objects["size"].tolist() == ["small", "large", "large", "medium"]
    assert merged.image_ids == (3, 7)
    assert merged.heads == ("conv", "fc")
    assert merged.detectors == ("run",)
    assert merged.detector_heads == (("run", "conv"), ("run", "fc"))


def test_select_by_head_and_size() -> None:
    merged = Measurements.merge([measure_image(image_id) for image_id in range(4)])
    chosen = merged.select(heads=["fc"], sizes=["small"])
    expected = merged.bins[(merged.bins["head"] == "fc") & (merged.bins["size"] == "small")]
    pd.testing.assert_frame_equal(chosen.bins, expected.reset_index(drop=True))
    assert set(chosen.rows["size"]) == {"small"}
    assert set(chosen.maps["kind"]) == {"cell_score", "weight_correlation"}
    assert merged.select(detectors=["another"]).bins.empty
    assert len(merged.bins) == len(merged.select().bins)


@settings(max_examples=10, deadline=None)
@given(
    order=st.permutations([11, 12, 13, 14, 15]),
    cut=st.integers(0, 5),
)
def test_merging_is_exact_whatever_the_order_and_grouping(order: list[int], cut: int) -> None:
    whole = Measurements.merge([measure_image(image_id) for image_id in range(11, 16)])
    parts = [measure_image(image_id) for image_id in order]
    nested = Measurements.merge([Measurements.merge(parts[:cut]), *parts[cut:]])
    assert_equal(nested, whole)
    for image_id in order:
        alone = measure_image(image_id).bins
        found = whole.bins[whole.bins["image_id"] == image_id]
        key = ["head", "object_id", "bin"]
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), alone.sort_values(key, ignore_index=True)
        )


def test_merging_refuses_what_was_measured_twice() -> None:
    with pytest.raises(ValueError, match="object 100 of image 1 was measured twice"):
        Measurements.merge([measure_image(1), measure_image(1)])


def test_merging_keeps_one_map_of_the_weights() -> None:
    maps = Measurements.merge([measure_image(1), measure_image(2)]).maps
    assert (maps["kind"] == "weight_correlation").sum() == 1
    assert (maps["kind"] == "cell_score").sum() == 8


def test_merging_names_each_different_provenance() -> None:
    first = measure_image(1)
    second = replace(measure_image(2), provenance={"seed": "1", "part": "x"})
    assert Measurements.merge([second, first]).provenance == {"seed": "0; 1", "part": "x"}
    assert Measurements.merge([]).bins.empty


@pytest.mark.parametrize("filled", [True, False])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, filled: bool) -> None:
    saved = measure_image(5) if filled else Measurements.empty()
    saved.save(tmp_path / "new" / "folder")
    assert_equal(Measurements.load(tmp_path / "new" / "folder"), saved)
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"bins.parquet", "rows.parquet", "maps.parquet", "sampling.parquet"}


def test_loading_from_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no measurements in .*nowhere"):
        Measurements.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["bins", "rows", "maps"])
def test_loading_a_damaged_file_names_it(tmp_path: Path, name: str) -> None:
    measure_image(5).save(tmp_path)
    path = tmp_path / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"{name}.parquet"):
        Measurements.load(tmp_path)


def test_loading_a_file_of_something_else_names_it(tmp_path: Path) -> None:
    measure_image(5).save(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet does not hold measurements"):
        Measurements.load(tmp_path)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("saved_before", [True, False])
def test_a_disk_that_fills_up_while_saving_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, saved_before: bool
) -> None:
    if saved_before:
        measure_image(5).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written = []
    write = pq.write_table

    def fills_up(table: object, path: Path, **options: object) -> None:
        written.append(path)
        write(table, path, **options)
        if len(written) == number:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", fills_up)
    name = ("bins", "rows", "maps")[number - 1]
    with pytest.raises(UserError, match=rf"cannot write {tmp_path}/{name}\.parquet: No space left"):
        measure_image(6).save(tmp_path)
    assert len(written) == number
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["bins", "rows", "maps"])
def test_loading_what_lacks_a_file_names_it(tmp_path: Path, name: str) -> None:
    measure_image(5).save(tmp_path)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(UserError, match=rf"no measurements in .*: {name}\.parquet is missing"):
        Measurements.load(tmp_path)


@pytest.mark.parametrize("name", ["bins", "rows", "maps"])
def test_loading_files_of_two_measurings_is_refused(tmp_path: Path, name: str) -> None:
    measure_image(5).save(tmp_path)
    replace(measure_image(5), provenance={"seed": "1"}).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / f"{name}.parquet", tmp_path)
    with pytest.raises(UserError, match="not of one measuring"):
        Measurements.load(tmp_path)
