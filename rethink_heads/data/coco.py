"""Reads a detection set in COCO format: one JSON file and one folder of images."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from rethink_heads.data.ground_truth import read_folder
from rethink_heads.data.images import SETTLED_NS, check_size, image_hashes, read_image
from rethink_heads.data.yolo import LabelOptions
from rethink_heads.errors import UserError, shown
from rethink_heads.files import cannot_read, is_file, is_folder

if TYPE_CHECKING:
    from torch import Tensor

# A side below this is degenerate: float32 coordinates near 1000 px are 6e-5 px apart, so the IoUs
# of a thinner box would be rounding noise.
MIN_SIDE = 0.1
# COCO writes coordinates with two decimals, so x + w may pass the border by that much.
BORDER_TOLERANCE = 0.01
# Fates of an annotated box.
USABLE, CROWD, DEGENERATE, OUTSIDE = range(4)


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


@dataclass(frozen=True)
class BoxCounts:
    """What became of a dataset's annotations.

    Attributes:
        objects: usable, ``clipped`` ones included.
        crowd: left out because ``iscrowd`` is set.
        degenerate: left out because a side is below ``MIN_SIDE`` px.
        outside: left out because less than ``MIN_SIDE`` px of a side lies inside the image.
        clipped: usable, but cut at the image's border by more than ``BORDER_TOLERANCE`` px.
        other_classes: left out because :meth:`.CocoDataset.with_classes` left out their class.
    """

    objects: int
    crowd: int
    degenerate: int
    outside: int
    clipped: int
    other_classes: int = 0


@dataclass(frozen=True)
class Annotations:
    """M annotated boxes, in the file's order. Flat arrays: data loader workers share their memory.

    Attributes:
        ids: (M,) the file's; images: (M,) index of each one's image.
        labels: (M,) 0..K-1; -1 where the dataset leaves the class out.
        boxes: (M, 4) float64, x, y, width, height in px; areas: (M,) px^2, NaN where the file gives none.
        corners: (M, 4) float64, x1, y1, x2, y2, clipped to the image.
        fates: (M,) ``USABLE``, ``CROWD``, ``DEGENERATE`` or ``OUTSIDE``.
        clipped: (M,) whether clipping moved a side by more than ``BORDER_TOLERANCE``.
    """

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    corners: np.ndarray
    fates: np.ndarray
    clipped: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Annotations:
        return Annotations(**{name: values[rows] for name, values in vars(self).items()})

    @property
    def crowd(self) -> np.ndarray:
        """(M,) whether each is a crowd."""
        return self.fates == CROWD

    @property
    def object_areas(self) -> np.ndarray:
        """(M,) float32, px^2: of the clipped box where the file gives none."""
        sides = self.corners[:, 2:] - self.corners[:, :2]
        return np.where(np.isnan(self.areas), sides.prod(1), self.areas).astype(np.float32)


@dataclass(frozen=True)
class AnnotationFile:
    """What a COCO file says, checked; attributes as of :class:`CocoDataset`, sizes are (width, height) in px."""

    fingerprint: str
    where: str
    categories: dict[int, str]
    image_ids: tuple[int, ...]
    file_names: list[str]
    sizes: list[tuple[int, int]]
    annotations: Annotations


class CocoDataset:
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
        file_fingerprint: SHA-256 of the annotation file.
    """

    def __init__(
        self, annotations: Path, images: Path | None, labels: LabelOptions | None = None
    ) -> None:
        """Read ``annotations`` and check that every image it names is in ``images``.

        Args:
            annotations: COCO's JSON, or a folder as of :func:`.ground_truth.read_folder`.
            images: the folder of images; None for a set of boxes alone, whose images cannot be asked for.
            labels: what a folder of YOLO's labels leaves open.

        Raises:
            UserError: a file or image is missing, the JSON is not COCO, the set has no images or
                no objects, or an annotation names an unknown image or category.
        """
        self.annotations_path = Path(annotations)
        self.images_path = None if images is None else Path(images)
        if is_folder(self.annotations_path):
            found = read_folder(self.annotations_path, self.images_path, labels or LabelOptions())
            file = _parse_file(*found, self.annotations_path)
        else:
            file = read_annotations(self.annotations_path)
        self.fingerprint = self.file_fingerprint = file.fingerprint
        self.where, self.image_ids, self._sizes = file.where, file.image_ids, file.sizes
        self.category_ids = tuple(sorted(file.categories))
        self.class_names = tuple(file.categories[i] for i in self.category_ids)
        self._all_classes = self.class_names
        self.columns: tuple[int, ...] | None = None
        self.column_names: tuple[str, ...] = ()
        self._set_annotations(file.annotations)
        counts = self.box_counts
        if not counts.objects:
            raise UserError(
                f"{self.where} has no usable objects ({counts.crowd} crowd, {counts.degenerate} of zero size,"
                f" {counts.outside} outside the image); give a split with annotated objects"
            )
        self._file_names = file.file_names
        if self.images_path is not None:
            self._file_names = _find_images(file.file_names, self.images_path, self.where)
        self._image_hashes: list[str] = []

    def _set_annotations(self, annotations: Annotations) -> None:
        self._annotations = annotations
        usable = np.flatnonzero((annotations.fates == USABLE) & (annotations.labels >= 0))
        # A stable sort keeps the file's order within an image, as pycocotools does.
        self._rows = usable[np.argsort(annotations.images[usable], kind="stable")]
        counts = np.bincount(annotations.images[usable], minlength=len(self._sizes))
        self._offsets = [0, *np.cumsum(counts).tolist()]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """Read image ``index`` (0-based, in the order of ``image_ids``) and its objects.

        Raises:
            UserError: the image is missing, truncated or unreadable, or its size is not the one
                that the annotation file states.
        """
        import torch

        index = range(len(self))[index]
        pixels, objects = self.read_pixels(index), self.objects(index)
        return Sample(
            image_id=self.image_ids[index],
            image=torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            boxes=torch.from_numpy(objects.corners.astype(np.float32)),
            labels=torch.from_numpy(objects.labels),
            areas=torch.from_numpy(objects.object_areas),
            object_ids=torch.from_numpy(objects.ids),
        )

    def _images_folder(self) -> Path:
        if self.images_path is None:
            raise UserError(f"the images of {self.where} are needed here: give --images DIR")
        return self.images_path

    @property
    def file_names(self) -> list[str]:
        """Each image's file, relative to the folder of images, in the order of ``image_ids``."""
        return self._file_names[: len(self)]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Each image's width and height in px, in the order of ``image_ids``."""
        return self._sizes[: len(self)]

    def read_pixels(self, index: int) -> np.ndarray:
        """Read image ``index`` alone: (H, W, 3) uint8.

        Raises:
            UserError: as when it is read with its objects.
        """
        path = self._images_folder() / self._file_names[index]
        return read_image(path, self._sizes[index], self.where)

    def objects(self, index: int) -> Annotations:
        """Return the usable objects of image ``index``, without reading it."""
        return self._annotations[self._rows[self._offsets[index] : self._offsets[index + 1]]]

    @property
    def annotated(self) -> Annotations:
        """The usable objects and crowds of this dataset's images and classes, by which evaluation goes."""
        found = self._annotations
        chosen = np.isin(found.fates, (USABLE, CROWD)) & (found.labels >= 0)
        return found[chosen & (found.images < len(self))]

    @property
    def box_counts(self) -> BoxCounts:
        """Counts over the images of this dataset; of a subset over its images only."""
        found = self._annotations[self._annotations.images < len(self)]
        usable, known = found.fates == USABLE, found.labels >= 0
        counted = (usable & known, *(found.fates == fate for fate in (CROWD, DEGENERATE, OUTSIDE)))
        counted += (usable & known & found.clipped, usable & ~known)
        return BoxCounts(*(int(each.sum()) for each in counted))

    def object_count(self, index: int) -> int:
        """Return the number of objects of image ``index``, without reading it."""
        return int(self._offsets[index + 1] - self._offsets[index])

    def object_areas(self, index: int) -> np.ndarray:
        """Return the areas (N,) in px^2 of the objects of image ``index``, without reading it."""
        return self.objects(index).object_areas

    def indices_with_objects(self) -> list[int]:
        """Return the indices of the images that hold at least one object."""
        return [i for i in range(len(self)) if self.object_count(i)]

    def images_fingerprint(self, image_count: int | None = None) -> str:
        """Return a hash of the names and bytes of the first images; None: of all of this dataset's.

        The images are read once, and again where they have changed (see :func:`.image_hashes`).

        Raises:
            UserError: an image is not there, or cannot be read.
        """
        names = self._file_names[: len(self) if image_count is None else image_count]
        if len(self._image_hashes) < len(names):
            # In place: subsets of a dataset have it in common.
            self._image_hashes[:] = image_hashes(self._images_folder(), names)
        content = json.dumps([names, self._image_hashes[: len(names)]])
        return hashlib.sha256(content.encode()).hexdigest()

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
        # One place more, for label -1.
        new_labels = np.full(len(self.class_names) + 1, -1)
        new_labels[labels] = range(len(labels))
        before = self._annotations
        chosen._set_annotations(replace(before, labels=new_labels[before.labels]))
        if not len(chosen._rows):
            raise UserError(
                f"{self.where} has no objects of the classes {', '.join(sorted(wanted)) or '(none)'};"
                " choose classes that it has objects of"
            )
        chosen.fingerprint = self.file_fingerprint
        if chosen.class_names != self._all_classes:
            content = json.dumps([self.file_fingerprint, chosen.class_names])
            chosen.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        return chosen


def read_annotations(path: Path) -> AnnotationFile:
    """Return what a COCO file says; a file that has not changed since is not read a second time.
    Raises UserError where it cannot be read, is not COCO, or lists no images.
    """
    try:
        status = os.stat(path)
        state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except (OSError, ValueError):
        # Reading says what stands in the way.
        return _read_annotations.__wrapped__(path, ())
    # A file may change once more within the grain of its times.
    is_settled = max(state[2:]) < time.time_ns() - SETTLED_NS
    read = _read_annotations if is_settled else _read_annotations.__wrapped__
    return read(path, state)


@functools.lru_cache(maxsize=4)
def _read_annotations(path: Path, state: tuple[int, ...]) -> AnnotationFile:
    return _parse_file(*read_json(path), path)


def _parse_file(content: dict[str, Any], fingerprint: str, path: Path) -> AnnotationFile:
    info = content.get("info")
    converted = info.get(CONVERTED_FROM) if isinstance(info, dict) else None
    where = converted if isinstance(converted, str) else str(path)
    images, annotations = (records(content, name, where) for name in ("images", "annotations"))
    categories = category_names(content, where)
    if not images:
        raise UserError(f"{where} is empty: it lists no images; give a split that has some")
    image_ids = tuple(integer(image, "id", "image", where, n) for n, image in enumerate(images))
    check_unique(image_ids, "image", where)
    file_names = [
        text(field(image, "file_name", "image", where), f"file_name of image {i}", where)
        for i, image in zip(image_ids, images, strict=True)
    ]
    check_unique(file_names, "image", where, "file_name")
    sizes = [
        (integer(i, "width", "image", where), integer(i, "height", "image", where)) for i in images
    ]
    for image_id, size in zip(image_ids, sizes, strict=True):
        check_size(size, f"image {image_id}", where)
    return AnnotationFile(
        fingerprint,
        where,
        categories,
        image_ids,
        file_names,
        sizes,
        _parse_annotations(annotations, image_ids, sizes, sorted(categories), where),
    )


def _parse_annotations(
    annotations: Sequence[dict[str, Any]],
    image_ids: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    category_ids: Sequence[int],
    where: str,
) -> Annotations:
    """Check annotations; the message names the first bad one by its id and says how many more there are."""
    index_of_image = {image_id: i for i, image_id in enumerate(image_ids)}
    label_of_category = {c: label for label, c in enumerate(category_ids)}
    count = len(annotations)
    ids, images, labels = np.zeros((3, count), np.int64)
    crowd, boxes, areas = np.zeros(count, bool), np.zeros((count, 4)), np.zeros(count)
    for row, annotation in enumerate(annotations):
        ids[row] = object_id = integer(annotation, "id", "annotation", where, row)
        image_id = integer(annotation, "image_id", "annotation", where)
        category_id = integer(annotation, "category_id", "annotation", where)
        images[row] = index_of_image.get(image_id, -1)
        labels[row] = label_of_category.get(category_id, -1)
        what = f"iscrowd of annotation {object_id}"
        crowd[row] = parse_flag(annotation.get("iscrowd"), what, where)
        boxes[row] = parse_box(annotation, object_id, where)
        areas[row] = parse_area(annotation, object_id, where)
    check_unique(ids.tolist(), "annotation", where)
    for kind, entries, found in (("image", "images", images), ("category", "categories", labels)):
        unknown = np.flatnonzero(found < 0)
        if len(unknown):
            more = f" (as do {len(unknown) - 1} more annotations)" if len(unknown) > 1 else ""
            raise UserError(
                f"{where}: annotation {ids[unknown[0]]} names {kind} {annotations[unknown[0]][f'{kind}_id']}, "
                f"which is not in '{entries}'{more}; add the {kind} or remove the annotation"
            )
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    inside = np.clip(corners, 0.0, np.tile(np.array(sizes, float)[images], 2))
    degenerate = (boxes[:, 2:] < MIN_SIDE).any(1)
    outside = (inside[:, 2:] - inside[:, :2] < MIN_SIDE).any(1)
    fates = np.select([crowd, degenerate, outside], [CROWD, DEGENERATE, OUTSIDE], default=USABLE)
    clipped = (np.abs(inside - corners) > BORDER_TOLERANCE).any(1)
    return Annotations(ids, images, labels, boxes, areas, inside, fates, clipped)


def _find_images(names: Sequence[str], folder: Path, where: str) -> list[str]:
    """Return the names as the folder has them: those with accents are written in two ways."""
    try:
        # One listing instead of a stat per image: quick on network file systems.
        with os.scandir(folder) as entries:
            present = {
                unicodedata.normalize("NFC", entry.name): entry.name
                for entry in entries
                if not entry.is_dir(follow_symlinks=False)
            }
    except OSError as error:
        raise cannot_read(folder, "folder of images", error) from error
    found = [present.get(unicodedata.normalize("NFC", name), name) for name in names]
    known = set(present.values())
    missing = [name for name in found if name not in known and not is_file(folder / name)]
    if missing:
        raise UserError(
            f"image {shown(missing[0])} is not in {folder} ({len(missing)} of the {len(names)} images of {where} are"
            " missing); add them or give another folder of images"
        )
    return found
