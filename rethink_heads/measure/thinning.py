"""Fewer sampled rows, where there are more than are needed: the same for all heads, and each time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd


def thinned(rows: pd.DataFrame, every: int) -> pd.DataFrame:
    """Every k-th of each object's rows, from one that a hash of its ids chooses.

    Any row is chosen with probability 1/k, and ``weight``, where it is there, is k times as large:
    weighted sums are unbiased estimates of those of all rows.

    Args:
        rows: those of an object one below the other, of one head.
        every: k.
    """
    if every <= 1 or rows.empty:
        return rows
    image, number = rows["image_id"].to_numpy(), rows["object_id"].to_numpy()
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (image[1:] != image[:-1]) | (number[1:] != number[:-1])
    starts = np.flatnonzero(first)
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    offset = _hash(image, number) % np.uint64(every)
    kept = rows[(place.astype(np.uint64) + offset) % np.uint64(every) == 0]
    return kept.assign(weight=kept["weight"] * every) if "weight" in rows else kept


def _hash(image: npt.NDArray[np.int64], number: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Hashes (N,) of pairs of ids (N,): splitmix64 of one, then of both."""
    with np.errstate(over="ignore"):
        return _mixed(_mixed(image.astype(np.uint64)) + number.astype(np.uint64))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
