"""Seeded choices: which objects, which proposals, which raw rows.

Each choice has a generator of its own, seeded from the run's seed and the ids of the image and the
object, so that it depends neither on the order of the work nor on what was measured before.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rethink_heads.proposals import IOU_BINS

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# Of one proposal of several nothing can be said of the others' spread.
FEWEST_OF_BIN = 2
# Of an interval of some thousands: to the last digit of a float64.
HALVINGS = 64
ROUNDING = 1e-9
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


def allocate(sizes: Counts, wanted: int) -> Counts:
    """Share out `wanted` proposals among the IoU bins of one object.

    A bin's share grows with the square root of its size: the compromise between shares in proportion to size, good for
    what is pooled over bins, and equal ones, good for each bin by itself (power allocation, Bankier, Power Allocations,
    The American Statistician 42, 1988). Simulated on measured full grids, correlations over all bins and over the upper
    half had errors as small as by either, or smaller, and means and spreads of bins the same. What a small bin cannot
    use goes to the others.

    Args:
        sizes: (B,) proposals of each bin.
        wanted: how many to choose of all.

    Returns:
        (B,) how many of each bin: at most its size, and at least two of them, so that its spread can be estimated, or
        all of fewer. They add up to `wanted` unless that is less than two a bin, or more than there are.
    """
    least = np.minimum(sizes, FEWEST_OF_BIN)
    shares = np.sqrt(sizes)

    def given(scale: float) -> Array:
        return np.clip(scale * shares, least, sizes)

    low, high = 0.0, float(wanted + sizes.max(initial=1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if given(middle).sum() <= wanted else (low, middle)
    exact = given(low)
    counts = np.floor(exact + ROUNDING).astype(np.int64)
    # The rest one each to those that lost most by rounding down.
    rest = max(0, min(wanted, int(sizes.sum())) - int(counts.sum()))
    loss = np.where(counts < sizes, exact - counts, -1.0)
    counts[np.argsort(-loss, kind="stable")[:rest]] += 1
    return np.minimum(counts, sizes)


def draw(bins: Tensor, wanted: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Choose `wanted` proposals of an object, shared out among its IoU bins by :func:`allocate`.

    Args and returns: as of :func:`stratify`; all proposals with weights of 1 where there are no more than `wanted`.
    """
    sizes = torch.bincount(bins, minlength=IOU_BINS).numpy()
    return stratify(bins, allocate(sizes, wanted), random)


def stratify(
    bins: Tensor, per_bin: int | Counts, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Choose `per_bin` proposals of each IoU bin, all of a bin that has fewer.

    Args:
        bins: (N,) int64, the IoU bin of each proposal.
        per_bin: how many of a bin, the same for each or (20,).

    Returns:
        Ascending indices (n,) and weights (n,) float64: of the N_b proposals of bin b, n_b are
        chosen and each stands for N_b / n_b. Weighted sums are then unbiased estimates of the sums
        over all.
    """
    wanted_by_bin = np.broadcast_to(per_bin, IOU_BINS)
    chosen = []
    for bin_index in range(IOU_BINS):
        members = torch.nonzero(bins == bin_index).flatten()
        chosen.append(members[choose(len(members), int(wanted_by_bin[bin_index]), random)])
    indices = torch.cat(chosen).sort().values
    population = torch.bincount(bins, minlength=IOU_BINS).double()
    sample = torch.bincount(bins[indices], minlength=IOU_BINS).double()
    return indices, (population / sample.clamp(min=1))[bins[indices]]
