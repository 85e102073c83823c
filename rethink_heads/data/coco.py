"""Reads a detection set in COCO format: one JSON file and one folder of images."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rethink_heads.data.coco_json import (
    CONVERTED_FROM,
    category_names,
    check_unique,
    field,
    integer,
    parse_area,
    parse_box,
    parse_flag,
    read_json,
    records,
    text,
)
from rethink_heads.data.images import check_size, image_hashes, read_image
from rethink_heads.errors import UserError, shown
from rethink_heads.files import cannot_read, is_file


@dataclass(frozen=True)
class Sample:
    """An image and its N objects, in pixels of the original image.

    Attributes:
        image_id: the image's id in the annotation file.
        image: (3, H, W) uint8, RGB.
        boxes: (N, 4) float32, xyxy, inside the image.
        labels: (N,) int64 in 0..K-1, in the dataset's class order.
        areas: (N,) float32, px^2: the annotation's ``area``, or else the box's width x height.
        object_ids: (N,) int64, the annotations' ids.
    """

    image_id: int
    image: Tensor
    boxes: Tensor
    labels: Tensor
    areas: Tensor
    object_ids: Tensor


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


class CocoDataset(Dataset[Sample]):
    """Images and boxes of one split in COCO format.

    The annotation file is read once; images are read when asked for. Crowd, degenerate and outside
    boxes are left out and counted in ``box_counts``; boxes that cross the border are clipped. The
    class order is that of the category ids. How images become 8-bit RGB, and when their EXIF orientation is
    applied, says :mod:`rethink_heads.data.images`.

    Attributes:
        class_names: K names, in label order.
        category_ids: the K category ids, ascending: ``category_ids[label]`` is the file's id.
        columns: by label, the index of the class among a detector's, whose names are ``column_names``; None before
            both are known (:func:`rethink_heads.detectors.classes.share_classes`).
        image_ids: in the order of the file.
        annotations_path, images_path: where the set was read from.
        where: what messages call the set: the annotation file, or the VOC folder and split that it was converted from.
        fingerprint: SHA-256 of the annotation file, in hexadecimal; where classes are left out, of that and the
            names of those that are not.
    """

    def __init__(self, annotations: Path, images: Path) -> None:
        """Read ``annotations`` and check that every image it names is in ``images``.

        Raises:
            UserError: a file or image is missing, the JSON is not COCO, the set has no images or
                no objects, or an annotation names an unknown image or category.
        """
        self.annotations_path = Path(annotations)
        self.images_path = Path(images)
        content, self.fingerprint = read_json(self.annotations_path)
        self.file_fingerprint = self.fingerprint
        info = content.get("info")
        converted = info.get(CONVERTED_FROM) if isinstance(info, dict) else None
        where = converted if isinstance(converted, str) else str(self.annotations_path)
        self.where: str = where
        image_list, annotation_list = (
            records(content, name, where) for name in ("images", "annotations")
        )
        names = category_names(content, where)
        self.category_ids: tuple[int, ...] = tuple(sorted(names))
        self.class_names: tuple[str, ...] = tuple(names[i] for i in self.category_ids)
        self._file_classes = self.class_names
        self.columns: tuple[int, ...] | None = None
        self.column_names: tuple[str, ...] = ()

        if not image_list:
            raise UserError(f"{where} is empty: it lists no images; give a split that has some")
        self.image_ids: tuple[int, ...] = tuple(
            integer(image, "id", "image", where, n) for n, image in enumerate(image_list)
        )
        check_unique(self.image_ids, "image", where)
        self._file_names = [
            text(field(image, "file_name", "image", where), f"file_name of image {i}", where)
            for i, image in zip(self.image_ids, image_list, strict=True)
        ]
        check_unique(self._file_names, "image", where, "file_name")
        self._sizes = [
            (integer(i, "width", "image", where), integer(i, "height", "image", where))
            for i in image_list
        ]
        for image_id, size in zip(self.image_ids, self._sizes, strict=True):
            check_size(size, f"image {image_id}", where)
        self._objects = read_objects(
            annotation_list, self.image_ids, self._sizes, self.category_ids, where
        )
        if not self.box_counts.objects:
            raise UserError(
                f"{where} has no usable objects ({_describe(self.box_counts)}); "
                "give a split with annotated objects"
            )
        self._check_images_exist()
        self._image_hashes: list[str] = []

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """Read image ``index`` (0-based, in the order of ``image_ids``) and its objects.

        Raises:
            UserError: the image is missing, truncated or unreadable, or its size is not the one
                that the annotation file states.
        """
        index = range(len(self))[index]
        path = self.images_path / self._file_names[index]
        pixels = read_image(path, self._sizes[index], self.where)
        objects = self._objects
        rows = slice(objects.offsets[index], objects.offsets[index + 1])
        return Sample(
            image_id=self.image_ids[index],
            image=torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            boxes=torch.from_numpy(objects.boxes[rows].copy()),
            labels=torch.from_numpy(objects.labels[rows].copy()),
            areas=torch.from_numpy(objects.areas[rows].copy()),
            object_ids=torch.from_numpy(objects.ids[rows].copy()),
        )

    @property
    def left_out_ids(self) -> frozenset[int]:
        """Ids of the file's degenerate and outside boxes, of any class; crowd boxes are not among them."""
        return self._objects.unusable_ids

    @property
    def annotated(self) -> Annotated:
        """The objects and crowds of this dataset's images and classes as the file has them, in its order."""
        found = self._objects.annotated
        return found.only(found.images < len(self))

    def as_coco(self) -> dict[str, Any]:
        """Return ``annotated``, with the images and classes, as COCO's evaluation reads it."""
        found = self.annotated
        areas = np.where(np.isnan(found.areas), found.boxes[:, 2:].prod(1), found.areas)
        columns = (found.images, found.labels, found.boxes, areas, found.crowd)
        return {
            "images": [{"id": image_id} for image_id in self.image_ids],
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.class_names, strict=True)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": self.image_ids[image],
                    "category_id": self.category_ids[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for number, (image, label, box, area, crowd) in enumerate(
                    zip(*(column.tolist() for column in columns), strict=True), 1
                )
            ],
        }

    @property
    def box_counts(self) -> BoxCounts:
        """Counts over the images of this dataset (of a subset: over its images only)."""
        return self._objects.count(len(self))

    def object_count(self, index: int) -> int:
        """Return the number of objects of image ``index``, without reading it."""
        offsets = self._objects.offsets
        return int(offsets[index + 1] - offsets[index])

    def object_areas(self, index: int) -> np.ndarray:
        """Return the areas (N,) in px^2 of the objects of image ``index``, without reading it."""
        offsets = self._objects.offsets
        return self._objects.areas[offsets[index] : offsets[index + 1]]

    def indices_with_objects(self) -> list[int]:
        """Return the indices of the images that hold at least one object."""
        offsets = self._objects.offsets
        return [i for i in range(len(self)) if offsets[i] < offsets[i + 1]]

    def images_fingerprint(self, image_count: int | None = None) -> str:
        """Return a hash of the names and bytes of the first images; None: of all of this dataset's.

        The images are read once, and again where they have changed (see :mod:`rethink_heads.data.images`).

        Raises:
            UserError: an image is not there, or cannot be read.
        """
        names = self._file_names[: len(self) if image_count is None else image_count]
        if len(self._image_hashes) < len(names):
            # In place: subsets of a dataset have it in common.
            self._image_hashes[:] = image_hashes(self.images_path, names)
        text = json.dumps([names, self._image_hashes[: len(names)]])
        return hashlib.sha256(text.encode()).hexdigest()

    def subset(self, image_count: int) -> CocoDataset:
        """Return the dataset of the first ``image_count`` images, with the same class list.

        Raises:
            UserError: ``image_count`` is below 1.
        """
        if image_count < 1:
            raise UserError(f"cannot take {image_count} images of {self.where}: give 1+")
        chosen = copy.copy(self)
        chosen.image_ids = self.image_ids[:image_count]
        return chosen

    def with_classes(self, names: Iterable[str]) -> CocoDataset:
        """Return the dataset of the objects of some classes, on the same images.

        Labels are counted anew, in this dataset's order of classes. Objects of the other classes are counted in
        ``box_counts.other_classes``; crowd, degenerate and outside boxes stay counted, whatever their class.

        Raises:
            UserError: a name is none of ``class_names``, or there is no object of these classes.
        """
        wanted = set(names)
        for name in sorted(wanted - set(self.class_names)):
            raise UserError(
                f"{self.where} has no class {name!r}; it has {', '.join(self.class_names)}"
            )
        labels = [label for label, name in enumerate(self.class_names) if name in wanted]
        chosen = copy.copy(self)
        chosen.class_names = tuple(self.class_names[label] for label in labels)
        chosen.category_ids = tuple(self.category_ids[label] for label in labels)
        if self.columns is not None:
            chosen.columns = tuple(self.columns[label] for label in labels)
        chosen._objects = self._objects.of_labels(labels)
        if not len(chosen._objects.labels):
            raise UserError(
                f"{self.where} has no objects of the classes {', '.join(sorted(wanted)) or '(none)'};"
                " choose classes that it has objects of"
            )
        chosen.fingerprint = self.file_fingerprint
        if chosen.class_names != self._file_classes:
            text = json.dumps([self.file_fingerprint, chosen.class_names])
            chosen.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return chosen

    def _check_images_exist(self) -> None:
        # One listing instead of a stat per image: quick on network file systems. Names with accents are written in two
        # ways, of which file systems choose one.
        try:
            with os.scandir(self.images_path) as entries:
                present = {
                    unicodedata.normalize("NFC", entry.name): entry.name
                    for entry in entries
                    if not entry.is_dir(follow_symlinks=False)
                }
        except OSError as error:
            raise cannot_read(self.images_path, "folder of images", error) from error
        self._file_names = [
            present.get(unicodedata.normalize("NFC", name), name) for name in self._file_names
        ]
        known = set(present.values())
        missing = [
            name
            for name in self._file_names
            if name not in known and not is_file(self.images_path / name)
        ]
        if missing:
            raise UserError(
                f"image {shown(missing[0])} is not in {self.images_path} ({len(missing)} of the "
                f"{len(self._file_names)} images of {self.where} are missing); "
                "add them or give another folder of images"
            )


def _describe(counts: BoxCounts) -> str:
    return (
        f"{counts.crowd} crowd, {counts.degenerate} of zero size, {counts.outside} outside the "
        "image"
    )
