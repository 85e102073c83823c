"""Rank correlation of score and IoU within images and within classes.

The measures are those of Kahraman, Oksuz, Kalkan and Akbas, "Correlation Loss: Enforcing
Correlation between Classification and Localization" (AAAI 2023, arXiv 2301.01019):

- at the *image level*, Spearman's correlation of the scores of the true class with the IoUs of an
  image's positive detections before post-processing, averaged over images: whether NMS keeps the
  best box of those it chooses among;
- at the *class level*, Spearman's correlation of the scores with the IoUs of a class's true
  positives after post-processing, over the whole data set, averaged over classes: whether better
  boxes come first, as AP over several IoU thresholds rewards.

The two averages and their pre- and post-NMS boxes were taken from a public summary of the paper;
the paper's text was not at hand, and the authors' repository (fehmikahraman/CorrLoss) holds the
training loss, but not these measures. Not verified are therefore what makes a detection positive,
and what becomes of images and classes with too few of them. Here positive means an IoU of 0.5 or
more: before NMS, of the box regressed for the class of the object that the RPN proposal overlaps
most, with that object; after NMS, of a true positive in COCO's matching. Images and classes whose
scores or IoUs do not vary, as with fewer than two positives, have no correlation and are left out.

The image level is given after NMS as well, which is not in that paper. An image with two positives
can only have a correlation of -1 or 1, so that this one is noisy.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rethink_heads.errors import UserError
from rethink_heads.measure.matching import POSITIVE_IOU
from rethink_heads.measure.stages import DETECTIONS, RPN
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import (
    MEAN_CORRELATION,
    Array,
    ImageBootstrap,
    Resampled,
    difference_columns,
)
from rethink_heads.statistics.ranks import (
    RANK_REPLICATES,
    numbered,
    rank_correlation,
    weighted_spearman,
)
from rethink_heads.statistics.sums import ratio

IMAGE, CLASS = "image", "class"
# Level and stage of each measure: the first and the last are the paper's.
MEASURES = ((IMAGE, RPN), (IMAGE, DETECTIONS), (CLASS, DETECTIONS))
FEWEST_BOXES = 50
"""True positives a class, on average, below which the class level has no interval."""
_IOU = {RPN: "regressed_iou", DETECTIONS: "true_positive_iou"}


def level_correlation(
    stages: pd.DataFrame, *, replicates: int = RANK_REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """Image- and class-level rank correlation of positive boxes (Kahraman et al., see the module).

    Args:
        stages: what ``measure_stages`` returns.
        replicates, seed: of the bootstrap over images; at the class level ranks are taken anew in
            every replicate.

    Returns:
        One row per detector, head, "level" ("image" or "class") and "stage" that the frame holds
        ("rpn": before NMS, "detections": after it) with "spearman", "spearman_low", "spearman_high", "groups" (images
        or classes that have a correlation) and "boxes" (positives, in any image or class).
    """
    bootstrap = ImageBootstrap(_matched(stages)["image_id"], replicates, seed)
    rows: list[dict[str, Any]] = []
    for (detector, head), (level, stage) in product(_keys(stages), _measures(stages)):
        found = _resampled(positives(stages, (detector, head), stage), level, bootstrap)
        rows.append(
            {
                "detector": detector,
                "head": head,
                "level": level,
                "stage": stage,
                **found.resampled.estimate().columns("spearman"),
                "groups": found.groups,
                "boxes": found.boxes,
            }
        )
    return pd.DataFrame(rows)


def compare_levels(
    stages: pd.DataFrame,
    a: Key,
    b: Key,
    *,
    replicates: int = RANK_REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The rank correlations of two heads on the same draws of images, and their difference a - b.

    Each side averages over the images or classes where it has a correlation.

    Returns:
        One row per "level" and "stage" with "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: a head has no boxes at all.
    """
    bootstrap = ImageBootstrap(_matched(stages)["image_id"], replicates, seed)
    there = _keys(stages)
    for key in (a, b):
        if key not in there:
            names = ", ".join("/".join(pair) for pair in there) or "nothing"
            raise UserError(f"no boxes of {'/'.join(key)}; there are those of {names}")
    rows = []
    for level, stage in _measures(stages):
        sides = [
            _resampled(positives(stages, key, stage), level, bootstrap).resampled for key in (a, b)
        ]
        columns = {"level": level, "stage": stage, "a": "/".join(a), "b": "/".join(b)}
        rows.append(pd.DataFrame({**columns, **difference_columns(*sides)}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def positives(stages: pd.DataFrame, key: Key, stage: str) -> pd.DataFrame:
    """The positive boxes of a head at a stage: image_id, class_name, score and iou, the IoU that counts."""
    boxes = _matched(stages)
    chosen = (boxes["detector"] == key[0]) & (boxes["head"] == key[1]) & (boxes["stage"] == stage)
    found = boxes.loc[chosen, ["image_id", "class_name", "score", _IOU[stage]]]
    found = found.rename(columns={_IOU[stage]: "iou"})
    return found[found["iou"] >= POSITIVE_IOU]


class _Level(NamedTuple):
    """A level's correlation, resampled; how many images or classes have one; the positives."""

    resampled: Resampled
    groups: int
    boxes: int


def _matched(stages: pd.DataFrame) -> pd.DataFrame:
    return stages[stages["object_id"] >= 0]


def _keys(stages: pd.DataFrame) -> list[Key]:
    """(detector, head) of all that has boxes, in rising order."""
    found = stages[["detector", "head"]].drop_duplicates()
    return sorted(found.itertuples(index=False, name=None))


def _measures(stages: pd.DataFrame) -> list[tuple[str, str]]:
    """The measures whose stage has boxes."""
    present = set(stages["stage"].unique())
    return [(level, stage) for level, stage in MEASURES if stage in present]


def _resampled(boxes: pd.DataFrame, level: str, bootstrap: ImageBootstrap) -> _Level:
    return (_over_images if level == IMAGE else _over_classes)(boxes, bootstrap)


def _over_images(boxes: pd.DataFrame, bootstrap: ImageBootstrap) -> _Level:
    """The mean of the images' own correlations: they do not change from draw to draw."""
    sums = np.zeros((len(bootstrap.image_ids), 2))
    for image_id, rows in boxes.groupby("image_id"):
        value = weighted_spearman(
            numbered(rows["iou"].to_numpy()), numbered(rows["score"].to_numpy()), np.ones(len(rows))
        )
        if np.isfinite(value):
            sums[bootstrap.index(np.array([image_id]))[0]] = 1, value
    resampled = bootstrap.resample(sums, ratio, limits=MEAN_CORRELATION)
    return _Level(resampled, int(sums[:, 0].sum()), len(boxes))


def _over_classes(boxes: pd.DataFrame, bootstrap: ImageBootstrap) -> _Level:
    """The mean of the classes' correlations, each taken anew in every draw of images."""
    found = [
        rank_correlation(
            rows["iou"].to_numpy(),
            rows["score"].to_numpy(),
            np.ones(len(rows)),
            rows["image_id"].to_numpy(np.int64),
            bootstrap,
        )
        for _, rows in boxes.groupby("class_name")
    ]
    values = np.array([each.value for each in found], dtype=float)
    replicates = np.array([each.replicates for each in found], dtype=float)
    # Copies of a few boxes correlate as they do themselves: replicates of fewer vary by twice what data sets do.
    is_enough = len(boxes) >= FEWEST_BOXES * max(1, len(values))
    resampled = Resampled(
        _mean_of_defined(values),
        _mean_of_defined(replicates.reshape(len(values), bootstrap.replicates)),
        np.array(boxes["image_id"].nunique() if is_enough else 0),
        MEAN_CORRELATION,
    )
    return _Level(resampled, int(np.isfinite(values).sum()), len(boxes))


def _mean_of_defined(values: Array) -> Array:
    """Mean over the first axis of what is not nan; nan where nothing is left."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
