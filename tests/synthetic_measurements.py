"""Measurements made up after the paper's findings, for tests of what comes after measuring.

The made-up fc-head scores a steep curve over IoU and has a spiky spatial correlation; the conv-head
scores a ramp, regresses better and has a smooth one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rethink_heads.measure.moments import ERRORS, proposal_values
from rethink_heads.measure.store import Measurements, size_name
from tests.frames import from_frames, reduce_values

CELLS = 7
STEPS = 21
PROPOSALS = 1500
SIDES = (20.0, 60.0, 140.0)


@dataclass(frozen=True)
class Behaviour:
    """How a made-up head answers: score curve, share of the box error it leaves, smoothness."""

    steepness: float
    middle: float
    top: float
    left_over: float
    noise: float
    reach: float


BEHAVIOURS = {
    "fc": Behaviour(14.0, 0.48, 0.95, 0.62, 0.075, 0.9),
    "conv": Behaviour(6.0, 0.55, 0.90, 0.50, 0.050, 2.2),
}
# Which behaviour scores and which regresses, by head.
HEAD_CONFIGURATIONS = {
    "fc": ("fc", "fc"),
    "conv": ("conv", "conv"),
    "double": ("fc", "conv"),
    "double-ext": ("fc", "conv"),
}


def synthetic_measurements(
    detectors: dict[str, Sequence[str]] | None = None,
    *,
    images: int = 30,
    sides: Sequence[float] = SIDES,
    objects_per_size: int = 2,
    maps: bool = True,
    rows: bool = True,
    seed: int = 0,
) -> Measurements:
    """Measurements of ``detectors`` (name -> heads; by default "demo": fc and conv).

    Each image holds ``objects_per_size`` square objects of each side in px. The same seed gives the
    same objects and proposals, whatever the detectors.
    """
    detectors = {"demo": ("fc", "conv")} if detectors is None else detectors
    bin_frames, row_frames, map_rows = [], [], []
    generator = np.random.default_rng(seed)
    for detector, heads in detectors.items():
        for head in heads:
            map_rows += _weight_maps(detector, head) if maps else []
    for image_id in range(images):
        ease = generator.normal(0, 0.06)
        for number in range(len(sides) * objects_per_size):
            side = sides[number % len(sides)]
            key = {
                "image_id": image_id,
                "object_id": image_id * 100 + number,
                "class_name": "thing",
                "size": size_name(side * side),
            }
            boxes, box = _proposals(side, generator)
            drawn = generator.integers(2**32)
            for detector, heads in detectors.items():
                for head in heads:
                    # Each head answers with its own noise, the same in every set of detectors.
                    noise = np.random.default_rng([drawn, *detector.encode(), *head.encode()])
                    ids = key | {"detector": detector, "head": head}
                    bins, sampled = _measure(head, boxes, box, ease, noise)
                    bin_frames.append(bins.assign(**ids))
                    if rows:
                        row_frames.append(sampled.assign(**ids))
                    if maps:
                        map_rows += _object_maps(head, ids, noise)
    return from_frames(
        pd.concat(bin_frames) if bin_frames else Measurements.empty().to_frame(),
        pd.concat(row_frames) if row_frames else None,
        pd.DataFrame(map_rows) if map_rows else None,
        provenance={"dataset": "synthetic", "seed": str(seed)},
    )


synthetic_store = synthetic_measurements


def _proposals(side: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Proposals (N, 4) about an object, near and far, and the object's box (4,)."""
    far = generator.beta(0.9, 1.3, size=(PROPOSALS, 1)) * 1.1
    shift = generator.uniform(-1, 1, size=(PROPOSALS, 2)) * far * side
    size = side * np.exp(generator.uniform(-1, 1, size=(PROPOSALS, 2)) * far)
    centre = 200 + shift
    box = np.array([200 - side / 2, 200 - side / 2, 200 + side / 2, 200 + side / 2])
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1), box


def _measure(
    head: str, boxes: np.ndarray, box: np.ndarray, ease: float, noise: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scorer, regressor = (BEHAVIOURS[name] for name in HEAD_CONFIGURATIONS[head])
    count = len(boxes)
    side = box[2] - box[0]
    hardness = {20.0: 0.10, 60.0: 0.04}.get(float(side), 0.0)
    iou = proposal_values(np.zeros(count), np.zeros(count), boxes, box)["regressed_iou"]
    middle = scorer.middle + hardness - ease + noise.normal(0, 0.12, size=count)
    score = scorer.top / (1 + np.exp(-scorer.steepness * (iou - middle)))
    # The farther the proposal, the less of its error is corrected.
    left = regressor.left_over * (1.35 - iou)[:, None] + hardness
    scatter = noise.normal(0, regressor.noise + hardness / 2, size=(count, 4)) * side
    regressed = box + left * (boxes - box) + scatter
    regressed[:, 2:] = np.maximum(regressed[:, 2:], regressed[:, :2] + 1)
    values = proposal_values(iou, np.clip(score, 0, 1), regressed, box)
    bins = np.minimum((iou * 20).astype(int), 19)
    return reduce_values(values, bins), _sample(values, bins, noise)


def _sample(
    values: dict[str, np.ndarray], bins: np.ndarray, noise: np.random.Generator, per_bin: int = 4
) -> pd.DataFrame:
    kept, weights = [], []
    for number in np.unique(bins):
        members = np.flatnonzero(bins == number)
        chosen = noise.choice(members, size=min(per_bin, len(members)), replace=False)
        kept.append(chosen)
        weights.append(np.full(len(chosen), len(members) / len(chosen)))
    index = np.concatenate(kept)
    columns = ("iou", "score", "regressed_iou", *ERRORS)
    frame = pd.DataFrame({name: values[name][index] for name in columns})
    return frame.assign(bin=bins[index], weight=np.concatenate(weights))


def _object_maps(head: str, key: dict, noise: np.random.Generator) -> list[dict]:
    scorer, regressor = (BEHAVIOURS[name] for name in HEAD_CONFIGURATIONS[head])
    found = {}
    if head in BEHAVIOURS:
        found["spatial_correlation"] = _correlation(scorer.reach, noise)
    axis = np.linspace(-1, 1, STEPS)
    overlap = np.clip(1 - np.abs(axis), 0, None)
    inside = overlap[:, None] * overlap[None, :]
    iou = inside / (2 - inside)
    middle = scorer.middle - 0.1 + noise.normal(0, 0.05)
    score = scorer.top / (1 + np.exp(-scorer.steepness * (iou - middle)))
    # At the image's right border nothing is left of the farthest boxes.
    if noise.random() < 0.1:
        score[:, -1] = np.nan
    found["displacement_score"] = score
    distance = np.hypot(*np.meshgrid(np.arange(CELLS) - 3, np.arange(CELLS) - 3))
    for kind, depth, reach in (
        ("cell_score", 0.03 + 0.3 / scorer.reach**2, 1.3),
        ("cell_iou", 0.02 + 0.5 * regressor.noise, 2.0),
    ):
        change = -depth * np.exp(-((distance - 1) ** 2) / (2 * reach**2)) + 0.012
        found[kind] = change + noise.normal(0, 0.03, size=change.shape)
    return [key | {"kind": kind, "values": value.ravel()} for kind, value in found.items()]


def _correlation(reach: float, noise: np.random.Generator | None = None) -> np.ndarray:
    """Cosines (49, 49) that fall with the distance of two RoI positions."""
    rows, columns = np.divmod(np.arange(CELLS * CELLS), CELLS)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    cosine = 0.12 * reach + (1 - 0.12 * reach) * np.exp(-distance / reach)
    if noise is not None:
        scatter = noise.normal(0, 0.05, size=cosine.shape)
        cosine = cosine + (scatter + scatter.T) / 2
    np.fill_diagonal(cosine, 1)
    return np.clip(cosine, -1, 1)


def _weight_maps(detector: str, head: str) -> list[dict]:
    if head != "fc":
        return []
    key = {"image_id": -1, "object_id": -1, "size": "", "detector": detector, "head": head}
    return [key | {"kind": "weight_correlation", "values": _correlation(0.7).ravel()}]
