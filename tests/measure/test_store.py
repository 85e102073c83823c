"""The dense store: what goes in comes out, chosen, merged, saved and loaded; damaged files are told."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rethink_heads.errors import UserError
from rethink_heads.measure import store_files
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.store import Measurements, size_name
from rethink_heads.measure.store_files import Array, join_parts, stored_provenance, write_part
from tests.frames import from_frames
from tests.measure.conftest import assert_same
from tests.synthetic_measurements import synthetic_measurements

FC, CONV = ("demo", "fc"), ("demo", "conv")


@pytest.fixture(scope="module")
def measured() -> Measurements:
    return synthetic_measurements(images=4, objects_per_size=1)


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


def test_what_there_is_and_its_shapes(measured: Measurements) -> None:
    assert repr(measured) == "<Measurements of 12 objects in 4 images: demo/conv, demo/fc>"
    assert measured.keys == (CONV, FC)
    assert (measured.detectors, measured.heads) == (("demo",), ("conv", "fc"))
    assert measured.image_ids == (0, 1, 2, 3)
    assert measured.moments(FC).shape == (12, 20, len(VALUE_COLUMNS))
    assert measured.moments(FC).dtype == np.float64
    assert measured.sampling(FC) is None
    maps = measured.maps(FC, "cell_iou")
    assert maps is not None
    assert (maps.shape, maps.dtype) == ((12, 49), np.float32)
    assert measured.maps(FC, "nothing") is None
    assert measured.map_keys("weight_correlation") == (FC,)
    assert measured.has_rows
    with pytest.raises(UserError, match="no measurements of demo/x; there are those of demo/conv"):
        measured.moments(("demo", "x"))


def test_a_frame_and_back(measured: Measurements) -> None:
    frame = measured.to_frame()
    assert (frame["measured"] > 0).all()
    # Each object's 1500 proposals, for both heads.
    assert frame["n"].sum() == 2 * 12 * 1500
    shuffled = frame.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(from_frames(shuffled).to_frame(), frame)
    with pytest.raises(ValueError, match="measured twice for demo/conv"):
        from_frames(pd.concat([frame, frame[:1]]))


def test_objects_have_to_be_sorted_and_there_once(measured: Measurements) -> None:
    for objects in (measured.objects[::-1], measured.objects.iloc[[0, 0, 1]]):
        with pytest.raises(ValueError, match="have to be sorted, each there once"):
            Measurements(objects, {})


def test_heads_sizes_and_objects_are_chosen(measured: Measurements) -> None:
    chosen = measured.select(heads=["fc"], sizes=["small"])
    places = np.flatnonzero(measured.objects["size"] == "small")
    assert chosen.keys == (FC,)
    assert set(chosen.objects["size"]) == {"small"}
    np.testing.assert_array_equal(chosen.moments(FC), measured.moments(FC)[places])
    assert chosen.weights(FC, "weight_correlation") is not None
    rows, all_rows = chosen.rows(FC), measured.rows(FC)
    np.testing.assert_array_equal(
        places[rows["object"]], all_rows["object"][np.isin(all_rows["object"], places)]
    )
    # Again of what was chosen, in either way.
    last = tuple(chosen.objects[["image_id", "object_id"]].iloc[-1])
    one = chosen.restrict([last])
    np.testing.assert_array_equal(one.moments(FC), measured.moments(FC)[places[-1:]])
    assert set(one.rows(FC)["object"]) == {0}
    assert len(measured.select(detectors=["another"]).objects) == 0


def test_objects_that_a_detector_lacks_are_empty_after_merging(measured: Measurements) -> None:
    other = synthetic_measurements({"x": ("fc",)}, images=6, objects_per_size=1)
    first = measured.select(sizes=["small", "large"])
    merged = Measurements.merge([other, first])
    assert merged.keys == (CONV, FC, ("x", "fc"))
    assert len(merged.objects) == 18
    ids = pd.MultiIndex.from_frame(merged.objects[["image_id", "object_id"]])
    known = ids.isin(pd.MultiIndex.from_frame(first.objects[["image_id", "object_id"]]))
    np.testing.assert_array_equal(merged.moments(CONV)[known], first.moments(CONV))
    assert not merged.moments(CONV)[~known].any()
    maps = merged.maps(CONV, "cell_iou")
    assert maps is not None
    np.testing.assert_array_equal(np.isnan(maps).all(axis=1), ~known)
    np.testing.assert_array_equal(merged.moments(("x", "fc")), other.moments(("x", "fc")))
    rows = merged.rows(FC)
    np.testing.assert_array_equal(np.unique(rows["object"]), np.flatnonzero(known))
    assert len(rows) == len(first.rows(FC))
    # What only the other detector was measured on goes with it.
    assert_frames(merged.select(detectors=["demo"]), first)
    assert merged.provenance == measured.provenance
    with pytest.raises(ValueError, match="'fc' of 'x' was measured twice"):
        Measurements.merge([other, other])


def assert_frames(first: Measurements, second: Measurements) -> None:
    pd.testing.assert_frame_equal(first.objects, second.objects)
    pd.testing.assert_frame_equal(first.to_frame(), second.to_frame())


def test_merging_names_each_different_provenance(measured: Measurements) -> None:
    other = synthetic_measurements({"x": ("fc",)}, images=1, seed=1)
    assert Measurements.merge([measured, other]).provenance["seed"] == "0; 1"
    assert len(Measurements.merge([]).objects) == 0


def test_arrays_of_the_same_objects_are_not_copied(measured: Measurements) -> None:
    other = synthetic_measurements({"x": ("fc",)}, images=4, objects_per_size=1)
    merged = Measurements.merge([measured, other]).select()
    assert merged.maps(FC, "cell_iou") is measured.maps(FC, "cell_iou")


@pytest.mark.parametrize("filled", [True, False])
def test_what_is_loaded_is_what_was_saved(
    measured: Measurements, tmp_path: Path, filled: bool
) -> None:
    saved = measured if filled else Measurements.empty()
    folder = tmp_path / "new" / "folder"
    saved.save(folder)
    loaded = Measurements.load(folder)
    assert_same(loaded, saved)
    assert loaded.provenance == saved.provenance == stored_provenance(folder)
    # Once more, of fewer arrays: of the others nothing is left.
    loaded.select(heads=["conv"]).copy().save(folder)
    assert Measurements.load(folder).keys == ((CONV,) if filled else ())
    stated = json.loads((folder / "meta.json").read_text())["arrays"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"meta.json", "objects.parquet", *(each["file"] for each in stated)}


def test_choices_are_saved_as_they_are(measured: Measurements, tmp_path: Path) -> None:
    chosen = measured.select(sizes=["small"])
    chosen.save(tmp_path)
    loaded = Measurements.load(tmp_path)
    assert_frames(loaded, chosen)
    np.testing.assert_array_equal(loaded.rows(FC), chosen.rows(FC))


def test_loading_from_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no measurements in .*nowhere"):
        Measurements.load(tmp_path / "nowhere")


def test_a_wrong_bit_is_found_when_the_array_is_read(
    measured: Measurements, tmp_path: Path
) -> None:
    measured.save(tmp_path)
    for path in tmp_path.glob("*.npy"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    loaded = Measurements.load(tmp_path)
    for read in (
        lambda: loaded.moments(FC),
        lambda: loaded.rows(FC),
        lambda: loaded.maps(FC, "cell_iou"),
        lambda: loaded.weights(FC, "weight_correlation"),
    ):
        with pytest.raises(UserError, match=r"cannot read .*\.npy \(its content is not what was"):
            read()


@pytest.mark.parametrize("name", ["moments-0.npy", "objects.parquet", "meta.json"])
def test_a_file_that_is_cut_or_lacking_is_named(
    measured: Measurements, tmp_path: Path, name: str
) -> None:
    measured.save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"; delete .* and (measure|run the command) again"):
        Measurements.load(tmp_path).moments(CONV)
    if name.endswith("npy"):
        assert stored_provenance(tmp_path) is None
    path.unlink()
    with pytest.raises(UserError, match=name):
        Measurements.load(tmp_path)
    assert stored_provenance(tmp_path) is None


@pytest.mark.parametrize(
    "meta",
    [
        "[]",
        '{"arrays": []}',
        '{"provenance": {}, "arrays": [{"name": ["moments", "a", "b"]}]}',
        '{"provenance": {}, "arrays": [{"name": "m", "file": "../../etc/x", "crc32": 1}]}',
    ],
)
def test_a_meta_file_of_something_else_is_refused(
    measured: Measurements, tmp_path: Path, meta: str
) -> None:
    measured.save(tmp_path)
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(UserError, match="does not hold measurements"):
        Measurements.load(tmp_path)


@pytest.mark.parametrize("saved_before", [True, False])
def test_a_disk_that_fills_up_while_saving_leaves_what_was_there(
    measured: Measurements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_before: bool
) -> None:
    if saved_before:
        measured.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    put, count = store_files._ArrayFile._put, []

    def fills_up(self: store_files._ArrayFile, values: Array) -> None:
        count.append(1)
        put(self, values)
        if len(count) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_files._ArrayFile, "_put", fills_up)
    with pytest.raises(UserError, match=rf"cannot write {tmp_path}/.*\.npy: No space left"):
        measured.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_parts_are_put_together(measured: Measurements, tmp_path: Path) -> None:
    """Also where the first and the last image lack a map, and one has no objects."""
    paths = []
    for image_id in measured.image_ids:
        ids = measured.objects[["image_id", "object_id"]]
        chosen = ids[ids["image_id"] == image_id].itertuples(index=False, name=None)
        part = measured.restrict(list(chosen))
        arrays = {n: part.array(n) for n in part.names if n[0] != "weights"}
        if image_id in (0, 3):
            del arrays["maps", "demo", "fc", "cell_iou"]
        paths.append(tmp_path / str(image_id))
        write_part(part.objects, arrays, paths[-1])
    paths.insert(2, tmp_path / "empty")
    write_part(Measurements.empty().objects, {}, paths[2])
    weights = {("weights", "new", "fc", "weight_correlation"): np.ones(4, np.float32)}
    join_parts(paths, tmp_path / "whole", "new", weights, {"a": "b"})
    whole = Measurements.load(tmp_path / "whole")
    assert whole.provenance == {"a": "b"}
    expected = measured.to_frame().assign(detector="new")
    pd.testing.assert_frame_equal(whole.to_frame(), expected)
    key = ("new", "fc")
    np.testing.assert_array_equal(whole.rows(key), measured.rows(FC))
    found, maps = whole.maps(key, "cell_iou"), measured.maps(FC, "cell_iou")
    assert found is not None
    assert maps is not None
    lacking = measured.objects["image_id"].isin([0, 3]).to_numpy()
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), lacking)
    np.testing.assert_array_equal(found[~lacking], maps[~lacking])
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"cannot read {paths[1]}"):
        join_parts(paths, tmp_path / "again", "new", weights, {})


def test_maps_of_another_width_are_refused(measured: Measurements, tmp_path: Path) -> None:
    name = ("maps", "demo", "fc", "cell_iou")
    for image_id, width in ((0, 9), (1, 16)):
        objects = measured.objects[measured.objects["image_id"] == image_id]
        arrays = {name: np.ones((len(objects), width), np.float32)}
        write_part(objects, arrays, tmp_path / str(image_id))
    with pytest.raises(UserError, match=r"has \(16,\) values of one object and \(9,\) of another"):
        join_parts([tmp_path / "0", tmp_path / "1"], tmp_path / "m", "demo", {}, {})
