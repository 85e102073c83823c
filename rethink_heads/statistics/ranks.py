"""Spearman's rank correlation of weighted rows, for all images and for each replicate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.thinning import thinned
from rethink_heads.statistics.bootstrap import CORRELATION, Array, ImageBootstrap, Resampled
from rethink_heads.statistics.selection import WHOLE_RANGE, in_range
from rethink_heads.statistics.sums import NO_VARIANCE

# Ranks need all rows of a head at once. More than these change nothing that could be seen: the interval is of the
# images. A thinned row has about 512 bytes while ranks are taken, so that they fit into 512 MiB.
MOST_RANKED = 1_000_000
# The rows are sorted once, but ranks are recomputed in every replicate.
RANK_REPLICATES = 200
# Parts of the rows that are left out in turn.
_GROUPS = 10
_OBJECT = ["image_id", "object_id"]


def ranked_rows(
    measurements: Measurements,
    side: tuple[str, str],
    iou_range: tuple[float, float] = WHOLE_RANGE,
    objects: pd.MultiIndex | None = None,
) -> pd.DataFrame:
    """The sampled rows of a head that ranks are taken of.

    Where there are more than MOST_RANKED, every k-th of each object, which stands for k times as many
    proposals. The first is chosen by a hash of the object's ids, so that the rows are the same for all
    heads and each time, and whether the measurements are in memory or in files.

    Args:
        measurements: of any heads.
        side: (detector, head).
        iou_range: rows of bins in it.
        objects: (image_id, object_id) of those that count; None: all.
    """

    def chosen(columns: list[str]) -> Iterator[pd.DataFrame]:
        detector, head = side
        for part in measurements.read("rows", ["bin", *columns], detector=detector, head=head):
            kept = in_range(part, iou_range)
            if objects is not None:
                kept = kept[pd.MultiIndex.from_frame(kept[_OBJECT]).isin(objects)]
            yield kept

    every = 1
    if measurements.groups("rows").get(side, 0) > MOST_RANKED:
        every = max(1, -(-sum(len(part) for part in chosen([])) // MOST_RANKED))
    parts = [thinned(part, every) for part in chosen(["weight", "iou", "score"])]
    return pd.concat(parts, ignore_index=True)


def resampled_spearman(rows: pd.DataFrame, bootstrap: ImageBootstrap) -> Resampled:
    """Spearman's correlation of all sampled rows, and of each replicate.

    Rows: iou, score, weight, image_id.
    """
    images = np.array(rows["image_id"].nunique())
    if rows.empty:
        nothing = np.full(bootstrap.replicates, np.nan)
        return Resampled(np.array(np.nan), nothing, images, CORRELATION)
    places_x, places_y = _places(rows)
    weight = rows["weight"].to_numpy()
    image = bootstrap.index(rows["image_id"].to_numpy())
    values = [
        weighted_spearman(places_x, places_y, weight * drawn[image])
        for block in bootstrap.weight_blocks()
        for drawn in block
    ]
    value = weighted_spearman(places_x, places_y, weight)
    return Resampled(np.array(value), np.array(values), images, CORRELATION)


def spearman_sampling_error(rows: pd.DataFrame) -> float:
    """Standard error of Spearman's correlation that comes of ranking some proposals in place of all.

    Of each object and bin so many rows stand for all of its proposals. They are dealt out to ten groups, and each
    group is left out in turn, the other rows of its bins standing for more (the jackknife by groups; of bins of fewer
    rows a part is left out: Kott, The Delete-a-Group Jackknife, 2001). Bins of which every proposal is a row have no
    error. nan where one row stands for a bin's proposals, which does not tell how they differ.

    Args:
        rows: image_id, object_id, bin, iou, score, weight.
    """
    if rows.empty:
        return float("nan")
    weight = rows["weight"].to_numpy()
    strata = rows.groupby([*_OBJECT, "bin"], sort=False)
    number, size = strata.cumcount().to_numpy(), strata["weight"].transform("size").to_numpy()
    # Small bins give their rows to different groups.
    group = (number + strata.ngroup().to_numpy()) % _GROUPS
    is_drawn = weight > 1
    if (is_drawn & (size == 1)).any():
        return float("nan")
    part = np.sqrt(_GROUPS * (size - 1) / ((_GROUPS - 1) * size)).clip(max=1)
    iou_places, score_places = _places(rows)
    left_out = []
    for out in range(_GROUPS):
        is_out = is_drawn & (group == out)
        gone = pd.Series(is_out).groupby(strata.ngroup().to_numpy()).transform("sum").to_numpy()
        others = weight * (1 + part * gone / np.maximum(size - gone, 1))
        remaining = np.where(is_out, weight * (1 - part), others)
        left_out.append(weighted_spearman(iou_places, score_places, remaining))
    variance = (_GROUPS - 1) * np.var(left_out)
    # What a bin's rows are of its proposals, their error lacks.
    unseen = np.average(1 - 1 / weight[is_drawn], weights=weight[is_drawn]) if is_drawn.any() else 0
    return float(np.sqrt(variance * unseen))


def _places(rows: pd.DataFrame) -> list[npt.NDArray[np.int64]]:
    """IoUs and scores of rows as :func:`weighted_spearman` takes them."""
    return [
        np.unique(rows[column].to_numpy(), return_inverse=True)[1] for column in ("iou", "score")
    ]


def weighted_spearman(
    places_x: npt.NDArray[np.int64], places_y: npt.NDArray[np.int64], weight: Array
) -> float:
    """Rank correlation of rows (N,) that each stand for ``weight`` equal ones.

    ``places`` number the different values of a variable from 0 in rising order, so that equal
    values, which share the mean of their ranks, have one number. nan where one variable does not
    vary.
    """
    total = weight.sum()
    if total <= 0:
        return float("nan")
    ranks = []
    for places in (places_x, places_y):
        mass = np.bincount(places, weight)
        # Less half the total, which is the mean of midranks: centred without a second pass.
        midranks = (np.cumsum(mass) - mass / 2 - total / 2) / total
        ranks.append(midranks[places])
    x, y = ranks
    spread = (weight @ (x * x)) * (weight @ (y * y))
    # Centred ranks span [-1/2, 1/2]: a spread of next to nothing is a single value.
    if spread <= (NO_VARIANCE * total) ** 2:
        return float("nan")
    return float(weight @ (x * y) / np.sqrt(spread))
