"""Folders of annotations as COCO's JSON would say them: VOC's XML files and YOLO's labels, without image lists."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rethink_heads.data.coco_json import CONVERTED_FROM
from rethink_heads.data.images import Size
from rethink_heads.data.voc import VOC_CLASSES, VocObject, read_voc_xml
from rethink_heads.data.yolo import (
    TRUTH_NUMBERS,
    LabelOptions,
    class_names,
    image_files,
    image_sizes,
    label_files,
    read_labels,
)
from rethink_heads.errors import UserError, shown
from rethink_heads.files import is_folder

log = logging.getLogger(__name__)

Content = dict[str, Any]
Box = tuple[float, float, float, float]


def read_folder(path: Path, images: Path | None, options: LabelOptions) -> tuple[Content, str]:
    """Return what a folder of annotations says, in COCO's layout, and a SHA-256 of it.

    Images are numbered by their names where these are whole numbers, else from 1 in the order of names.
    Raises UserError where nothing there can be read, or something is wrong with a file.

    Args:
        path: a folder of VOC's XML files, or one with such a folder ``Annotations``, or one of YOLO's label files.
        images: the folder of images, which names images without objects and says the sizes; None: there may be none.
    """
    inner = path / "Annotations"
    xml = sorted((inner if is_folder(inner) else path).glob("*.xml"))
    content = _voc(xml, images, path) if xml else _yolo(path, images, options)
    digest = hashlib.sha256()
    for part in ("images", "categories", "annotations"):
        for record in content[part]:
            digest.update(repr(record).encode())
    return content, digest.hexdigest()


def _voc(files: Sequence[Path], images: Path | None, where: Path) -> Content:
    found = [read_voc_xml(path) for path in files]
    stems = [path.stem for path in files]
    there = image_files(where, images) if images is not None else {}
    sizes = [size for size, _ in found]
    unknown = [stem for stem, size in zip(stems, sizes, strict=True) if 0 in size]
    if unknown and there:
        sizes = [
            image_sizes([stem], there, None)[0] if 0 in size else size
            for stem, size in zip(stems, sizes, strict=True)
        ]
    elif unknown:
        raise UserError(
            f"{shown(where)}: the <size> of {shown(unknown[0])} ({len(unknown)} of {len(stems)}) is missing; give"
            " --images DIR"
        )
    own = sorted({item.name for _, objects in found for item in objects})
    names = own if set(own) - set(VOC_CLASSES) else list(VOC_CLASSES)
    labels = {name: number for number, name in enumerate(names, 1)}

    def boxes(objects: Sequence[VocObject]) -> Iterator[tuple[int, Box, bool]]:
        for item in objects:
            yield labels[item.name], item.box, item.difficult

    objects = [list(boxes(each)) for _, each in found]
    return _content(
        where, stems, there, sizes, dict(zip(labels.values(), names, strict=True)), objects
    )


def _yolo(folder: Path, images: Path | None, options: LabelOptions) -> Content:
    files = {path.stem: path for path in label_files(folder)}
    names = class_names(folder, options.names)
    there = image_files(folder, images)
    # An image without objects may have no label file.
    stems = sorted({*files, *there})
    extra = [stem for stem in files if there and stem not in there]
    if extra:
        raise UserError(
            f"{shown(files[extra[0]])} is of no image ({len(extra)} of {len(files)} label files are not); add the image"
            " or give another folder with --images"
        )
    sizes = image_sizes(stems, there, options.size)

    def boxes(path: Path | None, size: Size) -> Iterator[tuple[int, Box, bool]]:
        width, height = size
        for line in () if path is None else read_labels(path, TRUTH_NUMBERS):
            if line.label >= len(names):
                raise UserError(
                    f"{shown(path or '')}, line {line.number}: there is no class {line.label} among the {len(names)}"
                    " names, which are numbered from 0; fix either"
                )
            cx, cy, w, h = line.values
            if max(map(abs, line.values)) > 2 or min(w, h) < 0:
                raise UserError(
                    f"{shown(path or '')}, line {line.number}: {' '.join(map(str, line.values))} is not centre and size"
                    " in units of the image's sides, 0 to 1; fix it"
                )
            yield (
                line.label,
                ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height),
                False,
            )

    objects = [list(boxes(files.get(stem), size)) for stem, size in zip(stems, sizes, strict=True)]
    return _content(folder, stems, there, sizes, dict(enumerate(names)), objects)


def _content(
    where: Path,
    stems: Sequence[str],
    images: dict[str, Path],
    sizes: Sequence[Size],
    categories: dict[int, str],
    objects: Sequence[Sequence[tuple[int, Box, bool]]],
) -> Content:
    """COCO's content; objects are (category, x y width height, whether it is ignored) of each image."""
    numbers = {int(stem) for stem in stems if stem.isdecimal() and len(stem) < 18}
    by_name = len(numbers) == len(stems)
    ids = [int(stem) if by_name else number for number, stem in enumerate(stems, 1)]
    annotations = [
        (image_id, *each) for image_id, there in zip(ids, objects, strict=True) for each in there
    ]
    return {
        "info": {CONVERTED_FROM: str(where)},
        "images": [
            {
                "id": image_id,
                "file_name": images[stem].name if stem in images else stem,
                "width": size[0],
                "height": size[1],
            }
            for image_id, stem, size in zip(ids, stems, sizes, strict=True)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category,
                "bbox": list(box),
                "area": max(box[2], 0.0) * max(box[3], 0.0),
                "iscrowd": int(ignored),
            }
            for number, (image_id, category, box, ignored) in enumerate(annotations, 1)
        ],
    }
