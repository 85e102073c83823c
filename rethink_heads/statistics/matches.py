"""Detections matched to objects by COCO's rules, some images at a time: what precision, errors and calibration count.

hotcoco does the matching; it is pycocotools' to the last digit. All that follows needs are flags, so that a bootstrap
counts again without matching again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import hotcoco
import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.measure.kept_detections import HeadDetections, KeptDetections, Side
from rethink_heads.statistics.bootstrap import Array, ImageBootstrap

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's ten IoU thresholds."""
AREAS = ("all", "small", "medium", "large")
"""COCO's object sizes, in its order."""
NO_OBJECT = -1
_COLUMNS = ["image_id", "label", "x1", "y1", "x2", "y2", "score"]
# The evaluation's records are Python's and take a lot of room: of so many detections at once some 20 MiB.
_MATCHED_AT_ONCE = 2048


@dataclass(frozen=True)
class Matches:
    """Detections of some images, each one's by falling score.

    Attributes:
        images: (N,) each detection's image, as an index into the sorted image ids, ascending.
        labels: (N,); scores: (N,); boxes: (N, 4) x, y, width, height in px of the original image.
        hits: (A, T, N) whether it is a true positive, by size and IoU threshold.
        kept: (A, T, N) whether it counts at all: a detection of a crowd or of an object of another size does not, nor
            does one of a class and image that has a hundred better ones.
        objects: (T, N) row in :class:`Truth` of the object it is matched to, -1 for none.
    """

    images: Indices
    labels: Indices
    scores: Array
    boxes: Array
    hits: Flags
    kept: Flags
    objects: Indices


class Truth:
    """A dataset's objects as evaluation sees them: boxes as annotated, crowds included, unusable boxes left out.

    Objects and crowds of classes that the dataset leaves out are not there.

    Attributes:
        image_ids: (I,) of the images that are evaluated, ascending.
        labels: (G,) class 0..K-1 of each object; images: (G,) index of its image, ascending.
        boxes: (G, 4) x, y, width, height in px of the original image.
        areas: (G,) px^2, the box's where the file gives none; crowd: (G,) whether it is one.
    """

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset
        self.image_ids: Indices = np.unique(np.array(dataset.image_ids, np.int64))
        annotated = dataset.annotated
        images = self.index(np.array(dataset.image_ids, np.int64)[annotated.images])
        # A stable sort keeps the file's order within an image, by which equal matches are decided.
        order = np.argsort(images, kind="stable")
        self.images: Indices = images[order]
        self.labels: Indices = annotated.labels[order]
        self.boxes: Array = annotated.boxes[order]
        areas = annotated.areas[order]
        self.areas: Array = np.where(np.isnan(areas), self.boxes[:, 2:].prod(axis=1), areas)
        self.crowd: Flags = annotated.crowd[order]

    @property
    def class_count(self) -> int:
        """K."""
        return len(self.dataset.category_ids)

    def index(self, image_ids: Any) -> Indices:
        """Positions (N,) of image ids (N,) in ``image_ids``."""
        return np.searchsorted(self.image_ids, np.asarray(image_ids, np.int64)).astype(np.int64)

    def rows_in(self, images: Indices) -> Indices:
        """Rows of the objects of some images, which are indices in rising order."""
        first = np.searchsorted(self.images, images[0], side="left")
        after = np.searchsorted(self.images, images[-1], side="right")
        return np.flatnonzero(np.isin(self.images[first:after], images)) + first

    def positives(self, label: int) -> Array:
        """Objects of a class to find, by size and image: (A, I)."""
        of_class = np.flatnonzero((self.labels == label) & ~self.crowd)
        areas, images = self.areas[of_class], self.images[of_class]
        count = len(self.image_ids)
        return np.stack(
            [
                np.bincount(images[(areas >= low) & (areas <= high)], minlength=count)
                for low, high in _limits()
            ]
        ).astype(np.float64)

    def check(self, detections: KeptDetections) -> None:
        """Raise UserError where detections are of other images or classes than the dataset's."""
        strangers: set[int] = set()
        labels = {0}
        for side in detections.sides:
            for part in detections.read(side, ["image_id", "label"]):
                found = np.unique(part["image_id"].to_numpy(np.int64))
                strangers.update(found[~np.isin(found, self.image_ids)].tolist())
                labels.update(part["label"].unique().tolist())
        where = self.dataset.where
        if strangers:
            raise UserError(
                f"{len(strangers)} images with detections are not among the {len(self.image_ids)} of {where}"
                f" (the first: {min(strangers)}); evaluate on the data that was detected on"
            )
        if min(labels) < 0 or max(labels) >= self.class_count:
            raise UserError(
                f"detections have labels from {min(labels)} to {max(labels)}, but {where} has {self.class_count}"
                f" classes, 0 to {self.class_count - 1};"
                " evaluate on the data that was detected on"
            )


def resampling(
    detections: KeptDetections, dataset: CocoDataset, replicates: int, seed: int
) -> tuple[Truth, ImageBootstrap]:
    """What there is to find, and draws of the dataset's images to count it on.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = Truth(dataset)
    truth.check(detections)
    return truth, ImageBootstrap(truth.image_ids, replicates, seed)


def of_heads(detections: KeptDetections) -> Iterator[HeadDetections]:
    """The detections of each head of each detector that found anything."""
    return (HeadDetections(detections, side) for side in detections.sides)


def of_side(detections: KeptDetections, side: Side) -> HeadDetections:
    """The detections of one head.

    Raises:
        UserError: there are none of it.
    """
    if side not in detections.sides:
        there = ", ".join("/".join(found) for found in detections.sides) or "nothing"
        raise UserError(f"no detections of {'/'.join(side)}; there are those of {there}")
    return HeadDetections(detections, side)


def box_ious(boxes: Array, objects: Array) -> Array:
    """IoU of boxes (..., 4) with objects (..., 4), x, y, width, height, as COCO computes it.

    The leading dimensions are broadcast: ``boxes[:, None]`` with ``objects[None]`` gives every pair.
    """
    near = np.maximum(boxes[..., :2], objects[..., :2])
    far = np.minimum(boxes[..., :2] + boxes[..., 2:], objects[..., :2] + objects[..., 2:])
    common = np.clip(far - near, 0, None).prod(axis=-1)
    union = boxes[..., 2:].prod(axis=-1) + objects[..., 2:].prod(axis=-1) - common
    return np.asarray(common / np.where(union > 0, union, 1))


def matches(
    truth: Truth,
    head: HeadDetections,
    thresholds: Array = THRESHOLDS,
    *,
    sizes: int = len(AREAS),
    labels: Collection[int] | None = None,
    least_score: float = -np.inf,
) -> Iterator[Matches]:
    """Match one head's detections some images at a time; images without any are left out.

    Args:
        truth: the objects.
        head: the detections.
        thresholds: (T,) IoU thresholds.
        sizes: how many of AREAS.
        labels: only detections of these classes; None: all. Classes are matched apart.
        least_score: only detections of this score or more. Better ones are matched first.
    """
    for part in head.read(_COLUMNS):
        chosen = ~(part["score"] < least_score).to_numpy()
        if labels is not None:
            chosen = chosen & part["label"].isin(labels).to_numpy()
        frame = part[chosen]
        for rows in _by_images(frame["image_id"].to_numpy(np.int64)):
            yield _matched(truth, frame.iloc[rows], np.asarray(thresholds), sizes)


def _by_images(image_ids: Indices) -> Iterator[slice]:
    """Consecutive rows of whole images, about _MATCHED_AT_ONCE at once."""
    ends = np.append(np.flatnonzero(np.diff(image_ids)) + 1, len(image_ids))
    start = 0
    while start < len(image_ids):
        within = ends[(ends > start) & (ends <= start + _MATCHED_AT_ONCE)]
        # An image with more than that is matched by itself.
        end = int(within[-1]) if len(within) else int(ends[ends > start][0])
        yield slice(start, end)
        start = end


class _Found(NamedTuple):
    """What is matched; boxes as COCO writes them: x, y, width, height."""

    images: Indices
    labels: Indices
    boxes: Array
    scores: Array


def _matched(truth: Truth, frame: pd.DataFrame, thresholds: Array, sizes: int) -> Matches:
    corners = frame[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    found = _Found(
        truth.index(frame["image_id"]),
        frame["label"].to_numpy(np.int64),
        np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]]),
        frame["score"].to_numpy(np.float64),
    )
    shape = (sizes, len(thresholds), len(frame))
    hits, kept = np.zeros(shape, bool), np.zeros(shape, bool)
    partners, is_matched = np.zeros(shape[1:], np.int64), np.zeros(shape[1:], bool)
    number_of = {tuple(limits): number for number, limits in enumerate(_limits())}
    for record in _records(truth, found, thresholds, sizes):
        number = number_of[tuple(record["aRng"])]
        # Numbers are rows plus one, of objects too.
        rows = np.array(record["dtIds"], np.int64) - 1
        ignored, matched = (np.array(record[key], bool) for key in ("dtIgnore", "dtMatched"))
        hits[number][:, rows] = matched & ~ignored
        kept[number][:, rows] = ~ignored
        if number == 0:
            partners[:, rows] = np.array(record["dtMatches"], np.int64)
            is_matched[:, rows] = matched
    objects = np.full(shape[1:], NO_OBJECT, np.int64)
    objects[is_matched] = partners[is_matched] - 1
    return Matches(found.images, found.labels, found.scores, found.boxes, hits, kept, objects)


def _records(
    truth: Truth, found: _Found, thresholds: Array, sizes: int
) -> Iterator[dict[str, Any]]:
    """hotcoco's records of the images and classes that have detections.

    Images, classes, objects and detections are numbered from one: in an array of floats not every id has room.
    """
    here, classes = np.unique(found.images), np.unique(found.labels)
    of_objects = truth.rows_in(here)
    objects = hotcoco.COCO.from_arrays(
        [{"id": number} for number in (here + 1).tolist()],
        [{"id": number, "name": str(number)} for number in range(1, truth.class_count + 1)],
        truth.images[of_objects] + 1,
        truth.labels[of_objects] + 1,
        truth.boxes[of_objects],
        ids=of_objects + 1,
        area=truth.areas[of_objects],
        iscrowd=truth.crowd[of_objects],
    )
    columns = [found.images + 1, found.boxes, found.scores, found.labels + 1]
    results = objects.load_res(np.column_stack(columns))
    evaluation = hotcoco.COCOeval(objects, results, "bbox")
    evaluation.params.img_ids = (here + 1).tolist()
    evaluation.params.cat_ids = (classes + 1).tolist()
    evaluation.params.iou_thrs = thresholds.tolist()
    evaluation.params.area_rng = _limits()[:sizes]
    evaluation.params.area_rng_lbl = list(AREAS[:sizes])
    evaluation.evaluate()
    return (record for record in evaluation.eval_imgs if record is not None and record["dtIds"])


def _limits() -> list[list[float]]:
    """COCO's limits of area by size, in px^2 of the original image."""
    return [list(limits) for limits in hotcoco.Params("bbox").area_rng]
