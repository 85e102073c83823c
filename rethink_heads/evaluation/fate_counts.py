"""How many objects have each fate under each head, by size and class, with intervals; all tables of fates at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.detections import Quantities, keys_of, tables_of
from rethink_heads.evaluation.fates import (
    ALL_FATES,
    FATES,
    FILE_FATES,
    FIT_IOU,
    LEAST_PRECISION,
    fates_of,
)
from rethink_heads.evaluation.ladder import ALL, follow, recalls
from rethink_heads.evaluation.matching import Flags, GroundTruth
from rethink_heads.measure.candidates import Candidates
from rethink_heads.measure.store import SIZES, Key
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    SHARE,
    ImageBootstrap,
    join,
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
        is "all"), "fate", "share", "share_low", "share_high", "count" and "objects" (of the group).
    """
    bootstrap = ImageBootstrap(dataset.image_ids, replicates, seed)
    return count_tables(fates, keys_of(fates), bootstrap)["fates"]


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
    return count_tables(fates, [a, b], bootstrap, [(a, b)])["fate_comparisons"]


def count_tables(
    fates: pd.DataFrame,
    keys: Iterable[Key],
    bootstrap: ImageBootstrap,
    pairs: Iterable[tuple[Key, Key]] = (),
) -> dict[str, pd.DataFrame]:
    """The frames "fates" and, where there are pairs, "fate_comparisons" of some heads' objects."""
    found = {key: {"fates": _shares(fates, key, bootstrap)} for key in keys}
    tables = tables_of(found, pairs)
    counts, compared = tables["fates"], tables.pop("fates_comparisons", None)
    # Of detections alone, where the stages before are not known.
    can_be = {
        key: FILE_FATES if _own(fates, key)["iou_proposals"].isna().all() else FATES
        for key in found
    }
    heads = zip(counts["detector"], counts["head"], counts["fate"], strict=True)
    tables["fates"] = counts[[fate in can_be[d, h] for d, h, fate in heads]].reset_index(drop=True)
    if compared is not None:
        # Without fates that neither head's objects have, such as those of files alone.
        occur = (compared["value_a"] > 0) | (compared["value_b"] > 0)
        tables["fate_comparisons"] = compared[occur].reset_index(drop=True)
    return tables


def _shares(fates: pd.DataFrame, key: Key, bootstrap: ImageBootstrap) -> Quantities:
    """The shares of one head's objects with each of ALL_FATES, by size and class."""
    own = _own(fates, key).sort_values("image_id", kind="stable")
    is_fate = own["fate"].to_numpy()[:, None] == np.array(ALL_FATES, dtype=object)
    columns = np.stack([np.ones(is_fate.shape), is_fate], axis=-1)
    ids, groups, shares = own["image_id"].to_numpy(), dict(_groups(own)), []
    for chosen in groups.values():
        sums = bootstrap.sum_by_image(ids[chosen], columns[chosen])
        shares.append(bootstrap.resample(sums, ratio, SHARE))
    found = join(shares)
    objects = np.repeat([chosen.sum() for chosen in groups.values()], len(ALL_FATES))
    counts = np.rint(found.value * objects).astype(np.int64)
    sizes, names = (np.repeat(each, len(ALL_FATES)) for each in zip(*groups, strict=True))
    keys = {"size": sizes, "class_name": names, "fate": ALL_FATES * len(groups)}
    return Quantities(found, keys, "share", {"count": counts, "objects": objects})


def _groups(objects: pd.DataFrame) -> Iterator[tuple[_Group, Flags]]:
    """By (size, class): all objects, those of each size, those of each class."""
    yield (ALL, ALL), np.ones(len(objects), bool)
    sizes, names = objects["size"].to_numpy(), objects["class_name"].to_numpy()
    for size in SIZES:
        if (sizes == size).any():
            yield (size, ALL), sizes == size
    for name in pd.unique(names):
        yield (ALL, name), names == name


def _own(fates: pd.DataFrame, key: Key) -> pd.DataFrame:
    return fates[(fates["detector"] == key[0]) & (fates["head"] == key[1])]


def fate_tables(
    candidates: Candidates,
    dataset: CocoDataset,
    pairs: Sequence[tuple[Key, Key]] = (),
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
    for key in {key for pair in pairs for key in pair}:
        candidates.check(key)
    frames, ladders = [], {}
    for key in candidates.keys:
        followed = follow(candidates, truth, key)
        ladders[key] = {"recall_ladder": recalls(followed, bootstrap)}
        frames.append(fates_of(followed, key, iou_threshold, least_precision))
    fates = pd.concat(frames, ignore_index=True)
    counts = count_tables(fates, candidates.keys, bootstrap, pairs)
    return {"object_fates": fates, **counts, **tables_of(ladders, pairs)}
