"""Seeded choices: sizes, weights, and that nothing is favoured."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rethink_heads.measure.moments import (
    SAMPLING_COLUMNS,
    VARIABLES,
)
from rethink_heads.measure.sampling import allocate, choose, draw, generator, stratify
from rethink_heads.proposals import IOU_BINS
from tests.frames import reduce_values, sampling_covariances


def test_every_bin_gives_its_share_and_weights_add_up():
    bins = torch.tensor([0] * 7 + [3] * 2 + [19] * 5)[torch.randperm(14)]
    indices, weights = stratify(bins, 3, generator("rows", 0, 1, 2))
    chosen = bins[indices]
    assert torch.bincount(chosen, minlength=IOU_BINS)[[0, 3, 19]].tolist() == [3, 2, 3]
    assert indices.unique().equal(indices)  # ascending, without repetition
    assert weights[chosen == 0].tolist() == pytest.approx([7 / 3] * 3)
    assert weights[chosen == 3].tolist() == [1, 1]
    assert weights[chosen == 19].tolist() == pytest.approx([5 / 3] * 3)


def test_no_rows_when_none_are_wanted():
    indices, weights = stratify(torch.tensor([0, 1, 1]), 0, generator("rows", 0))
    assert len(indices) == len(weights) == 0


def test_generators_follow_purpose_seed_and_ids():
    def draw(*key: object) -> float:
        return float(generator(*key).random())  # type: ignore[arg-type]

    assert draw("rows", 0, 1, 2) == draw("rows", 0, 1, 2)
    keys = [("rows", 0, 1, 2), ("proposals", 0, 1, 2), ("rows", 1, 1, 2), ("rows", 0, 2, 1)]
    keys += [("rows", 0, -1, 2), ("rows", 0, 1, 3)]
    assert len({draw(*key) for key in keys}) == len(keys)


def test_choosing_more_than_there_are_takes_all():
    random = generator("objects", 0, 1)
    assert choose(3, None, random).tolist() == [0, 1, 2]
    assert choose(3, 9, random).tolist() == [0, 1, 2]
    assert len(choose(30, 4, random).unique()) == 4


bin_sizes = arrays(np.int64, IOU_BINS, elements=st.integers(0, 1800))


@given(bin_sizes, st.integers(1, 20_000))
def test_shares_add_up_to_what_is_wanted(sizes: np.ndarray, wanted: int):
    counts = allocate(sizes, wanted)
    least = np.minimum(sizes, 2)
    assert counts.sum() == max(least.sum(), min(wanted, sizes.sum()))
    assert (counts >= least).all()
    assert (counts <= sizes).all()
    # No bin gives more than a larger one, but for the rest of rounding.
    order = np.argsort(sizes)
    assert (np.diff(counts[order]) >= -1).all()


@given(bin_sizes, st.integers(40, 20_000))
def test_shares_follow_the_root_of_the_size_where_there_is_room(sizes: np.ndarray, wanted: int):
    counts = allocate(sizes, wanted)
    free = (counts > 2) & (counts < sizes - 1)
    scale = counts[free] / np.sqrt(sizes[free])
    # All are one factor times the root, each rounded to one of the two next numbers.
    assert np.ptp(scale) <= 2 / np.sqrt(sizes[free].min()) if free.any() else True


def test_small_bins_leave_their_share_to_others():
    sizes = np.zeros(IOU_BINS, np.int64)
    sizes[:3] = 900, 900, 4
    assert allocate(sizes, 104)[:3].tolist() == [50, 50, 4]


@given(st.integers(1, 60), st.integers(0, 3))
def test_as_many_as_there_are_is_all_of_them(count: int, more: int):
    bins = torch.arange(count) % 7
    indices, weights = draw(bins, count + more, generator("proposals", 0, 1))
    assert indices.tolist() == list(range(count))
    assert weights.tolist() == [1.0] * count


def test_every_choice_of_a_bin_is_as_likely():
    bins = torch.tensor([4] * 4 + [9] * 2)
    found = [
        tuple(stratify(bins, 2, generator("rows", seed, 1))[0].tolist()) for seed in range(600)
    ]
    counts = pd.Series(found).value_counts()
    expected = {(*pair, 4, 5) for pair in itertools.combinations(range(4), 2)}
    assert set(counts.index) == expected
    assert ((counts - 100).abs() < 4 * np.sqrt(100)).all()


finite = st.floats(-1, 1, allow_subnormal=False).map(lambda value: round(value, 6))


@settings(max_examples=10, deadline=None)
@given(arrays(np.float64, (len(VARIABLES), 8), elements=finite))
def test_sums_and_their_covariances_are_unbiased_over_all_samples(columns: np.ndarray):
    values = dict(zip(VARIABLES, columns, strict=True))
    bins = np.array([2] * 4 + [11] * 3 + [17])
    whole = reduce_values(values, bins).set_index("bin")
    sums, stated = [], []
    for first in itertools.combinations(range(4), 2):
        for second in itertools.combinations(range(4, 7), 2):
            chosen = np.array([*first, *second, 7])
            some = {name: column[chosen] for name, column in values.items()}
            weights = np.array([2.0, 2.0, 1.5, 1.5, 1.0])
            sums.append(reduce_values(some, bins[chosen], weights).set_index("bin"))
            stated.append(sampling_covariances(some, bins[chosen], weights).set_index("bin"))
    names = [name for name in whole if name != "measured"]
    mean = sum(sums) / len(sums)
    np.testing.assert_allclose(mean[names], whole[names], atol=1e-12)
    assert stated[0].index.tolist() == [2, 11]  # bin 17 was measured whole
    mean_stated = sum(stated) / len(stated)
    for name in SAMPLING_COLUMNS:
        a, b = (f"sum_{total}" for total in name.removeprefix("cov_").split("__"))
        of = pd.DataFrame(
            {k: (each[a] - whole[a]) * (each[b] - whole[b]) for k, each in enumerate(sums)}
        )
        np.testing.assert_allclose(mean_stated[name], of.mean(axis=1)[[2, 11]], atol=1e-12)


def test_one_proposal_for_several_says_nothing_of_their_spread():
    values = {name: np.array([0.3, 0.4]) for name in VARIABLES}
    found = sampling_covariances(values, np.array([3, 8]), np.array([5.0, 1.0]))
    assert found["bin"].tolist() == [3]
    assert found[list(SAMPLING_COLUMNS)].isna().all(axis=None)
