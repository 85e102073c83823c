"""Response maps: the score against displacement of the box, and each RoI cell's part in it.

Kinds of maps: "displacement_score", the score of the object's class for the object's box displaced
by dx (columns) and dy (rows) in -1..1 of its size; "cell_score" and "cell_iou", the change of the
score and of the regressed box's IoU when one RoI cell is zeroed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import Measurements
from rethink_heads.statistics.bootstrap import (
    BLOCK_BYTES,
    REPLICATES,
    Array,
    Estimate,
    ImageBootstrap,
    Resampled,
)
from rethink_heads.statistics.reduction import MapSums, by_size
from rethink_heads.statistics.selection import ALL_SIZES
from rethink_heads.statistics.sums import ratio

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
        One row per detector, head, size and place of the map, row by row: "kind", "row", "column",
        for "displacement_score" also "dy" and "dx" (units of the object's size), "mean", "mean_low",
        "mean_high", "objects". A size without objects has no rows.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for keys, width, parts in _mean_maps(measurements, kind, bootstrap):
        side = math.isqrt(width)
        row, column = np.divmod(np.arange(side**2), side)
        columns: dict[str, Any] = {**keys, "kind": kind, "row": row, "column": column}
        if kind == "displacement_score":
            steps = displacements(side)
            columns |= {"dy": steps[row], "dx": steps[column]}
        for name in ("value", "low", "high"):
            found = np.concatenate([getattr(estimate, name) for estimate, _ in parts])
            columns["mean" if name == "value" else f"mean_{name}"] = found
        results.append(pd.DataFrame(columns | {"objects": parts[0][1]}))
    places = ["dy", "dx"] if kind == "displacement_score" else []
    ordered = [*_KEYS, "row", "column", *places, "mean", "mean_low", "mean_high", "objects"]
    if not results:
        return pd.DataFrame(columns=ordered)
    return pd.concat(results, ignore_index=True)[ordered]


def response_summary(
    measurements: Measurements, kind: str, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """What a mean response map comes down to, with intervals.

    For "displacement_score": "score", the score without displacement; "drop_dx" and "drop_dy", how
    far it falls at a displacement of 0.5 (mean of both directions); "half_width_dx" and
    "half_width_dy", the displacement at which it falls to half (mean of both directions, each
    interpolated; nan where it stays above half). For "cell_score" and "cell_iou": "mean_change",
    "mean_absolute_change" (over objects and cells), "largest_change" (of the cell with the largest
    magnitude in the mean map, signed) and "cell_spread" (standard deviation over the mean map).

    Returns:
        One row per detector, head, size and quantity: "kind", "quantity", "value", "value_low", "value_high",
        "objects". A size without objects has no rows.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    results = []
    for detector, head in _heads(measurements, kind):
        keys = {"detector": detector, "head": head}
        of_quantities = [
            resampled_quantity(measurements, kind, quantity, (detector, head), bootstrap)
            for quantity in _FORMULAS[kind]
        ]
        for size in ALL_SIZES:
            for quantity, of_sizes in zip(_FORMULAS[kind], of_quantities, strict=True):
                if size not in of_sizes:
                    continue
                resampled, objects = of_sizes[size]
                estimate = resampled.estimate()
                results.append(
                    {
                        **keys,
                        "size": size,
                        "kind": kind,
                        "quantity": quantity,
                        **estimate.columns("value"),
                        "objects": objects,
                    }
                )
    return pd.DataFrame(results, columns=SUMMARY_COLUMNS)


def displacements(side: int) -> npt.NDArray[np.float64]:
    """Displacements (side,) of a displacement map's columns and rows."""
    return np.linspace(-1, 1, side)


def _heads(measurements: Measurements, kind: str) -> list[tuple[str, str]]:
    if kind not in RESPONSE_KINDS:
        raise UserError(f"unknown response {kind!r}; there are {', '.join(RESPONSE_KINDS)}")
    return [(group[0], group[1]) for group in measurements.groups("maps") if group[2] == kind]


def _mean_maps(
    measurements: Measurements, kind: str, bootstrap: ImageBootstrap
) -> Iterator[tuple[dict[str, str], int, list[tuple[Estimate, int]]]]:
    """By head and size with objects: the keys, the width of a map, and estimates of its places in order.

    Places are taken some after another: the sums of each image's maps may be more than the maps.
    """
    at_once = max(1, BLOCK_BYTES // (16 * max(1, len(bootstrap.image_ids))))
    for detector, head in _heads(measurements, kind):
        found: dict[str, list[tuple[Estimate, int]]] = {size: [] for size in ALL_SIZES}
        width, start = 1, 0
        while start < width:
            places = partial(_places, start=start, after=start + at_once)
            make = partial(MapSums, bootstrap, places)
            of_places = by_size(
                measurements, "maps", ["values"], make, detector=detector, head=head, kind=kind
            )
            for size, sums in of_places.items():
                if sums.objects:
                    width = sums.width
                    found[size].append((bootstrap.estimate(sums.sums, ratio), sums.objects))
            start += at_once
        for size, parts in found.items():
            if parts:
                yield {"detector": detector, "head": head, "size": size}, width, parts


def _places(maps: Array, start: int, after: int) -> Array:
    return maps[:, start:after]


def resampled_quantity(
    measurements: Measurements,
    kind: str,
    quantity: str,
    side: tuple[str, str],
    bootstrap: ImageBootstrap,
    objects: pd.MultiIndex | None = None,
) -> dict[str, tuple[Resampled, int]]:
    """One of a summary's quantities, of shape (), and the number of objects, by size with objects.

    Args:
        measurements: of any heads.
        kind: of RESPONSE_KINDS.
        quantity: of the kind's.
        side: (detector, head).
        bootstrap: over the images.
        objects: (image_id, object_id) of those that count; None: all.
    """
    detector, head = side
    values_of = _MAPS[kind] if quantity != "mean_absolute_change" else np.abs
    found = by_size(
        measurements,
        "maps",
        ["values"],
        partial(MapSums, bootstrap, values_of),
        objects=objects,
        detector=detector,
        head=head,
        kind=kind,
    )
    formula = _FORMULAS[kind][quantity]

    def resampled(sums: MapSums) -> Resampled:
        def of_sums(summed: Array) -> Array:
            return formula(_whole_maps(kind, ratio(summed), math.isqrt(sums.width)))

        return bootstrap.resample(sums.sums, of_sums, np.asarray(sums.sums[..., 0].any(axis=1)))

    return {size: (resampled(sums), sums.objects) for size, sums in found.items() if sums.objects}


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


def _at_centre(maps: Array) -> Array:
    middle = maps.shape[1] // 2
    return maps[:, middle, middle]


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
    flat = maps.reshape(len(maps), -1)
    return flat[np.arange(len(flat)), np.abs(flat).argmax(axis=1)]


_CELLS: dict[str, Formula] = {
    "mean_change": _mean,
    "mean_absolute_change": _mean,
    "largest_change": _largest,
    "cell_spread": lambda maps: np.asarray(maps.std(axis=(1, 2))),
}
_FORMULAS: dict[str, dict[str, Formula]] = {
    "displacement_score": {
        "score": _at_centre,
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
