"""Where a data set's splits lie: the generated set by its name, or a folder in COCO's or VOC's layout."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

from rethink_heads.config import SHAPES, DataConfig
from rethink_heads.data.shapes import shapes_folder, shapes_root
from rethink_heads.data.voc import resolve_voc_split, voc_folders
from rethink_heads.errors import UserError, shown
from rethink_heads.files import cannot_read, expand_home, is_file, is_folder

Role = Literal["train", "val", "test"]


def split_paths(data: DataConfig, role: Role, generate: bool = True) -> tuple[Path, Path]:
    """Return the annotation file and the image folder of a role, by the settings.

    Without ``generate`` those of the generated set are only named, to be compared with others.

    Raises:
        UserError: only one of the pair is given, no source is given, or it has no such split.
    """
    annotations: Path | None = getattr(data, f"{role}_annotations")
    images: Path | None = getattr(data, f"{role}_images")
    if annotations is not None and images is not None:
        return annotations, images
    if annotations is not None or images is not None:
        raise UserError(
            f"data.{role}_annotations and data.{role}_images go together: give both or neither"
        )
    if data.source is None:
        raise UserError(
            f"no {role} data: give a folder in COCO or VOC layout with --data FOLDER,"
            f" or data.{role}_annotations=FILE and data.{role}_images=FOLDER"
        )
    return resolve_split(data.source, getattr(data, f"{role}_split"), generate)


def resolve_split(source: str, split: str, generate: bool = True) -> tuple[Path, Path]:
    """Return the annotation file and the image folder of a split.

    Without ``generate`` those of ``"shapes"`` are only named, to be compared with others.

    ``source`` is ``"shapes"`` (generated on first use), a folder that holds
    ``annotations/instances_<split>.json`` (or ``instances_<split>2017.json``) and its images in
    ``<split>/``, ``<split>2017/`` or ``images/``, or a VOC folder: ``VOCdevkit`` with its years, or
    one of them (splits: see :func:`rethink_heads.data.voc.resolve_voc_split`).

    Raises:
        UserError: no such folder, no such split (the message lists those that exist), no folder of
            images, or a VOC file that is missing or broken.
    """
    if source == SHAPES and not generate:
        root = shapes_folder()
        return root / "annotations" / f"instances_{split}.json", root / split
    root = shapes_root() if source == SHAPES else _folder(source)
    folders = [] if _splits(root) else voc_folders(root)
    if folders:
        return resolve_voc_split(folders, split)
    names = (split, f"{split}2017")
    candidates = [root / "annotations" / f"instances_{name}.json" for name in names]
    annotations = next((path for path in candidates if is_file(path)), None)
    if annotations is None:
        existing = _splits(root)
        known = f"it has {', '.join(existing)}" if existing else "it has no splits at all"
        raise UserError(
            f'{root} has no split "{shown(split)}" (no annotations/instances_{shown(split)}.json): {known}'
        )
    # The folder named like the annotation file first: train and val may share "images".
    places = [annotations.stem.removeprefix("instances_"), *names, "images"]
    images = next((root / name for name in places if is_folder(root / name)), None)
    if images is None:
        raise UserError(
            f'{root} has no images for the split "{split}": put them in {split}/, {split}2017/ or '
            "images/"
        )
    return annotations, images


def _folder(source: str) -> Path:
    root = expand_home(source)
    try:
        if stat.S_ISDIR(os.stat(root).st_mode):
            return root
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise cannot_read(root, "data folder", error) from error
    raise UserError(
        f'no such data folder: {shown(source)}; give "{SHAPES}", a folder that holds '
        "annotations/instances_<split>.json, or a VOC folder (VOCdevkit or one of its years)"
    )


def _splits(root: Path) -> list[str]:
    place = root / "annotations"
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot_read(place, "folder of annotations", error) from error
    known = (re.fullmatch(r"instances_(.*)\.json", name) for name in sorted(names))
    return [match[1] for match in known if match]
