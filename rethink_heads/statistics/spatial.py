"""Spatial correlation of RoI cells (paper Figure 4).

A correlation map holds the cosine similarity of each pair of the S x S cells of a branch's output
map (kind "spatial_correlation", one per object) or of fc6's weights (kind "weight_correlation", one
per detector): S^2 x S^2 values, cells numbered row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.statistics.bootstrap import REPLICATES, Array, Estimate, ImageBootstrap
from rethink_heads.statistics.selection import ALL_SIZES, of_size
from rethink_heads.statistics.sums import ratio

OF_OBJECTS = "spatial_correlation"
OF_WEIGHTS = "weight_correlation"

_KEYS = ["detector", "head", "kind", "size"]
PAIRS_COLUMNS = [*_KEYS, "mean", "low", "high", "objects"]
DECAY_COLUMNS = [*_KEYS, "distance", "mean", "low", "high", "pairs", "objects"]

MapKey = tuple[str, str, str]  # (detector, branch, kind)


def correlation_map(measurements: Measurements, size: str = "all") -> dict[MapKey, Array]:
    """The mean correlation map (S^2, S^2) over the objects of a size.

    Keys are (detector, branch, kind). A map of weights is the same for all sizes. A branch without
    objects of the size is left out.
    """
    return {
        (keys["detector"], keys["head"], keys["kind"]): _square(maps.mean(axis=0))
        for keys, _, maps in _correlation_maps(measurements)
        if keys["size"] == size and len(maps)
    }


def distinct_pairs(
    measurements: Measurements, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Mean correlation over pairs of different cells: one number for how alike cells are.

    Returns:
        One row per detector, head (the branch), kind and size with "mean", "low", "high",
        "objects". A map of weights comes once, with size "all", no interval and no objects.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, frame, maps in _correlation_maps(measurements):
        values = _distinct_means(maps)
        estimate, objects = _mean_over_objects(keys["kind"], frame, values[:, None], bootstrap)
        results.append(
            {
                **keys,
                "mean": float(estimate.value[0]),
                "low": float(estimate.low[0]),
                "high": float(estimate.high[0]),
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
        group's distances, in cells), "mean", "low", "high", "pairs" and "objects".
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, frame, maps in _correlation_maps(measurements):
        distance, pairs, values = by_distance(maps)
        estimate, objects = _mean_over_objects(keys["kind"], frame, values, bootstrap)
        columns: dict[str, Any] = {**keys, "distance": distance}
        columns |= {"mean": estimate.value, "low": estimate.low, "high": estimate.high}
        columns |= {"pairs": pairs, "objects": objects}
        results.append(pd.DataFrame(columns))
    if not results:
        return pd.DataFrame(columns=DECAY_COLUMNS)
    return pd.concat(results, ignore_index=True)[DECAY_COLUMNS]


def by_distance(maps: Array) -> tuple[Array, npt.NDArray[np.int64], Array]:
    """Correlation maps (O, S^4) by the distance of cells, in the G groups of :func:`decay`.

    Returns:
        The groups' mean distance (G,), their number of pairs (G,) and objects' means (O, G).
    """
    distances = cell_distances(math.isqrt(maps.shape[1]))
    group = np.rint(distances).astype(np.int64)
    present = np.unique(group[group > 0])
    in_group = np.stack([group == number for number in present], axis=1).astype(np.float64)
    ordered = in_group.sum(axis=0)  # each pair both ways
    pairs = (ordered / 2).astype(np.int64)
    return distances @ in_group / ordered, pairs, maps @ in_group / ordered


def correlation_sums(frame: pd.DataFrame, bootstrap: ImageBootstrap) -> Array:
    """Per image the number of objects and the sum of their means over distinct pairs: (I, 2)."""
    values = _distinct_means(stack(frame))
    columns = np.stack([np.ones(len(frame)), values], axis=1)
    return bootstrap.sum_by_image(frame["image_id"].to_numpy(), columns)[:, 0]


def cell_distances(cells: int) -> Array:
    """Euclidean distance (cells^2,) of each pair of the ``cells`` = S^2 cells, in cells."""
    side = math.isqrt(cells)
    places = np.stack(np.divmod(np.arange(cells), side), axis=1)
    return np.linalg.norm(places[:, None] - places[None], axis=-1).ravel()


def stack(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The maps (O, values) of a frame of maps of one kind."""
    if frame.empty:
        return np.zeros((0, 1))
    return np.stack(frame["values"].to_list()).astype(np.float64)


def mean_over_objects(
    frame: pd.DataFrame, values: Array, bootstrap: ImageBootstrap
) -> tuple[Estimate, Array]:
    """Mean (M,) of objects' values (O, M), and the sums (I, M, 2) it was taken from.

    A value that is nan, as the score of a box displaced out of the image, counts in its place as not
    measured.
    """
    images = frame["image_id"].to_numpy()
    there = np.isfinite(values)
    counts = bootstrap.sum_by_image(images, there.astype(np.float64))[:, 0]
    totals = bootstrap.sum_by_image(images, np.where(there, values, 0.0))[:, 0]
    sums = np.stack([counts, totals], axis=-1)
    return bootstrap.estimate(sums, ratio), sums


def _correlation_maps(
    measurements: Measurements,
) -> Iterator[tuple[dict[str, str], pd.DataFrame, Array]]:
    """Keys, rows and maps (O, S^4) of each branch's correlations of each size."""
    correlations = measurements.maps[measurements.maps["kind"].isin([OF_OBJECTS, OF_WEIGHTS])]
    for branch, found in correlations.groupby(["detector", "head", "kind"]):
        detector, head, kind = map(str, branch)
        maps = stack(found)
        sizes = found["size"].to_numpy()
        for size in ALL_SIZES if kind == OF_OBJECTS else ("all",):
            keys = {"detector": detector, "head": head, "kind": kind, "size": size}
            chosen = np.full(len(found), True) if size == "all" else sizes == size
            yield keys, of_size(found, size), maps[chosen]


def _mean_over_objects(
    kind: str, frame: pd.DataFrame, values: Array, bootstrap: ImageBootstrap
) -> tuple[Estimate, int]:
    """As :func:`mean_over_objects`; weights belong to no image and so have no interval."""
    if kind == OF_WEIGHTS:
        nothing = np.full(values.shape[1], np.nan)
        return Estimate(values.mean(axis=0), nothing, nothing), 0
    return mean_over_objects(frame, values, bootstrap)[0], len(frame)


def _distinct_means(maps: Array) -> Array:
    """Mean (O,) over the pairs of different cells of maps (O, S^4)."""
    distinct = ~np.eye(math.isqrt(maps.shape[1]), dtype=bool).ravel()
    return maps[:, distinct].mean(axis=1) if len(maps) else np.zeros(0)


def _square(values: Array) -> Array:
    side = math.isqrt(len(values))
    return values.reshape(side, side)
