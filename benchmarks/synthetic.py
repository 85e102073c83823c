"""Synthetic measurements of any number of objects, written as measuring leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from rethink_heads.measure.moments import (
    ERRORS,
    PRODUCTS,
    SAMPLING_COLUMNS,
    VALUE_COLUMNS,
    VARIABLES,
)
from rethink_heads.measure.stage_boxes import DETECTIONS, RPN, STAGE_TYPES
from rethink_heads.measure.store import SIZES
from rethink_heads.measure.store_files import (
    MAPS,
    MOMENTS,
    ROW_TYPE,
    ROWS,
    SAMPLING,
    Array,
    Name,
    join_parts,
    write_part,
    write_store,
)
from rethink_heads.proposals import IOU_BINS

Floats = npt.NDArray[np.float64]

DETECTOR = "synthetic"
# By head: steepness and middle of the score's curve, share of the box error that is left, reach of the correlations.
HEADS = {"fc": (14.0, 0.48, 0.62, 0.9), "conv": (6.0, 0.55, 0.50, 2.2)}
PROPOSALS_PER_BIN = 732
# Of as many proposals one was measured.
SAMPLED = 10
CLASSES = tuple(f"class {number}" for number in range(80))
CELLS, STEPS = 7, 21
OBJECTS_AT_ONCE = 500


@dataclass(frozen=True)
class Amount:
    """How much is made.

    Attributes:
        images, objects: how many; objects are spread evenly.
        rows_per_bin: sampled rows of each object, head and IoU bin.
        proposals: RPN's proposals of an image that overlap an object, and half as many detections.
    """

    images: int
    objects: int
    rows_per_bin: int = 20
    proposals: int = 200

    @property
    def frame(self) -> pd.DataFrame:
        """The objects: image_id, object_id, class_name, size."""
        number = np.arange(self.objects)
        return pd.DataFrame(
            {
                "image_id": number * self.images // self.objects,
                "object_id": number,
                "class_name": np.array(CLASSES)[number % len(CLASSES)],
                "size": np.array(SIZES)[number % len(SIZES)],
            }
        )


def write_measurements(folder: Path, amount: Amount, seed: int = 0) -> None:
    """Write measurements of all objects, some at a time."""
    with write_store(folder, amount.frame, {"seed": str(seed)}) as append:
        for start in range(0, amount.objects, OBJECTS_AT_ONCE):
            count = min(OBJECTS_AT_ONCE, amount.objects - start)
            for name, values in _arrays(count, amount.rows_per_bin, [seed, start]):
                if name[0] == ROWS:
                    values["object"] += start
                append(name, start, values)


def write_parts(folder: Path, amount: Amount, seed: int = 0) -> list[Path]:
    """Write an image's part a file; return the files, as :func:`join_parts` takes them."""
    folder.mkdir(parents=True)
    paths = []
    for image_id, objects in amount.frame.groupby("image_id"):
        paths.append(folder / str(image_id))
        arrays = dict(_arrays(len(objects), amount.rows_per_bin, [seed, int(str(image_id))]))
        write_part(objects, arrays, paths[-1])
    return paths


def join(parts: list[Path], folder: Path) -> None:
    """Put parts together as measuring does at its end."""
    join_parts(parts, folder, DETECTOR, {}, {})


def _arrays(count: int, rows_per_bin: int, seed: list[int]) -> Iterator[tuple[Name, Array]]:
    """All arrays of some objects."""
    generator = np.random.default_rng(seed)
    ease = generator.normal(0, 0.08, count)
    for head in HEADS:
        key = DETECTOR, head
        moments = _moments(head, ease, generator)
        yield (MOMENTS, *key), moments
        number = moments[..., VALUE_COLUMNS.index("n")]
        # Covariances of the sums, as of a sample; sums of different variables have none.
        own = [name.removeprefix("cov_").split("__") for name in SAMPLING_COLUMNS]
        variance = np.array([0.01 if a == b else 0.0 for a, b in own])
        yield (SAMPLING, *key), (number * (SAMPLED - 1))[..., None] * variance
        yield (ROWS, *key), _rows(head, ease, rows_per_bin, generator)
        for kind, pattern in _patterns(head).items():
            noise = generator.normal(0, 0.05, (count, len(pattern))) + ease[:, None] / 4
            yield (MAPS, *key, kind), (pattern + noise).astype(np.float32)


def _curve(head: str, iou: Floats, ease: Floats) -> tuple[Floats, Floats]:
    """Score and regressed IoU that a head has on average for proposals of these IoUs."""
    steepness, middle, left, _ = HEADS[head]
    score = 0.95 / (1 + np.exp(-steepness * (iou - middle + ease)))
    return score, 1 - left * (1 - iou) * np.clip(1 - ease, 0.5, 1.5)


def _moments(head: str, ease: Floats, generator: np.random.Generator) -> Floats:
    shape = len(ease), IOU_BINS
    iou = np.broadcast_to((np.arange(IOU_BINS) + 0.5) / IOU_BINS, shape)
    score, regressed = _curve(head, iou, ease[:, None])
    number = generator.poisson(PROPOSALS_PER_BIN, shape) + 1.0
    mean = {"iou": iou, "score": score, "regressed_iou": regressed}
    mean |= {error: generator.normal(0, 0.03, shape) for error in ERRORS}
    spread = {"iou": 0.0144, "score": 0.1, "regressed_iou": 0.08} | dict.fromkeys(ERRORS, 0.2)
    columns = {"n": number, "measured": np.ceil(number / SAMPLED)}
    columns |= {f"sum_{v}": number * mean[v] for v in VARIABLES}
    for a, b in PRODUCTS:
        # Within a bin two variables hang together by a tenth.
        share = 1.0 if a == b else 0.1
        columns[f"sum_{a}_{b}"] = number * (mean[a] * mean[b] + share * spread[a] * spread[b])
    columns |= {f"sum_abs_{e}": number * 0.16 for e in ERRORS}
    return np.stack([columns[name] for name in VALUE_COLUMNS], axis=-1)


def _rows(head: str, ease: Floats, per_bin: int, generator: np.random.Generator) -> Array:
    each = IOU_BINS * per_bin
    rows = np.zeros(len(ease) * each, ROW_TYPE)
    rows["object"] = np.repeat(np.arange(len(ease)), each)
    rows["bin"] = np.tile(np.repeat(np.arange(IOU_BINS), per_bin), len(ease))
    rows["weight"] = PROPOSALS_PER_BIN / max(per_bin, 1)
    rows["iou"] = (rows["bin"] + generator.random(len(rows))) / IOU_BINS
    score, _ = _curve(head, rows["iou"], np.repeat(ease, each))
    rows["score"] = np.clip(score + generator.normal(0, 0.1, len(rows)), 0, 1)
    return rows


def _patterns(head: str) -> dict[str, Floats]:
    """A map of each kind."""
    steepness, middle, left, reach = HEADS[head]
    rows, columns = np.divmod(np.arange(CELLS**2), CELLS)
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns).ravel()
    axis = np.clip(1 - np.abs(np.linspace(-1, 1, STEPS)), 0, None)
    inside = (axis[:, None] * axis).ravel()
    return {
        "spatial_correlation": np.exp(-apart / reach),
        "displacement_score": 0.95 / (1 + np.exp(-steepness * (inside / (2 - inside) - middle))),
        "cell_score": np.full(CELLS**2, -0.1 / reach),
        "cell_iou": np.full(CELLS**2, -0.1 * left),
    }


def synthetic_stages(amount: Amount, seed: int = 0) -> pd.DataFrame:
    """Boxes of an amount's images at the later stages, as ``load_stages`` gives them."""
    generator = np.random.default_rng(seed)
    objects, frames = amount.frame, []
    for head in sorted(HEADS):
        for stage, count in ((DETECTIONS, amount.proposals // 2), (RPN, amount.proposals)):
            chosen = np.sort(generator.integers(0, amount.objects, count * amount.images))
            iou = generator.beta(1, 2, len(chosen))
            score, regressed = _curve(head, iou, np.zeros(len(chosen)))
            frame = objects.iloc[chosen].reset_index(drop=True)
            frame = frame.assign(detector=DETECTOR, head=head, stage=stage, iou=iou)
            frame["score"] = np.clip(score + generator.normal(0, 0.2, len(chosen)), 0, 1)
            # An object's first box of those that overlap it.
            is_positive = ~frame["object_id"].duplicated() & (frame["iou"] >= 0.5)
            is_positive &= stage == DETECTIONS
            positive = frame["iou"].where(is_positive)
            frames.append(frame.assign(regressed_iou=regressed, true_positive_iou=positive))
    return pd.concat(frames, ignore_index=True).astype(dict(STAGE_TYPES))[list(STAGE_TYPES)]
