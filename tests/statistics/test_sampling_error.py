"""Errors of sampling: against numerical derivatives, against many draws, and inside the intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rethink_heads.measure.moments import ERRORS
from rethink_heads.measure.sampling import draw, generator
from rethink_heads.measure.store import Measurements
from rethink_heads.statistics.bootstrap import ImageBootstrap
from rethink_heads.statistics.by_iou import pearson, regressed_iou_by_iou, score_by_iou
from rethink_heads.statistics.comparison import compare
from rethink_heads.statistics.sampling_error import (
    SCORE_TOTALS,
    Covariances,
    mean_error,
    pearson_bias_and_variance,
    pearson_error,
    proposals_per_object,
    standard_deviation_error,
)
from rethink_heads.statistics.sums import PEARSON_SUMS, moments_of, pearson_correlation
from tests.frames import from_frames, reduce_values, sampling_covariances

SIZES_OF_BINS = np.array(
    [133, 179, 124, 41, 56, 72, 104, 92, 123, 44, 80, 95, 59, 93, 41, 34, 24, 46, 13, 12]
)
ONCE: dict[str, Any] = {"replicates": 1}


@dataclass(frozen=True)
class Grid:
    """An object's whole grid, a tenth of a real one, and what a head made of it."""

    image_id: int
    object_id: int
    bins: np.ndarray
    values: dict[str, np.ndarray]


def grids(images: int, objects: int, spread: float = 0.05, noise: float = 0.2) -> list[Grid]:
    """Objects whose scores rise with IoU, each at another place."""
    random = np.random.default_rng(7)
    bins = np.repeat(np.arange(20), SIZES_OF_BINS)
    found = []
    for image_id in range(images):
        image_ease = random.normal(0.5, spread)
        for number in range(objects):
            iou = (bins + random.random(len(bins))) / 20
            middle = image_ease + random.normal(0, spread)
            score = 1 / (
                1 + np.exp(-10 * (iou - middle) + noise * 10 * random.normal(size=len(bins)))
            )
            box = np.clip(np.sqrt(iou) - 0.2 * random.random(len(bins)), 0, 1)
            values = {"iou": iou, "score": score, "regressed_iou": box}
            values |= {name: random.normal(size=len(bins)) for name in ERRORS}
            found.append(Grid(image_id, 10 * image_id + number, bins, values))
    return found


def measured(
    objects: Sequence[Grid], wanted: int | None = None, seed: int = 0, head: str = "fc"
) -> Measurements:
    """Measurements of whole grids, or of some of their proposals."""
    bins, errors = [], []
    for each in objects:
        chosen, weights = np.arange(len(each.bins)), np.ones(len(each.bins))
        if wanted is not None:
            random = generator("proposals", seed, each.object_id)
            chosen, weights = (t.numpy() for t in draw(torch.from_numpy(each.bins), wanted, random))
        some = {name: column[chosen] for name, column in each.values.items()}
        names = {"image_id": each.image_id, "object_id": each.object_id, "size": "small"}
        names |= {"class_name": "cat", "detector": "run", "head": head}
        bins.append(reduce_values(some, each.bins[chosen], weights).assign(**names))
        errors.append(sampling_covariances(some, each.bins[chosen], weights).assign(**names))
    return from_frames(pd.concat(bins), sampling=pd.concat(errors))


def all_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["size"] == "all"].reset_index(drop=True)


FEW = grids(2, 2)


@pytest.fixture(scope="module")
def whole() -> Measurements:
    return measured(FEW)


def test_the_whole_grid_has_no_error(whole: Measurements) -> None:
    table = all_sizes(pearson(whole, **ONCE))
    assert table["pcc_sampling_error"].tolist() == [0.0]
    assert table["object_pcc_sampling_error"].tolist() == [0.0]
    curves = all_sizes(regressed_iou_by_iou(whole, **ONCE))
    for name in ("mean", "std", "gain"):
        assert (curves[f"{name}_sampling_error"] == 0.0).all()
    assert proposals_per_object(whole) == (1465.0, 1465.0)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_drawing_all_gives_the_whole_grids_values_and_no_error(more: int, seed: int) -> None:
    all_drawn = measured(FEW, 1465 + more, seed)
    whole_grid = measured(FEW)
    assert all_drawn.sampling(("run", "fc")) is None
    for table in (pearson, score_by_iou, regressed_iou_by_iou):
        pd.testing.assert_frame_equal(
            table(all_drawn, **ONCE), table(whole_grid, **ONCE), check_exact=True
        )


@settings(max_examples=5, deadline=None)
@example(753, 285)
@given(st.integers(100, 1400), st.integers(0, 999))
def test_errors_of_objects_add_up_as_variances(wanted: int, seed: int) -> None:
    parts = [measured(FEW[:1], wanted, seed), measured(FEW[1:], wanted, seed)]
    merged = measured(FEW, wanted, seed)
    found = [Covariances.of(m, ("run", "fc"), SCORE_TOTALS) for m in (merged, *parts)]
    by_bin = [each.by_bin(np.ones(len(each.values), bool)) for each in found]
    first = np.arange(len(found[0].values)) < len(found[1].values)
    np.testing.assert_array_equal(found[0].by_bin(first), by_bin[1])
    np.testing.assert_array_equal(found[0].by_bin(~first), by_bin[2])
    # Sums of terms that cancel are as exact as the terms are large.
    rounding = len(first) * np.finfo(float).eps * np.abs(found[0].values).sum(axis=0)
    assert (np.abs(by_bin[0] - by_bin[1] - by_bin[2]) <= rounding[:, found[0].at]).all()
    np.testing.assert_allclose(found[0].by_object.sum(axis=0), by_bin[0].sum(axis=0), rtol=1e-9)
    # One bin's mean: independent of the other objects' draws.
    tables = [all_sizes(score_by_iou(m, **ONCE)) for m in (merged, *parts)]
    squares = [(each["mean_sampling_error"] * each["proposals"]) ** 2 for each in tables]
    np.testing.assert_allclose(squares[0], squares[1] + squares[2], rtol=1e-9)


totals = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=6, max_size=12)


@settings(max_examples=40, deadline=None)
@given(totals, st.integers(0, 999))
def test_errors_are_those_of_numerical_derivatives(points: list, seed: int) -> None:
    iou, score = np.array(points).T
    assume(min(iou.std(), score.std()) > 0.15)
    # Beyond 1 a correlation is cut off, and has no derivative.
    assume(abs(np.corrcoef(iou, score)[0, 1]) < 0.95)
    columns = [iou, score, iou * iou, score * score, iou * score]
    sums = np.array([len(iou), *(column.sum() for column in columns)])
    factor = np.random.default_rng(seed).normal(size=(5, 5))
    covariance = factor @ factor.T / 100

    def value(change: np.ndarray) -> float:
        return float(pearson_correlation(sums + np.array([0, *change])))

    step, unit = 1e-4, np.eye(5) * 1e-4
    slope = np.array([value(e) - value(-e) for e in unit]) / (2 * step)
    bend = np.array(
        [[value(a + b) - value(a - b) - value(b - a) + value(-a - b) for a in unit] for b in unit]
    ) / (4 * step**2)
    expected = slope @ covariance @ slope
    np.testing.assert_allclose(pearson_error(sums, covariance) ** 2, expected, rtol=1e-3, atol=1e-9)
    bias, variance = pearson_bias_and_variance(sums, covariance)
    product = bend @ covariance
    np.testing.assert_allclose(bias, np.trace(product) / 2, rtol=1e-2, atol=1e-4)
    curved = expected + np.trace(product @ product) / 2
    np.testing.assert_allclose(variance, curved, rtol=1e-2, atol=1e-4)

    spread = standard_deviation_error(sums[[0, 2, 4]], covariance, of=1, squares=3)

    def deviation(change: np.ndarray) -> float:
        n, y, yy = sums[0], sums[2] + change[1], sums[4] + change[3]
        return float(np.sqrt(yy / n - (y / n) ** 2))

    slope = np.array([deviation(e) - deviation(-e) for e in unit]) / (2 * step)
    np.testing.assert_allclose(spread**2, slope @ covariance @ slope, rtol=1e-3, atol=1e-9)
    difference = np.array([-1, 1, 0, 0, 0]) / sums[0]
    expected = difference @ covariance @ difference
    found = mean_error(sums[0], covariance, of=1, less=0)
    np.testing.assert_allclose(found**2, expected, rtol=1e-9)


def test_no_spread_has_no_error_and_no_correlation() -> None:
    values = np.full(4, 0.5)
    sums = np.array([4, *(v.sum() for v in [values, values, *[values**2] * 3])])
    nothing = np.zeros((5, 5))
    assert np.isnan(pearson_error(sums, nothing))
    assert pearson_bias_and_variance(sums, nothing) == (0.0, 0.0)
    assert standard_deviation_error(sums[[0, 2, 4]], nothing, 1, 3) == 0.0
    assert np.isnan(mean_error(np.array(0.0), nothing, 1))


def test_a_correlation_of_few_proposals_loses_its_bias() -> None:
    random = np.random.default_rng(0)
    population, n, draws = 400, 16, 40_000
    x = random.random(population) ** 2
    y = np.clip(x + 0.15 * random.normal(size=population), 0, 1)
    truth = np.corrcoef(x, y)[0, 1]
    chosen = np.argsort(random.random((draws, population)), axis=1)[:, :n]
    columns = np.stack([x, y, x * x, y * y, x * y], axis=-1)[chosen]
    scale = population / n
    sums = np.insert(columns.sum(axis=1) * scale, 0, population, axis=1)
    centred = columns - columns.mean(axis=1, keepdims=True)
    spread = np.einsum("dni,dnj->dij", centred, centred) / (n - 1)
    covariance = population**2 * (1 / n - 1 / population) * spread
    plain = pearson_correlation(sums)
    bias, variance = pearson_bias_and_variance(sums, covariance)
    error = (plain - truth).mean()
    assert abs(error) > 10 * plain.std() / np.sqrt(draws)  # there is one
    assert abs((plain - bias - truth).mean()) < abs(error) / 2
    # To the second order the variance is on the safe side where proposals are that few.
    found = (plain - bias).var()
    assert found < variance.mean() < 1.25 * found
    assert np.mean(np.abs(plain - bias - truth) < 1.96 * np.sqrt(variance)) > 0.85


def test_comparisons_take_the_same_values_of_the_objects_own() -> None:
    some = measured(FEW, 100)
    both = Measurements.merge([some, measured(FEW, 100, head="conv")])
    compared = all_sizes(compare(both, "object_pcc", ("run", "fc"), ("run", "conv"), **ONCE))
    single = all_sizes(pearson(some, **ONCE))
    assert compared["value_a"].tolist() == single["object_pcc"].tolist()
    assert compared["difference"].tolist() == [0.0]


def test_one_image_has_no_interval_but_an_error() -> None:
    table = all_sizes(pearson(measured(FEW[:2], 200)))
    assert table[["pcc_low", "pcc_high", "object_pcc_low", "object_pcc_high"]].isna().all(axis=None)
    assert np.isfinite(table[["pcc_sampling_error", "object_pcc_sampling_error"]]).all(axis=None)


def test_the_bootstrap_of_images_holds_the_error_of_sampling() -> None:
    # Images that differ little and few proposals, so that sampling is much of the variance.
    objects = grids(20, 2, spread=0.06)
    bootstrap = ImageBootstrap(range(20), 400, seed=3)

    def variance(m: Measurements) -> float:
        moments = moments_of(m, ("run", "fc"), PEARSON_SUMS).sum(axis=1)
        sums = bootstrap.sum_by_image(m.objects["image_id"].to_numpy(), moments)
        return float(pearson_correlation(bootstrap.replicate(sums)).var())

    between = variance(measured(objects))
    sampled, stated = [], []
    for seed in range(10):
        some = measured(objects, 120, seed)
        sampled.append(variance(some))
        stated.append(float(all_sizes(pearson(some, **ONCE))["pcc_sampling_error"].iloc[0]) ** 2)
    sampling = float(np.mean(stated))
    assert 0.3 < sampling / (between + sampling) < 0.7
    # A bootstrap's variance is (I - 1) / I of the variance it estimates.
    expected = between + sampling * 19 / 20
    chance = np.std(sampled) / np.sqrt(len(sampled))
    assert abs(np.mean(sampled) - expected) < 3 * chance + 0.05 * expected
