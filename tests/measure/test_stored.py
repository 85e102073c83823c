"""Measurements that stay in their files, against the same measurements in memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.errors import UserError
from rethink_heads.measure.frames import FRAMES, OBJECT
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.merging import merge_folders
from rethink_heads.measure.stored import StoredMeasurements, merged, open_measurements
from rethink_heads.measure.thinning import thinned
from rethink_heads.results import compute_tables
from rethink_heads.statistics.correlation import spearman
from rethink_heads.statistics.ranks import ranked_rows
from tests.synthetic_measurements import synthetic_measurements

# Less than a quarter of it would be loaded whole.
MEMORY_MB = 1


def in_files(measurements: Measurements, folder: Path) -> Measurements:
    """The same measurements in a folder of one row group an image, opened."""
    nothing = measurements.of_objects([])
    parts = []
    for image_id in measurements.image_ids:
        frames = {name: getattr(measurements, name) for name in FRAMES}
        kept = {name: frame[frame["image_id"] == image_id] for name, frame in frames.items()}
        Measurements(**kept).save(folder / "parts" / str(image_id))
        parts.append(folder / "parts" / str(image_id))
    merge_folders(parts, nothing, folder, measurements.provenance, memory_mb=0)
    return open_measurements(folder, MEMORY_MB)


@pytest.fixture(scope="module")
def demo() -> Measurements:
    made_up = synthetic_measurements(images=6, objects_per_size=1)
    return Measurements.merge([made_up])


@pytest.fixture(scope="module")
def stored(demo: Measurements, tmp_path_factory: pytest.TempPathFactory) -> Measurements:
    return in_files(demo, tmp_path_factory.mktemp("demo"))


def assert_equal(first: Measurements, second: Measurements) -> None:
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert first.provenance == second.provenance


def assert_tables_alike(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        pd.testing.assert_frame_equal(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_what_takes_little_memory_is_loaded_and_the_rest_stays(
    stored: Measurements, demo: Measurements, tmp_path: Path
) -> None:
    assert isinstance(stored, StoredMeasurements)
    assert "demo/conv, demo/fc" in repr(stored)
    demo.save(tmp_path / "saved")
    # Its row groups are not of one head each.
    assert_equal(open_measurements(tmp_path / "saved", 0), demo)
    in_files(demo, tmp_path / "merged")
    loaded = open_measurements(tmp_path / "merged", 512)
    assert not isinstance(loaded, StoredMeasurements)
    assert_equal(loaded, demo)


def test_opening_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no measurements in .*bins\.parquet is missing"):
        open_measurements(tmp_path, 512)


def test_a_damaged_row_group_names_its_file(demo: Measurements, tmp_path: Path) -> None:
    found = in_files(demo, tmp_path)
    path = tmp_path / "maps.parquet"
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*maps\.parquet as Parquet"):
        list(found.read("maps", ["values"]))


def test_frames_and_what_there_is_are_those_in_memory(
    stored: Measurements, demo: Measurements
) -> None:
    assert_equal(stored, demo)
    pd.testing.assert_frame_equal(stored.objects, demo.objects)
    for name in ("image_ids", "heads", "detectors", "detector_heads"):
        assert getattr(stored, name) == getattr(demo, name)
    for name in FRAMES:
        assert stored.groups(name) == demo.groups(name)


@pytest.mark.parametrize("name", ["bins", "rows", "maps"])
def test_parts_hold_whole_images_in_rising_order(
    stored: Measurements, demo: Measurements, name: str
) -> None:
    columns = [column for column in FRAMES[name] if column not in OBJECT]
    kind = "cell_iou" if name == "maps" else None
    parts = list(stored.read(name, columns, detector="demo", head="fc", kind=kind))
    assert len(parts) == len(demo.image_ids)
    for first, second in pairwise(parts):
        assert first["image_id"].max() < second["image_id"].min()
    (expected,) = demo.read(name, columns, detector="demo", head="fc", kind=kind)
    found = pd.concat(parts, ignore_index=True).astype(expected.dtypes)
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))


def test_of_a_head_that_is_not_there_comes_one_part_without_rows(stored: Measurements) -> None:
    (nothing,) = stored.read("bins", ["n"], head="another")
    assert nothing.empty
    assert list(nothing.columns) == [*OBJECT, "n"]


def test_choices_are_those_in_memory(stored: Measurements, demo: Measurements) -> None:
    few = [(1, 100), (3, 302)]
    for choose in (
        lambda m: m.select(heads=["fc"]),
        lambda m: m.select(sizes=["small"], detectors=["demo"]),
        lambda m: m.select(heads=["fc", "conv"]).select(heads=["conv", "double"]),
        lambda m: m.of_objects(few),
        lambda m: m.of_objects(few).of_objects([few[1], (5, 500)]).select(heads=["fc"]),
        lambda m: m.select(detectors=["another"]),
    ):
        assert isinstance(choose(stored), StoredMeasurements)
        assert_equal(choose(stored), choose(demo))


def test_tables_are_those_of_measurements_in_memory(
    stored: Measurements, demo: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads_whole(self: StoredMeasurements, name: str) -> pd.DataFrame:
        raise AssertionError(f"all {name} were loaded")

    expected = compute_tables(demo, replicates=10)
    monkeypatch.setattr(StoredMeasurements, "_whole", loads_whole)
    assert_tables_alike(compute_tables(stored, replicates=10), expected)


def test_several_detectors_are_compared_from_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rethink_heads.measure.stored._WHOLE", 0)
    both = synthetic_measurements(
        {"one": ["fc"], "two": ["conv"]}, images=4, objects_per_size=1, maps=False
    )
    sides = [Measurements.merge([both.select(detectors=[name])]) for name in ("one", "two")]
    one = in_files(sides[0], tmp_path / "one")
    two = in_files(replace(sides[1], provenance={"seed": "1"}), tmp_path / "two")
    for found in ([one, two], [one, sides[1]]):
        together = merged(found)
        assert isinstance(together, StoredMeasurements)
        assert together.detector_heads == (("one", "fc"), ("two", "conv"))
        tables = compute_tables(together, replicates=10)
        assert_tables_alike(tables, compute_tables(both, replicates=10))
    assert merged([one, two]).provenance["seed"] == "0; 1"
    assert_equal(merged(sides), Measurements.merge(sides))
    with pytest.raises(ValueError, match="head 'fc' of 'one' was measured twice"):
        merged([one, one])


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    every=st.integers(1, 12),
    first=st.integers(-(2**62), 2**62),
)
def test_thinning_keeps_every_kth_row_of_an_object(
    counts: list[int], every: int, first: int
) -> None:
    number = np.repeat(np.arange(len(counts)) + first, counts)
    rows = pd.DataFrame({"image_id": number // 2, "object_id": number, "weight": 2.0})
    rows["place"] = rows.groupby("object_id").cumcount()
    kept = thinned(rows, every)
    pd.testing.assert_frame_equal(kept, thinned(rows, every))
    assert (kept["weight"] == 2.0 * every).all()
    for _, of_object in kept.groupby("object_id"):
        assert (of_object["place"].diff().dropna() == every).all()
        assert of_object["place"].min() < every
    for object_id, count in zip(np.arange(len(counts)) + first, counts, strict=True):
        found = (kept["object_id"] == object_id).sum()
        assert count // every <= found <= -(-count // every)


def test_thinned_rows_stand_for_all() -> None:
    """Over many objects each place is chosen equally often, so that weighted sums are unbiased."""
    objects, each, every = 20_000, 12, 5
    number = np.repeat(np.arange(objects), each)
    rows = pd.DataFrame({"image_id": number % 97, "object_id": number, "weight": 1.0})
    rows["place"] = np.tile(np.arange(each), objects)
    kept = thinned(rows, every)
    # A place is kept for a fifth of the objects: binomial, with a standard deviation of 0.0028 of 1.
    totals = kept.groupby("place")["weight"].sum() / objects
    assert len(totals) == each
    np.testing.assert_allclose(totals, 1, atol=5 * np.sqrt((every - 1) / objects))


def test_more_rows_than_ranks_can_be_taken_of_are_thinned_alike_in_memory_and_in_files(
    stored: Measurements, demo: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spearman(demo, replicates=5)
    monkeypatch.setattr("rethink_heads.statistics.ranks.MOST_RANKED", 400)
    found = spearman(stored, replicates=5)
    pd.testing.assert_frame_equal(found, spearman(demo, replicates=5))
    assert (found["rows"] <= 400 + found["objects"]).all()
    assert found["rows"].max() < whole["rows"].max()
    np.testing.assert_allclose(found["spearman"], whole["spearman"], atol=0.15)
    fc, conv = (ranked_rows(stored, ("demo", head)) for head in ("fc", "conv"))
    # The heads' rows are of the same objects and bins in the same order.
    same = ["image_id", "object_id", "size", "weight"]
    pd.testing.assert_frame_equal(fc[same], conv[same])
    total = demo.rows.loc[demo.rows["head"] == "fc", "weight"].sum()
    np.testing.assert_allclose(fc["weight"].sum(), total, rtol=0.1)


def test_choices_of_objects_without_their_own_ids_are_those_in_memory(tmp_path: Path) -> None:
    """Objects with negative ids are objects as others; maps of weights are of (-1, -1) alone."""
    made_up = synthetic_measurements(images=6, objects_per_size=1)
    frames = {}
    for name in FRAMES:
        frame = getattr(made_up, name)
        of_object = frame["object_id"] >= 0
        frames[name] = frame.assign(
            object_id=frame["object_id"].where(~of_object, -2 - frame["object_id"])
        )
    negative = Measurements.merge([Measurements(**frames, provenance=made_up.provenance)])
    stored = in_files(negative, tmp_path)
    assert isinstance(stored, StoredMeasurements)
    few = [tuple(ids) for ids in negative.objects[["image_id", "object_id"]].to_numpy()[:2]]
    assert_equal(stored.of_objects(few), negative.of_objects(few))
