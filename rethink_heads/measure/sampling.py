"""Seeded choices: which objects, which proposals, which raw rows.

Each choice has a generator of its own, seeded from the run's seed and the ids of the image and the
object, so that it depends neither on the order of the work nor on what was measured before.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rethink_heads.proposals import IOU_BINS

_PURPOSES = {"objects": 0, "proposals": 1, "rows": 2}


def generator(
    purpose: Literal["objects", "proposals", "rows"], seed: int, *ids: int
) -> np.random.Generator:
    """The generator of one choice. Ids may be negative."""
    words = [_PURPOSES[purpose], *(value % 2**64 for value in (seed, *ids))]
    return np.random.default_rng(words)


def choose(count: int, wanted: int | None, random: np.random.Generator) -> Tensor:
    """Ascending indices of `wanted` of `count` things, drawn without replacement; all if fewer."""
    if wanted is None or wanted >= count:
        return torch.arange(count)
    return torch.from_numpy(np.sort(random.choice(count, wanted, replace=False)))


def stratify(bins: Tensor, per_bin: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Choose `per_bin` proposals of each IoU bin, all of a bin that has fewer.

    Args:
        bins: (N,) int64, the IoU bin of each proposal.
        per_bin: how many of a bin.
        random: where the choice comes from.

    Returns:
        Ascending indices (n,) and weights (n,) float64: of the N_b proposals of bin b, n_b are
        chosen and each stands for N_b / n_b. Weighted sums are then unbiased estimates of the sums
        over all.
    """
    chosen = []
    for bin_index in range(IOU_BINS):
        members = torch.nonzero(bins == bin_index).flatten()
        chosen.append(members[choose(len(members), per_bin, random)])
    indices = torch.cat(chosen).sort().values
    population = torch.bincount(bins, minlength=IOU_BINS).double()
    sample = torch.bincount(bins[indices], minlength=IOU_BINS).double()
    return indices, (population / sample.clamp(min=1))[bins[indices]]
