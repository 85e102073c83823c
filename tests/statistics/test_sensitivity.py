"""Spatial correlations and responses against loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from rethink_heads.errors import UserError
from rethink_heads.measure.store import Measurements
from rethink_heads.statistics.bootstrap import ImageBootstrap
from rethink_heads.statistics.comparison import (
    COMPARED_RESPONSES,
    compare,
    compare_decay,
    compare_responses,
)
from rethink_heads.statistics.sensitivity import (
    RESPONSE_KINDS,
    correlation_map,
    decay,
    distinct_pairs,
    response,
    response_summary,
)
from tests.frames import from_frames
from tests.synthetic_measurements import synthetic_measurements

Array = npt.NDArray[np.float64]
SIDE = 3
KINDS = ("spatial_correlation", *RESPONSE_KINDS)
CELLS = SIDE**2


def with_maps(bins: pd.DataFrame, kind: str, make: Callable[[int], Array]) -> Measurements:
    """Measurements with a map of a kind for each object and head of ``bins``."""
    return from_frames(bins, maps=frame_of_maps(bins, make, kind))


def frame_of_maps(
    bins: pd.DataFrame, make: Callable[[int], Array], kind: str = "spatial_correlation"
) -> pd.DataFrame:
    keys = ["image_id", "object_id", "detector", "head"]
    maps = bins[keys].drop_duplicates().assign(kind=kind).reset_index(drop=True)
    return maps.assign(values=[make(number).astype(np.float32) for number in range(len(maps))])


def correlations(number: int) -> Array:
    """Cosines between the cells of a random output map, more alike for every other map."""
    generator = np.random.default_rng(number)
    cells = generator.normal(size=(CELLS, 16)) + (number % 2)
    cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    return (cells @ cells.T).ravel()


@pytest.fixture(scope="module")
def correlated(simulate: Callable[..., Any]) -> Measurements:
    return with_maps(simulate(images=5).bins, "spatial_correlation", correlations)


def maps_of(m: Measurements, head: str, size: str = "all") -> Array:
    kind = next(kind for kind in KINDS if m.map_keys(kind))
    maps = m.maps(("run", head), kind)
    chosen = slice(None) if size == "all" else m.objects["size"].to_numpy() == size
    return maps[chosen].astype(float)


@pytest.mark.parametrize("size", ["small", "all"])
def test_correlation_map_is_the_mean_over_objects(correlated: Measurements, size: str) -> None:
    found = correlation_map(correlated, size)
    assert set(found) == {("run", head, "spatial_correlation") for head in ("fc", "conv")}
    mean = found["run", "fc", "spatial_correlation"]
    assert mean.shape == (CELLS, CELLS)
    np.testing.assert_allclose(mean.ravel(), maps_of(correlated, "fc", size).mean(axis=0))


def test_distinct_pairs_against_a_loop(correlated: Measurements) -> None:
    frame = distinct_pairs(correlated, replicates=70, seed=4)
    row = frame[(frame["head"] == "conv") & (frame["size"] == "all")].iloc[0]
    per_object = []
    for values in maps_of(correlated, "conv"):
        pairs = [values[a * CELLS + b] for a in range(CELLS) for b in range(CELLS) if a != b]
        per_object.append(float(np.mean(pairs, dtype=float)))
    assert row["mean"] == pytest.approx(np.mean(per_object))
    assert row["objects"] == len(per_object) == 15
    assert row["mean_low"] < row["mean"] < row["mean_high"]


def test_decay_against_a_loop_over_pairs(correlated: Measurements) -> None:
    frame = decay(correlated, replicates=10)
    found = frame[(frame["head"] == "fc") & (frame["size"] == "medium")]
    maps = maps_of(correlated, "fc", "medium")
    groups: dict[int, list[tuple[float, float]]] = {}
    for a in range(CELLS):
        for b in range(a + 1, CELLS):
            distance = math.dist(divmod(a, SIDE), divmod(b, SIDE))
            pair = (distance, float(maps[:, a * CELLS + b].mean()))
            groups.setdefault(round(distance), []).append(pair)
    assert len(found) == len(groups) == 3
    for number, (_, row) in zip(sorted(groups), found.iterrows(), strict=True):
        distances, values = zip(*groups[number], strict=True)
        assert row["distance"] == pytest.approx(np.mean(distances))
        assert row["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        assert row["pairs"] == len(values)
        assert row["objects"] == len(maps)


def test_maps_of_weights_have_no_interval(correlated: Measurements) -> None:
    weights = pd.DataFrame(
        {
            "image_id": -1,
            "object_id": -1,
            "size": "",
            "detector": "run",
            "head": "fc",
            "kind": "weight_correlation",
            "values": [correlations(0)],
        }
    )
    bins = correlated.to_frame()
    m = from_frames(bins, maps=pd.concat([frame_of_maps(bins, correlations), weights]))
    key = ("run", "fc", "weight_correlation")
    np.testing.assert_allclose(correlation_map(m)[key].ravel(), correlations(0), atol=1e-6)
    frame = distinct_pairs(m, replicates=10)
    row = frame[frame["kind"] == "weight_correlation"]
    assert len(row) == 1
    off_diagonal = correlations(0).reshape(CELLS, CELLS)[~np.eye(CELLS, dtype=bool)]
    assert row["mean"].item() == pytest.approx(off_diagonal.mean())
    assert row[["mean_low", "mean_high"]].isna().all(axis=None)
    assert row["objects"].item() == 0
    assert (decay(m, replicates=10)["kind"] == "weight_correlation").sum() == 3


def test_spatial_correlation_is_compared_pairwise(correlated: Measurements) -> None:
    frame = compare(correlated, "spatial_correlation", ("run", "fc"), ("run", "conv"))
    alone = distinct_pairs(correlated).set_index(["head", "size"])["mean"]
    for _, row in frame.iterrows():
        assert row["value_a"] == pytest.approx(alone["fc", row["size"]])
        assert row["value_b"] == pytest.approx(alone["conv", row["size"]])
    # conv's maps are those with an offset that all cells share.
    assert frame["excludes_zero"].all()
    assert (frame["difference"] < 0).all()


A, B = ("run", "fc"), ("run", "conv")


def test_decay_is_compared_pairwise(
    correlated: Measurements, interval_by_hand: Callable[..., tuple[float, float]]
) -> None:
    frame = compare_decay(correlated, A, B, replicates=60)
    alone = decay(correlated, replicates=5).set_index(["head", "size", "distance"])["mean"]
    assert len(frame) == 4 * 3  # distances of 3 x 3 cells round to 1, 2 and 3
    for _, row in frame.iterrows():
        value_a, value_b = (alone[head, row["size"], row["distance"]] for head in ("fc", "conv"))
        assert row["value_a"] == pytest.approx(value_a)
        assert row["value_b"] == pytest.approx(value_b)
        assert row["difference"] == pytest.approx(value_a - value_b)
    # conv's maps are those with an offset that all cells share.
    assert frame["excludes_zero"].all()
    assert (frame["difference_high"] < 0).all()
    # The interval by hand: of the mean over objects of the differences of neighbours' cosines.
    places = np.stack(np.divmod(np.arange(CELLS), SIDE), axis=1)
    neighbours = np.abs(places[:, None] - places).max(axis=-1) == 1
    differences = (maps_of(correlated, "fc") - maps_of(correlated, "conv"))[:, neighbours.ravel()]
    images = correlated.objects["image_id"].to_numpy()
    # Each image has as many objects as another.
    by_image = pd.Series(differences.mean(axis=1)).groupby(images).mean().to_numpy()
    weights = ImageBootstrap(correlated.image_ids, 60).weights
    replicates = weights @ by_image / len(by_image)
    expected = interval_by_hand(replicates, by_image.mean(), np.ones(len(by_image)).tolist())
    row = frame[(frame["size"] == "all") & (frame["distance"] < 1.5)].iloc[0]
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", COMPARED_RESPONSES)
def test_responses_are_compared_pairwise(kind: str) -> None:
    m = synthetic_measurements({"run": ("fc", "conv")}, images=12, objects_per_size=1, rows=False)
    frame = compare_responses(m, kind, A, B, replicates=80)
    alone = response_summary(m, kind, replicates=5)
    alone = alone.set_index(["head", "size", "quantity"])["value"]
    assert len(frame) == 4 * len(COMPARED_RESPONSES[kind])
    for _, row in frame.iterrows():
        assert row["value_a"] == alone["fc", row["size"], row["quantity"]]
        assert row["value_b"] == alone["conv", row["size"], row["quantity"]]
    np.testing.assert_array_equal(
        frame["objects"], [12] * (len(frame) * 3 // 4) + [36] * (len(frame) // 4)
    )
    np.testing.assert_allclose(frame["difference"], frame["value_a"] - frame["value_b"])
    certain = frame[(frame["size"] == "all") & ~frame["quantity"].isin(["drop_dx", "drop_dy"])]
    if kind != "cell_iou":
        # The made-up fc-head falls off sooner, and minds zeroed cells more.
        assert certain["excludes_zero"].all()


def test_responses_that_cannot_be_compared_are_said(correlated: Measurements) -> None:
    with pytest.raises(UserError, match="no cell_iou measurements of run/fc"):
        compare_responses(correlated, "cell_iou", A, B)
    with pytest.raises(UserError, match="unknown response 'x'; there are displacement_score"):
        compare_responses(correlated, "x", A, B)
    bins = correlated.to_frame()
    maps = frame_of_maps(bins, correlations)
    finer = maps["head"] == "conv"
    maps.loc[finer, "values"] = pd.Series([np.ones(256)] * finer.sum(), maps.index[finer])
    with pytest.raises(UserError, match="run/fc and run/conv have different numbers of positions"):
        compare_decay(from_frames(bins, maps=maps), A, B, replicates=5)


def test_sizes_and_kinds_that_are_not_there(simulate: Callable[..., Any]) -> None:
    bins = simulate(images=3, sizes=("large",)).bins
    m = with_maps(bins, "spatial_correlation", correlations)
    frame = distinct_pairs(m, replicates=5).set_index(["head", "size"])
    assert frame.loc[("fc", "small"), "objects"] == 0
    assert np.isnan(frame.loc[("fc", "small"), "mean"])
    assert correlation_map(m, "small") == {}
    assert response(m, "cell_iou").empty
    assert "mean" in response(m, "cell_iou").columns
    assert decay(from_frames(bins)).empty
    assert distinct_pairs(from_frames(bins)).empty
    with pytest.raises(UserError, match="unknown response 'heat'"):
        response(m, "heat")


def test_response_is_the_mean_map_with_places(simulate: Callable[..., Any]) -> None:
    bins = simulate(images=6).bins
    m = with_maps(bins, "displacement_score", lambda n: np.random.default_rng(n).random(21 * 21))
    frame = response(m, "displacement_score", replicates=60)
    found = frame[(frame["head"] == "conv") & (frame["size"] == "all")]
    maps = maps_of(m, "conv").reshape(-1, 21, 21)
    picture = found.pivot(index="row", columns="column", values="mean").to_numpy()
    np.testing.assert_allclose(picture, maps.mean(axis=0))
    place = found[(found["row"] == 4) & (found["column"] == 17)].iloc[0]
    assert place["dy"] == pytest.approx(-0.6)
    assert place["dx"] == pytest.approx(0.7)
    assert place["mean_low"] < place["mean"] < place["mean_high"]
    assert place["objects"] == 18


def test_displacement_summary_of_a_known_response(simulate: Callable[..., Any]) -> None:
    """Tents of height p over the objects: p (1 - |dx| / 0.8) (1 - |dy| / 1.6), none below 0."""
    steps = np.linspace(-1, 1, 21)

    def tent(number: int) -> Array:
        across = np.maximum(1 - np.abs(steps) / 0.8, 0)
        down = np.maximum(1 - np.abs(steps) / 1.6, 0)
        return ((0.5 + 0.01 * number) * down[:, None] * across).ravel()

    m = with_maps(simulate(images=6).bins, "displacement_score", tent)
    frame = response_summary(m, "displacement_score", replicates=60)
    found = frame[(frame["head"] == "fc") & (frame["size"] == "all")].set_index("quantity")
    peak = maps_of(m, "fc")[:, 10 * 21 + 10].mean()
    expected = {
        "score": peak,
        "drop_dx": peak * 0.5 / 0.8,
        "drop_dy": peak * 0.5 / 1.6,
        "half_width_dx": 0.4,
        "half_width_dy": 0.8,
    }
    assert set(found.index) == set(expected)
    for quantity, value in expected.items():
        assert found.loc[quantity, "value"] == pytest.approx(value, abs=1e-6)
    assert found.loc["score", "value_low"] < peak < found.loc["score", "value_high"]
    # The tents differ in height only, but for rounding.
    assert not found.loc["half_width_dx", "value_low"] < 0.4 - 1e-6


def test_a_response_that_never_halves_has_no_half_width(simulate: Callable[..., Any]) -> None:
    m = with_maps(simulate(images=3).bins, "displacement_score", lambda _: np.ones(25))
    frame = response_summary(m, "displacement_score", replicates=5).set_index("quantity")
    assert frame.loc["half_width_dx", "value"].isna().all()
    assert (frame.loc["drop_dy", "value"] == 0).all()


def test_cell_summary_against_numpy(simulate: Callable[..., Any]) -> None:
    bins = simulate(images=6).bins
    m = with_maps(bins, "cell_score", lambda n: np.random.default_rng(n).normal(-0.1, 1, 49))
    frame = response_summary(m, "cell_score", replicates=60)
    found = frame[(frame["head"] == "fc") & (frame["size"] == "small")].set_index("quantity")
    maps = maps_of(m, "fc", "small")
    mean = maps.mean(axis=0)
    expected = {
        "mean_change": maps.mean(),
        "mean_absolute_change": np.abs(maps).mean(),
        "largest_change": mean[np.abs(mean).argmax()],
        "cell_spread": mean.std(),
    }
    for quantity, value in expected.items():
        assert found.loc[quantity, "value"] == pytest.approx(value)
    assert (found["objects"] == len(maps)).all()
    assert found.loc["mean_absolute_change", "value_low"] > 0


def test_boxes_displaced_out_of_the_image_do_not_count(simulate: Callable[..., Any]) -> None:
    """A place that is nan for some objects is the mean of the others; one nan for all stays nan."""

    def make(number: int) -> Array:
        values = np.full(49, 1.0 + number)
        values[0] = np.nan
        if number % 2:
            values[10] = np.nan
        return values

    m = with_maps(simulate(images=5).bins, "displacement_score", make)
    frame = response(m, "displacement_score", replicates=50)
    fc_rows = frame[(frame["head"] == "fc") & (frame["size"] == "all")].reset_index(drop=True)
    expected = np.nanmean(maps_of(m, "fc")[:, 1:], axis=0)
    np.testing.assert_allclose(fc_rows["mean"].to_numpy()[1:], expected)
    assert np.isnan(fc_rows["mean"][0])
    assert fc_rows[["mean_low", "mean_high"]].iloc[1:].notna().all(axis=None)
    summary = response_summary(m, "displacement_score", replicates=50).set_index(
        ["head", "size", "quantity"]
    )
    assert np.isfinite(summary.loc[("fc", "all", "drop_dx"), "value"])
    assert np.isfinite(summary.loc[("fc", "all", "score"), "value_low"])
