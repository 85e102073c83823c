"""Correlations, curves and errors by IoU against scipy and numpy on the raw rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rethink_heads.errors import UserError
from rethink_heads.statistics import bootstrap
from rethink_heads.statistics.bootstrap import BootstrapEstimate, ImageBootstrap
from rethink_heads.statistics.by_iou import (
    error_components,
    object_correlations,
    pearson,
    regressed_iou_by_iou,
    score_by_iou,
    spearman,
)
from rethink_heads.statistics.ranks import (
    RankedRows,
    numbered,
    rank_replicates,
    slopes_by_image,
    weighted_spearman,
)
from tests.frames import from_frames

SIZES = ("small", "medium", "large", "all")


def row_of(frame: pd.DataFrame, head: str, size: str) -> pd.Series:
    found = frame[(frame["head"] == head) & (frame["size"] == size)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("iou_range", [(0.0, 1.0), (0.5, 1.0), (0.15, 0.85)])
def test_pearson_against_scipy_on_raw_rows(
    simulated: Any, size: str, iou_range: tuple[float, float]
) -> None:
    frame = pearson(simulated.measurements, iou_range, replicates=20)
    for head in ("fc", "conv"):
        raw = simulated.of(head, size)
        last = np.inf if iou_range[1] == 1 else iou_range[1]
        raw = raw[(raw["iou"] >= iou_range[0]) & (raw["iou"] < last)]
        row = row_of(frame, head, size)
        expected = scipy.stats.pearsonr(raw["iou"], raw["score"]).statistic
        assert row["pcc"] == pytest.approx(expected, abs=1e-10)
        own = [
            scipy.stats.pearsonr(rows["iou"], rows["score"]).statistic
            for _, rows in raw.groupby("object_id")
        ]
        assert row["object_pcc"] == pytest.approx(np.mean(own), abs=1e-10)
        assert row["objects"] == len(own)
        assert row["proposals"] == len(raw)
        assert row["constant_objects"] == 0


def test_pearson_interval_against_resampled_raw_rows(
    simulated: Any, interval_by_hand: Callable[..., tuple[float, float]]
) -> None:
    """The moments' replicates are those of raw rows drawn image by image."""
    frame = pearson(simulated.measurements, replicates=40, seed=5)
    raw = simulated.of("fc", "medium")
    bootstrap = ImageBootstrap(simulated.measurements.image_ids, 40, seed=5)
    by_image = {image_id: rows for image_id, rows in raw.groupby("image_id")}

    def drawn_statistics(image_ids: Iterable[int]) -> tuple[float, float]:
        copies = [by_image[image_id] for image_id in image_ids if image_id in by_image]
        objects = [rows for copy in copies for _, rows in copy.groupby("object_id")]
        pccs = [np.corrcoef(rows["iou"], rows["score"])[0, 1] for rows in objects]
        rows = pd.concat(copies)
        return float(np.corrcoef(rows["iou"], rows["score"])[0, 1]), float(np.mean(pccs))

    draws = bootstrap.weights.astype(int)
    replicates = np.array(
        [drawn_statistics(np.repeat(bootstrap.image_ids, drawn)) for drawn in draws]
    )
    row = row_of(frame, "fc", "medium")
    proposals = [len(rows) for rows in by_image.values()]
    objects = [rows["object_id"].nunique() for rows in by_image.values()]
    for place, (name, weights) in enumerate([("pcc", proposals), ("object_pcc", objects)]):
        value, low, high = row[[name, f"{name}_low", f"{name}_high"]]
        expected = interval_by_hand(replicates[:, place], value, weights, is_correlation=True)
        np.testing.assert_allclose([low, high], expected, atol=1e-10)


def test_objects_without_variance_are_left_out_and_counted(simulate: Callable[..., Any]) -> None:
    constant = simulate(images=6, objects=2, sizes=("small",))
    bins = constant.bins.copy()
    still = bins["object_id"].isin([1000, 1100])
    # A score of 0.1 wherever the proposal lies: sums that rounding keeps from being exact.
    for column, value in (("sum_score", bins["n"] * 0.1), ("sum_score_score", bins["n"] * 0.01)):
        bins.loc[still, column] = value[still]
    bins.loc[still, "sum_iou_score"] = bins["sum_iou"][still] * 0.1
    m = from_frames(bins)
    row = row_of(pearson(m, replicates=10), "fc", "small")
    assert row["objects"] == 12
    assert row["constant_objects"] == 2
    raw = constant.of("fc")
    own = [
        scipy.stats.pearsonr(rows["iou"], rows["score"]).statistic
        for object_id, rows in raw.groupby("object_id")
        if object_id not in (1000, 1100)
    ]
    assert row["object_pcc"] == pytest.approx(np.mean(own))


def test_a_size_without_objects_keeps_its_row(simulate: Callable[..., Any]) -> None:
    measurements = simulate(images=3, sizes=("small",)).measurements
    for frame, value in (
        (pearson(measurements, replicates=10), "pcc"),
        (spearman(measurements, replicates=10), "spearman"),
    ):
        assert frame["size"].tolist() == list(SIZES) * 2
        row = row_of(frame, "fc", "large")
        assert row["objects"] == 0
        assert np.isnan([row[value], row[f"{value}_low"], row[f"{value}_high"]]).all()
        assert row_of(frame, "fc", "all")[value] == row_of(frame, "fc", "small")[value]


@pytest.mark.parametrize("function", [pearson, spearman])
@pytest.mark.parametrize(
    ("iou_range", "message"),
    [
        ((0.5, 0.98), "multiples of 0.05"),
        ((0.5, 0.5), "0 <= low < high <= 1"),
        ((-0.1, 1.0), "0 <= low < high <= 1"),
        ((0.5, 1.5), "0 <= low < high <= 1"),
        ((float("nan"), 1.0), "0 <= low < high <= 1"),
    ],
)
def test_ranges_that_are_not_of_whole_bins_are_refused(
    simulated: Any, function: Callable[..., Any], iou_range: tuple[float, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        function(simulated.measurements, iou_range)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", ["fc", "conv"])
def test_spearman_against_scipy(simulated: Any, head: str, size: str) -> None:
    frame = spearman(simulated.measurements, (0.5, 1.0), replicates=5)
    raw = simulated.of(head, size)
    raw = raw[raw["iou"] >= 0.5]
    expected = scipy.stats.spearmanr(raw["iou"], raw["score"]).statistic
    row = row_of(frame, head, size)
    assert row["spearman"] == pytest.approx(expected, abs=1e-12)
    assert row["rows"] == len(raw)
    assert row["objects"] == raw["object_id"].nunique()


def ranked_sample(images: int, rows: int, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "image_id": generator.integers(0, images, size=rows),
            "iou": generator.random(rows).round(1),
            "weight": generator.integers(1, 5, size=rows).astype(float),
        }
    )
    offset = generator.normal(0, 0.3, images)[found["image_id"]]
    found["score"] = (found["iou"] + offset + generator.normal(0, 0.3, rows)).round(1)
    return found


def rank_correlation_of(rows: pd.DataFrame, bootstrap: ImageBootstrap) -> BootstrapEstimate:
    places = numbered(rows["iou"].to_numpy()), numbered(rows["score"].to_numpy())
    correlation, slope = weighted_spearman(*places, rows["weight"].to_numpy())
    by_image = slopes_by_image(slope, rows["image_id"].to_numpy(), bootstrap)
    value, images = np.array(correlation), np.array(rows["image_id"].nunique())
    return BootstrapEstimate(value, rank_replicates(value, by_image, bootstrap), images)


def test_weighted_spearman_is_that_of_expanded_rows() -> None:
    rows = ranked_sample(6, 120)
    expanded = rows.loc[rows.index.repeat(rows["weight"].astype(int))]
    expected = scipy.stats.spearmanr(expanded["iou"], expanded["score"]).statistic
    found = rank_correlation_of(rows, ImageBootstrap(range(6), 1)).value
    assert found == pytest.approx(expected, abs=1e-12)


def test_replicates_of_ranks_follow_the_weights_of_images() -> None:
    """To the first order: the derivative by each image's weight is that of finite differences of the value."""
    rows, bootstrap, step = ranked_sample(6, 120), ImageBootstrap(range(6), 15), 1e-4
    resampled = rank_correlation_of(rows, bootstrap)

    def value(image: int, factor: float) -> float:
        weight = rows["weight"].where(rows["image_id"] != image, rows["weight"] * factor)
        return float(rank_correlation_of(rows.assign(weight=weight), bootstrap).value)

    slope = [(value(i, 1 + step) - value(i, 1 - step)) / (2 * step) for i in range(6)]
    change = (bootstrap.weights - 1) @ slope / (1 - resampled.value**2)
    assert np.arctanh(resampled.replicates) == pytest.approx(
        np.arctanh(resampled.value) + change, abs=1e-6
    )


def test_replicates_of_ranks_spread_as_those_that_are_ranked_anew() -> None:
    rows, bootstrap = ranked_sample(100, 2000), ImageBootstrap(range(100), 300)
    anew = []
    for drawn in bootstrap.weights:
        copies = (rows["weight"] * drawn[rows["image_id"]]).astype(int)
        expanded = rows.loc[rows.index.repeat(copies)]
        anew.append(scipy.stats.spearmanr(expanded["iou"], expanded["score"]).statistic)
    found = rank_correlation_of(rows, bootstrap).replicates
    assert np.corrcoef(found, anew)[0, 1] > 0.99
    assert np.std(found) == pytest.approx(np.std(anew), rel=0.05)


def test_spearman_of_a_score_that_does_not_vary_is_nan(simulate: Callable[..., Any]) -> None:
    made = simulate(images=3)
    flat = from_frames(made.bins, made.rows.assign(score=0.25))
    frame = spearman(flat, replicates=5)
    assert frame[["spearman", "spearman_low", "spearman_high"]].isna().all(axis=None)


@pytest.mark.parametrize("size", SIZES)
def test_score_by_iou_against_raw_rows(simulated: Any, size: str) -> None:
    frame = score_by_iou(simulated.measurements, replicates=50)
    found = frame[(frame["head"] == "conv") & (frame["size"] == size)].set_index("bin")
    assert found.index.tolist() == list(range(20))
    raw = simulated.of("conv", size)
    for number, row in found.iterrows():
        rows = raw[raw["bin"] == number]
        assert row["proposals"] == len(rows)
        assert row["objects"] == rows["object_id"].nunique()
        assert row["iou_low"] == pytest.approx(number / 20)
        assert row["iou_high"] == pytest.approx((number + 1) / 20)
        if rows.empty:
            assert np.isnan([row["mean"], row["std"]]).all()
            continue
        assert row["mean"] == pytest.approx(rows["score"].mean())
        assert row["std"] == pytest.approx(rows["score"].std(ddof=0), abs=1e-7)
        ends = np.array([[row["mean_low"], row["mean_high"]], [row["std_low"], row["std_high"]]])
        weights = rows["image_id"].value_counts()
        images = weights.sum() ** 2 / (weights**2).sum()
        # Scores that are all the same have no spread, and it no interval; a spread takes twice as many images.
        varies = rows["score"].std() > 1e-9
        for place, fewest in enumerate((1, 2)):
            low, high = ends[place]
            has_interval = varies and images >= fewest * bootstrap.FEWEST_IMAGES
            assert low < high if has_interval else np.isnan([low, high]).all()


def drawn_rows(whole: pd.DataFrame, per_bin: int, seed: int) -> pd.DataFrame:
    """So many proposals of each object and bin, each standing for as many as are left out."""
    strata = whole.sample(frac=1, random_state=seed).groupby(["object", "bin"])
    drawn = strata.head(per_bin)
    return drawn.assign(weight=strata["iou"].transform("size")[drawn.index] / per_bin)


@pytest.mark.parametrize("per_bin", [2, 12])
def test_the_error_of_ranking_some_proposals_is_the_spread_of_such_ranks(per_bin: int) -> None:
    generator = np.random.default_rng(0)
    count = 16 * 20 * 60
    number = np.arange(count) // 60
    whole = pd.DataFrame({"object_id": number // 20, "bin": number % 20, "weight": 1.0})
    whole["image_id"] = whole["object_id"] // 2
    whole["iou"] = (whole["bin"] + generator.random(count)) / 20
    whole["score"] = whole["iou"] ** 2 + generator.normal(0, 0.2, count)
    whole = whole.rename(columns={"object_id": "object"})

    def value(rows: pd.DataFrame) -> float:
        return float(rank_correlation_of(rows, ImageBootstrap(whole["image_id"], 1)).value)

    def error(rows: pd.DataFrame) -> float:
        return RankedRows.of(rows.to_records(index=False)).sampling_error

    draws = [drawn_rows(whole, per_bin, seed) for seed in range(80)]
    found = [value(rows) for rows in draws]
    stated = np.sqrt(np.mean([error(rows) ** 2 for rows in draws[:20]]))
    assert stated == pytest.approx(np.std(found), rel=0.2)
    assert abs(np.mean(found) - value(whole)) < stated
    assert error(whole) == 0
    assert np.isnan(error(drawn_rows(whole, 1, 0)))


def test_each_objects_numbers_against_raw_rows(simulated: Any) -> None:
    found = object_correlations(simulated.measurements, (0.5, 1.0))
    assert len(found) == 2 * 24
    whole = pearson(simulated.measurements, (0.5, 1.0), replicates=2)
    for head in ("fc", "conv"):
        head_rows = found[found["head"] == head].set_index(["image_id", "object_id"])
        raw = simulated.of(head)
        for ids, rows in raw[raw["iou"] >= 0.5].groupby(["image_id", "object_id"]):
            row, high = head_rows.loc[ids], rows[rows["iou"] >= 0.7]
            expected = scipy.stats.pearsonr(rows["iou"], rows["score"]).statistic
            assert row["pcc"] == pytest.approx(expected, abs=1e-10)
            assert row["score"] == pytest.approx(high["score"].mean())
            assert row["regressed_iou"] == pytest.approx(high["regressed_iou"].mean())
            assert (row["proposals"], row["size"]) == (len(rows), rows["size"].iloc[0])
        assert head_rows["pcc"].mean() == pytest.approx(row_of(whole, head, "all")["object_pcc"])


COMPONENTS = ("dx", "dy", "dw", "dh")


def test_regressed_iou_and_gain_against_raw_rows(simulated: Any) -> None:
    frame = regressed_iou_by_iou(simulated.measurements, replicates=60, seed=2)
    found = frame[(frame["head"] == "fc") & (frame["size"] == "all")].set_index("bin")
    raw = simulated.of("fc")
    rows = raw[raw["bin"] == 15]
    row = found.loc[15]
    assert row["mean"] == pytest.approx(rows["regressed_iou"].mean())
    assert row["std"] == pytest.approx(rows["regressed_iou"].std(ddof=0))
    gain = rows["regressed_iou"] - rows["iou"]
    assert row["gain"] == pytest.approx(gain.mean())
    assert row["gain_low"] < row["gain"] < row["gain_high"]


@pytest.mark.parametrize("size", ["small", "all"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_error_components_against_raw_rows(simulated: Any, size: str, component: str) -> None:
    frame = error_components(simulated.measurements, replicates=50)
    chosen = (frame["head"] == "conv") & (frame["size"] == size)
    row = frame[chosen & (frame["component"] == component)].iloc[0]
    rows = simulated.of("conv", size)
    errors = rows[component]
    assert row["mean"] == pytest.approx(errors.mean())
    assert row["rms"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert row["mae"] == pytest.approx(errors.abs().mean())
    assert row["proposals"] == len(rows)
    assert row["objects"] == rows["object_id"].nunique()
    for name in ("mean", "rms", "mae"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_error_components_by_bin(simulated: Any) -> None:
    frame = error_components(simulated.measurements, by_bin=True, replicates=20)
    assert len(frame) == 2 * 4 * 4 * 20
    chosen = frame[(frame["head"] == "fc") & (frame["size"] == "large")]
    raw = simulated.of("fc", "large")
    row = chosen[(chosen["component"] == "dh") & (chosen["bin"] == 18)].iloc[0]
    errors = raw.loc[raw["bin"] == 18, "dh"]
    assert row["rms"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert row["proposals"] == len(errors)
    assert row["iou_low"] == pytest.approx(0.9)
