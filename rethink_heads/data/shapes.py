"""The embedded detection set ``shapes``: generated once, in COCO format, from a seed.

Images are JPEG (quality 95, full colour resolution): a third of PNG's size for these noisy images,
and as quick to read. An object's ``area`` in the JSON is its box's width x height, in px^2.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from platformdirs import user_cache_path

from rethink_heads.data.shapes_geometry import CLASS_NAMES
from rethink_heads.data.shapes_scene import IMAGE_SIZE, SceneObject, draw_scene
from rethink_heads.distributed import alone
from rethink_heads.errors import UserError
from rethink_heads.files import atomic_path
from rethink_heads.input_files import expand_home, is_folder
from rethink_heads.locking import hold
from rethink_heads.progress import ProgressReport

# Raise it with every change that alters an image or a box: it is in the cache folder's name.
SHAPES_VERSION = 1
CACHE_VARIABLE = "RETHINK_HEADS_CACHE"
_SPLITS = ("train", "val")
# Ids of the two splits never meet, so that their measurements can be told apart.
_SPLIT_ID_STEP = 10_000_000
_OBJECT_ID_STEP = 100


def shapes_root(
    seed: int = 0,
    cache: Path | None = None,
    train_images: int = 1200,
    val_images: int = 200,
) -> Path:
    """Return the folder of the generated set, made on first use: the same files for the same seed.

    It holds ``annotations/instances_train.json`` and ``instances_val.json`` and the 256 x 256
    images in ``train/`` and ``val/``. It lies in ``cache``, or else in the folder that the
    environment variable ``RETHINK_HEADS_CACHE`` names, or else in the user's cache folder, and
    appears there only when it is complete. A larger set begins with the smaller one's images.

    Raises:
        UserError: a negative seed, fewer than one image in a split, or a folder that cannot be
            written.
    """
    if seed < 0 or min(train_images, val_images) < 1:
        raise UserError(
            f"cannot generate shapes with seed {seed}, {train_images} training and {val_images} "
            "validation images: give a seed of 0 or more and at least one image each"
        )
    root = shapes_folder(seed, cache, train_images, val_images)
    if is_folder(root):
        return root
    counts = dict(zip(_SPLITS, (train_images, val_images), strict=True))
    report = ProgressReport("generating shapes (once)", sum(counts.values()), "images")
    try:
        # Of several processes one makes it, and the others wait: each machine has a cache of its own.
        with hold(root.parent, root.is_dir, alone()):
            if root.is_dir():
                return root
            with atomic_path(root) as temporary, report:
                for split, count in counts.items():
                    _write_split(temporary, split, count, seed, report)
    except UserError as error:
        # Where there are no locks, another process may have made the same set meanwhile.
        if is_folder(root):
            return root
        reason = error.__cause__ or error
        raise UserError(
            f"cannot write the shapes set to {root}: {reason}; free some space or name another "
            f"folder in the environment variable {CACHE_VARIABLE}"
        ) from error
    return root


def shapes_folder(
    seed: int = 0,
    cache: Path | None = None,
    train_images: int = 1200,
    val_images: int = 200,
) -> Path:
    """Return the folder of the generated set, whether it is there or not; arguments of :func:`shapes_root`."""
    folder = cache if cache is not None else cache_folder()
    return folder / f"shapes-v{SHAPES_VERSION}-seed{seed}-train{train_images}-val{val_images}"


def cache_folder() -> Path:
    """Return the folder that generated sets are kept in."""
    named = os.environ.get(CACHE_VARIABLE)
    return expand_home(named) if named else user_cache_path("rethink-heads")


def scene_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random generator of one image: image ``index`` never depends on the others."""
    return np.random.default_rng([seed, _SPLITS.index(split), index])


def _write_split(root: Path, split: str, count: int, seed: int, report: ProgressReport) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    first_id = _SPLITS.index(split) * _SPLIT_ID_STEP + 1
    (root / split).mkdir(parents=True)
    for index in range(count):
        pixels, objects = draw_scene(scene_generator(seed, split, index))
        image_id = first_id + index
        file_name = f"{image_id:08d}.jpg"
        Image.fromarray(pixels).save(root / split / file_name, quality=95, subsampling=0)
        images.append(
            {"id": image_id, "file_name": file_name, "width": IMAGE_SIZE, "height": IMAGE_SIZE}
        )
        annotations.extend(
            _annotation(item, image_id, image_id * _OBJECT_ID_STEP + number)
            for number, item in enumerate(objects)
        )
        report.advance()
    content = {
        "info": {
            "description": f"shapes, {split} split: generated images, not photographs",
            "version": str(SHAPES_VERSION),
            "contributor": "generated by rethink_heads.data.shapes",
            "seed": seed,
            "area": "width x height of the box, in px^2",
        },
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"}
            for number, name in enumerate(CLASS_NAMES, start=1)
        ],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _annotation(item: SceneObject, image_id: int, object_id: int) -> dict[str, Any]:
    left, top, right, bottom = item.box
    width, height = right - left, bottom - top
    return {
        "id": object_id,
        "image_id": image_id,
        "category_id": CLASS_NAMES.index(item.class_name) + 1,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
        "visible": round(item.visible, 3),
    }
