"""How many objects have each fate under each head, by size and class, with intervals; all tables of fates at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.detections import keys_of
from rethink_heads.evaluation.fates import (
    ALL_FATES,
    FATES,
    FILE_FATES,
    FIT_IOU,
    LEAST_PRECISION,
    fates_of,
)
from rethink_heads.evaluation.ladder import (
    ALL,
    follow,
    ladder_differences,
    ladder_rows,
    resampled_recalls,
)
from rethink_heads.evaluation.matching import Flags, GroundTruth
from rethink_heads.measure.candidates import Candidates
from rethink_heads.measure.store import SIZES, Key
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    SHARE,
    ImageBootstrap,
    Resampled,
    difference_columns,
)
from rethink_heads.statistics.sums import ratio

_Group = tuple[str, str]
"""A size and a class, "all" for any."""


def fate_counts(
    fates: pd.DataFrame, dataset: CocoDataset, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """How many objects have each fate, by size and by class, with 95% intervals over images.

    Args:
        fates: of :func:`~.fates.object_fates` or :func:`~.fates.detection_fates`.
        dataset: what they are of.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        A row a head, group of objects and fate with "detector", "head", "size" and "class_name" (of which one at least
        is "all"), "fate", "count", "objects" (of the group), "share", "share_low" and "share_high".
    """
    bootstrap = ImageBootstrap(dataset.image_ids, replicates, seed)
    frames = [_count_rows(key, *_resampled_counts(fates, key, bootstrap)) for key in keys_of(fates)]
    return pd.concat(frames, ignore_index=True)


def compare_fates(
    fates: pd.DataFrame,
    dataset: CocoDataset,
    a: Key,
    b: Key,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The shares of objects with each fate under two heads, and their differences a - b on the same draws of images.

    Returns:
        A row a group and fate with "size", "class_name", "fate", "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high" and "excludes_zero".
    """
    bootstrap = ImageBootstrap(dataset.image_ids, replicates, seed)
    (_, first), (_, second) = (_resampled_counts(fates, key, bootstrap) for key in (a, b))
    return _count_differences(a, b, first, second)


def _resampled_counts(
    fates: pd.DataFrame, key: Key, bootstrap: ImageBootstrap
) -> tuple[pd.DataFrame, dict[_Group, Resampled]]:
    """One head's objects, and by size and class the shares (F,) of ALL_FATES."""
    own = fates[(fates["detector"] == key[0]) & (fates["head"] == key[1])]
    own = own.sort_values("image_id", kind="stable")
    is_fate = own["fate"].to_numpy()[:, None] == np.array(ALL_FATES, dtype=object)
    columns = np.stack([np.ones(is_fate.shape), is_fate], axis=-1)
    ids = own["image_id"].to_numpy()
    shares = {}
    for group, chosen in _groups(own):
        sums = bootstrap.sum_by_image(ids[chosen], columns[chosen])
        shares[group] = bootstrap.resample(sums, ratio, SHARE)
    return own, shares


def _groups(objects: pd.DataFrame) -> Iterator[tuple[_Group, Flags]]:
    """By (size, class): all objects, those of each size, those of each class."""
    yield (ALL, ALL), np.ones(len(objects), bool)
    sizes, names = objects["size"].to_numpy(), objects["class_name"].to_numpy()
    for size in SIZES:
        if (sizes == size).any():
            yield (size, ALL), sizes == size
    for name in pd.unique(names):
        yield (ALL, name), names == name


def _count_rows(key: Key, own: pd.DataFrame, shares: dict[_Group, Resampled]) -> pd.DataFrame:
    there = _there(own)
    frames = []
    for (group, chosen), each in zip(_groups(own), shares.values(), strict=True):
        objects = int(chosen.sum())
        frame = pd.DataFrame(
            {
                "detector": key[0],
                "head": key[1],
                "size": group[0],
                "class_name": group[1],
                "fate": ALL_FATES,
                "count": np.rint(each.value * objects).astype(np.int64),
                "objects": objects,
                **each.estimate().columns("share"),
            }
        )
        frames.append(frame[frame["fate"].isin(there)])
    return pd.concat(frames, ignore_index=True)


def _there(objects: pd.DataFrame) -> tuple[str, ...]:
    """The fates that there can be: of detections alone where the stages before are not known."""
    return FILE_FATES if objects["iou_proposals"].isna().all() else FATES


def _count_differences(
    a: Key, b: Key, first: dict[_Group, Resampled], second: dict[_Group, Resampled]
) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "size": group[0],
                "class_name": group[1],
                "fate": ALL_FATES,
                "a": "/".join(a),
                "b": "/".join(b),
                **difference_columns(first[group], second[group]),
            }
        )
        for group in first
    ]
    found = pd.concat(frames, ignore_index=True)
    # Fates that neither head's objects have, such as those of files alone.
    return found[(found["value_a"] > 0) | (found["value_b"] > 0)].reset_index(drop=True)


def fate_tables(
    candidates: Candidates,
    dataset: CocoDataset,
    pairs: Iterable[tuple[Key, Key]] = (),
    *,
    iou_threshold: float = FIT_IOU,
    least_precision: float = LEAST_PRECISION,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """All tables of fates and of the recall ladder, each head followed once.

    Args:
        candidates, dataset, iou_threshold, least_precision: as of :func:`~.fates.object_fates`.
        pairs: of (detector, head), those that are compared.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        "object_fates", "fates", "recall_ladder", and where there are pairs "fate_comparisons" and
        "recall_ladder_comparisons": the frames of :func:`~.fates.object_fates`, :func:`fate_counts`,
        :func:`~.ladder.recall_ladder`, :func:`compare_fates` and :func:`~.ladder.compare_ladders`.
    """
    truth = GroundTruth(dataset)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    rows: dict[str, list[pd.DataFrame]] = {}
    recalls, shares = {}, {}
    for key in candidates.keys:
        followed = follow(candidates, truth, key)
        recalls[key] = resampled_recalls(followed, bootstrap)
        fates = fates_of(followed, key, iou_threshold, least_precision)
        own, shares[key] = _resampled_counts(fates, key, bootstrap)
        rows.setdefault("object_fates", []).append(fates)
        rows.setdefault("fates", []).append(_count_rows(key, own, shares[key]))
        rows.setdefault("recall_ladder", []).append(ladder_rows(key, recalls[key], truth))
    for a, b in pairs:
        candidates.check(a)
        candidates.check(b)
        differences = _count_differences(a, b, shares[a], shares[b])
        rows.setdefault("fate_comparisons", []).append(differences)
        ladders = ladder_differences(a, b, recalls[a], recalls[b])
        rows.setdefault("recall_ladder_comparisons", []).append(ladders)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}
