"""Final detections as a frame, and what a file of them means for a data set: the image, class and box of each entry.

Files leave much of it open, and detectors' exports differ in it: :class:`ResultsFormat` says each of them, and
:mod:`rethink_heads.data.doctor` finds the one that fits. Nothing is taken otherwise than the reading says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.bounds import FILE_HEAD
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.images import SUFFIXES
from rethink_heads.data.yolo import parse_size
from rethink_heads.errors import UserError, shorten

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Name: TypeAlias = int | str
"""Of an image or a class, as a file gives it."""

DETECTION_TYPES: Mapping[str, str] = {
    "image_id": "int64",
    "detector": "str",
    "head": "str",
    "label": "int64",
    "x1": "float64",
    "y1": "float64",
    "x2": "float64",
    "y2": "float64",
    "score": "float64",
}
DETECTION_COLUMNS = tuple(DETECTION_TYPES)
"""``detector`` is a run's name, ``head`` one of its heads, ``label`` 0..K-1; corners in px of the original image."""
CORNERS = ["x1", "y1", "x2", "y2"]

BOX_FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx", "voc")
IMAGE_IDS = ("ids", "names", "order")
CATEGORY_IDS = ("file", "contiguous", "contiguous-from-1", "names")
SCORE_SCALES = ("probability", "percent", "logit")
NORMALISED = "normalised"
UNKNOWN = -1


@dataclass(frozen=True)
class ResultsFormat:
    """How the entries of a results file are read.

    Attributes:
        box_format: ``xywh`` (left, top, width, height), ``xyxy`` (corners), ``cxcywh`` (centre and size), ``yxyx``
            (corners, y first) or ``voc`` (first and last pixel inside, counted from 1).
        box_frame: which image the boxes are in, as of :func:`parse_frame`.
        category_ids: ``file`` (the annotation file's), ``contiguous`` (0 to K - 1 in the order of these),
            ``contiguous-from-1``, or ``names``.
        image_ids: ``ids`` (the annotation file's), ``names`` (of the images' files, or ids as text) or ``order`` (from
            0, in the order of the annotation file).
        score_scale: ``probability``, ``percent`` (0 to 100) or ``logit``.
    """

    box_format: str = "xywh"
    box_frame: str = "image"
    category_ids: str = "file"
    image_ids: str = "ids"
    score_scale: str = "probability"


class Frame(NamedTuple):
    """The image that boxes are in: a kind and its sizes in px."""

    kind: str
    sizes: tuple[float, ...] = ()


def parse_frame(text: str) -> Frame:
    """Return the frame that a text names.

    ``image`` is the original image, ``normalised`` has sides of 1, ``640x480`` is the image stretched to that size,
    ``long:640`` is scaled to a longer side of 640 px, ``letterbox:640`` the same in the middle of a square of 640 px,
    and ``short:800:1333`` to a shorter side of 800 px, or to a longer one of 1333 px where it would be more.
    Raises UserError where it is none of these.
    """
    if text in ("image", NORMALISED):
        return Frame(text)
    kind, *sizes = text.split(":")
    if {"long": 1, "letterbox": 1, "short": 2}.get(kind) == len(sizes):
        if all(size.isdecimal() and 0 < int(size) < 10**6 for size in sizes):
            return Frame(kind, tuple(map(float, sizes)))
    elif not sizes and "x" in text:
        width, height = parse_size(text, "--box-frame")
        if width and height:
            return Frame("stretched", (width, height))
    raise UserError(
        f"--box-frame {shorten(text)!r} is none of image, {NORMALISED}, 640x480, long:640, letterbox:640,"
        " short:800:1333"
    )


def to_original(corners: Array, frame: Frame, sizes: Array) -> Array:
    """Return corners (N, 4) of a frame in px of the original images, whose width and height are (N, 2)."""
    kind, given = frame
    if kind == "image":
        return corners
    if kind == NORMALISED:
        scale, offset = sizes, np.zeros_like(sizes)
    elif kind == "stretched":
        scale, offset = sizes / given, np.zeros_like(sizes)
    else:
        factor = given[0] / (sizes.min(axis=1) if kind == "short" else sizes.max(axis=1))
        if kind == "short":
            factor = np.minimum(factor, given[1] / sizes.max(axis=1))
        scale = np.repeat(1 / factor[:, None], 2, axis=1)
        padded = kind == "letterbox"
        offset = (given[0] - sizes * factor[:, None]) / 2 if padded else np.zeros_like(sizes)
    return np.asarray((corners - np.tile(offset, 2)) * np.tile(scale, 2))


def to_corners(boxes: Array, box_format: str) -> Array:
    """Return boxes (N, 4) of a format as x1, y1, x2, y2."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if box_format == "xywh":
        return np.hstack([first, first + second])
    if box_format == "cxcywh":
        return np.hstack([first - second / 2, first + second / 2])
    if box_format == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    return np.hstack([first - 1, second]) if box_format == "voc" else boxes


@dataclass(frozen=True)
class Results:
    """N detections as a file has them.

    Attributes:
        where: the file or folder, for messages; fingerprint: SHA-256 of what it says.
        image_names: the different images, as the file names them; images: (N,) index of each entry's.
        category_names: the different classes; categories: (N,) index of each entry's.
        boxes: (N, 4); scores: (N,).
        reading: what its kind of file says of itself.
        entry: what messages call an entry.
    """

    where: str
    fingerprint: str
    image_names: list[Name]
    images: Indices
    category_names: list[Name]
    categories: Indices
    boxes: Array
    scores: Array
    reading: ResultsFormat
    entry: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.scores)

    def image_rows(self, dataset: CocoDataset, image_ids: str) -> Indices:
        """Return the index in the data set of each of ``image_names``, -1 where it has no such image."""
        known: dict[Name, int]
        if image_ids == "order":
            known = {row: row for row in range(len(dataset))}
        elif image_ids == "ids":
            known = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
        else:
            known = _image_names(dataset)
            found = (known.get(_file_name(name), _digits(name, known)) for name in self.image_names)
            return np.array([*found], np.int64)
        return np.array([known.get(name, UNKNOWN) for name in self.image_names], np.int64)

    def labels(self, dataset: CocoDataset, category_ids: str) -> Indices:
        """Return the label in the data set of each of ``category_names``, -1 where it has no such class."""
        known: dict[Name, int]
        if category_ids == "names":
            known = {plain(name): label for label, name in enumerate(dataset.class_names)}
            return np.array(
                [known.get(plain(str(name)), UNKNOWN) for name in self.category_names], np.int64
            )
        if category_ids == "file":
            known = {number: label for label, number in enumerate(dataset.category_ids)}
        else:
            first = 0 if category_ids == "contiguous" else 1
            known = {label + first: label for label in range(len(dataset.category_ids))}
        return np.array([known.get(name, UNKNOWN) for name in self.category_names], np.int64)

    def probabilities(self, score_scale: str) -> Array:
        """Return scores (N,) as probabilities."""
        if score_scale == "percent":
            return self.scores / 100
        if score_scale == "logit":
            return np.asarray(np.exp(-np.logaddexp(0, -self.scores)))
        return self.scores

    def detections(
        self,
        dataset: CocoDataset,
        reading: ResultsFormat,
        name: str,
        leave_out_unknown: bool = False,
    ) -> pd.DataFrame:
        """Return the detections in DETECTION_COLUMNS, of the detector ``name`` and the head FILE_HEAD.

        Args:
            dataset: what was detected on.
            reading: how the entries are read.
            name: of the detector.
            leave_out_unknown: whether entries of images and classes that the data set lacks are left out.

        Raises:
            UserError: an entry is of no image or class of the data set, or its box has a negative side.
        """
        rows = self.image_rows(dataset, reading.image_ids)[self.images]
        labels = self.labels(dataset, reading.category_ids)[self.categories]
        for what, found in (("image", rows), ("class", labels)):
            wrong = np.flatnonzero(found == UNKNOWN)
            if len(wrong) and not leave_out_unknown:
                raise UserError(
                    f"{self.where}: {self.entry(int(wrong[0]))} ({len(wrong)} of {len(self)} are so) is of an {what}"
                    f" that {dataset.where} does not have; --leave-out-unknown leaves them out"
                )
        kept = np.flatnonzero((rows != UNKNOWN) & (labels != UNKNOWN))
        rows, labels = rows[kept], labels[kept]
        sizes = np.array(dataset.sizes, np.float64)[rows]
        given = to_corners(self.boxes[kept], reading.box_format)
        corners = to_original(given, parse_frame(reading.box_frame), sizes)
        wrong = np.flatnonzero((corners[:, 2:] < corners[:, :2]).any(axis=1))
        if len(wrong):
            first = int(kept[wrong[0]])
            raise UserError(
                f"{self.where}: {self.entry(first)} ({len(wrong)} of {len(self)} are so) has the box"
                f" {self.boxes[first].tolist()}, whose sides as {reading.box_format} are negative; fix it, or give"
                " --box-format"
            )
        columns = {
            "image_id": np.array(dataset.image_ids, np.int64)[rows],
            "detector": name,
            "head": FILE_HEAD,
            "label": labels,
            **{corner: corners[:, place] for place, corner in enumerate(CORNERS)},
            "score": self.probabilities(reading.score_scale)[kept],
        }
        return in_order(pd.DataFrame(columns, index=range(len(kept)))[list(DETECTION_COLUMNS)])


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Detections sorted by detector, head, image and falling score, equal scores as they came."""
    falling = frame.assign(falling=-frame["score"])
    keys = ["detector", "head", "image_id", "falling"]
    ordered = falling.sort_values(keys, kind="stable").drop(columns="falling")
    return ordered.astype(DETECTION_TYPES).reset_index(drop=True)


def _image_names(dataset: CocoDataset) -> dict[Name, int]:
    """The index of each image by all that its file may be called, and by its id as text; what two share is left out."""
    known: dict[Name, int] = {}
    shared: set[Name] = set()
    for row, (image_id, path) in enumerate(zip(dataset.image_ids, dataset.file_names, strict=True)):
        name = PurePosixPath(path)
        called = {str(name), name.name, _file_name(str(name)), _file_name(name.name), str(image_id)}
        for each in called:
            if known.setdefault(each, row) != row:
                shared.add(each)
    return {name: row for name, row in known.items() if name not in shared}


def _file_name(name: Name) -> str:
    """A name without the suffix of an image, and without folders before it."""
    path = PurePosixPath(str(name).replace("\\", "/"))
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _digits(name: Name, known: dict[Name, int]) -> int:
    text = str(name)
    return known.get(str(int(text)), UNKNOWN) if text.isdecimal() and len(text) < 30 else UNKNOWN


def plain(name: str) -> str:
    """A class's name without case, spaces, "_" and "-"."""
    return re.sub(r"[\s_-]", "", name.casefold())


def first_few(names: Sequence[Name]) -> str:
    """The first four of some names, for messages."""
    more = ", ..." if len(names) > 4 else ""
    return ", ".join(shorten(repr(name), 40) for name in names[:4]) + more
