"""Spatial sensitivity: correlations of RoI positions (paper Figure 4), and responses to what is moved or left out.

A correlation map holds the cosine similarity of each pair of the S x S positions of a branch's output map (kind
"spatial_correlation", one per object) or of fc6's weights (kind "weight_correlation", one per detector): S^2 x S^2
values, positions numbered row by row. A response map is "displacement_score", the score of the object's class for the
object's box displaced by dx (columns) and dy (rows) in -1..1 of its size, or "cell_score" and "cell_iou", the change of
the score and of the regressed box's IoU when one RoI position is zeroed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.store import BLOCK, Key, Measurements
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    Array,
    BootstrapEstimate,
    Estimate,
    ImageBootstrap,
)
from rethink_heads.statistics.sums import (
    Columns,
    Flags,
    Quantity,
    by_size,
    ratio,
    resample_by_size,
)

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


RESPONSE_KINDS = ("displacement_score", "cell_score", "cell_iou")
# The displacement, in units of the object's size, at which the drop of the score is reported.
DROP_AT = 0.5

_KEYS = ["detector", "head", "size", "kind"]
SUMMARY_COLUMNS = [*_KEYS, "quantity", "value", "value_low", "value_high", "objects"]

Formula = Callable[[Array], Array]  # mean maps (R, values) -> (R,)


def response(
    measurements: Measurements, kind: str, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """The mean map of a kind over objects, with an interval in each place.

    Returns:
        One row per detector, head, size and place of the map, row by row, with "kind", "row", "column",
        for "displacement_score" also "dy" and "dx" (units of the object's size), "mean", "mean_low",
        "mean_high", "objects". A size without objects has no rows.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for detector, head in _heads(measurements, kind):
        maps = measurements.maps((detector, head), kind)
        assert maps is not None
        there, values = has_map(maps), map_columns(maps)
        side = math.isqrt(maps.shape[1])
        row, column = np.divmod(np.arange(side**2), side)
        resampled = values.resample(there, measurements, bootstrap)
        for (size, chosen), found in zip(by_size(measurements), resampled, strict=True):
            if not (chosen & there).any():
                continue
            columns: dict[str, Any] = {"detector": detector, "head": head, "size": size}
            columns |= {"kind": kind, "row": row, "column": column}
            if kind == "displacement_score":
                steps = displacements(side)
                columns |= {"dy": steps[row], "dx": steps[column]}
            columns |= found.estimate().columns("mean")
            results.append(pd.DataFrame(columns | {"objects": (chosen & there).sum()}))
    places = ["dy", "dx"] if kind == "displacement_score" else []
    ordered = [*_KEYS, "row", "column", *places, "mean", "mean_low", "mean_high", "objects"]
    return pd.concat(results, ignore_index=True) if results else pd.DataFrame(columns=ordered)


def response_summary(
    measurements: Measurements, kind: str, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """What a mean response map comes down to, with intervals.

    For "displacement_score": "score", the score without displacement; "drop_dx" and "drop_dy", how
    far it falls at a displacement of 0.5 (mean of both directions); "half_width_dx" and
    "half_width_dy", the displacement at which it falls to half (mean of both directions, each
    interpolated; nan where it stays above half). For "cell_score" and "cell_iou": "mean_change",
    "mean_absolute_change" (over objects and positions), "largest_change" (of the position with the largest
    magnitude in the mean map, signed) and "cell_spread" (standard deviation over the mean map).

    Returns:
        One row per detector, head, size and quantity, with "kind", "quantity", "value", "value_low", "value_high",
        "objects". A size without objects has no rows.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for detector, head in _heads(measurements, kind):
        for size, objects, found in _resampled(measurements, kind, (detector, head), bootstrap):
            for quantity in _FORMULAS[kind] if objects.any() else ():
                results.append(
                    {
                        "detector": detector,
                        "head": head,
                        "size": size,
                        "kind": kind,
                        "quantity": quantity,
                        **found[quantity].estimate().columns("value"),
                        "objects": int(objects.sum()),
                    }
                )
    return pd.DataFrame(results, columns=SUMMARY_COLUMNS)


def displacements(side: int) -> npt.NDArray[np.float64]:
    """Displacements (side,) of a displacement map's columns and rows."""
    return np.linspace(-1, 1, side)


def _heads(measurements: Measurements, kind: str) -> tuple[Key, ...]:
    if kind not in RESPONSE_KINDS:
        raise UserError(f"unknown response {kind!r}; there are {', '.join(RESPONSE_KINDS)}")
    return measurements.map_keys(kind)


def response_columns(
    measurements: Measurements, kind: str, quantity: str, key: Key
) -> tuple[Columns, Flags]:
    """One of a summary's quantities of a head that has maps of the kind, and which objects (O,) it is of."""
    maps = measurements.maps(key, kind)
    assert maps is not None
    formula = _formula_of_sums(kind, quantity, math.isqrt(maps.shape[1]))
    return Columns(map_columns(maps, _values_of(kind, quantity)).values, formula), has_map(maps)


def _values_of(kind: str, quantity: str) -> Callable[[Array], Array]:
    """What is added up of maps for one of a summary's quantities."""
    return _MAPS[kind] if quantity != "mean_absolute_change" else np.abs


def _formula_of_sums(kind: str, quantity: str, side: int) -> Formula:
    """The formula of one of a summary's quantities, of sums over objects."""
    formula = _FORMULAS[kind][quantity]
    return lambda sums: formula(_whole_maps(kind, ratio(sums), side))


def _resampled(
    measurements: Measurements, kind: str, key: Key, bootstrap: ImageBootstrap
) -> Iterator[tuple[str, Flags, dict[str, BootstrapEstimate]]]:
    """Each size, its objects (O,) that have a map, and a summary's quantities of them.

    What several quantities are made of is added up and drawn once.
    """
    maps = measurements.maps(key, kind)
    assert maps is not None
    together: dict[Callable[[Array], Array], dict[str, Quantity]] = {}
    for name in _FORMULAS[kind]:
        formula = _formula_of_sums(kind, name, math.isqrt(maps.shape[1]))
        together.setdefault(_values_of(kind, name), {})[name] = Quantity([0, 1], formula)
    parts = [
        resample_by_size(map_columns(maps, values_of).values, some, measurements, bootstrap)
        for values_of, some in together.items()
    ]
    there = has_map(maps)
    for part in zip(*parts, strict=True):
        yield part[0][0], part[0][1] & there, {k: v for each in part for k, v in each[2].items()}


def _cross(maps: Array) -> Array:
    """Of maps (O, S^2) the middle row and column (O, 2 S), from which all quantities of displacement are."""
    side = math.isqrt(maps.shape[1])
    square = maps.reshape(-1, side, side)
    return np.concatenate([square[:, side // 2], square[:, :, side // 2]], axis=1)


def _whole_maps(kind: str, values: Array, side: int) -> Array:
    """Maps (R, side, side) of the values that are added up (R, M); nan elsewhere."""
    if kind != "displacement_score":
        return values.reshape(-1, side, side)
    maps = np.full((len(values), side, side), np.nan)
    maps[:, side // 2] = values[:, :side]
    maps[:, :, side // 2] = values[:, side:]
    return maps


def _drop(lines: Array) -> Array:
    """Fall (R,) of lines (R, side) from their middle to a displacement of DROP_AT."""
    steps = displacements(lines.shape[1])
    beside = []
    for place in (-DROP_AT, DROP_AT):
        # Between two places of the map unless its displacements hit DROP_AT.
        after = int(np.searchsorted(steps, place))
        part = (place - steps[after - 1]) / (steps[after] - steps[after - 1])
        beside.append(lines[:, after - 1] * (1 - part) + lines[:, after] * part)
    return lines[:, lines.shape[1] // 2] - np.mean(beside, axis=0)


def _half_width(lines: Array) -> Array:
    """Displacement (R,) at which lines (R, side) fall to half of their middle."""
    middle = lines.shape[1] // 2
    step = displacements(lines.shape[1])[middle + 1]
    widths = []
    for outwards in (lines[:, middle:], lines[:, middle::-1]):
        half = outwards[:, 0] / 2
        below = outwards <= half[:, None]
        after = np.where(below.any(axis=1), below.argmax(axis=1), -1)
        index = np.arange(len(lines))
        inner, outer = outwards[index, after - 1], outwards[index, after]
        with np.errstate(divide="ignore", invalid="ignore"):
            width = (after - 1 + (inner - half) / (inner - outer)) * step
        widths.append(np.where(after > 0, width, np.nan))
    return np.asarray(np.mean(widths, axis=0))


def _middle_row(maps: Array) -> Array:
    return maps[:, maps.shape[1] // 2]


def _middle_column(maps: Array) -> Array:
    return maps[:, :, maps.shape[2] // 2]


def _mean(maps: Array) -> Array:
    return np.asarray(maps.mean(axis=(1, 2)))


def _largest(maps: Array) -> Array:
    # Also of no maps, where there are no draws.
    flat = maps.reshape(len(maps), math.prod(maps.shape[1:]))
    return flat[np.arange(len(flat)), np.abs(flat).argmax(axis=1)]


_CELLS: dict[str, Formula] = {
    "mean_change": _mean,
    "mean_absolute_change": _mean,
    "largest_change": _largest,
    "cell_spread": lambda maps: np.asarray(maps.std(axis=(1, 2))),
}
_FORMULAS: dict[str, dict[str, Formula]] = {
    "displacement_score": {
        "score": lambda maps: maps[:, maps.shape[1] // 2, maps.shape[1] // 2],
        "drop_dx": lambda maps: _drop(_middle_row(maps)),
        "drop_dy": lambda maps: _drop(_middle_column(maps)),
        "half_width_dx": lambda maps: _half_width(_middle_row(maps)),
        "half_width_dy": lambda maps: _half_width(_middle_column(maps)),
    },
    "cell_score": _CELLS,
    "cell_iou": _CELLS,
}
# What of the maps is added up.
_MAPS: dict[str, Callable[[Array], Array]] = {
    "displacement_score": _cross,
    "cell_score": np.asarray,
    "cell_iou": np.asarray,
}
