"""Seeded choices: sizes, weights, and that nothing is favoured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rethink_heads.measure.sampling import choose, generator, stratify
from rethink_heads.proposals import IOU_BINS, grid, iou_bin


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


def test_weighted_sums_are_unbiased():
    proposals = grid(torch.tensor([10.0, 10.0, 40.0, 30.0]), (64, 64), 7)
    bins = iou_bin(proposals.ious)
    values = torch.sin(torch.arange(len(bins), dtype=torch.float64)) + proposals.ious
    estimates = []
    for seed in range(600):
        indices, weights = stratify(bins, 4, generator("proposals", seed, 1, 1))
        assert weights.sum().item() == pytest.approx(len(bins))
        estimates.append((weights * values[indices]).sum().item())
    error = np.mean(estimates) - values.sum().item()
    assert abs(error) < 4 * np.std(estimates) / np.sqrt(len(estimates))


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
