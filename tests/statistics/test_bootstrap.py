"""Intervals over images against brute force and against a simulation with known truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm, skew

from rethink_heads.statistics import bootstrap
from rethink_heads.statistics.bootstrap import (
    ANY,
    CORRELATION,
    DEVIATION,
    FEWEST_IMAGES,
    SHARE,
    BootstrapEstimate,
    ImageBootstrap,
    ImagesLeftOut,
    Limits,
    effective_images,
)
from rethink_heads.statistics.sums import pearson_correlation, ratio

Array = npt.NDArray[np.float64]
IMAGES = 40
PROPOSALS = 30
SLOPE, IMAGE_SPREAD, NOISE = 1.0, 0.25, 0.2
TRUE_PCC = SLOPE * 12**-0.5 / np.sqrt(SLOPE**2 / 12 + IMAGE_SPREAD**2 + NOISE**2)
TRUE_MEAN = SLOPE / 2


def clustered_sums(generator: np.random.Generator) -> Array:
    """Pearson sums (IMAGES, PROPOSALS, 6) of single proposals; an image's share an offset.

    Over all images that could be drawn, the PCC is TRUE_PCC and the mean score TRUE_MEAN.
    """
    iou = generator.random((IMAGES, PROPOSALS))
    offset = generator.normal(scale=IMAGE_SPREAD, size=(IMAGES, 1))
    score = SLOPE * iou + offset + generator.normal(scale=NOISE, size=iou.shape)
    return np.stack([np.ones_like(iou), iou, score, iou**2, score**2, iou * score], axis=-1)


def mean_score(sums: Array) -> Array:
    return ratio(sums[..., [0, 2]])


def test_weights_are_draws_with_replacement() -> None:
    bootstrap = ImageBootstrap([5, 3, 9, 3], replicates=4000, seed=1)
    assert bootstrap.image_ids.tolist() == [3, 5, 9]
    weights = bootstrap.weights
    assert weights.shape == (4000, 3)
    np.testing.assert_array_equal(weights.sum(axis=1), 3)
    # Each count is binomial (3, 1/3): mean 1, variance 2/3.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(weights.var(axis=0), 2 / 3, atol=0.06)


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    first = ImageBootstrap(range(20), 50, seed=3).weights
    np.testing.assert_array_equal(first, ImageBootstrap(reversed(range(20)), 50, seed=3).weights)
    assert not np.array_equal(first, ImageBootstrap(range(20), 50, seed=4).weights)


def test_replicates_are_sums_over_the_drawn_images() -> None:
    bootstrap = ImageBootstrap(range(6), 10)
    sums = np.random.default_rng(0).normal(size=(6, 2, 3))
    replicated = bootstrap.replicate(sums)
    assert replicated.shape == (10, 2, 3)
    for drawn, replicate in zip(bootstrap.weights, replicated, strict=True):
        expanded = np.repeat(sums, drawn.astype(int), axis=0)
        np.testing.assert_allclose(replicate, expanded.sum(axis=0), atol=1e-12)


def test_sums_by_image_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    bootstrap = ImageBootstrap([2, 4, 8], 1)
    images = np.sort(generator.choice([2, 8], size=50))
    columns = generator.normal(size=(50, 2, 3))
    expected = np.zeros((3, 2, 3))
    for image, row in zip(images, columns, strict=True):
        expected[[2, 4, 8].index(image)] += row
    np.testing.assert_allclose(bootstrap.sum_by_image(images, columns), expected, atol=1e-12)
    empty = bootstrap.sum_by_image(images[:0], columns[:0])
    np.testing.assert_array_equal(empty, np.zeros((3, 2, 3)))


@pytest.mark.parametrize("limits", [ANY, CORRELATION])
def test_interval_against_one_computed_by_hand(
    interval_by_hand: Callable[..., tuple[float, float]], limits: tuple[float, float]
) -> None:
    """Skewed sums of two places at once; the second place rests on 5 of 9 images only."""
    sums = np.random.default_rng(0).exponential(size=(9, 2, 6))
    sums[:4, 1] = 0
    sums[..., 0] = sums[..., 0] > 0
    sums[..., 2] /= 10  # means within the limits
    bootstrap = ImageBootstrap(range(9), 300, seed=1)
    estimate = bootstrap.estimate(sums, mean_score, limits)
    for place, images in ((0, 9), (1, 5)):
        replicates = [float(mean_score(drawn @ sums[:, place])) for drawn in bootstrap.weights]
        low, high = interval_by_hand(
            replicates,
            float(estimate.value[place]),
            [1.0] * images,
            is_correlation=limits == CORRELATION,
        )
        assert estimate.low[place] == pytest.approx(low)
        assert estimate.high[place] == pytest.approx(high)


def test_replicates_without_data_are_left_out() -> None:
    replicates = np.arange(101.0)[:, None].repeat(3, axis=1)
    replicates[1::2, 1] = np.nan
    replicates[:, 2] = np.nan
    value, images = np.array([50.0, 50.0, np.nan]), np.full(3, 10_000_000)
    estimate = BootstrapEstimate(value, replicates, images).estimate(level=0.9)
    # Not skewed.
    reach = [norm.ppf(0.95) * np.std(found, ddof=1) for found in (range(101), range(0, 101, 2))]
    np.testing.assert_allclose(estimate.high - 50, [*reach, np.nan], atol=1e-4)
    np.testing.assert_allclose(50 - estimate.low, [*reach, np.nan], atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_images_that_are_all_the_same_give_no_interval(value: float) -> None:
    sums = np.ones((30, 2)) * [3, 3 * value]
    estimate = ImageBootstrap(range(30), 50).estimate(sums, ratio)
    assert estimate.value == pytest.approx(value)
    assert np.isnan([estimate.low, estimate.high]).all()


def test_intervals_stay_within_what_a_statistic_can_be() -> None:
    sums = np.ones((12, 2)) * [1, 0]
    sums[3, 1] = 1.0
    bootstrap = ImageBootstrap(range(12), 200)
    assert bootstrap.estimate(sums, ratio).low < 0
    assert bootstrap.estimate(sums, ratio, SHARE).low == 0
    assert bootstrap.estimate(sums, ratio, CORRELATION).low > -1


@pytest.mark.parametrize("value", [1 - 1e-9, 1e-9 - 1])
def test_a_correlation_of_almost_one_lies_in_its_interval(value: float) -> None:
    replicates = value * (1 - np.random.default_rng(0).random(50) / 1e6)
    estimate = BootstrapEstimate(np.array(value), replicates, np.array(20), CORRELATION).estimate()
    assert -1 <= estimate.low <= value <= estimate.high <= 1


def test_a_difference_is_taken_replicate_by_replicate() -> None:
    generator = np.random.default_rng(0)
    bootstrap = ImageBootstrap(range(12), 200)
    first = np.stack([np.ones(12), generator.normal(size=12)], axis=-1)
    second = first - [0, 2]
    a, b = (bootstrap.resample(sums, ratio) for sums in (first, second))
    # Images differ, but by the same on both sides: the difference is 2 whatever is drawn.
    difference = a.less(b).estimate()
    assert difference.value == pytest.approx(2)
    assert np.isnan([difference.low, difference.high]).all()
    assert a.estimate().high - a.estimate().low > 0.5


@pytest.mark.parametrize(
    ("images", "limits", "has_interval"),
    [
        (1, ANY, False),
        (FEWEST_IMAGES - 1, ANY, False),
        (FEWEST_IMAGES, ANY, True),
        (2 * FEWEST_IMAGES - 1, DEVIATION, False),
        (2 * FEWEST_IMAGES, DEVIATION, True),
    ],
)
def test_few_images_give_no_interval(
    monkeypatch: pytest.MonkeyPatch, images: int, limits: Limits, has_interval: bool
) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST_IMAGES", FEWEST_IMAGES)
    sums = np.zeros((40, 2))
    sums[:images] = [[1, 1 + place] for place in range(images)]
    estimate = ImageBootstrap(range(40), 100).estimate(sums, ratio, limits)
    assert estimate.value == (images + 1) / 2
    assert np.isfinite([estimate.low, estimate.high]).tolist() == [has_interval] * 2


def test_images_count_by_their_part() -> None:
    np.testing.assert_allclose(
        effective_images(np.array([[1, 2, 0], [1, 0, 0], [1, 2, 0]])), [3, 2, 0]
    )
    # One image with nearly everything is one image.
    assert effective_images(np.array([1000, *[1] * 99])) == pytest.approx(1.2, abs=0.01)
    sums = np.random.default_rng(0).random((30, 2))
    found = ImageBootstrap(range(30), 10).resample(sums, ratio)
    assert found.images == pytest.approx(sums[:, 0].sum() ** 2 / (sums[:, 0] ** 2).sum())


def test_a_skewed_statistic_reaches_further_towards_its_tail() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    for sign in (1, -1):
        sums = np.stack([np.ones(30), sign * values], axis=-1)
        found = ImageBootstrap(range(30), 2000).estimate(sums, ratio)
        above, below = found.high - found.value, found.value - found.low
        assert (above > 1.1 * below) if sign > 0 else (below > 1.1 * above)


def test_draws_that_leave_images_out_vary_as_a_bootstrap_does() -> None:
    """Deviation and skewness of a mean are those of its images."""
    values = np.random.default_rng(0).exponential(size=60)
    draws = ImagesLeftOut(range(60), 20_000)
    counts = draws.counts.astype(float)
    assert set(np.unique(counts)) == {0, 1}
    assert set(counts.sum(axis=1)) == {43}
    replicates = draws.spread_out(counts @ values / 43)
    assert replicates.mean() == pytest.approx(values.mean(), abs=0.01)
    assert replicates.std() == pytest.approx(values.std(ddof=1) / 60**0.5, rel=0.02)
    assert skew(replicates) == pytest.approx(skew(values) / 60**0.5, rel=0.15)


def test_draws_without_a_value_are_left_out_of_what_they_spread_about() -> None:
    draws = ImagesLeftOut(range(20), 5)
    values = np.array([1.0, 2.0, np.nan, 3.0, 2.0])
    found = draws.spread_out(values)
    assert np.nanmean(found) == pytest.approx(2)
    assert np.isnan(found).tolist() == np.isnan(values).tolist()


def test_no_image_gives_nan() -> None:
    estimate = ImageBootstrap([], 10).estimate(np.zeros((0, 2)), ratio)
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_without_replicates_there_is_a_value_and_no_interval() -> None:
    bootstrap = ImageBootstrap(range(9), 0)
    estimate = bootstrap.estimate(np.random.default_rng(0).random((9, 4, 2)), ratio)
    assert np.isfinite(estimate.value).all()
    assert np.isnan([estimate.low, estimate.high]).all()
    with pytest.raises(ValueError, match="-1 replicates"):
        ImageBootstrap([1], -1)


def test_intervals_cover_the_truth_and_those_over_proposals_do_not() -> None:
    """95% intervals over 40 images hold the truth in about 95% of data sets.

    The band is 92% (what these intervals reach for the correlation of so few images, which one draw of an offset
    each decides) to 95%, and three standard errors of 400 trials on either side. Proposals taken for independent give
    intervals that miss far more often.
    """
    generator = np.random.default_rng(7)
    data = [clustered_sums(generator) for _ in range(400)]
    over_images = ImageBootstrap(range(IMAGES), 600)
    over_proposals = ImageBootstrap(range(IMAGES * PROPOSALS), 150)
    for statistic, truth in ((pearson_correlation, TRUE_PCC), (mean_score, TRUE_MEAN)):
        found = [over_images.estimate(single.sum(axis=1), statistic) for single in data]
        naive = [over_proposals.estimate(s.reshape(-1, 6), statistic) for s in data[:100]]
        assert 0.879 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.983
        assert np.mean([e.low <= truth <= e.high for e in naive]) < 0.8
        widths, naive_widths = (np.mean([e.high - e.low for e in es]) for es in (found, naive))
        assert naive_widths < 0.75 * widths


@pytest.mark.parametrize("images", [0, 1, 7, 60])
@pytest.mark.parametrize("block_bytes", [1, 1000, 2**24])
def test_weights_are_those_of_one_draw_however_many_at_once(
    monkeypatch: pytest.MonkeyPatch, images: int, block_bytes: int
) -> None:
    monkeypatch.setattr("rethink_heads.statistics.bootstrap.BLOCK_BYTES", block_bytes)
    bootstrap = ImageBootstrap(range(images), 30, seed=block_bytes)
    drawn = np.random.default_rng(block_bytes).integers(0, max(images, 1), size=(30, images))
    expected = np.stack([np.bincount(row, minlength=images) for row in drawn])
    np.testing.assert_array_equal(bootstrap.weights, expected)
    np.testing.assert_array_equal(np.concatenate(list(bootstrap.weight_blocks())), expected)
