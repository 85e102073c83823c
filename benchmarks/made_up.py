"""Measurements of any number of objects, made up, as measuring leaves them: an image a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rethink_heads.files import METADATA_KEY, write_text
from rethink_heads.measure.frames import FRAMES, SAMPLING
from rethink_heads.measure.measurements import SIZES
from rethink_heads.measure.merging import schema_of
from rethink_heads.measure.moments import (
    ERRORS,
    PRODUCTS,
    SAMPLED_TOTALS,
    VARIABLES,
    covariance_column,
)
from rethink_heads.measure.row_groups import arrow_schema, write_by_group
from rethink_heads.measure.stage_frame import (
    DETECTIONS,
    RPN,
    STAGE_GROUP,
    STAGE_TYPES,
    STAGES_NAME,
)
from rethink_heads.measure.stages import gathered_bytes
from rethink_heads.proposals import IOU_BINS

Array = npt.NDArray[np.float64]

DETECTOR = "made-up"
# By head: steepness and middle of the score's curve, share of the box error that is left, reach of the correlations.
HEADS = {"fc": (14.0, 0.48, 0.62, 0.9), "conv": (6.0, 0.55, 0.50, 2.2)}
PROPOSALS_PER_BIN = 732
# Of as many proposals one was measured.
SAMPLED = 10
CLASSES = tuple(f"class {number}" for number in range(80))
CELLS, STEPS = 7, 21
# Few different values take little room on the disk, and in memory as much as any.
LEVELS = 256
IMAGES_AT_ONCE = 50


@dataclass(frozen=True)
class Amount:
    """How much is made up.

    Attributes:
        images, objects: how many; objects are spread evenly.
        rows_per_bin: sampled rows of each object, head and IoU bin.
        maps: whether there are maps.
        proposals: RPN's proposals of an image that overlap an object, and half as many detections.
    """

    images: int
    objects: int
    rows_per_bin: int = 20
    maps: bool = True
    proposals: int = 200


def write_parts(folder: Path, amount: Amount, provenance: Mapping[str, str], seed: int = 0) -> None:
    """Write a folder as :class:`rethink_heads.measure.parts.Parts` keeps it while a detector is measured."""
    folder.mkdir(parents=True)
    write_text(folder / "provenance.json", json.dumps(dict(provenance)))
    metadata = {METADATA_KEY: b"{}"}
    ends = np.linspace(0, amount.objects, amount.images + 1).astype(int)
    for start in range(0, amount.images, IMAGES_AT_ONCE):
        after = min(start + IMAGES_AT_ONCE, amount.images)
        generator = np.random.default_rng([seed, start])
        images = np.repeat(np.arange(start, after), np.diff(ends[start : after + 1]))
        tables = _tables(images, np.arange(ends[start], ends[after]), amount, generator)
        for image in range(start, after):
            part = folder / str(image)
            part.mkdir()
            for name, table in tables.items():
                first, last = np.searchsorted(
                    table["image_id"].to_numpy(), [image, image], side="left"
                )
                last = int(np.searchsorted(table["image_id"].to_numpy(), image, side="right"))
                rows = table.slice(int(first), last - int(first)).replace_schema_metadata(metadata)
                pq.write_table(rows, part / f"{name}.parquet", write_page_checksum=True)


def _tables(
    images: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    amount: Amount,
    generator: np.random.Generator,
) -> dict[str, pa.Table]:
    """The frames of some objects, sorted by image."""
    sizes = np.array(SIZES)[generator.integers(0, len(SIZES), len(numbers))]
    ease = generator.normal(0, 0.08, len(numbers))
    keys = {"image_id": images, "object_id": numbers, "class_name": np.full(len(images), "thing")}
    keys |= {"size": sizes, "detector": np.full(len(images), DETECTOR)}
    found: dict[str, list[pa.Table]] = {name: [] for name in FRAMES}
    for head in HEADS:
        of_head = keys | {"head": np.full(len(images), head)}
        found["bins"].append(_bins(of_head, head, ease, generator))
        found[SAMPLING].append(_errors(of_head, found["bins"][-1]))
        found["rows"].append(_rows(of_head, head, ease, amount.rows_per_bin, generator))
        if amount.maps:
            found["maps"] += _maps(of_head, head, ease, generator)
    whole = {
        name: pa.concat_tables([schema_of(name).empty_table(), *found[name]]) for name in FRAMES
    }
    return {name: table.sort_by("image_id") for name, table in whole.items()}


def _repeated(keys: Mapping[str, npt.NDArray[Any]], times: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.repeat(values, times) for name, values in keys.items()}


def _table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    schema = schema_of(name)
    return pa.table({column: columns[column] for column in schema.names}, schema=schema)


def _curve(head: str, iou: Array, ease: Array) -> tuple[Array, Array]:
    """Score and regressed IoU that a head has on average for proposals of these IoUs."""
    steepness, middle, left, _ = HEADS[head]
    score = 0.95 / (1 + np.exp(-steepness * (iou - middle + ease)))
    return score, 1 - left * (1 - iou) * np.clip(1 - ease, 0.5, 1.5)


def _bins(keys: dict[str, Any], head: str, ease: Array, generator: np.random.Generator) -> pa.Table:
    count = len(ease)
    iou = np.tile((np.arange(IOU_BINS) + 0.5) / IOU_BINS, count)
    score, regressed = _curve(head, iou, np.repeat(ease, IOU_BINS))
    number = generator.poisson(PROPOSALS_PER_BIN, count * IOU_BINS).astype(float) + 1
    mean = {"iou": iou, "score": score, "regressed_iou": regressed}
    spread = {"iou": 0.0144, "score": 0.1, "regressed_iou": 0.08}
    for error in ERRORS:
        mean[error] = generator.normal(0, 0.03, len(iou))
        spread[error] = 0.2
    columns = _repeated(keys, IOU_BINS) | {"bin": np.tile(np.arange(IOU_BINS), count)}
    columns |= {"n": number, "measured": np.ceil(number / SAMPLED)}
    columns |= {f"sum_{v}": number * mean[v] for v in VARIABLES}
    for a, b in PRODUCTS:
        # Within a bin what is asked of two variables hangs together by a tenth.
        share = 1.0 if a == b else 0.1
        columns[f"sum_{a}_{b}"] = number * (mean[a] * mean[b] + share * spread[a] * spread[b])
    columns |= {f"sum_abs_{e}": number * 0.16 for e in ERRORS}
    return _table("bins", columns)


def _errors(keys: dict[str, Any], bins: pa.Table) -> pa.Table:
    """Covariances of the sums, as of a sample; sums of different variables have none."""
    columns: dict[str, Any] = _repeated(keys, IOU_BINS) | {"bin": bins["bin"].to_numpy()}
    number = bins["n"].to_numpy()
    spread = number**2 * (SAMPLED - 1) / number
    for totals in SAMPLED_TOTALS:
        for i, a in enumerate(totals):
            for b in totals[i:]:
                columns[covariance_column(a, b)] = (
                    spread * 0.01 if a == b else np.zeros(len(spread))
                )
    return _table(SAMPLING, columns)


def write_stages(folder: Path, amount: Amount, memory_mb: int, seed: int = 0) -> None:
    """Write the boxes of an amount's images at the later stages, as measuring merges them."""
    tables = (
        pa.Table.from_pandas(_boxes(image, amount, seed), preserve_index=False).cast(
            arrow_schema(STAGE_TYPES)
        )
        for image in range(amount.images)
    )
    gathered = gathered_bytes(memory_mb)
    write_by_group(tables, folder / STAGES_NAME, STAGE_TYPES, STAGE_GROUP, {}, gathered)


def _boxes(image: int, amount: Amount, seed: int) -> pd.DataFrame:
    """One image's boxes: an object's number is its image's and one of some, its size follows from it."""
    generator = np.random.default_rng([seed, image])
    objects = max(1, amount.objects // amount.images)
    frames = []
    for head in HEADS:
        for stage, count in ((RPN, amount.proposals), (DETECTIONS, amount.proposals // 2)):
            numbers = generator.integers(0, objects, count)
            iou = generator.beta(1, 2, count)
            score, regressed = _curve(head, iou, np.zeros(count))
            noisy = np.clip(score + generator.normal(0, 0.2, count), 0, 1)
            columns = {
                "image_id": image,
                "object_id": image * objects + numbers,
                "class_name": np.array(CLASSES)[numbers % len(CLASSES)],
                "size": np.array(SIZES)[numbers % len(SIZES)],
                "detector": DETECTOR,
                "head": head,
                "stage": stage,
                "score": noisy,
                "iou": iou,
                "regressed_iou": regressed,
                # An object's first box of those that overlap it.
                "true_positive_iou": np.nan,
            }
            frame = pd.DataFrame(columns)
            if stage == DETECTIONS:
                first = ~frame["object_id"].duplicated() & (frame["iou"] >= 0.5)
                frame["true_positive_iou"] = frame["iou"].where(first)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True).astype(dict(STAGE_TYPES))


def _rows(
    keys: dict[str, Any], head: str, ease: Array, per_bin: int, generator: np.random.Generator
) -> pa.Table:
    each = IOU_BINS * per_bin
    bins = np.tile(np.repeat(np.arange(IOU_BINS), per_bin), len(ease))
    iou = (bins + _levels(generator.random(len(bins)))) / IOU_BINS
    score, regressed = _curve(head, iou, np.repeat(ease, each))
    columns = _repeated(keys, each) | {"bin": bins, "iou": iou}
    columns["weight"] = np.full(len(bins), PROPOSALS_PER_BIN / max(per_bin, 1))
    columns["score"] = _levels(np.clip(score + generator.normal(0, 0.1, len(bins)), 0, 1))
    columns["regressed_iou"] = _levels(regressed)
    columns |= {error: _levels(generator.random(len(bins))) for error in ERRORS}
    return _table("rows", columns)


def _maps(
    keys: dict[str, Any], head: str, ease: Array, generator: np.random.Generator
) -> list[pa.Table]:
    steepness, middle, left, reach = HEADS[head]
    rows, columns = np.divmod(np.arange(CELLS**2), CELLS)
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns).ravel()
    axis = np.clip(1 - np.abs(np.linspace(-1, 1, STEPS)), 0, None)
    inside = (axis[:, None] * axis).ravel()
    iou = inside / (2 - inside)
    patterns = {
        "spatial_correlation": np.exp(-apart / reach),
        "displacement_score": 0.95 / (1 + np.exp(-steepness * (iou - middle))),
        "cell_score": np.full(CELLS**2, -0.1 / reach),
        "cell_iou": np.full(CELLS**2, -0.1 * left),
    }
    tables = []
    for kind, pattern in patterns.items():
        noise = generator.normal(0, 0.05, (len(ease), len(pattern))) + ease[:, None] / 4
        values = _levels(pattern + noise).astype(np.float32)
        offsets = np.arange(len(ease) + 1, dtype=np.int32) * len(pattern)
        arrays = pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
        tables.append(_table("maps", keys | {"kind": np.full(len(ease), kind), "values": arrays}))
    return tables


def _levels(values: Array) -> Array:
    return np.rint(values * LEVELS) / LEVELS
