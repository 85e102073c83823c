"""What correlations at the later stages are made of, added up part by part: sums by image, and the ranked boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rethink_heads.measure.measurements import SIZES
from rethink_heads.measure.stage_boxes import MATCHED, Side, StageBoxes
from rethink_heads.measure.thinning import thinned
from rethink_heads.statistics.bootstrap import CORRELATION, Array, ImageBootstrap, Resampled
from rethink_heads.statistics.ranks import MOST_RANKED, resampled_spearman
from rethink_heads.statistics.selection import ALL_SIZES, of_size
from rethink_heads.statistics.sums import PEARSON_SUMS, pearson_correlation

_RANKED = ["size", "iou", "score"]


@dataclass(frozen=True)
class SideBoxes:
    """One head's matched boxes of one stage, of which only sums, objects and thinned rows are kept.

    Attributes:
        sums: (I, sizes, 6) of each image and size, in the order of PEARSON_SUMS.
        objects: image_id, object_id and size of each object that has a box.
        ranked: iou, score, weight, image_id and size of the boxes that ranks are taken of.
    """

    sums: Array
    objects: pd.DataFrame
    ranked: pd.DataFrame

    def count(self, size: str) -> int:
        """Boxes of objects of a size, or of all."""
        return round(float(self._of(size)[:, 0].sum()))

    def resampled(self, statistic: str, size: str, bootstrap: ImageBootstrap) -> Resampled:
        """Pearson's ("pcc") or Spearman's ("spearman") correlation of score and IoU."""
        if statistic == "spearman":
            return resampled_spearman(of_size(self.ranked, size), bootstrap)
        return bootstrap.resample(self._of(size), pearson_correlation, limits=CORRELATION)

    def _of(self, size: str) -> Array:
        chosen = slice(None) if size not in SIZES else [SIZES.index(size)]
        return np.asarray(self.sums[:, chosen].sum(axis=1))


def side_boxes(
    boxes: StageBoxes,
    side: Side,
    stage: str,
    iou_range: tuple[float, float],
    bootstrap: ImageBootstrap,
) -> SideBoxes:
    """Go through a head's boxes of a stage: once for their sums and their number, once for those that are ranked.

    Args:
        boxes: of any heads and stages.
        side, stage: whose.
        iou_range: boxes of an IoU in it count.
        bootstrap: over the boxes' images.
    """
    sums = np.zeros((len(bootstrap.image_ids), len(SIZES), len(PEARSON_SUMS)))
    objects, counts = [_no_rows([*MATCHED, "size"])], [0]
    for part in _inside(boxes, side, stage, iou_range):
        iou, score = part["iou"].to_numpy(float), part["score"].to_numpy(float)
        columns = np.stack(
            [np.ones(len(part)), iou, score, iou * iou, score * score, iou * score], axis=1
        )
        sizes = pd.Categorical(part["size"], categories=list(SIZES)).codes.astype(np.int64)
        bootstrap.add_by_image(sums, part["image_id"].to_numpy(np.int64), columns, sizes)
        objects.append(part[[*MATCHED, "size"]].drop_duplicates())
        counts.append(len(part))
    every = max(1, -(-sum(counts) // MOST_RANKED))
    ranked = [_no_rows([*MATCHED, *_RANKED]).assign(weight=0.0)]
    for part in _inside(boxes, side, stage, iou_range):
        # An object's boxes one below the other, the best first: of these every k-th.
        by_object = part.sort_values([*MATCHED, "iou"], ascending=False, kind="stable")
        ranked.append(thinned(by_object.assign(weight=1.0), every))
    filled = [part for part in ranked if len(part)] or ranked
    of_objects = [part for part in objects if len(part)] or objects
    return SideBoxes(
        sums, pd.concat(of_objects, ignore_index=True), pd.concat(filled, ignore_index=True)
    )


def sizes_of(boxes: SideBoxes) -> Iterator[tuple[str, int]]:
    """Each size and all of them, with the number of objects that have a box."""
    for size in ALL_SIZES:
        yield size, len(of_size(boxes.objects, size))


def _inside(
    boxes: StageBoxes, side: Side, stage: str, iou_range: tuple[float, float]
) -> Iterator[pd.DataFrame]:
    low, high = iou_range
    for part in boxes.read(side, stage, _RANKED):
        iou = part["iou"]
        # As the bins of the predefined proposals: the last one holds an IoU of 1.
        yield part[(iou >= low) & ((iou < high) | (high >= 1))]


def _no_rows(columns: list[str]) -> pd.DataFrame:
    kinds = {"image_id": "int64", "object_id": "int64", "size": "str"}
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "float64")) for name in columns})
