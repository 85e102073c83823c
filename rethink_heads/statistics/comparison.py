"""Paired comparison of two heads: the same objects, the same draws of images.

Both heads see the same proposals, so most of the spread over images is common to both and
cancels in their difference, whose interval is therefore the one to judge by.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.moments import ERRORS
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    ImageBootstrap,
    Statistic,
    difference_columns,
)
from rethink_heads.statistics.by_iou import object_pccs
from rethink_heads.statistics.ranks import RankedRows, ranked_head, ranked_rows
from rethink_heads.statistics.sensitivity import (
    OBJECT_MAPS,
    RESPONSE_KINDS,
    distances,
    distinct_means,
    has_map,
    map_columns,
    means_by_distance,
    response_columns,
)
from rethink_heads.statistics.sums import (
    ALL_SIZES,
    PEARSON_SUMS,
    WHOLE_RANGE,
    Columns,
    Flags,
    bin_ends,
    bin_range,
    by_size,
    difference_of_means,
    moments_of,
    pearson_correlation,
    ratio,
    root_mean_square,
    standard_deviation,
)
from rethink_heads.structures import HEAD_CONFIGURATIONS

ON_BINS: Mapping[str, tuple[tuple[str, ...], Statistic]] = {
    "pcc": (PEARSON_SUMS, pearson_correlation),
    "score": (("n", "sum_score"), ratio),
    "score_std": (("n", "sum_score", "sum_score_score"), standard_deviation),
    "regressed_iou": (("n", "sum_regressed_iou"), ratio),
    "regressed_iou_std": (
        ("n", "sum_regressed_iou", "sum_regressed_iou_regressed_iou"),
        standard_deviation,
    ),
    "gain": (("n", "sum_regressed_iou", "sum_iou"), difference_of_means),
    **{f"rms_{error}": (("n", f"sum_{error}_{error}"), root_mean_square) for error in ERRORS},
}
"""Moments of the statistics that can be taken bin by bin or over a range, and the formula of their sums."""
STATISTICS = (*ON_BINS, "object_pcc", "spearman", OBJECT_MAPS)
COMPARED_RESPONSES = {
    "displacement_score": ("drop_dx", "drop_dy", "half_width_dx", "half_width_dy"),
    "cell_score": ("mean_absolute_change",),
    "cell_iou": ("mean_absolute_change",),
}
# What heads with the same classifiers have the same of, and what those with the same regressor.
_SCORE_STATISTICS = {"pcc", "object_pcc", "spearman", "score", "score_std"}
_SCORE_STATISTICS |= {"displacement_score", "cell_score"}
_BOX_STATISTICS = {"regressed_iou", "regressed_iou_std", "gain", "cell_iou"} | {
    f"rms_{e}" for e in ERRORS
}
MOST_DETECTORS = 4
"""Of more detectors than these each is compared with the first, not every two."""


def compared_pairs(keys: Iterable[Key], what: str = "") -> list[tuple[Key, Key]]:
    """The pairs of heads that are compared, wherever several are: the fewest that tell which head leads.

    Within a detector every two heads that differ in what is compared: heads with the same classifiers have the same
    scores, those with the same regressor the same boxes. Of several detectors the same head of every two (of more than
    MOST_DETECTORS of the first and each other one), and the last of each, which a structure is named after, unless both
    are single branches; of two that have no head in common, as where an fc-head and a conv-head were trained apart,
    every head of one against every head of the other.

    Args:
        keys: (detector, head), in the order in which they are shown.
        what: the statistic or kind of response that is compared; of anything else every head differs.
    """
    first_of: dict[Any, Key] = {}
    keys, order = list(keys), list(HEAD_CONFIGURATIONS)
    if all(head in order for _, head in keys):
        # An fc-head less a conv-head, whatever the detectors are called.
        keys.sort(key=lambda key: order.index(key[1]))
    for detector, head in keys:
        known = HEAD_CONFIGURATIONS.get(head)
        part: Any = head
        if known and what in _SCORE_STATISTICS:
            part = known.classifiers
        elif known and what in _BOX_STATISTICS:
            part = known.regressor
        first_of.setdefault((detector, part), (detector, head))
    heads: dict[str, list[str]] = {}
    for detector, head in first_of.values():
        heads.setdefault(detector, []).append(head)
    pairs = [
        ((detector, a), (detector, b))
        for detector, there in heads.items()
        for a, b in itertools.combinations(there, 2)
    ]
    for number, (a, b) in enumerate(itertools.combinations(heads, 2)):
        if len(heads) > MOST_DETECTORS and number >= len(heads) - 1:
            break
        common = [head for head in heads[a] if head in heads[b]]
        both = [(h, h) for h in common] or list(itertools.product(heads[a], heads[b]))
        last = heads[a][-1], heads[b][-1]
        if common and last not in both and not {*last} <= {"fc", "conv"}:
            both.append(last)
        pairs += [((a, x), (b, y)) for x, y in both]
    return pairs


def compare_pairs(
    compared: Callable[..., pd.DataFrame],
    measurements: Measurements,
    pairs: Iterable[tuple[Key, Key]],
    what: str,
    skip: Callable[[str], None] | None,
    **options: Any,
) -> pd.DataFrame:
    """Compare pairs of heads by one of the functions here; without any, a frame without columns.
    Raises UserError where a pair cannot be compared and must be.

    Args:
        compared, options: the function, and its options.
        pairs: of (detector, head).
        what: how messages call what some pairs may lack.
        skip: gets the message of a pair that cannot be compared; None: none may.
    """
    frames = []
    for a, b in pairs:
        try:
            frames.append(compared(measurements, a=a, b=b, **options))
        except UserError as reason:
            if skip is None:
                raise
            skip(f"no comparison of {what}: {reason}")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class HeadQuantity:
    """One head's part of a comparison.

    Attributes:
        objects: (O,) those that it has what is compared of; in bins (O, 20) where compared bin by bin.
        quantity: what the statistic is made of; of ranks from the objects (O,) that are compared, of which there may
            be too many rows.
    """

    objects: Flags
    quantity: Columns | Callable[[Flags], RankedRows]

    @property
    def there(self) -> Flags:
        """(O,) objects that it has anything of."""
        return self.objects if self.objects.ndim == 1 else np.asarray(self.objects.any(axis=1))


def compare(
    measurements: Measurements,
    statistic: str,
    a: Key,
    b: Key,
    *,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    by_bin: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """A statistic of two heads on the objects that both have, and its difference a - b.

    Args:
        statistic: one of STATISTICS: "pcc" (pooled), "object_pcc", "spearman" (from the sampled
            proposals), mean "score" and "regressed_iou", their "score_std" and "regressed_iou_std",
            mean "gain" of the regressed IoU over the proposal's, "rms_dx", "rms_dy", "rms_dw",
            "rms_dh", and "spatial_correlation" (mean over distinct pairs of RoI positions).
        a, b: (detector, head); for "spatial_correlation" (detector, branch).
        iou_range: proposals that count; multiples of 0.05; ignored by "spatial_correlation".
        by_bin: one row per IoU bin; not for the correlations.
        replicates, seed: of the bootstrap over images.

    Returns:
        One row per size ("small", "medium", "large", "all") (and bin) with "statistic", "size",
        ("bin", "iou_low", "iou_high",) "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high", "excludes_zero" and "objects".

    Raises:
        UserError: unknown statistic, a head that was not measured, no object that both have, or a
            range that is not of whole bins.
    """
    if by_bin and (statistic not in ON_BINS or statistic == "pcc"):
        raise UserError(f"the statistic {statistic!r} cannot be compared bin by bin")
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    compared_heads = [
        compared_head(measurements, statistic, key, iou_range, by_bin) for key in (a, b)
    ]
    check_common(statistic, a, b, *compared_heads)
    ends = bin_ends() if by_bin else {}
    return difference_rows(
        measurements, {"statistic": statistic}, ends, (a, b), compared_heads, bootstrap
    )


def compare_responses(
    measurements: Measurements,
    kind: str,
    a: Key,
    b: Key,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """What the mean response maps of two heads come down to, and the differences a - b.

    Quantities are those of ``response_summary`` that COMPARED_RESPONSES names: of
    "displacement_score" the drops and half-widths, of the zeroed positions the mean absolute change.

    Returns:
        As :func:`compare`, with "kind" and "quantity" in place of "statistic". A size without
        objects has no rows.

    Raises:
        UserError: unknown kind, a head without such maps, or no object that both have.
    """
    if kind not in COMPARED_RESPONSES:
        raise UserError(f"unknown response {kind!r}; there are {', '.join(RESPONSE_KINDS)}")
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    for key in (a, b):
        _check_map(measurements, kind, key)
    results = []
    for quantity in COMPARED_RESPONSES[kind]:
        columns = [response_columns(measurements, kind, quantity, key) for key in (a, b)]
        compared_heads = [HeadQuantity(there, each) for each, there in columns]
        check_common(kind, a, b, *compared_heads)
        keys = {"kind": kind, "quantity": quantity}
        results.append(difference_rows(measurements, keys, {}, (a, b), compared_heads, bootstrap))
    found = pd.concat(results).query("objects > 0")
    by_size_first = found["size"].map(ALL_SIZES.index).to_numpy().argsort(kind="stable")
    return found.iloc[by_size_first].reset_index(drop=True)


def compare_decay(
    measurements: Measurements, a: Key, b: Key, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Spatial correlation of two branches by the distance of RoI positions, and the differences a - b.

    Returns:
        As :func:`compare`, with "kind" ("spatial_correlation") and "quantity" ("decay") in place
        of "statistic", and one row per "distance" (see ``spatial.decay``). A size without objects
        has no rows.

    Raises:
        UserError: a branch without such maps or with another RoI resolution, or no object that
            both have.
    """
    bootstrap = ImageBootstrap(measurements.image_ids, replicates, seed)
    maps = [_check_map(measurements, OBJECT_MAPS, key) for key in (a, b)]
    columns = [map_columns(each, means_by_distance) for each in maps]
    compared_heads = [
        HeadQuantity(has_map(drawn), each) for each, drawn in zip(columns, maps, strict=True)
    ]
    check_common(OBJECT_MAPS, a, b, *compared_heads)
    if maps[0].shape[1] != maps[1].shape[1]:
        raise UserError(
            f"the RoIs of {'/'.join(a)} and {'/'.join(b)} have different numbers of positions, so "
            "their correlations by distance cannot be compared"
        )
    keys = {"kind": OBJECT_MAPS, "quantity": "decay"}
    ends = {"distance": distances(maps[0].shape[1])[0]}
    found = difference_rows(measurements, keys, ends, (a, b), compared_heads, bootstrap)
    return found[found["objects"] > 0].reset_index(drop=True)


def compared_head(
    measurements: Measurements,
    statistic: str,
    key: Key,
    iou_range: tuple[float, float] = WHOLE_RANGE,
    by_bin: bool = False,
) -> HeadQuantity:
    """One head's part of a comparison of one of STATISTICS.
    Raises UserError for an unknown statistic, a head that was not measured, or a range that is not of whole bins.
    """
    bin_range(iou_range)
    if statistic not in STATISTICS:
        raise UserError(f"unknown statistic {statistic!r}; there are {', '.join(STATISTICS)}")
    if statistic == OBJECT_MAPS:
        maps = _check_map(measurements, OBJECT_MAPS, key)
        columns = map_columns(maps, distinct_means)
        mean = Columns(columns.values[:, 0], columns.formula)
        return HeadQuantity(has_map(maps), mean)
    if statistic == "spearman":
        return _ranked_head(measurements, key, iou_range)
    names, formula = ON_BINS.get(statistic, (PEARSON_SUMS, ratio))
    values = moments_of(measurements, key, [*names, "measured"], iou_range)
    measured = values[..., -1] > 0
    has_any = np.asarray(measured.any(axis=1))
    if statistic == "object_pcc":
        own = object_pccs(measurements, key, iou_range, values[..., :-1])
        return HeadQuantity(has_any, own.columns)
    values = values[..., :-1]
    if by_bin:
        return HeadQuantity(measured, Columns(values, formula))
    return HeadQuantity(has_any, Columns(values.sum(axis=1), formula))


def check_common(what: str, a: Key, b: Key, first: HeadQuantity, second: HeadQuantity) -> None:
    """Raise UserError where a head has no objects, or they have none in common."""
    for key, each in ((a, first), (b, second)):
        if not each.there.any():
            raise UserError(f"no {what} measurements of {'/'.join(key)}")
    if not (first.there & second.there).any():
        raise UserError(
            f"{'/'.join(a)} and {'/'.join(b)} were measured on different objects and cannot be "
            "compared; measure both on the same data"
        )


def difference_rows(
    measurements: Measurements,
    keys: Mapping[str, str],
    ends: Mapping[str, npt.NDArray[Any]],
    names: tuple[Key, Key],
    compared_heads: Sequence[HeadQuantity],
    bootstrap: ImageBootstrap,
    own_objects: bool = False,
) -> pd.DataFrame:
    """Rows of a comparison, a size after another.

    Args:
        ends: columns after the size, a value for each place of the statistic.
        names: (detector, head) of both.
        compared_heads, bootstrap: of both.
        own_objects: each head is taken of all objects that it has, not of those that both have.
    """
    common = compared_heads[0].there & compared_heads[1].there
    objects_of = [each.there if own_objects else common for each in compared_heads]
    quantities = [
        each.quantity if isinstance(each.quantity, Columns) else each.quantity(objects)
        for each, objects in zip(compared_heads, objects_of, strict=True)
    ]
    resampled = [
        each.resample(objects, measurements, bootstrap)
        for each, objects in zip(quantities, objects_of, strict=True)
    ]
    rows = []
    for (size, chosen), a, b in zip(by_size(measurements), *resampled, strict=True):
        columns: dict[str, Any] = {**keys, "size": size, **ends}
        columns |= {"a": "/".join(names[0]), "b": "/".join(names[1])}
        columns |= difference_columns(a, b)
        objects = compared_heads[0].objects[chosen & common].sum(axis=0)
        rows.append(pd.DataFrame(columns | {"objects": objects}))
    return pd.concat(rows, ignore_index=True)


def _ranked_head(
    measurements: Measurements, key: Key, iou_range: tuple[float, float]
) -> HeadQuantity:
    rows, (first, after) = measurements.rows(key), bin_range(iou_range)
    objects = np.zeros(len(measurements.objects), bool)
    objects[rows["object"][(rows["bin"] >= first) & (rows["bin"] < after)]] = True

    def rank(compared: Flags) -> RankedRows:
        if compared[objects].all():
            return ranked_head(measurements, key, (iou_range[0], iou_range[1]))
        return RankedRows.of(ranked_rows(measurements, key, iou_range, compared))

    return HeadQuantity(objects, rank)


def _check_map(measurements: Measurements, kind: str, key: Key) -> npt.NDArray[np.float32]:
    """The maps (O, W) of a head. Raises UserError where it has none."""
    maps = measurements.maps(key, kind)
    if maps is None or not has_map(maps).any():
        there = ", ".join(map("/".join, measurements.map_keys(kind))) or "nothing"
        raise UserError(f"no {kind} measurements of {'/'.join(key)}; there are those of {there}")
    return maps
