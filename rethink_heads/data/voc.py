"""PASCAL VOC folders, read as they are unpacked: converted once to COCO's JSON in the user's cache.

Objects that VOC calls *difficult* get ``iscrowd`` 1 (and ``difficult`` 1, for the record). VOC leaves them out of
training and counts a detection of one neither as a hit nor as a false positive. COCO's evaluation (pycocotools and
hotcoco alike) overwrites an annotation's ``ignore`` with its ``iscrowd``, so ``iscrowd`` is the one way to have an
object ignored; it also lets one such object absorb several detections, as VOC's own evaluation does. One difference is
left: for a crowd box COCO takes the intersection over the *detection's* area in place of IoU, so a detection of a part
of a difficult object is ignored too, where VOC would call it a false positive. This package's reader leaves crowd boxes
out of training and of the predefined proposals.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink_heads.data.shapes import CACHE_VARIABLE, cache_folder
from rethink_heads.data.voc_xml import VOC_CLASSES, VocImage, read_voc_xml
from rethink_heads.distributed import alone
from rethink_heads.errors import UserError
from rethink_heads.files import write_text
from rethink_heads.locking import hold
from rethink_heads.progress import ProgressReport

# Raise it with every change that alters the JSON: it is in the cache file's hash.
VOC_VERSION = 1
SPLIT_ALIASES = {
    "07+12": "trainval07+trainval12",
    "07++12": "trainval07+test07+trainval12",
}
"""The literature's names of joined splits."""

_LISTS = Path("ImageSets", "Main")
# Images have ids of their own in all splits and years, so that measurements can be told apart.
_YEAR_STEP = 100_000_000
_OBJECT_ID_STEP = 1000


@dataclass(frozen=True)
class VocFolder:
    """One year's folder.

    Attributes:
        path: holds ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        year: two digits (``07`` of ``VOC2007``), or empty where the folder's name has no year.
    """

    path: Path
    year: str

    def lists(self) -> list[str]:
        """Names of its image lists (train, trainval, ...), those of one class left out."""
        names = (path.stem for path in (self.path / _LISTS).glob("*.txt"))
        # "train" is a class as well as a list; what has a sign for each image is called cat_train.
        return sorted(n for n in names if not any(n.startswith(f"{c}_") for c in VOC_CLASSES))


@dataclass(frozen=True)
class VocPart:
    """One image list of one year: what splits are joined from."""

    folder: VocFolder
    name: str

    @property
    def list_path(self) -> Path:
        """The file that lists its images."""
        return self.folder.path / _LISTS / f"{self.name}.txt"

    def stems(self) -> list[str]:
        """Names of its images without suffix.

        Raises:
            UserError: the list cannot be read, or is empty.
        """
        try:
            lines = self.list_path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the image list {self.list_path}: {error}") from error
        stems = [line.split()[0] for line in lines if line.strip()]
        if not stems:
            raise UserError(f"{self.list_path} is empty: it lists no images; restore the file")
        return stems


def voc_folders(root: Path) -> list[VocFolder]:
    """Return the VOC folders of ``root``, by year: itself, or those in it or in its ``VOCdevkit``. None: []."""
    root = root.resolve()
    if _is_voc(root):
        return [VocFolder(root, _year(root))]
    for parent in (root, root / "VOCdevkit"):
        years = [f for f in sorted(parent.glob("VOC20*")) if _year(f) and _is_voc(f)]
        if years:
            return [VocFolder(folder, _year(folder)) for folder in years]
    return []


def voc_splits(folders: Sequence[VocFolder]) -> dict[str, list[VocPart]]:
    """Return the splits that exist, by short name: ``trainval07``, ..., ``trainval0712`` for all years joined."""
    splits = {
        f"{name}{folder.year}": [VocPart(folder, name)]
        for folder in folders
        for name in folder.lists()
    }
    if len(folders) > 1:
        years = "".join(folder.year for folder in folders)
        shared = set.intersection(*(set(folder.lists()) for folder in folders))
        for name in sorted(shared):
            splits[f"{name}{years}"] = [VocPart(folder, name) for folder in folders]
    return splits


def resolve_voc_split(folders: Sequence[VocFolder], split: str) -> tuple[Path, Path]:
    """Return the annotation file, converted on first use, and the image folder of a split.

    A split is ``trainval07``, ``test07``, ``trainval12``, ... (any list in ``ImageSets/Main`` with its year, of two or
    four digits; of a single year's folder also without), ``trainval0712`` for both years, several of these joined
    with ``+``, or ``07+12`` (trainval07+trainval12) or ``07++12`` (trainval07+test07+trainval12).

    Raises:
        UserError: no such split (the message lists those that exist), or a file that is missing or broken.
    """
    parts = _parts(folders, split)
    # One folder for the images of all years, so that they can be joined.
    images = parts[0].folder.path
    if parts[0].folder.year:
        images = images.parent
    members = [(part.folder, stem) for part in parts for stem in part.stems()]
    _check_each_once(members, split)
    name = "+".join(f"{part.name}{part.folder.year}" for part in parts)
    path = cache_folder() / "voc" / f"{name}-{_content_hash(members, name)}.json"
    if not path.is_file():
        content = json.dumps(_to_coco(members, images, name))
        try:
            with hold(path.parent, path.is_file, alone()):
                write_text(path, content)
        except UserError as error:
            raise UserError(
                f"cannot write the converted annotations {path}: {error.__cause__ or error}; free some"
                f" space or name another folder in the environment variable {CACHE_VARIABLE}"
            ) from error
    return path, images


def _is_voc(folder: Path) -> bool:
    return (folder / _LISTS).is_dir() and (folder / "Annotations").is_dir()


def _year(folder: Path) -> str:
    match = re.fullmatch(r"VOC20(\d\d)", folder.name)
    return match[1] if match else ""


def _parts(folders: Sequence[VocFolder], split: str) -> list[VocPart]:
    splits = voc_splits(folders)
    known = dict(splits)
    for folder in folders:
        for name in folder.lists():
            part = [VocPart(folder, name)]
            if folder.year:
                known.setdefault(f"{name}20{folder.year}", part)
            if len(folders) == 1:
                known.setdefault(name, part)
    parts: list[VocPart] = []
    for name in SPLIT_ALIASES.get(split, split).split("+"):
        if name not in known:
            root = folders[0].path if len(folders) == 1 else folders[0].path.parent
            wanted = split if name == split else f"{name} (of {split})"
            raise UserError(
                f"{root} is in VOC's layout and has no split {wanted}: it has {', '.join(splits)};"
                " several can be joined with +, as trainval07+trainval12 (07+12 for short)"
            )
        parts += known[name]
    return parts


def _check_each_once(members: Sequence[tuple[VocFolder, str]], split: str) -> None:
    seen: set[tuple[VocFolder, str]] = set()
    for member in members:
        if member in seen:
            folder, stem = member
            raise UserError(
                f"the split {split} lists image {stem} of {folder.path} twice; join splits that have no"
                " image in common, or mend the list"
            )
        seen.add(member)


def _xml_path(folder: VocFolder, stem: str) -> Path:
    return folder.path / "Annotations" / f"{stem}.xml"


def _content_hash(members: Sequence[tuple[VocFolder, str]], name: str) -> str:
    """16 digits that change with the list, and with any annotation file's size or time of change."""
    digest = hashlib.sha256(f"{VOC_VERSION} {name}".encode())
    missing = []
    for folder, stem in members:
        path = _xml_path(folder, stem)
        try:
            status = path.stat()
        except OSError:
            missing.append(path)
        else:
            digest.update(f"\n{path} {status.st_size} {status.st_mtime_ns}".encode())
    if missing:
        raise UserError(
            f"no such annotation file: {missing[0]} ({len(missing)} of the {len(members)} images of {name}"
            " have none); unpack VOC's archive again (VOC2012 publishes none for its test images)"
        )
    return digest.hexdigest()[:16]


def _to_coco(members: Sequence[tuple[VocFolder, str]], images: Path, name: str) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with ProgressReport(f"reading VOC {name} (once)", len(members), "images") as report:
        for folder, stem in members:
            image = read_voc_xml(_xml_path(folder, stem))
            image_id = _image_id(folder, stem)
            file_name = (folder.path / "JPEGImages" / f"{stem}.jpg").relative_to(images)
            size = {"width": image.width, "height": image.height}
            records.append({"id": image_id, "file_name": file_name.as_posix(), **size})
            annotations.extend(_annotations(image, image_id, folder, stem))
            report.advance()
    return {
        "info": {
            "description": f"PASCAL VOC {name}, converted by rethink_heads.data.voc",
            "version": str(VOC_VERSION),
            "iscrowd": "1 for the objects that VOC calls difficult",
            "area": "width x height of the box, in px^2",
        },
        "licenses": [],
        "images": records,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": class_name} for number, class_name in enumerate(VOC_CLASSES, 1)
        ],
    }


def _annotations(
    image: VocImage, image_id: int, folder: VocFolder, stem: str
) -> Iterator[dict[str, Any]]:
    if len(image.objects) >= _OBJECT_ID_STEP:
        raise UserError(
            f"{_xml_path(folder, stem)} has {len(image.objects)} objects, more than the"
            f" {_OBJECT_ID_STEP - 1} that there are ids for; leave the image out"
        )
    for number, item in enumerate(image.objects, 1):
        yield {
            "id": image_id * _OBJECT_ID_STEP + number,
            "image_id": image_id,
            "category_id": item.label + 1,
            "bbox": list(item.box),
            "area": max(item.box[2], 0.0) * max(item.box[3], 0.0),
            "iscrowd": int(item.difficult),
            "difficult": int(item.difficult),
        }


def _image_id(folder: VocFolder, stem: str) -> int:
    """An id that depends on the year and the image's name alone, below 2^41: VOC2012/2008_000002 has 1208000002."""
    match = re.fullmatch(r"(?:20(\d\d)_)?(\d{6})", stem)
    if match:
        return int(folder.year or 0) * _YEAR_STEP + int(f"{match[1] or ''}{match[2]}")
    # Not VOC's own names: 40 bits of a hash, beyond all numbers above.
    digest = hashlib.sha256(f"{folder.year}/{stem}".encode()).digest()
    return 2**40 + int.from_bytes(digest[:5])
