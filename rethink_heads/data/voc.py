"""PASCAL VOC folders, read as they are unpacked: converted once to COCO's JSON in the user's cache.

Objects that VOC calls *difficult* get ``iscrowd`` 1 (and ``difficult`` 1, for the record). VOC leaves them out of
training and counts a detection of one neither as a hit nor as a false positive. COCO's evaluation (pycocotools and
hotcoco alike) overwrites an annotation's ``ignore`` with its ``iscrowd``, so ``iscrowd`` is the one way to have an
object ignored; it also lets one such object absorb several detections, as VOC's own evaluation does. One difference is
left: for a crowd box COCO takes the intersection over the *detection's* area in place of IoU, so a detection of a part
of a difficult object is ignored too, where VOC would call it a false positive. This package's reader leaves crowd boxes
out of training and of the predefined proposals.

Folders of one's own are read as well: images in any format of :mod:`rethink_heads.data.images`, and other classes than
VOC's, which are then, in alphabetical order, those of all images that the folder's lists name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import reprlib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from rethink_heads.console import ProgressReport
from rethink_heads.data.coco_json import CONVERTED_FROM, LARGEST_COORDINATE, parse_flag, text
from rethink_heads.data.images import SUFFIXES, Size, true_size
from rethink_heads.distributed import single_process
from rethink_heads.errors import UserError, shown
from rethink_heads.files import (
    CACHE_VARIABLE,
    LARGEST_LIST,
    cache_folder,
    cannot_read,
    is_file,
    is_folder,
    read_bytes,
    read_text,
    write_text,
)
from rethink_heads.locking import hold

log = logging.getLogger(__name__)

# Raise it with every change that alters the JSON: it is in the cache file's hash.
VOC_VERSION = 2
SPLIT_ALIASES = {
    "07+12": "trainval07+trainval12",
    "07++12": "trainval07+test07+trainval12",
}
"""The literature's names of joined splits."""

_NAMES = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa
train tvmonitor
"""
VOC_CLASSES = tuple(_NAMES.split())
"""In VOC's order, which is the alphabet's."""

_LISTS = Path("ImageSets", "Main")
Files = dict[str, list[os.DirEntry[str]]]
"""Files by their names without suffix, accents written in one way."""
# What lists of one class have after each image: 1, -1, or 0 for difficult ones.
_SIGN = re.compile(r"\s+(-1|0|1)$")
# Images have ids of their own in all splits and years, so that measurements can be told apart.
_YEAR_STEP = 100_000_000
_OBJECT_ID_STEP = 1000


class VocObject(NamedTuple):
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


def read_voc_xml(path: Path) -> tuple[Size, list[VocObject]]:
    """Read ``Annotations/<image>.xml``. Boxes of an object's parts (head, hands, feet) are not read.
    Raises UserError where it cannot be read, is not XML, states a size that is not whole, or has an object without a
    class or with a box that is not four numbers.

    Returns:
        The image's width and height in px as the file states them, (0, 0) where it does not, as some tools leave it;
        and the objects in the file's order.
    """
    content = read_bytes(path, "annotation file", LARGEST_LIST)
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(
            f"{shown(path)} is not XML that can be read ({error}); fix it, or save it as UTF-8"
        ) from error
    if root.tag != "annotation":
        raise UserError(
            f"{shown(path)} is not VOC's: it holds <{shown(root.tag)}>, not <annotation>; restore the file"
        )
    width = height = 0.0
    size = root.find("size")
    if size is not None and any(
        (size.findtext(side) or "").strip() for side in ("width", "height")
    ):
        width, height = (_number(size, side, "the image", path) for side in ("width", "height"))
    if min(width, height) < 0 or width % 1 or height % 1:
        raise UserError(f"{path}: an image of {width:g} x {height:g} px cannot be; fix its <size>")
    # Direct children only: a "part" inside an object has a name and a bndbox of its own.
    entries = enumerate(root.findall("object"), 1)
    return (int(width), int(height)), [_object(entry, number, path) for number, entry in entries]


def _object(item: ElementTree.Element, number: int, path: Path) -> VocObject:
    name = text((item.findtext("name") or "").strip(), f"the <name> of object {number}", str(path))
    subject = f"object {number} ({name})"
    corners = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (_number(item.find("bndbox"), each, subject, path) for each in corners)
    # Some files leave the flag out, where it would be 0.
    flag = (item.findtext("difficult") or "0").strip()
    difficult = parse_flag(flag, f"difficult of {subject}", str(path))
    return VocObject(name, (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1), difficult)


def _number(parent: ElementTree.Element | None, tag: str, subject: str, path: Path) -> float:
    """Return the number in ``<tag>``; some of VOC's coordinates are fractions, such as 45.70."""
    found = None if parent is None else parent.findtext(tag)
    if found is None:
        raise UserError(f"{path}: {subject} has no <{tag}>; fix the file")
    try:
        value = float(found)
    except ValueError:
        value = math.nan
    # Not-a-number fails any comparison.
    if not abs(value) <= LARGEST_COORDINATE:
        raise UserError(
            f"{path}: <{tag}> of {subject} is {reprlib.repr(found.strip())}, not a number of at most"
            f" {LARGEST_COORDINATE:,}; fix it"
        )
    return value


class VocFolder(NamedTuple):
    """One year's folder.

    Attributes:
        path: holds ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        year: two digits (``07`` of ``VOC2007``), or empty where the folder's name has no year.
    """

    path: Path
    year: str

    def lists(self) -> list[str]:
        """Return names of its image lists (train, trainval, ...), those of one class left out."""
        names = {path.stem for path in (self.path / _LISTS).glob("*.txt")}
        return sorted(name for name in names if not self._is_of_class(name, names))

    def _is_of_class(self, name: str, names: Collection[str]) -> bool:
        # "train" is a class as well as a list; what has a sign for each image is called cat_train.
        if any(name.startswith(f"{known}_") for known in VOC_CLASSES):
            return True
        if not any(name.endswith(f"_{other}") for other in names):
            return False
        with contextlib.suppress(UserError):
            lines = self._lines(name)
            return bool(lines) and all(_SIGN.search(line) for line in lines)
        return False

    def _lines(self, name: str) -> list[str]:
        """Return lines of an image list that are not blank."""
        content = read_text(self.path / _LISTS / f"{name}.txt", "image list", LARGEST_LIST)
        return [line.strip() for line in content.splitlines() if line.strip()]

    def stems(self, name: str, annotated: Collection[str]) -> list[str]:
        """Return names without suffix of the images of a list; ``annotated`` are those that have an annotation file.
        Raises UserError where the list cannot be read, or is empty.
        """
        stems = [_stem(line, annotated) for line in self._lines(name)]
        if not stems:
            path = self.path / _LISTS / f"{name}.txt"
            raise UserError(f"{path} is empty: it lists no images; restore the file")
        return stems

    def files(self, name: str, suffixes: Collection[str]) -> Files:
        """Return what lies in one of its folders, by names without suffix.
        Raises UserError where the folder cannot be read.
        """
        found: Files = {}
        place = self.path / name
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)
                    if suffix.lower() in suffixes:
                        found.setdefault(unicodedata.normalize("NFC", stem), []).append(entry)
        except OSError as error:
            raise cannot_read(place, "folder", error) from error
        return found


Part = tuple[VocFolder, str]
"""One image list of one year: what splits are joined from."""


class VocMember(NamedTuple):
    """An image of a split: its folder, its name without suffix, its annotation file and its image file."""

    folder: VocFolder
    stem: str
    xml: Path
    image: Path


def voc_folders(root: Path) -> list[VocFolder]:
    """Return the VOC folders of ``root``, by year: itself, or those in it or in its ``VOCdevkit``. None: []."""
    root = root.resolve()
    if _is_voc(root):
        return [_voc_folder(root)]
    for parent in (root, root / "VOCdevkit"):
        found = sorted(lists.parents[1] for lists in parent.glob(f"*/{_LISTS}"))
        inside = [_voc_folder(folder) for folder in found if _is_voc(folder)]
        years = [folder for folder in inside if folder.year]
        if years or len(inside) == 1:
            return years or inside
    return []


def _is_voc(folder: Path) -> bool:
    return is_folder(folder / _LISTS) and is_folder(folder / "Annotations")


def _voc_folder(path: Path) -> VocFolder:
    match = re.fullmatch(r"VOC20(\d\d)", path.name)
    return VocFolder(path, match[1] if match else "")


def resolve_voc_split(folders: Sequence[VocFolder], split: str) -> tuple[Path, Path]:
    """Return the annotation file, converted on first use, and the image folder of a split.

    A split is ``trainval07``, ``test07``, ``trainval12``, ... (any list in ``ImageSets/Main`` with its year, of two or
    four digits; of a single year's folder also without), ``trainval0712`` for both years, several of these joined with
    ``+``, or ``07+12`` (trainval07+trainval12) or ``07++12`` (trainval07+test07+trainval12).
    Raises UserError for no such split (the message lists those that exist), or a file that is missing or broken.
    """
    parts = _parts(folders, split)
    # One folder for the images of all years, so that they can be joined.
    images = parts[0][0].path
    if parts[0][0].year:
        images = images.parent
    name = "+".join(f"{part}{folder.year}" for folder, part in parts)
    # Years beside each other share their classes.
    scope: dict[Path, VocFolder] = {}
    for folder, _ in parts:
        relatives = voc_folders(folder.path.parent) if folder.year else []
        scope |= {each.path: each for each in (folder, *relatives)}
    xmls = {path: folder.files("Annotations", (".xml",)) for path, folder in scope.items()}
    listed = _listed(list(scope.values()), xmls)
    members = _members(parts, split, xmls)
    files = [path for member in members for path in (member.xml, member.image)]
    path = cache_folder() / "voc" / f"{name}-{_content_hash([*files, *listed], name)}.json"
    if not is_file(path):
        content = json.dumps(_to_coco(members, listed, images, name))
        try:
            with hold(path.parent, path.is_file, single_process()):
                write_text(path, content)
        except UserError as error:
            raise UserError(
                f"cannot write the converted annotations {path}: {error.__cause__ or error}; free some"
                f" space or name another folder in the environment variable {CACHE_VARIABLE}"
            ) from error
    return path, images


def _parts(folders: Sequence[VocFolder], split: str) -> list[Part]:
    """Return the image lists that a split is joined from; some go by several names."""
    lists = {folder: folder.lists() for folder in folders}
    splits: dict[str, list[Part]] = {
        f"{name}{folder.year}": [(folder, name)] for folder in folders for name in lists[folder]
    }
    if len(folders) > 1:
        years = "".join(folder.year for folder in folders)
        for name in sorted(set.intersection(*map(set, lists.values()))):
            splits[f"{name}{years}"] = [(folder, name) for folder in folders]
    known = dict(splits)
    for folder in folders:
        for name in lists[folder]:
            if folder.year:
                known.setdefault(f"{name}20{folder.year}", [(folder, name)])
            if len(folders) == 1:
                known.setdefault(name, [(folder, name)])
    parts: list[Part] = []
    for name in SPLIT_ALIASES.get(split, split).split("+"):
        if name not in known:
            root = folders[0].path if len(folders) == 1 else folders[0].path.parent
            wanted = shown(split if name == split else f"{name} (of {split})")
            raise UserError(
                f"{root} is in VOC's layout and has no split {wanted}: it has {', '.join(splits)};"
                " several can be joined with +, as trainval07+trainval12 (07+12 for short)"
            )
        parts += known[name]
    return parts


def _stem(line: str, annotated: Collection[str]) -> str:
    """Return the image's name in a line of a list, which may have a suffix, blanks inside or a sign after it."""
    line = unicodedata.normalize("NFC", line)
    if line in annotated:
        return line
    unsigned = _SIGN.sub("", line)
    for name in (line, unsigned):
        stem, suffix = os.path.splitext(name)
        for candidate in (name, stem) if suffix.lower() in SUFFIXES else (name,):
            if candidate in annotated:
                return candidate
    return unsigned


def _listed(folders: Sequence[VocFolder], xmls: Mapping[Path, Files]) -> list[Path]:
    """Return the annotation files of all images that any list of some folders names; of test sets there may be none."""
    found: set[str] = set()
    for folder in folders:
        annotated = xmls[folder.path]
        for name in folder.lists():
            # What is wrong with a list is said where its split is read.
            with contextlib.suppress(UserError):
                stems = folder.stems(name, annotated)
                found.update(annotated[stem][0].path for stem in stems if stem in annotated)
    return [Path(path) for path in sorted(found)]


def _members(parts: Sequence[Part], split: str, xmls: Mapping[Path, Files]) -> list[VocMember]:
    """Return the images of a split. Raises UserError where one is listed twice or lacks a file."""
    members: dict[tuple[Path, str], VocMember] = {}
    missing: dict[str, list[Path]] = {"annotation file": [], "image": []}
    for folder, name in parts:
        annotated, images = xmls[folder.path], folder.files("JPEGImages", SUFFIXES)
        for stem in folder.stems(name, annotated):
            if (folder.path, stem) in members:
                raise UserError(
                    f"the split {split} lists image {shown(stem)} of {folder.path} twice; join splits that have no"
                    " image in common, or fix the list"
                )
            # Of several images that differ in the suffix alone, VOC's own.
            found = sorted(images.get(stem, []), key=lambda entry: not entry.name.endswith(".jpg"))
            if stem not in annotated:
                missing["annotation file"].append(folder.path / "Annotations" / f"{stem}.xml")
            elif not found:
                missing["image"].append(folder.path / "JPEGImages" / f"{stem}.jpg")
            else:
                paths = (Path(annotated[stem][0].path), Path(found[0].path))
                members[folder.path, stem] = VocMember(folder, stem, *paths)
    for kind, paths_missing in missing.items():
        if paths_missing:
            count = len(members) + sum(map(len, missing.values()))
            raise UserError(
                f"no such {kind}: {shown(paths_missing[0])} ({len(paths_missing)} of the {count} images that split"
                f" {split} lists have none); unpack the archive again or take them off the list"
            )
    return list(members.values())


def _content_hash(files: Sequence[Path], name: str) -> str:
    """16 digits that change with the files of a split, and with the size or time of change of any of them."""
    digest = hashlib.sha256(f"{VOC_VERSION} {name}".encode())
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise cannot_read(path, "file", error) from error
        digest.update(os.fsencode(f"\n{path} {status.st_size} {status.st_mtime_ns}"))
    return digest.hexdigest()[:16]


def _to_coco(
    members: Sequence[VocMember], listed: Sequence[Path], images: Path, name: str
) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    objects: list[tuple[int, VocMember, list[VocObject]]] = []
    wrong_sizes: list[Path] = []
    with ProgressReport(f"reading VOC {name} (once)", len(members), "images") as report:
        for member in members:
            stated, found = read_voc_xml(member.xml)
            width, height = _true_size(member, stated, found)
            if (width, height) != stated:
                wrong_sizes.append(member.xml)
            image_id = _image_id(member.folder, member.stem)
            file_name = member.image.relative_to(images).as_posix()
            records.append(
                {"id": image_id, "file_name": file_name, "width": width, "height": height}
            )
            objects.append((image_id, member, found))
            report.advance()
    if wrong_sizes:
        log.warning(
            "the <size> in %s (%d such files) is missing or has its sides swapped; the image's own size is taken",
            shown(wrong_sizes[0]),
            len(wrong_sizes),
        )
    where = f"{images} ({name})"
    classes = _class_names({item.name for *_, found in objects for item in found}, listed, where)
    return {
        "info": {
            "description": f"PASCAL VOC {name}, converted by rethink_heads.data.voc",
            "version": str(VOC_VERSION),
            CONVERTED_FROM: where,
            "iscrowd": "1 for the objects that VOC calls difficult",
            "area": "width x height of the box, in px^2",
        },
        "licenses": [],
        "images": records,
        "annotations": [
            record
            for image_id, member, found in objects
            for record in _annotations(found, image_id, member.xml, classes)
        ],
        "categories": [
            {"id": number, "name": class_name} for number, class_name in enumerate(classes, 1)
        ],
    }


def _true_size(member: VocMember, stated: Size, objects: Sequence[VocObject]) -> Size:
    """Return the image's size, which the file states, or has swapped or left out where the boxes fit the image.
    Raises UserError where it states another, so that its boxes cannot be trusted.
    """
    size = true_size(member.image, stated)
    # VOC's own boxes keep to the image; a pixel is allowed for those who count from zero.
    fits = all(
        x >= -1.5 and y >= -1.5 and x + w <= size[0] + 1.5 and y + h <= size[1] + 1.5
        for x, y, w, h in (item.box for item in objects)
    )
    if size == stated or (fits and (0 in stated or stated == size[::-1])):
        return size
    raise UserError(
        f"{shown(member.xml)} states {stated[0]}x{stated[1]} px but {shown(member.image)} is"
        f" {size[0]}x{size[1]}, so its boxes cannot be trusted; fix either"
    )


def _class_names(found: Collection[str], listed: Sequence[Path], where: str) -> tuple[str, ...]:
    """Return VOC's classes, or the set's own, of all splits of the folder, so that all agree."""
    names = set(found)
    for path in listed:
        # What is wrong with files of other splits is said where those are read.
        with contextlib.suppress(UserError):
            names.update(item.name for item in read_voc_xml(path)[1])
    own = sorted(names.difference(VOC_CLASSES))
    if not own:
        return VOC_CLASSES
    log.warning(
        "%s has classes that are not VOC's (the first: %s), so its classes are the %d that its annotations name",
        where,
        shown(own[0]),
        len(names),
    )
    return tuple(sorted(names))


def _annotations(
    objects: Sequence[VocObject], image_id: int, xml: Path, classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    if len(objects) >= _OBJECT_ID_STEP:
        raise UserError(
            f"{xml} has {len(objects)} objects, more than the {_OBJECT_ID_STEP - 1} that there are ids for; leave the"
            " image out"
        )
    for number, item in enumerate(objects, 1):
        yield {
            "id": image_id * _OBJECT_ID_STEP + number,
            "image_id": image_id,
            "category_id": classes.index(item.name) + 1,
            "bbox": list(item.box),
            "area": max(item.box[2], 0.0) * max(item.box[3], 0.0),
            "iscrowd": int(item.difficult),
            "difficult": int(item.difficult),
        }


def _image_id(folder: VocFolder, stem: str) -> int:
    """Return an id of the year and the image's name alone, below 2^41: VOC2012/2008_000002 has 1208000002."""
    match = re.fullmatch(r"(?:20(\d\d)_)?(\d{6})", stem)
    if match:
        return int(folder.year or 0) * _YEAR_STEP + int(f"{match[1] or ''}{match[2]}")
    # Not VOC's own names: 40 bits of a hash, beyond all numbers above.
    digest = hashlib.sha256(f"{folder.year}/{stem}".encode()).digest()
    return 2**40 + int.from_bytes(digest[:5])
