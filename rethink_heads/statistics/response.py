"""Response maps: the score against displacement of the box, and each RoI position's part in it.

Kinds of maps: "displacement_score", the score of the object's class for the object's box displaced
by dx (columns) and dy (rows) in -1..1 of its size; "cell_score" and "cell_iou", the change of the
score and of the regressed box's IoU when one RoI position is zeroed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.statistics.bootstrap import REPLICATES, Array, BootstrapEstimate, ImageBootstrap
from rethink_heads.statistics.spatial import has_map, map_columns
from rethink_heads.statistics.sums import (
    Columns,
    Flags,
    Quantity,
    by_size,
    ratio,
    resample_by_size,
)

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
