"""Made-up data sets and what heads make of them, of any number of images: objects and images easy or hard by chance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.candidates import Candidates, Source
from rethink_heads.measure.detections import DETECTION_TYPES, in_order
from rethink_heads.measure.moments import ERRORS, VALUE_COLUMNS
from rethink_heads.measure.stage_boxes import DETECTIONS, POSITIVE_IOU, RPN, STAGE_TYPES
from rethink_heads.measure.store import SIZES, Measurements
from rethink_heads.measure.store_files import MAPS, MOMENTS, ROW_TYPE, ROWS, Name
from rethink_heads.proposals import IOU_BINS
from rethink_heads.suppression import Suppression

Array = npt.NDArray[np.float64]

KEYS = (("made-up", "fc"), ("made-up", "conv"))
# By head: how far boxes are off, and how noisy scores are.
HEADS = {"fc": (0.5, 0.7), "conv": (0.4, 1.0)}
WIDTHS = (20.0, 60.0, 180.0)
IMAGE_SPREAD, OBJECT_SPREAD = 0.3, 0.7
# Boxes of different objects do not touch.
PITCH = 400.0
CELLS = 3
# Boxes of the later stages: RPN's of an object, and final detections of it.
STAGE_BOXES = {RPN: 8.0, DETECTIONS: 1.3}
# Proposals of an object, whose boxes heads regress.
PROPOSALS = 6.0


@dataclass(frozen=True)
class MadeUpDataset:
    """What evaluation asks of a :class:`CocoDataset`."""

    image_ids: list[int]
    category_ids: list[int]
    annotated: SimpleNamespace
    where: str = "the made-up data"

    @property
    def class_names(self) -> list[str]:
        """A name each."""
        return [f"class {number}" for number in self.category_ids]


def make_detections(
    generator: np.random.Generator, images: int, classes: int, objects: float
) -> tuple[MadeUpDataset, pd.DataFrame]:
    """Objects of some images and both heads' detections of them, with errors of all of TIDE's kinds."""
    image_ease = generator.normal(0, IMAGE_SPREAD, images)
    image_index = np.repeat(np.arange(images), generator.poisson(objects, images))
    count = len(image_index)
    labels = generator.integers(0, classes, count)
    ease = image_ease[image_index] + np.linspace(-0.8, 0.8, classes)[labels]
    ease += generator.normal(0, OBJECT_SPREAD, count)
    width = generator.choice(WIDTHS, count) * generator.uniform(0.8, 1.2, count)
    boxes = np.stack([PITCH * np.arange(count), np.zeros(count), width, width], axis=1)
    annotated = SimpleNamespace(
        images=image_index,
        labels=labels,
        boxes=boxes,
        areas=width**2,
        crowd=np.zeros(count, bool),
        ids=np.arange(count),
    )
    dataset = MadeUpDataset(list(range(images)), list(range(classes)), annotated)
    frames = []
    for (detector, head), (off, noise) in zip(KEYS, HEADS.values(), strict=True):
        parts = []
        # A detection of most objects, and a second, worse one of some.
        for chance, worse in ((1.4, 0.0), (-1.7, 0.3)):
            found = np.flatnonzero(generator.random(count) < _logistic(chance + ease))
            easy = ease[found]
            iou = 1 - (off + worse) * generator.beta(2, 3, len(found)) * np.exp(-0.3 * easy)
            iou = np.clip(iou, 0.05, 0.99)
            score = _logistic(
                0.8 + easy + 3 * (iou - 0.75) - 3 * worse + generator.normal(0, noise, len(found))
            )
            other = generator.random(len(found)) < 0.06
            label = np.where(other, generator.integers(0, classes, len(found)), labels[found])
            shift = boxes[found, 2] * (1 - iou) / (1 + iou)
            parts.append(
                (image_index[found], label, boxes[found, 0] + shift, boxes[found, 2], score)
            )
        nothing = np.repeat(
            np.arange(images), generator.poisson(1.5 * objects * np.exp(-0.3 * image_ease))
        )
        number = len(nothing)
        parts.append(
            (
                nothing,
                generator.integers(0, classes, number),
                -PITCH * (1 + np.arange(number)),
                generator.choice(WIDTHS, number),
                _logistic(generator.normal(-1.5, 1.0, number)),
            )
        )
        image, label, left, side, score = (
            np.concatenate([cast(Array, part[n]) for part in parts]) for n in range(5)
        )
        columns = {"image_id": image, "detector": detector, "head": head, "label": label}
        columns |= {"x1": left, "y1": 0.0, "x2": left + side, "y2": side, "score": score}
        frames.append(pd.DataFrame(columns))
    return dataset, in_order(pd.concat(frames, ignore_index=True).astype(DETECTION_TYPES))


def make_measurements(
    generator: np.random.Generator, images: int, objects: float, proposals: float = 30.0
) -> Measurements:
    """Moments, rows and maps of some images' objects, each with as many proposals in every bin of IoU."""
    image_index = np.repeat(np.arange(images), generator.poisson(objects, images))
    count = len(image_index)
    image_ease = generator.normal(0, IMAGE_SPREAD, images)[image_index]
    ease = image_ease + generator.normal(0, OBJECT_SPREAD, count)
    sizes = np.array(SIZES)[generator.integers(0, 3, count)]
    frame = pd.DataFrame({"image_id": image_index, "object_id": np.arange(count), "size": sizes})
    arrays: dict[Name, npt.NDArray[Any]] = {}
    centre = np.tile((np.arange(IOU_BINS) + 0.5) / IOU_BINS, count)
    for number, key in enumerate(KEYS):
        head_values = ease + generator.normal(0, 0.3, count)
        repeated = np.repeat(head_values, IOU_BINS)
        mean = _logistic(6 * (centre - 0.6) + repeated + number / 4)
        box = 1 - (1 - centre) * np.clip(0.5 - 0.1 * repeated, 0.1, 0.9)
        means = {"iou": centre, "score": mean, "regressed_iou": box}
        means |= {
            e: 0.1 * generator.normal(0, 1, count * IOU_BINS) + 0.05 * repeated for e in ERRORS
        }
        spread = {"iou": 1 / (12 * IOU_BINS**2), "score": 0.01, "regressed_iou": 0.005}
        moments = _moments(means, spread, proposals)
        columns = np.stack([moments[name] for name in VALUE_COLUMNS], axis=-1)
        arrays[MOMENTS, *key] = columns.reshape(count, IOU_BINS, -1)
        noise = generator.normal(0, 0.1, len(centre))
        jitter = generator.uniform(-0.5, 0.5, len(centre)) / IOU_BINS
        rows = np.zeros(len(centre), ROW_TYPE)
        rows["object"] = np.repeat(np.arange(count), IOU_BINS)
        rows["bin"] = np.tile(np.arange(IOU_BINS), count)
        rows["weight"], rows["iou"], rows["score"] = proposals, centre + jitter, mean + noise
        arrays[ROWS, *key] = rows
        apart = np.abs(np.subtract.outer(np.arange(CELLS**2), np.arange(CELLS**2))).ravel()
        cosines = np.exp(-apart / (2 + number)) + 0.1 * head_values[:, None]
        cosines = cosines + generator.normal(0, 0.05, cosines.shape)
        arrays[MAPS, *key, "spatial_correlation"] = cosines.astype(np.float32)
    return Measurements(frame.assign(class_name="thing"), arrays)


def _moments(
    means: dict[str, Array], spread: dict[str, float], proposals: float
) -> dict[str, Array]:
    """Columns of bins: variables of these means and variances (of errors 0.01), independent of each other."""
    found = {}
    for column in VALUE_COLUMNS:
        names = column.removeprefix("sum_").removeprefix("abs_")
        if column in ("n", "measured"):
            found[column] = np.full(len(means["iou"]), proposals)
            continue
        a, b = next(
            (a, b)
            for a, b in itertools.product(means, [*means, ""])
            if names == "_".join([a, b]).rstrip("_")
        )
        if column.startswith("sum_abs_"):
            found[column] = proposals * (np.abs(means[a]) + 0.05)
        elif not b:
            found[column] = proposals * means[a]
        else:
            within = spread.get(a, 0.01) if a == b else 0.0
            found[column] = proposals * (means[a] * means[b] + within)
    return found


def make_stages(
    generator: np.random.Generator, images: int, classes: int, objects: float
) -> pd.DataFrame:
    """Boxes of some images' objects at the later stages, as ``measure_stages`` gives them."""
    image_index = np.repeat(np.arange(images), generator.poisson(objects, images))
    count = len(image_index)
    ease = generator.normal(0, IMAGE_SPREAD, images)[image_index]
    ease += generator.normal(0, OBJECT_SPREAD, count)
    labels, sizes = generator.integers(0, classes, count), generator.integers(0, 3, count)
    frames = []
    for (detector, head), (off, noise) in zip(KEYS, HEADS.values(), strict=True):
        for stage, boxes in STAGE_BOXES.items():
            of = np.repeat(np.arange(count), generator.poisson(boxes, count))
            iou = 1 - off * generator.beta(2, 2, len(of)) * np.exp(-0.3 * ease[of])
            iou = np.clip(iou, 0.05, 0.99)
            better = 1 - 0.6 * (1 - iou) * np.exp(generator.normal(0, 0.2, len(of)))
            regressed = np.clip(better, 0.05, 0.99)
            score = 0.8 + ease[of] + 3 * ((regressed if stage == RPN else iou) - 0.75)
            score = _logistic(score + generator.normal(0, noise, len(of)))
            # The best of the boxes of an object that are good enough is its true positive.
            order = np.lexsort((-score, of))
            of = of[order]
            iou, score, regressed = (each[order] for each in (iou, score, regressed))
            is_first = (np.diff(of, prepend=-1) > 0) & (iou >= POSITIVE_IOU) & (stage == DETECTIONS)
            columns = {
                "image_id": image_index[of],
                "object_id": of,
                "class_name": np.array([f"class {n}" for n in range(classes)])[labels[of]],
                "size": np.array(SIZES)[sizes[of]],
                "detector": detector,
                "head": head,
                "stage": stage,
                "score": score,
                "iou": iou,
                "regressed_iou": regressed,
                "true_positive_iou": np.where(is_first, iou, np.nan),
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True).astype(dict(STAGE_TYPES))[list(STAGE_TYPES)]


def make_candidates(dataset: MadeUpDataset, generator: np.random.Generator) -> Candidates:
    """What both heads make of the same proposals of a data set's objects, and of some with no object."""
    found = dataset.annotated
    images = len(dataset.image_ids)
    hard = generator.normal(0, IMAGE_SPREAD, images)[found.images]
    hard += generator.normal(0, OBJECT_SPREAD, len(found.images))
    of = np.repeat(
        np.arange(len(hard)), generator.poisson(PROPOSALS * np.exp(-0.5 * np.clip(hard, 0, None)))
    )
    nothing = generator.poisson(2 * PROPOSALS, images)
    image = np.concatenate([found.images[of], np.repeat(np.arange(images), nothing)])
    is_object = np.arange(len(image)) < len(of)
    order = np.argsort(image, kind="stable")
    width = generator.choice(WIDTHS, len(image))
    left = -PITCH * (1 + np.arange(len(image)))
    width[: len(of)], left[: len(of)] = found.boxes[of, 2], found.boxes[of, 0]
    hard = np.append(hard[of], generator.normal(0, 1, len(image) - len(of)))
    labels = generator.integers(0, len(dataset.category_ids), len(image))
    is_right = is_object & (generator.random(len(image)) < 0.9)
    labels[is_right] = found.labels[of][is_right[: len(of)]]
    off = 0.8 * generator.beta(2, 3, len(image))

    def boxes(iou: Array) -> npt.NDArray[np.float32]:
        x = left + width * (1 - iou) / (1 + iou)
        corners = np.column_stack([x, np.zeros(len(x)), x + width, width])
        return corners[order].astype(np.float32)

    scores, regressed = {}, {}
    for key, (share, noise) in zip(KEYS, HEADS.values(), strict=True):
        iou = np.clip(1 - off * share * np.exp(0.3 * hard), 0.05, 0.99)
        score = np.where(is_object, 0.5 + 4 * (iou - 0.75), -2.5) - hard
        score = _logistic(score + generator.normal(0, noise, len(image)))
        scores[key], regressed[key] = score[order].astype(np.float32), boxes(iou)
    place = np.arange(len(image)) - np.searchsorted(image[order], image[order])
    return Candidates(
        (Source("made-up", tuple(HEADS), Suppression()),),
        image[order],
        place,
        labels[order],
        boxes(1 - off),
        {"made-up": place},
        scores,
        regressed,
    )


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
