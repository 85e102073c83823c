"""Spatial correlation of RoI positions (paper Figure 4).

A correlation map holds the cosine similarity of each pair of the S x S positions of a branch's output
map (kind "spatial_correlation", one per object) or of fc6's weights (kind "weight_correlation", one
per detector): S^2 x S^2 values, positions numbered row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.store import BLOCK, Key, Measurements
from rethink_heads.statistics.bootstrap import REPLICATES, Array, Estimate, ImageBootstrap
from rethink_heads.statistics.sums import Columns, Flags, by_size, ratio

OBJECT_MAPS = "spatial_correlation"
WEIGHT_MAPS = "weight_correlation"

_KEYS = ["detector", "head", "kind", "size"]
PAIRS_COLUMNS = [*_KEYS, "mean", "mean_low", "mean_high", "objects"]
DECAY_COLUMNS = [*_KEYS, "distance", "mean", "mean_low", "mean_high", "pairs", "objects"]

MapKey = tuple[str, str, str]  # (detector, branch, kind)


def correlation_map(measurements: Measurements, size: str = "all") -> dict[MapKey, Array]:
    """The mean correlation map (S^2, S^2) over the objects of a size.

    Keys are (detector, branch, kind). A map of weights is the same for all sizes. A branch without
    objects of the size is left out.
    """
    found = {}
    chosen = dict(by_size(measurements))[size]
    for detector, branch, kind in _branches(measurements):
        weights = measurements.weights((detector, branch), kind)
        if weights is not None and size == "all":
            # Weights are of no object and so of no size.
            found[detector, branch, kind] = _square(weights.astype(np.float64))
        maps = measurements.maps((detector, branch), kind)
        if maps is None or not (there := has_map(maps) & chosen).any():
            continue
        blocks = (
            maps[start : start + BLOCK][there[start : start + BLOCK]]
            for start in range(0, len(maps), BLOCK)
        )
        total = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
        found[detector, branch, kind] = _square(total / there.sum())
    return found


def distinct_pairs(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean correlation over pairs of different RoI positions: one number for how similar they are.

    Returns:
        One row per detector, head (the branch), kind and size with "mean", "mean_low", "mean_high",
        "objects". A map of weights comes once, with size "all", no interval and no objects.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = [
        {
            **keys,
            **{name: float(ends[0]) for name, ends in estimate.columns("mean").items()},
            "objects": objects,
        }
        for keys, estimate, objects, _ in _means(measurements, bootstrap, distinct_means)
    ]
    return pd.DataFrame(results, columns=PAIRS_COLUMNS)


def decay(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean correlation of pairs of different RoI positions by their distance.

    Pairs are grouped by their Euclidean distance rounded to whole positions: 1 to 8 for 7 x 7 positions.

    Returns:
        One row per detector, head (the branch), kind, size and group with "distance" (mean of the
        group's distances, in positions), "mean", "mean_low", "mean_high", "pairs" and "objects".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, estimate, objects, width in _means(measurements, bootstrap, means_by_distance):
        distance, pairs = distances(width)
        columns: dict[str, Any] = {**keys, "distance": distance, **estimate.columns("mean")}
        results.append(pd.DataFrame({**columns, "pairs": pairs, "objects": objects}))
    if not results:
        return pd.DataFrame(columns=DECAY_COLUMNS)
    return pd.concat(results, ignore_index=True)[DECAY_COLUMNS]


def distances(width: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """The groups of :func:`decay` in maps of ``width`` = S^4 values: mean distance (G,), pairs (G,)."""
    apart, in_group = _groups(width)
    ordered = in_group.sum(axis=0)  # each pair both ways
    return apart @ in_group / ordered, (ordered / 2).astype(np.int64)


def means_by_distance(maps: Array) -> Array:
    """Means (O, G) of correlation maps (O, S^4) in the groups of :func:`decay`."""
    _, in_group = _groups(maps.shape[1])
    return np.asarray(maps @ in_group / in_group.sum(axis=0))


def _groups(width: int) -> tuple[Array, Array]:
    """Distance (S^4,) of each pair of positions, and whether it is in each of the groups (S^4, G)."""
    apart = cell_distances(math.isqrt(width))
    group = np.rint(apart).astype(np.int64)
    present = np.unique(group[group > 0])
    return apart, np.stack([group == number for number in present], axis=1).astype(np.float64)


def cell_distances(positions: int) -> Array:
    """Euclidean distance (positions^2,) of each pair of the ``positions`` = S^2, in positions."""
    side = math.isqrt(positions)
    places = np.stack(np.divmod(np.arange(positions), side), axis=1)
    return np.linalg.norm(places[:, None] - places[None], axis=-1).ravel()


def distinct_means(maps: Array) -> Array:
    """Mean (O, 1) over the pairs of different positions of maps (O, S^4)."""
    distinct = ~np.eye(math.isqrt(maps.shape[1]), dtype=bool).ravel()
    return np.asarray(maps[:, distinct].mean(axis=1, keepdims=True))


def has_map(maps: npt.NDArray[np.float32]) -> Flags:
    """Whether each object (O,) has a map (O, W): not only nan."""
    return np.asarray(np.isfinite(maps).any(axis=1))


def map_columns(
    maps: npt.NDArray[np.float32], values_of: Callable[[Array], Array] = np.asarray
) -> Columns:
    """Means over objects of what ``values_of`` makes of their maps (O, W).

    A value that is nan, as the score of a box displaced out of the image, counts in its place as not measured.
    """
    width = values_of(maps[:0].astype(np.float64)).shape[1]
    columns = np.empty((len(maps), width, 2))
    for start in range(0, len(maps), BLOCK):
        block = slice(start, start + BLOCK)
        values = values_of(maps[block].astype(np.float64))
        columns[block, :, 0] = np.isfinite(values)
        columns[block, :, 1] = np.where(columns[block, :, 0], values, 0.0)
    return Columns(columns, ratio)


def _branches(measurements: Measurements) -> list[MapKey]:
    """The branches with correlations of RoI positions."""
    return sorted(
        (*key, kind) for kind in (OBJECT_MAPS, WEIGHT_MAPS) for key in measurements.map_keys(kind)
    )


def _means(
    measurements: Measurements, bootstrap: ImageBootstrap, values_of: Callable[[Array], Array]
) -> Iterator[tuple[dict[str, str], Estimate, int, int]]:
    """Keys of each branch's correlations of each size, their mean, the number of objects and the width of a map.

    Weights have neither interval nor objects.
    """
    for detector, head, kind in _branches(measurements):
        key: Key = (detector, head)
        keys = {"detector": detector, "head": head, "kind": kind}
        if (weights := measurements.weights(key, kind)) is not None:
            mean = values_of(weights[None].astype(np.float64))[0]
            nothing = np.full(len(mean), np.nan)
            yield keys | {"size": "all"}, Estimate(mean, nothing, nothing), 0, len(weights)
        if (maps := measurements.maps(key, kind)) is None or not (there := has_map(maps)).any():
            continue
        resampled = map_columns(maps, values_of).resample(there, measurements, bootstrap)
        for (size, chosen), found in zip(by_size(measurements), resampled, strict=True):
            number = int((chosen & there).sum())
            yield keys | {"size": size}, found.estimate(), number, maps.shape[1]


def _square(values: Array) -> Array:
    side = math.isqrt(len(values))
    return values.reshape(side, side)
