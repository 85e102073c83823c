"""COCO's annotation files as datasets of detectron2."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rethink_heads.errors import UserError


def annotated_classes(annotations: Path) -> tuple[str, ...]:
    """The class names of COCO's JSON in the order of their category ids, which is detectron2's.

    Raises:
        UserError: the file is missing or has no categories.
    """
    try:
        categories = json.loads(Path(annotations).read_bytes())["categories"]
        names = {int(each["id"]): str(each["name"]) for each in categories}
    except FileNotFoundError as error:
        raise UserError(f"no annotations at {annotations}: give COCO's JSON") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{annotations} is not COCO's JSON with categories: give one") from error
    if not names:
        raise UserError(f"{annotations} has no categories: give a file with some")
    return tuple(names[number] for number in sorted(names))


def register_annotations(role: str, annotations: Path, images: Path) -> str:
    """Registers COCO's JSON and its folder of images with detectron2, once, and returns the dataset's name.

    Args:
        role: ``train`` or ``test``; the name begins with it.
        annotations: the JSON.
        images: the folder.

    Raises:
        UserError: one of them is not there, or the JSON has no categories.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    annotations, images = Path(annotations).absolute(), Path(images).absolute()
    classes = annotated_classes(annotations)
    if not images.is_dir():
        raise UserError(f"no folder of images at {images}: give the annotations' images")
    # The same in every process, and other files have another name.
    digest = hashlib.sha256(f"{annotations}\n{images}".encode()).hexdigest()[:8]
    name = f"rethink_heads_{role}_{digest}"
    if name not in DatasetCatalog.list():
        register_coco_instances(name, {}, str(annotations), str(images))
        MetadataCatalog.get(name).thing_classes = list(classes)
    return name
