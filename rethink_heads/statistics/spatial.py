"""Spatial correlation of RoI cells (paper Figure 4).

A correlation map holds the cosine similarity of each pair of the S x S cells of a branch's output
map (kind "spatial_correlation", one per object) or of fc6's weights (kind "weight_correlation", one
per detector): S^2 x S^2 values, cells numbered row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.statistics.bootstrap import REPLICATES, Array, Estimate, ImageBootstrap
from rethink_heads.statistics.reduction import MapSums, MapTotal, by_size
from rethink_heads.statistics.sums import ratio

OF_OBJECTS = "spatial_correlation"
OF_WEIGHTS = "weight_correlation"

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
    for detector, head, kind in _branches(measurements):
        # Weights are of no object and so of no size.
        if kind == OF_OBJECTS or size == "all":
            maps = by_size(
                measurements,
                "maps",
                ["values"],
                MapTotal,
                detector=detector,
                head=head,
                kind=kind,
                sizes=(size,),
            )[size]
            if maps.objects:
                found[detector, head, kind] = _square(maps.total / maps.objects)
    return found


def distinct_pairs(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean correlation over pairs of different cells: one number for how alike cells are.

    Returns:
        One row per detector, head (the branch), kind and size with "mean", "mean_low", "mean_high",
        "objects". A map of weights comes once, with size "all", no interval and no objects.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, found in _reduced(measurements, bootstrap, distinct_means):
        estimate, objects = _mean_over_objects(keys["kind"], found, bootstrap)
        results.append(
            {
                **keys,
                **{name: float(values[0]) for name, values in estimate.columns("mean").items()},
                "objects": objects,
            }
        )
    return pd.DataFrame(results, columns=PAIRS_COLUMNS)


def decay(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean correlation of pairs of different cells by their distance.

    Pairs are grouped by their Euclidean distance rounded to whole cells: 1 to 8 for 7 x 7 cells.

    Returns:
        One row per detector, head (the branch), kind, size and group with "distance" (mean of the
        group's distances, in cells), "mean", "mean_low", "mean_high", "pairs" and "objects".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, found in _reduced(measurements, bootstrap, means_by_distance):
        distance, pairs = distances(found.width)
        estimate, objects = _mean_over_objects(keys["kind"], found, bootstrap)
        columns: dict[str, Any] = {**keys, "distance": distance}
        columns |= estimate.columns("mean")
        columns |= {"pairs": pairs, "objects": objects}
        results.append(pd.DataFrame(columns))
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
    """Distance (S^4,) of each pair of cells, and whether it is in each of the groups (S^4, G)."""
    apart = cell_distances(math.isqrt(width))
    group = np.rint(apart).astype(np.int64)
    present = np.unique(group[group > 0])
    return apart, np.stack([group == number for number in present], axis=1).astype(np.float64)


def cell_distances(cells: int) -> Array:
    """Euclidean distance (cells^2,) of each pair of the ``cells`` = S^2 cells, in cells."""
    side = math.isqrt(cells)
    places = np.stack(np.divmod(np.arange(cells), side), axis=1)
    return np.linalg.norm(places[:, None] - places[None], axis=-1).ravel()


def distinct_means(maps: Array) -> Array:
    """Mean (O, 1) over the pairs of different cells of maps (O, S^4)."""
    distinct = ~np.eye(math.isqrt(maps.shape[1]), dtype=bool).ravel()
    return np.asarray(maps[:, distinct].mean(axis=1, keepdims=True))


def _branches(measurements: Measurements) -> list[MapKey]:
    """The branches with correlations of cells."""
    groups = [
        group for group in measurements.groups("maps") if group[2] in (OF_OBJECTS, OF_WEIGHTS)
    ]
    return [(detector, head, kind) for detector, head, kind in groups]


def _reduced(
    measurements: Measurements, bootstrap: ImageBootstrap, values_of: Callable[[Array], Array]
) -> Iterator[tuple[dict[str, str], MapSums]]:
    """Keys of each branch's correlations of each size, and what becomes of them added up."""
    for detector, head, kind in _branches(measurements):
        keys = {"detector": detector, "head": head, "kind": kind}
        # Maps of weights belong to no image.
        over = bootstrap if kind == OF_OBJECTS else ImageBootstrap([-1], 1)
        make = partial(MapSums, over, values_of)
        found = by_size(
            measurements, "maps", ["values"], make, detector=detector, head=head, kind=kind
        )
        if kind == OF_WEIGHTS:
            found = {"all": found["all"]}
        if not found["all"].objects:
            continue
        for size, sums in found.items():
            yield keys | {"size": size}, sums.like(found["all"])


def _mean_over_objects(
    kind: str, found: MapSums, bootstrap: ImageBootstrap
) -> tuple[Estimate, int]:
    """Mean of what was added up, and of how many objects; weights have neither interval nor objects."""
    if kind == OF_WEIGHTS:
        mean = ratio(found.sums.sum(axis=0))
        nothing = np.full(len(mean), np.nan)
        return Estimate(mean, nothing, nothing), 0
    return bootstrap.estimate(found.sums, ratio), found.objects


def _square(values: Array) -> Array:
    side = math.isqrt(len(values))
    return values.reshape(side, side)
