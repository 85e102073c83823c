"""Where a data set's splits lie: the generated set by its name, or a folder in COCO's or VOC's layout."""

from __future__ import annotations

from pathlib import Path

from rethink_heads.data.shapes import shapes_folder, shapes_root
from rethink_heads.data.voc import resolve_voc_split, voc_folders
from rethink_heads.errors import UserError

SHAPES = "shapes"


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
    root = shapes_root() if source == SHAPES else Path(source).expanduser()
    if not root.is_dir():
        raise UserError(
            f'no such data folder: {source}; give "{SHAPES}", a folder that holds '
            "annotations/instances_<split>.json, or a VOC folder (VOCdevkit or one of its years)"
        )
    folders = [] if _splits(root) else voc_folders(root)
    if folders:
        return resolve_voc_split(folders, split)
    names = (split, f"{split}2017")
    candidates = [root / "annotations" / f"instances_{name}.json" for name in names]
    annotations = next((path for path in candidates if path.is_file()), None)
    if annotations is None:
        existing = _splits(root)
        known = f"it has {', '.join(existing)}" if existing else "it has no splits at all"
        raise UserError(
            f'{root} has no split "{split}" (no annotations/instances_{split}.json): {known}'
        )
    # The folder named like the annotation file first: train and val may share "images".
    places = [annotations.stem.removeprefix("instances_"), *names, "images"]
    images = next((root / name for name in places if (root / name).is_dir()), None)
    if images is None:
        raise UserError(
            f'{root} has no images for the split "{split}": put them in {split}/, {split}2017/ or '
            "images/"
        )
    return annotations, images


def _splits(root: Path) -> list[str]:
    files = (root / "annotations").glob("instances_*.json")
    return sorted(path.stem.removeprefix("instances_") for path in files)
