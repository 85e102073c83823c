"""The embedded detection set ``shapes``: generated once, in COCO format, from a seed.

An image is composed of objects, their neighbours and clutter; its parts are drawn by
:mod:`rethink_heads.data.shapes_drawing`.

Images are JPEG (quality 95, full colour resolution): a third of PNG's size for these noisy images,
and as quick to read. An object's ``area`` in the JSON is its box's width x height, in px^2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rethink_heads.console import ProgressReport
from rethink_heads.data.shapes_drawing import (
    CLASS_NAMES,
    Part,
    Stamp,
    background,
    draw_strokes,
    extent,
    make_parts,
    paint,
    rasterise,
    visible_window,
)
from rethink_heads.distributed import single_process
from rethink_heads.errors import UserError
from rethink_heads.files import CACHE_VARIABLE, atomic_path, cache_folder, is_folder
from rethink_heads.locking import hold

# Raise it with every change that alters an image or a box: it is in the cache folder's name.
SHAPES_VERSION = 1
_SPLITS = ("train", "val")
# Ids of the two splits never meet, so that their measurements can be told apart.
_SPLIT_ID_STEP = 10_000_000
_OBJECT_ID_STEP = 100

IMAGE_SIZE = 256
# Square root of a box's area in px. Log-uniform between them gives about 40 % small, 40 % medium
# and 20 % large objects by COCO's limits 32^2 and 96^2.
SMALLEST, LARGEST = 11.0, 200.0
# What is left of an object after others cover it and the border cuts it. Below about two thirds a
# triple may show two discs only, and its class could not be told.
LEAST_VISIBLE = 0.68
# A disc over a disc could pass for a pair, a triangle over a square for a house.
_FAMILIES = ({"disc", "pair", "triple"}, {"ring", "target"}, {"square", "triangle", "house"})
_ROUND = {"disc", "ring", "target"}
_ATTEMPTS = 25
# Fragments: class, direction in radians (y down) in which it is cut off (None: any), and the least
# and largest share that is kept. No cut leaves a whole of a class: half a pair would be a disc.
_FRAGMENTS: tuple[tuple[str, float | None, float, float], ...] = (
    ("disc", None, 0.45, 0.8),
    ("ring", None, 0.45, 0.8),
    ("target", None, 0.45, 0.8),
    ("square", np.pi / 4, 0.65, 0.85),
    ("square", -3 * np.pi / 4, 0.65, 0.85),
    ("triangle", -np.pi / 2, 0.6, 0.85),
    ("triangle", 0.0, 0.65, 0.85),
    ("house", 0.0, 0.5, 0.8),
)


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
        with hold(root.parent, root.is_dir, single_process()):
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
        for number, (class_name, (left, top, right, bottom), visible) in enumerate(objects):
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": image_id * _OBJECT_ID_STEP + number,
                    "image_id": image_id,
                    "category_id": CLASS_NAMES.index(class_name) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "visible": round(visible, 3),
                }
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


class SceneObject(NamedTuple):
    """An annotated object.

    Attributes:
        class_name: one of ``CLASS_NAMES``.
        box: xyxy px of the whole object before occlusion, clipped to the image.
        visible: share of its pixels that are in the image and not covered by another object.
    """

    class_name: str
    box: tuple[float, float, float, float]
    visible: float


@dataclass
class _PlacedObject:
    class_name: str
    stamp: Stamp
    area: int
    """Its pixels, those outside the image included."""
    style: int
    """Seed of its colour and texture."""


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[SceneObject]]:
    """Return a (256, 256, 3) uint8 RGB image and its 2 to 7 objects, drawn from ``rng`` alone."""
    canvas = background(IMAGE_SIZE, rng)
    draw_strokes(canvas, int(rng.integers(0, 4)), rng)
    scene = _Scene()
    count = int(rng.integers(2, 8))
    # Large objects first: small ones then lie on them rather than vanish under them.
    sizes = sorted(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), size=count)))[::-1]
    for size in sizes:
        room = count - len(scene.placed)
        if room < 1:
            break
        group = rng.random()
        if group < 0.2 and size < 80 and room > 1:
            scene.add_row(size, int(rng.integers(2, min(room, 4) + 1)), rng)
        elif group < 0.26 and size < 110 and room > 1:
            scene.add_loose_house(size, rng)
        else:
            scene.add_single(size, rng)
    while len(scene.placed) < 2:
        scene.add_single(float(rng.uniform(16, 48)), rng)
    for _ in range(int(rng.integers(0, 5))):
        scene.add_fragment(rng)
    for stamp in scene.fragments:
        paint(canvas, stamp, rng)
    for item in scene.placed:
        paint(canvas, item.stamp, np.random.default_rng(item.style))
    grain = rng.standard_normal(size=canvas.shape, dtype=np.float32)
    canvas += np.float32(rng.uniform(1, 5)) * grain
    return canvas.clip(0, 255).astype(np.uint8), scene.objects()


class _Scene:
    """The objects placed so far, in painting order, and which of them shows at each pixel."""

    def __init__(self) -> None:
        self.placed: list[_PlacedObject] = []
        self.fragments: list[Stamp] = []
        self._owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1, np.int64)

    def add_single(self, size: float, rng: np.random.Generator) -> None:
        """Place one object of a random class; some at the border, some over others."""
        class_name = str(rng.choice(CLASS_NAMES))
        parts = _fitting_parts(class_name, size, rng)
        outline = _outline(size, rng)
        truncated = rng.random() < 0.12
        overlapping = rng.random() < 0.35
        position = _border_position if truncated else _inside_position
        stamp = rasterise(parts, _fraction(rng), outline)
        for _ in range(_ATTEMPTS):
            x, y = position(*extent(parts), rng)
            if self._place(
                [(class_name, stamp.moved(int(x), int(y)))], _gap(size), overlapping, rng
            ):
                return

    def add_row(self, size: float, count: int, rng: np.random.Generator) -> None:
        """Place objects of one class side by side, with gaps: separate discs are not a pair."""
        class_name = str(rng.choice(CLASS_NAMES))
        sizes = size * rng.uniform(0.92, 1.08, size=count)
        items = [(class_name, _fitting_parts(class_name, s, rng)) for s in sizes]
        self._add_group(items, size, along=0, rng=rng)

    def add_loose_house(self, size: float, rng: np.random.Generator) -> None:
        """Place a triangle above a square with a gap: two objects that nearly make a house."""
        items = [(name, _fitting_parts(name, size, rng)) for name in ("triangle", "square")]
        self._add_group(items, size, along=1, rng=rng)

    def add_fragment(self, rng: np.random.Generator) -> None:
        """Place a piece of an object, without annotation: a detector must see what is missing.

        It lies clear of the objects: under one of them it would pass for a whole object.
        """
        class_name, angle, least, most = _FRAGMENTS[int(rng.integers(len(_FRAGMENTS)))]
        size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(110.0))))
        direction = rng.uniform(0, 2 * np.pi) if angle is None else angle + rng.uniform(-0.2, 0.2)
        parts = make_parts(class_name, size, rng)
        cut = (float(direction), float(rng.uniform(least, most)))
        stamp = rasterise(parts, _fraction(rng), _outline(size, rng), cut)
        for _ in range(_ATTEMPTS):
            x, y = _inside_position(*extent(parts), rng)
            moved = stamp.moved(int(x), int(y))
            if not self._near(moved, _gap(size)):
                self.fragments.append(moved)
                return

    def objects(self) -> list[SceneObject]:
        """Return the placed objects with their boxes clipped to the image."""
        shown = np.bincount(self._owner.ravel() + 1, minlength=len(self.placed) + 1)[1:]
        return [
            SceneObject(
                item.class_name,
                tuple(np.clip(item.stamp.box, 0.0, IMAGE_SIZE).tolist()),
                float(count) / item.area,
            )
            for item, count in zip(self.placed, shown, strict=True)
        ]

    def _add_group(
        self, items: list[tuple[str, list[Part]]], size: float, along: int, rng: np.random.Generator
    ) -> None:
        """Place objects in a row along x (0) or y (1), all or none."""
        extents = np.array([extent(parts) for _, parts in items])
        # One px more, because the gap is checked in whole pixels.
        gap = _gap(size) * rng.uniform(1.1, 2.5) + 1
        steps = extents[:, along]
        frame = extents.max(axis=0)
        frame[along] = steps.sum() + gap * (len(items) - 1)
        if frame.max() > IMAGE_SIZE - 4:
            return
        offsets = np.zeros_like(extents)
        offsets[:, along] = np.cumsum(steps + gap) - gap - steps / 2 - frame[along] / 2
        outline, shift = _outline(size, rng), _fraction(rng)
        stamps = [
            (class_name, rasterise(parts, (x + shift[0], y + shift[1]), outline))
            for (class_name, parts), (x, y) in zip(items, offsets.tolist(), strict=True)
        ]
        for _ in range(_ATTEMPTS):
            x, y = _inside_position(float(frame[0]), float(frame[1]), rng)
            moved = [(name, stamp.moved(int(x), int(y))) for name, stamp in stamps]
            if self._place(moved, _gap(size), overlapping=False, rng=rng):
                return

    def _place(
        self,
        items: list[tuple[str, Stamp]],
        gap: float,
        overlapping: bool,
        rng: np.random.Generator,
    ) -> bool:
        """Place the stamps if all of them may lie there, else none. Some groups look alike."""
        styles = rng.integers(2**32, size=len(items))
        if rng.random() < 0.6:
            styles[:] = styles[0]
        owner, placed = self._owner.copy(), list(self.placed)
        for (class_name, stamp), style in zip(items, styles.tolist(), strict=True):
            if not self._fits(class_name, stamp, gap, overlapping):
                self._owner, self.placed = owner, placed
                return False
            window, inner = visible_window(stamp, IMAGE_SIZE, IMAGE_SIZE)
            solid = stamp.mask > 0.5
            self._owner[window][solid[inner]] = len(self.placed)
            self.placed.append(_PlacedObject(class_name, stamp, int(solid.sum()), style))
        return True

    def _fits(self, class_name: str, stamp: Stamp, gap: float, overlapping: bool) -> bool:
        window, inner = visible_window(stamp, IMAGE_SIZE, IMAGE_SIZE)
        solid = stamp.mask > 0.5
        shape = solid[inner]
        if shape.sum() < LEAST_VISIBLE * max(solid.sum(), 1):
            return False
        if class_name in _ROUND and self._lies_in_round(stamp):
            return False
        covered = self._owner[window][shape]
        below = np.unique(covered[covered >= 0])
        nested = len(below) == 1 and bool((covered == below[0]).mean() > 0.98)
        if not nested and not overlapping:
            return not self._near(stamp, gap)
        family = next(members for members in _FAMILIES if class_name in members)
        for number in below:
            other = self.placed[number]
            if not nested and other.class_name in family:
                return False
            shown = (self._owner == number).sum() - (covered == number).sum()
            if shown < LEAST_VISIBLE * other.area:
                return False
        return True

    def _near(self, stamp: Stamp, gap: float) -> bool:
        """Return whether an object shows in the stamp's box, widened by ``gap`` px."""
        left, top, right, bottom = stamp.box
        rows = slice(max(int(top - gap), 0), max(int(np.ceil(bottom + gap)), 0))
        columns = slice(max(int(left - gap), 0), max(int(np.ceil(right + gap)), 0))
        return bool((self._owner[rows, columns] >= 0).any())

    def _lies_in_round(self, stamp: Stamp) -> bool:
        """Return whether its centre is in a round object's box: the two could pass for a target."""
        x, y = (stamp.box[0] + stamp.box[2]) / 2, (stamp.box[1] + stamp.box[3]) / 2
        return any(
            item.class_name in _ROUND
            and item.stamp.box[0] < x < item.stamp.box[2]
            and item.stamp.box[1] < y < item.stamp.box[3]
            for item in self.placed
        )


def _fitting_parts(class_name: str, size: float, rng: np.random.Generator) -> list[Part]:
    """Return parts of an object of that size, or smaller where it would not fit into the image."""
    parts = make_parts(class_name, size, rng)
    excess = max(extent(parts)) / (0.93 * IMAGE_SIZE)
    if excess > 1:
        parts = [part.transformed(np.eye(2) / excess, np.zeros(2)) for part in parts]
    return parts


def _gap(size: float) -> float:
    """Return the least gap in px between objects that do not overlap."""
    return max(2.0, 0.1 * size)


def _fraction(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a position within a pixel, so that edges do not sit on the pixel grid."""
    return float(rng.random()), float(rng.random())


def _outline(size: float, rng: np.random.Generator) -> float:
    return max(1.0, size * rng.uniform(0.02, 0.05)) if rng.random() < 0.35 and size > 24 else 0.0


def _inside_position(width: float, height: float, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the centre of a box that lies in the image."""
    x = rng.uniform(width / 2 + 1, IMAGE_SIZE - width / 2 - 1)
    y = rng.uniform(height / 2 + 1, IMAGE_SIZE - height / 2 - 1)
    return float(x), float(y)


def _border_position(width: float, height: float, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the centre of a box of which 10 to 32 % lies beyond one side of the image."""
    x, y = _inside_position(width, height, rng)
    kept = rng.uniform(0.18, 0.4)
    side = int(rng.integers(4))
    if side < 2:
        x = kept * width if side == 0 else IMAGE_SIZE - kept * width
    else:
        y = kept * height if side == 2 else IMAGE_SIZE - kept * height
    return float(x), float(y)
