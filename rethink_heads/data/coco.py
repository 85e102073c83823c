"""Reads a detection set in COCO format: one JSON file and one folder of images."""

from __future__ import annotations

import copy
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from rethink_heads.data.coco_json import (
    check_unique,
    field,
    integer,
    parse_area,
    parse_box,
    read_json,
    records,
)
from rethink_heads.data.sample import Sample
from rethink_heads.errors import UserError

# A side below this is degenerate: float32 coordinates near 1000 px are 6e-5 px apart, so the IoUs
# of a thinner box would be rounding noise.
MIN_SIDE = 0.1
# COCO writes coordinates with two decimals, so x + w may pass the border by that much.
BORDER_TOLERANCE = 0.01

_KEPT, _CROWD, _DEGENERATE, _OUTSIDE = range(4)


@dataclass(frozen=True)
class BoxCounts:
    """What became of a dataset's annotations.

    Attributes:
        objects: kept, ``clipped`` ones included.
        crowd: left out because ``iscrowd`` is set.
        degenerate: left out because a side is below ``MIN_SIDE`` px or not a finite number.
        outside: left out because less than ``MIN_SIDE`` px of a side lies inside the image.
        clipped: kept, but cut at the image's border by more than ``BORDER_TOLERANCE`` px.
    """

    objects: int
    crowd: int
    degenerate: int
    outside: int
    clipped: int


class CocoDataset(Dataset[Sample]):
    """Images and boxes of one split in COCO format.

    The annotation file is read once; images are read when asked for. Crowd, degenerate and outside
    boxes are left out and counted in ``box_counts``; boxes that cross the border are clipped. The
    class order is that of the category ids. EXIF rotation is not applied, as in pycocotools.

    Attributes:
        class_names: K names, in label order.
        category_ids: the K category ids, ascending: ``category_ids[label]`` is the file's id.
        image_ids: in the order of the file.
        annotations_path, images_path: where the set was read from.
        left_out_ids: ids of the file's degenerate and outside boxes; crowd boxes are not among them.
        fingerprint: SHA-256 of the annotation file, in hexadecimal.
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
        where = str(self.annotations_path)
        image_list, annotation_list, categories = (
            records(content, name, where) for name in ("images", "annotations", "categories")
        )

        names = {
            integer(c, "id", "category", where): str(field(c, "name", "category", where))
            for c in categories
        }
        check_unique(len(names), len(categories), "category", where)
        self.category_ids: tuple[int, ...] = tuple(sorted(names))
        self.class_names: tuple[str, ...] = tuple(names[i] for i in self.category_ids)

        if not image_list:
            raise UserError(f"{where} is empty: it lists no images; give a split that has some")
        self.image_ids: tuple[int, ...] = tuple(
            integer(i, "id", "image", where) for i in image_list
        )
        check_unique(len(set(self.image_ids)), len(self.image_ids), "image", where)
        self._file_names = [str(field(i, "file_name", "image", where)) for i in image_list]
        self._sizes = [
            (integer(i, "width", "image", where), integer(i, "height", "image", where))
            for i in image_list
        ]
        self._index_annotations(annotation_list, where)
        if not self.box_counts.objects:
            raise UserError(
                f"{where} has no usable objects ({_describe(self.box_counts)}); "
                "give a split with annotated objects"
            )
        self._check_images_exist()

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """Read image ``index`` (0-based, in the order of ``image_ids``) and its objects.

        Raises:
            UserError: the image is missing, truncated or unreadable, or its size is not the one
                that the annotation file states.
        """
        index = range(len(self))[index]
        pixels = self._read_image(index)
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return Sample(
            image_id=self.image_ids[index],
            image=torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            boxes=torch.from_numpy(self._boxes[rows].copy()),
            labels=torch.from_numpy(self._labels[rows].copy()),
            areas=torch.from_numpy(self._areas[rows].copy()),
            object_ids=torch.from_numpy(self._object_ids[rows].copy()),
        )

    @property
    def box_counts(self) -> BoxCounts:
        """Counts over the images of this dataset (of a subset: over its images only)."""
        objects, crowd, degenerate, outside, clipped = self._counts[: len(self)].sum(0).tolist()
        return BoxCounts(objects, crowd, degenerate, outside, clipped)

    def indices_with_objects(self) -> list[int]:
        """Return the indices of the images that hold at least one object."""
        return [i for i in range(len(self)) if self._offsets[i] < self._offsets[i + 1]]

    def subset(self, image_count: int) -> CocoDataset:
        """Return the dataset of the first ``image_count`` images, with the same class list.

        Raises:
            UserError: ``image_count`` is below 1.
        """
        if image_count < 1:
            raise UserError(f"cannot take {image_count} images of {self.annotations_path}: give 1+")
        chosen = copy.copy(self)
        chosen.image_ids = self.image_ids[:image_count]
        return chosen

    def _index_annotations(self, annotations: Sequence[dict[str, Any]], where: str) -> None:
        """Sort the annotations by image into flat arrays; image i has rows offsets[i]:offsets[i+1].

        Flat arrays, not a list of lists: data loader workers then share their memory.
        """
        index_of_image = {image_id: i for i, image_id in enumerate(self.image_ids)}
        label_of_category = {c: label for label, c in enumerate(self.category_ids)}
        count = len(annotations)
        image_index = np.zeros(count, np.int64)
        labels = np.zeros(count, np.int64)
        ids = np.zeros(count, np.int64)
        crowd = np.zeros(count, bool)
        xywh = np.zeros((count, 4))
        areas = np.full(count, np.nan)
        for row, annotation in enumerate(annotations):
            ids[row] = object_id = integer(annotation, "id", "annotation", where)
            image_id = integer(annotation, "image_id", "annotation", where)
            category_id = integer(annotation, "category_id", "annotation", where)
            if image_id not in index_of_image:
                raise UserError(
                    f"{where}: annotation {object_id} names image {image_id}, "
                    "which is not in 'images'; add the image or remove the annotation"
                )
            if category_id not in label_of_category:
                raise UserError(
                    f"{where}: annotation {object_id} names category {category_id}, "
                    "which is not in 'categories'; add the category or remove the annotation"
                )
            image_index[row] = index_of_image[image_id]
            labels[row] = label_of_category[category_id]
            crowd[row] = bool(annotation.get("iscrowd", 0))
            xywh[row] = parse_box(annotation, object_id, where)
            areas[row] = parse_area(annotation, object_id, where)
        check_unique(len(np.unique(ids)), count, "annotation", where)

        sizes = np.array(self._sizes, float)[image_index]
        boxes, fate, clipped = _clip(xywh, crowd, sizes)
        areas = np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(1), areas)
        self._counts = np.zeros((len(self.image_ids), 5), np.int64)
        np.add.at(self._counts, (image_index, fate), 1)
        np.add.at(self._counts[:, 4], image_index[clipped], 1)
        # A stable sort keeps the file's order within an image, as pycocotools does.
        kept = np.flatnonzero(fate == _KEPT)
        kept = kept[np.argsort(image_index[kept], kind="stable")]
        self._offsets = np.concatenate([[0], np.cumsum(self._counts[:, _KEPT])]).tolist()
        self._boxes = boxes[kept].astype(np.float32)
        self._labels = labels[kept]
        self._areas = areas[kept].astype(np.float32)
        self._object_ids = ids[kept]
        unusable = np.isin(fate, (_DEGENERATE, _OUTSIDE))
        self.left_out_ids: frozenset[int] = frozenset(ids[unusable].tolist())

    def _check_images_exist(self) -> None:
        if not self.images_path.is_dir():
            raise UserError(
                f"no such folder of images: {self.images_path} (for {self.annotations_path})"
            )
        # One listing instead of a stat per image: quick on network file systems.
        present = {entry.name for entry in self.images_path.iterdir()}
        missing = [
            name
            for name in self._file_names
            if name not in present and not (self.images_path / name).is_file()
        ]
        if missing:
            raise UserError(
                f"image {missing[0]} is not in {self.images_path} ({len(missing)} of the "
                f"{len(self._file_names)} images of {self.annotations_path} are missing); "
                "add them or give another folder of images"
            )

    def _read_image(self, index: int) -> np.ndarray:
        """Return image ``index`` as (H, W, 3) uint8."""
        path = self.images_path / self._file_names[index]
        try:
            with Image.open(path) as image:
                pixels = _to_rgb(image)
        except FileNotFoundError as error:
            raise UserError(f"no such image: {path}; add it or remove it from the set") from error
        except (
            OSError,
            SyntaxError,  # PIL's word for a broken PNG
            ValueError,
            EOFError,
            struct.error,
            Image.DecompressionBombError,
        ) as error:
            raise UserError(
                f"cannot read image {path} ({error}); it is truncated or not an image: replace it"
            ) from error
        height, width = pixels.shape[:2]
        if (width, height) != self._sizes[index]:
            stated_width, stated_height = self._sizes[index]
            raise UserError(
                f"image {path} is {width}x{height} px but {self.annotations_path} states "
                f"{stated_width}x{stated_height}, so its boxes cannot be trusted; mend either"
            )
        return pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # PIL's own conversion clips 16-bit values at 255, which leaves a white image.
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _clip(
    xywh: np.ndarray, crowd: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip (A, 4) xywh boxes to images of (A, 2) width, height.

    Returns the (A, 4) xyxy boxes, the fate of each (A,) and whether a kept one was cut (A,).
    """
    limits = np.concatenate([sizes, sizes], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        clipped = np.clip(corners, 0.0, limits)
        degenerate = ~np.isfinite(corners).all(1) | (xywh[:, 2:] < MIN_SIDE).any(1)
        outside = (clipped[:, 2:] - clipped[:, :2] < MIN_SIDE).any(1)
        cut = (np.abs(clipped - corners) > BORDER_TOLERANCE).any(1)
    fate = np.select([crowd, degenerate, outside], [_CROWD, _DEGENERATE, _OUTSIDE], default=_KEPT)
    return clipped, fate, cut & (fate == _KEPT)


def _describe(counts: BoxCounts) -> str:
    return (
        f"{counts.crowd} crowd, {counts.degenerate} of zero size, {counts.outside} outside the "
        "image"
    )
