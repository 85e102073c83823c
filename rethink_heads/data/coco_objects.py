"""The objects of a COCO file as flat arrays: which boxes are usable, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rethink_heads.data.coco_json import (
    check_unique,
    integer,
    parse_area,
    parse_box,
    parse_flag,
)
from rethink_heads.errors import UserError

# A side below this is degenerate: float32 coordinates near 1000 px are 6e-5 px apart, so the IoUs
# of a thinner box would be rounding noise.
MIN_SIDE = 0.1
# COCO writes coordinates with two decimals, so x + w may pass the border by that much.
BORDER_TOLERANCE = 0.01

# Columns of the counts by image, in the order of BoxCounts; the first four are fates of a box.
_KEPT, _CROWD, _DEGENERATE, _OUTSIDE, _CLIPPED, _OTHER = range(6)
_COLUMNS = 6


@dataclass(frozen=True)
class BoxCounts:
    """What became of a dataset's annotations.

    Attributes:
        objects: kept, ``clipped`` ones included.
        crowd: left out because ``iscrowd`` is set.
        degenerate: left out because a side is below ``MIN_SIDE`` px.
        outside: left out because less than ``MIN_SIDE`` px of a side lies inside the image.
        clipped: kept, but cut at the image's border by more than ``BORDER_TOLERANCE`` px.
        other_classes: left out because :meth:`.CocoDataset.with_classes` left out their class.
    """

    objects: int
    crowd: int
    degenerate: int
    outside: int
    clipped: int
    other_classes: int = 0


@dataclass(frozen=True)
class Annotated:
    """M usable objects and crowds as the file has them, in its order: what evaluation goes by.

    Attributes:
        images: (M,) index of each one's image; labels: (M,) 0..K-1.
        boxes: (M, 4) float64, x, y, width, height in px; areas: (M,) px^2, NaN where the file gives none.
        crowd: (M,) whether it is one.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray

    def only(self, chosen: np.ndarray) -> Annotated:
        """Those that a mask (M,) chooses."""
        return Annotated(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True)
class CocoObjects:
    """N usable objects, sorted by image; those of image i are the rows offsets[i]:offsets[i + 1].

    Flat arrays, not a list of lists: data loader workers then share their memory.

    Attributes:
        boxes: (N, 4) float32, xyxy in px, clipped to the image.
        labels: (N,) 0..K-1; areas: (N,) float32, px^2; ids: (N,) the file's; clipped: (N,) whether the border cut them.
        counts: (I, 6) what became of each image's boxes, in the order of BoxCounts.
        unusable_ids: ids of the degenerate and outside boxes.
        annotated: what the file says of them and of crowds.
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ids: np.ndarray
    clipped: np.ndarray
    counts: np.ndarray
    unusable_ids: frozenset[int]
    annotated: Annotated

    @cached_property
    def offsets(self) -> list[int]:
        """The I + 1 rows at which the images begin and the last ends."""
        return [0, *np.cumsum(self.counts[:, _KEPT]).tolist()]

    def count(self, images: int) -> BoxCounts:
        """What became of the boxes of the first images."""
        return BoxCounts(*self.counts[:images].sum(0).tolist())

    def of_labels(self, labels: Sequence[int]) -> CocoObjects:
        """The objects of some labels, ascending, which become 0, 1, ...; the others are counted."""
        kept = np.isin(self.labels, labels)
        image_index = np.repeat(np.arange(len(self.counts)), self.counts[:, _KEPT])
        counts = self.counts.copy()
        np.add.at(counts[:, _KEPT], image_index[~kept], -1)
        np.add.at(counts[:, _OTHER], image_index[~kept], 1)
        np.add.at(counts[:, _CLIPPED], image_index[~kept & self.clipped], -1)
        annotated = self.annotated.only(np.isin(self.annotated.labels, labels))
        relabelled = np.searchsorted(labels, annotated.labels)
        return CocoObjects(
            self.boxes[kept],
            np.searchsorted(labels, self.labels[kept]),
            self.areas[kept],
            self.ids[kept],
            self.clipped[kept],
            counts,
            self.unusable_ids,
            replace(annotated, labels=relabelled),
        )


def read_objects(
    annotations: Sequence[dict[str, Any]],
    image_ids: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    category_ids: Sequence[int],
    where: str,
) -> CocoObjects:
    """Check annotations and sort them by image.

    Args:
        annotations: COCO's records.
        image_ids, sizes: of the I images, sizes as width and height in px.
        category_ids: the K categories, in label order.
        where: the file, for messages.

    Raises:
        UserError: an annotation is not COCO's, names an unknown image or category, or has another's id; the message
            names the first of them by its id and says how many more there are.
    """
    index_of_image = {image_id: i for i, image_id in enumerate(image_ids)}
    label_of_category = {c: label for label, c in enumerate(category_ids)}
    count = len(annotations)
    image_index = np.zeros(count, np.int64)
    labels = np.zeros(count, np.int64)
    ids = np.zeros(count, np.int64)
    crowd = np.zeros(count, bool)
    xywh = np.zeros((count, 4))
    areas = np.full(count, np.nan)
    for row, annotation in enumerate(annotations):
        ids[row] = object_id = integer(annotation, "id", "annotation", where, row)
        image_id = integer(annotation, "image_id", "annotation", where)
        category_id = integer(annotation, "category_id", "annotation", where)
        image_index[row] = index_of_image.get(image_id, -1)
        labels[row] = label_of_category.get(category_id, -1)
        crowd[row] = parse_flag(
            annotation.get("iscrowd"), f"iscrowd of annotation {object_id}", where
        )
        xywh[row] = parse_box(annotation, object_id, where)
        areas[row] = parse_area(annotation, object_id, where)
    check_unique(ids.tolist(), "annotation", where)
    for kind, entries, found in (
        ("image", "images", image_index),
        ("category", "categories", labels),
    ):
        unknown = np.flatnonzero(found < 0)
        if len(unknown):
            more = f" (as do {len(unknown) - 1} more annotations)" if len(unknown) > 1 else ""
            raise UserError(
                f"{where}: annotation {ids[unknown[0]]} names {kind} {annotations[unknown[0]][f'{kind}_id']}, "
                f"which is not in '{entries}'{more}; add the {kind} or remove the annotation"
            )

    boxes, fate, clipped = _clip(xywh, crowd, np.array(sizes, float)[image_index])
    annotated = Annotated(image_index, labels, xywh, areas, crowd)
    areas = np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(1), areas)
    counts = np.zeros((len(image_ids), _COLUMNS), np.int64)
    np.add.at(counts, (image_index, fate), 1)
    np.add.at(counts[:, _CLIPPED], image_index[clipped], 1)
    # A stable sort keeps the file's order within an image, as pycocotools does.
    kept = np.flatnonzero(fate == _KEPT)
    kept = kept[np.argsort(image_index[kept], kind="stable")]
    return CocoObjects(
        boxes[kept].astype(np.float32),
        labels[kept],
        areas[kept].astype(np.float32),
        ids[kept],
        clipped[kept],
        counts,
        frozenset(ids[np.isin(fate, (_DEGENERATE, _OUTSIDE))].tolist()),
        annotated.only(np.isin(fate, (_KEPT, _CROWD))),
    )


def _clip(
    xywh: np.ndarray, crowd: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip (A, 4) xywh boxes to images of (A, 2) width, height.

    Returns the (A, 4) xyxy boxes, the fate of each (A,) and whether a kept one was cut (A,).
    """
    limits = np.concatenate([sizes, sizes], axis=1)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    clipped = np.clip(corners, 0.0, limits)
    degenerate = (xywh[:, 2:] < MIN_SIDE).any(1)
    outside = (clipped[:, 2:] - clipped[:, :2] < MIN_SIDE).any(1)
    cut = (np.abs(clipped - corners) > BORDER_TOLERANCE).any(1)
    fate = np.select([crowd, degenerate, outside], [_CROWD, _DEGENERATE, _OUTSIDE], default=_KEPT)
    return clipped, fate, cut & (fate == _KEPT)
