"""Reads one annotation file of PASCAL VOC: each mistake is one clear sentence."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rethink_heads.data.coco_json import LARGEST_COORDINATE, parse_flag, text
from rethink_heads.errors import UserError
from rethink_heads.input_files import LARGEST_LIST, read_bytes, shown

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""In VOC's order, which is the alphabet's."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """An object of a VOC file.

    Attributes:
        name: of its class: one of ``VOC_CLASSES``, or a class of the set's own.
        box: x, y, width, height in px, the image's left top corner at (0, 0). VOC counts pixels from 1 and
            its corners are the first and last pixel inside: so x is xmin - 1 and the width xmax - xmin + 1.
        difficult: VOC's annotators held it too hard to recognise to count for or against a detector.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """An image of a VOC set.

    Attributes:
        size: width and height in px as the file states them; (0, 0) where it does not, as some tools leave it.
        objects: in the file's order.
    """

    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def read_voc_xml(path: Path) -> VocImage:
    """Read ``Annotations/<image>.xml``. Boxes of an object's parts (head, hands, feet) are not read.

    Raises:
        UserError: it cannot be read, is not XML, states a size that is not whole, or has an object without a class or
            with a box that is not four numbers.
    """
    content = read_bytes(path, "annotation file", LARGEST_LIST)
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(
            f"{shown(path)} is not XML that can be read ({error}); mend it, or save it as UTF-8"
        ) from error
    if root.tag != "annotation":
        raise UserError(
            f"{shown(path)} is not VOC's: it holds <{shown(root.tag)}>, not <annotation>; restore the file"
        )
    # Direct children only: a "part" inside an object has a name and a bndbox of its own.
    objects = (
        _read_object(item, number, path) for number, item in enumerate(root.findall("object"), 1)
    )
    return VocImage(_size(root.find("size"), path), tuple(objects))


def _size(item: ElementTree.Element | None, path: Path) -> tuple[int, int]:
    if item is None or not any((item.findtext(side) or "").strip() for side in ("width", "height")):
        return 0, 0
    width, height = (_number(item, side, "the image", path) for side in ("width", "height"))
    if min(width, height) < 0 or width % 1 or height % 1:
        raise UserError(f"{path}: an image of {width:g} x {height:g} px cannot be; mend its <size>")
    return int(width), int(height)


def _read_object(item: ElementTree.Element, number: int, path: Path) -> VocObject:
    name = text((item.findtext("name") or "").strip(), f"the <name> of object {number}", str(path))
    subject = f"object {number} ({name})"
    x1, y1, x2, y2 = (_number(item.find("bndbox"), c, subject, path) for c in _CORNERS)
    # Some files leave the flag out, where it would be 0.
    flag = (item.findtext("difficult") or "0").strip()
    difficult = parse_flag(flag, f"difficult of {subject}", str(path))
    box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
    return VocObject(name, box, difficult)


def _number(parent: ElementTree.Element | None, tag: str, subject: str, path: Path) -> float:
    """The number in ``<tag>``; some of VOC's coordinates are fractions, such as 45.70."""
    found = None if parent is None else parent.findtext(tag)
    if found is None:
        raise UserError(f"{path}: {subject} has no <{tag}>; mend the file")
    try:
        value = float(found)
    except ValueError:
        value = math.nan
    # Not-a-number fails any comparison.
    if not abs(value) <= LARGEST_COORDINATE:
        raise UserError(
            f"{path}: <{tag}> of {subject} is {reprlib.repr(found.strip())}, not a number of at most"
            f" {LARGEST_COORDINATE:,}; mend it"
        )
    return value
