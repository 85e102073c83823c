"""Paired comparison of two heads: the same objects, the same draws of images.

The two sides see the same proposals, so most of the spread over images is common to both and
cancels in their difference, whose interval is therefore the one to judge by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import Measurements
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    ImageBootstrap,
    difference_columns,
)
from rethink_heads.statistics.by_bin import bin_ends
from rethink_heads.statistics.compared import ON_BINS, STATISTICS, Compared, Side
from rethink_heads.statistics.ranks import RANK_REPLICATES
from rethink_heads.statistics.reduction import MapSums, by_size
from rethink_heads.statistics.response import RESPONSE_KINDS, resampled_quantity
from rethink_heads.statistics.selection import ALL_SIZES, WHOLE_RANGE, bin_range, in_range
from rethink_heads.statistics.spatial import OF_OBJECTS, distances, means_by_distance
from rethink_heads.statistics.sums import ratio

_OBJECT = ["image_id", "object_id"]


COMPARED_RESPONSES = {
    "displacement_score": ("drop_dx", "drop_dy", "half_width_dx", "half_width_dy"),
    "cell_score": ("mean_absolute_change",),
    "cell_iou": ("mean_absolute_change",),
}


def fc_against_conv(sides: Iterable[Side]) -> list[tuple[Side, Side]]:
    """The pairs ((detector, "fc"), (detector, "conv")) of some heads, as the paper compares them.

    The two heads of one detector where it has both; and each detector with an fc-head alone against
    each with a conv-head alone, as the paper compares heads trained apart.
    """
    there = list(sides)
    fc, conv = ({detector for detector, name in there if name == h} for h in ("fc", "conv"))
    pairs = [(name, name) for name in sorted(fc & conv)]
    pairs += itertools.product(sorted(fc - conv), sorted(conv - fc))
    return [((a, "fc"), (b, "conv")) for a, b in pairs]


def compare(
    measurements: Measurements,
    statistic: str,
    a: Side,
    b: Side,
    *,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    by_bin: bool = False,
    replicates: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A statistic of two heads on the objects that both have, and its difference a - b.

    Args:
        statistic: one of STATISTICS: "pcc" (pooled), "object_pcc", "spearman" (from the sampled
            rows), mean "score" and "regressed_iou", their "score_std" and "regressed_iou_std",
            mean "gain" of the regressed IoU over the proposal's, "rms_dx", "rms_dy", "rms_dw",
            "rms_dh", and "spatial_correlation" (mean over distinct pairs of RoI cells).
        a, b: (detector, head); for "spatial_correlation" (detector, branch).
        iou_range: proposals that count; multiples of 0.05; ignored by "spatial_correlation".
        by_bin: one row per IoU bin; not for the correlations.
        replicates, seed: of the bootstrap over images; 1000 replicates, 200 for "spearman".

    Returns:
        One row per size ("small", "medium", "large", "all") (and bin) with "statistic", "size",
        ("bin", "iou_low", "iou_high",) "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high", "excludes_zero" and "objects".

    Raises:
        UserError: unknown statistic, a head that was not measured, no object that both have, or a
            range that is not of whole bins.
    """
    per_bin = by_bin and _can_be_per_bin(statistic)
    if replicates is None:
        replicates = RANK_REPLICATES if statistic == "spearman" else REPLICATES
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    frame = _frame_of(statistic)
    kind = OF_OBJECTS if statistic == OF_OBJECTS else None
    objects = _common_objects(measurements, frame, statistic, a, b, iou_range, kind)
    compared = Compared(measurements, bootstrap, iou_range, objects)
    of_a, of_b = (compared.resampled(statistic, side, per_bin) for side in (a, b))
    results = []
    for size in ALL_SIZES:
        (side_a, count), (side_b, _) = of_a[size], of_b[size]
        columns: dict[str, Any] = {"statistic": statistic, "size": size}
        if per_bin:
            columns |= bin_ends()
        columns |= {"a": "/".join(a), "b": "/".join(b), **difference_columns(side_a, side_b)}
        results.append(pd.DataFrame(columns | {"objects": count}))
    return pd.concat(results, ignore_index=True)


def compare_responses(
    measurements: Measurements,
    kind: str,
    a: Side,
    b: Side,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """What the mean response maps of two heads come down to, and the differences a - b.

    Quantities are those of ``response_summary`` that COMPARED_RESPONSES names: of
    "displacement_score" the drops and half-widths, of the cells the mean absolute change.

    Returns:
        As :func:`compare`, with "kind" and "quantity" in place of "statistic". A size without
        objects has no rows.

    Raises:
        UserError: unknown kind, a head without such maps, or no object that both have.
    """
    if kind not in COMPARED_RESPONSES:
        raise UserError(f"unknown response {kind!r}; there are {', '.join(RESPONSE_KINDS)}")
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    objects = _common_objects(measurements, "maps", kind, a, b, kind=kind)
    of_quantities = {
        quantity: [
            resampled_quantity(measurements, kind, quantity, side, bootstrap, objects)
            for side in (a, b)
        ]
        for quantity in COMPARED_RESPONSES[kind]
    }
    results = []
    for size in ALL_SIZES:
        for quantity, (of_a, of_b) in of_quantities.items():
            if size not in of_a:
                continue
            (side_a, count), (side_b, _) = of_a[size], of_b[size]
            columns: dict[str, Any] = {"kind": kind, "quantity": quantity, "size": size}
            columns |= {"a": "/".join(a), "b": "/".join(b), **difference_columns(side_a, side_b)}
            results.append(pd.DataFrame(columns | {"objects": count}))
    return pd.concat(results, ignore_index=True)


def compare_decay(
    measurements: Measurements, a: Side, b: Side, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Spatial correlation of two branches by the distance of cells, and the differences a - b.

    Returns:
        As :func:`compare`, with "kind" ("spatial_correlation") and "quantity" ("decay") in place
        of "statistic", and one row per "distance" (see ``spatial.decay``). A size without objects
        has no rows.

    Raises:
        UserError: a branch without such maps or with another RoI resolution, or no object that
            both have.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    objects = _common_objects(measurements, "maps", OF_OBJECTS, a, b, kind=OF_OBJECTS)
    sides = []
    for detector, head in (a, b):
        make = partial(MapSums, bootstrap, means_by_distance)
        sides.append(
            by_size(
                measurements,
                "maps",
                ["values"],
                make,
                detector=detector,
                head=head,
                kind=OF_OBJECTS,
                objects=objects,
            )
        )
    if sides[0]["all"].width != sides[1]["all"].width:
        raise UserError(
            f"the RoIs of {'/'.join(a)} and {'/'.join(b)} have different numbers of cells, so "
            "their correlations by distance cannot be compared"
        )
    results = []
    for size in ALL_SIZES:
        of_a, of_b = (side[size] for side in sides)
        if not of_a.objects:
            continue
        resampled = [bootstrap.resample(found.sums, ratio) for found in (of_a, of_b)]
        columns: dict[str, Any] = {"kind": OF_OBJECTS, "quantity": "decay", "size": size}
        columns |= {"distance": distances(of_a.width)[0], "a": "/".join(a), "b": "/".join(b)}
        columns |= difference_columns(*resampled)
        results.append(pd.DataFrame(columns | {"objects": of_a.objects}))
    return pd.concat(results, ignore_index=True)


def _can_be_per_bin(statistic: str) -> bool:
    if statistic not in ON_BINS or statistic == "pcc":
        raise UserError(f"the statistic {statistic!r} cannot be compared bin by bin")
    return True


def _frame_of(statistic: str) -> str:
    """The frame that a statistic is computed from."""
    if statistic not in STATISTICS:
        raise UserError(f"unknown statistic {statistic!r}; there are {', '.join(STATISTICS)}")
    if statistic == OF_OBJECTS:
        return "maps"
    return "rows" if statistic == "spearman" else "bins"


def _common_objects(
    measurements: Measurements,
    frame: str,
    statistic: str,
    a: Side,
    b: Side,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    kind: str | None = None,
) -> pd.MultiIndex | None:
    """(image_id, object_id) of the objects that both sides have; None where each has the same."""
    bin_range(iou_range)
    columns = [] if frame == "maps" else ["bin"]
    keys = []
    for detector, head in (a, b):
        found = pd.DataFrame(columns=_OBJECT, dtype="int64")
        for part in measurements.read(frame, columns, detector=detector, head=head, kind=kind):
            chosen = part if frame == "maps" else in_range(part, iou_range)
            found = pd.concat([found, chosen[_OBJECT].drop_duplicates()])
        if found.empty:
            groups = measurements.groups(frame)
            pairs = {group[:2] for group in groups if kind is None or group[2] == kind}
            there = ", ".join(sorted("/".join(pair) for pair in pairs)) or "nothing"
            raise UserError(
                f"no {statistic} measurements of {detector}/{head}; there are those of {there}"
            )
        keys.append(pd.MultiIndex.from_frame(found))
    if keys[0].equals(keys[1]):
        return None
    common = keys[0][keys[0].isin(keys[1])]
    if common.empty:
        raise UserError(
            f"{'/'.join(a)} and {'/'.join(b)} were measured on different objects and cannot be "
            "compared; measure both on the same data"
        )
    return common
