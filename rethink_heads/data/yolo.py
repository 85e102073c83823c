"""Reads YOLO's label folders: a text file an image, a line a box, in units of the image's sides.

A line of ground truth is ``class cx cy width height``, one of results has the confidence after it. A label file says
neither what its classes are called nor how large its image is: names stand in a ``data.yaml`` (or ``classes.txt``,
``obj.names``) beside the folder or above it, sizes are those of the images.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rethink_heads.data.images import SUFFIXES, Size, true_size
from rethink_heads.errors import UserError, check_writable, shorten, shown
from rethink_heads.files import (
    LARGEST_LIST,
    cannot_read,
    is_file,
    is_folder,
    read_text,
)
from rethink_heads.settings import read_yaml

NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
_LEVELS_ABOVE = 3
_MOST_CLASSES = 100_000
# A line of ground truth and one of results.
TRUTH_NUMBERS, RESULT_NUMBERS = 5, 6


@dataclass(frozen=True)
class LabelOptions:
    """What a YOLO folder leaves open.

    Attributes:
        names: the classes' names, a file or with commas between; None to look for a file.
        size: of all images, ``640x480``, or a file with a line ``image width height`` each; None to look at images.
    """

    names: str | None = None
    size: str | None = None


class LabelLine(NamedTuple):
    """A line of a label file: its number, the class and the other numbers."""

    number: int
    label: int
    values: tuple[float, ...]


def label_files(folder: Path) -> list[Path]:
    """Return the label files of a folder by name, those with names of classes left out.
    Raises UserError where the folder cannot be read, or has none.
    """
    names = [name for name in _listing(folder) if name.lower().endswith(".txt")]
    names = [name for name in names if name not in NAMES_FILES]
    if not names:
        inner = folder / "labels"
        hint = f"; did you mean {shown(inner)}?" if is_folder(inner) else ""
        raise UserError(
            f"{shown(folder)} has no files that are read: give COCO's JSON, or a folder of VOC's XML or results, or of"
            f" YOLO's labels (*.txt){hint}"
        )
    return [folder / name for name in names]


def read_labels(path: Path, count: int) -> Iterator[LabelLine]:
    """Yield the boxes of a label file.
    Raises UserError where a line has others, or something that is no number; the message names it.
    """
    for number, line in enumerate(read_text(path, "label file", LARGEST_LIST).splitlines(), 1):
        texts = line.split()
        if not texts:
            continue
        where = f"{shown(path)}, line {number}"
        if len(texts) != count:
            raise UserError(f"{where}: {_wrong_count(len(texts), count)}")
        try:
            values = [float(text) for text in texts]
        except ValueError as error:
            raise UserError(f"{where}: {shorten(str(error))}; fix it") from error
        if not all(map(math.isfinite, values)):
            raise UserError(
                f"{where}: {shorten(line.strip())!r} has a number that is not finite; fix it"
            )
        if not (values[0].is_integer() and 0 <= values[0] < _MOST_CLASSES):
            raise UserError(f"{where}: {texts[0]!r} is no class, which are numbered from 0; fix it")
        yield LabelLine(number, int(values[0]), tuple(values[1:]))


def _wrong_count(found: int, wanted: int) -> str:
    if (found, wanted) == (TRUTH_NUMBERS, RESULT_NUMBERS):
        return (
            "5 numbers and no confidence, which results have after `class cx cy width height`; save them with"
            " confidences (save_conf=True)"
        )
    if (found, wanted) == (RESULT_NUMBERS, TRUTH_NUMBERS):
        return "6 numbers, where ground truth is `class cx cy width height`; results go to --detections"
    if found > RESULT_NUMBERS:
        return f"{found} numbers, an outline as it seems; give boxes, {wanted} numbers a line"
    return f"{found} numbers, not {wanted}; fix it"


def class_names(folder: Path, given: str | None) -> tuple[str, ...]:
    """Return the classes' names by number. ``given``: a YAML or text file, or names with commas between; None to look
    beside the labels and above them. Raises UserError where there are none, or a file cannot be read.
    """
    if given is not None and "," in given and not is_file(Path(given)):
        return _checked(
            [name.strip() for name in given.split(",")], f"the names {shorten(given)!r}"
        )
    places = [folder.absolute(), *folder.absolute().parents[:_LEVELS_ABOVE]]
    candidates = (place / name for place in places for name in NAMES_FILES)
    beside = next((path for path in candidates if is_file(path)), None)
    path = Path(given) if given is not None else beside
    if path is None:
        raise UserError(
            f"nothing says what the classes of {shown(folder)} are called: give --label-names FILE (a data.yaml, or a"
            " text file with a name a line), or the names with commas between"
        )
    if path.suffix.lower() not in (".yaml", ".yml"):
        lines = read_text(path, "file of class names").splitlines()
        return _checked([line.strip() for line in lines if line.strip()], str(path))
    content = read_yaml(path, "file of class names")
    found = content.get("names") if isinstance(content, dict) else None
    if isinstance(found, dict) and sorted(map(str, found)) == sorted(map(str, range(len(found)))):
        by_number = {int(number): name for number, name in found.items()}
        found = [by_number[number] for number in range(len(found))]
    if not isinstance(found, list):
        raise UserError(
            f"{shown(path)} has no list of names under `names`, by number from 0; fix it, or give --label-names"
        )
    return _checked(found, str(path))


def _checked(names: Sequence[object], where: str) -> tuple[str, ...]:
    texts = [check_writable(str(name), f"{where}: class") for name in names]
    repeated = next((name for name in texts if texts.count(name) > 1), None)
    if not texts or "" in texts or repeated:
        problem = f"{shorten(repr(repeated))} twice" if repeated else "an empty name, or none"
        raise UserError(f"{shown(where)} has {problem}; give each class a name of its own")
    return tuple(texts)


def image_files(labels: Path, images: Path | None) -> dict[str, Path]:
    """Return the images by name without suffix: of ``images``, or of the folder that lies beside the labels."""
    place = images if images is not None else _images_beside(labels)
    if place is None:
        return {}
    found = (place / name for name in _listing(place))
    return {path.stem: path for path in found if path.suffix.lower() in SUFFIXES}


def _images_beside(labels: Path) -> Path | None:
    """``images/val`` of ``labels/val``, or the folder itself where images lie among the labels."""
    parts = list(labels.absolute().parts)
    if "labels" in parts:
        parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
        if is_folder(Path(*parts)):
            return Path(*parts)
    there = any(Path(name).suffix.lower() in SUFFIXES for name in _listing(labels))
    return labels if there else None


def image_sizes(stems: Sequence[str], images: dict[str, Path], given: str | None) -> list[Size]:
    """Return width and height in px of each image. Raises UserError where the size of one is not known."""
    if given is not None and not is_file(Path(given)):
        return [parse_size(given, "--image-size")] * len(stems)
    if given is not None:
        stated = dict(_size_lines(Path(given)))
        known = [stem for stem in stems if stem not in stated]
    else:
        stated, known = {}, [stem for stem in stems if stem not in images]
    if known:
        where = given if given is not None else "the folder of images"
        raise UserError(
            f"the size of image {shown(known[0])} ({len(known)} of {len(stems)}) is not known from {shown(where)}: give"
            " --images DIR, or --image-size WIDTHxHEIGHT or a file with a line `image width height` each"
        )
    return [stated[stem] if stem in stated else true_size(images[stem], (0, 0)) for stem in stems]


def _size_lines(path: Path) -> Iterator[tuple[str, Size]]:
    for number, line in enumerate(read_text(path, "file of sizes", LARGEST_LIST).splitlines(), 1):
        texts = line.replace(",", " ").split()
        if not texts:
            continue
        where = f"{shown(path)}, line {number}"
        if len(texts) < 3:
            raise UserError(f"{where}: {shorten(line)!r} is not `image width height`; fix it")
        name = Path(" ".join(texts[:-2]))
        stem = name.stem if name.suffix.lower() in SUFFIXES else name.name
        yield stem, parse_size(f"{texts[-2]}x{texts[-1]}", where)


def parse_size(text: str, where: str) -> Size:
    """Return width and height of ``640x480``. Raises UserError where it is something else."""
    width, sign, height = text.lower().partition("x")
    if not (sign and width.isdecimal() and height.isdecimal() and len(text) < 20):
        raise UserError(f"{where}: {shorten(text)!r} is no size; write WIDTHxHEIGHT, as 640x480")
    return int(width), int(height)


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise cannot_read(folder, "folder", error) from error
