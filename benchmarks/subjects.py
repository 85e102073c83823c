"""What is timed: objects of real images, chosen by a seed, and their proposals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.measure.sampling import draw, generator
from rethink_heads.measure.store import SIZES, size_name
from rethink_heads.proposals import grid, iou_bin

DEFAULT_DATA = "../shared/data/coco-sample"
"""Beside the checkout, from which the benchmarks are run."""


@dataclass(frozen=True)
class Subject:
    """One object and its image.

    Attributes:
        name: of the object, for tables.
        size: ``small``, ``medium`` or ``large``.
        image: uint8 RGB (3, H, W).
        box: (4,) of the object; label: its class, 0..K-1.
        proposals: (N, 4) the whole grid, in pixels of the image.
        ious: (N,) of the proposals with the object.
    """

    name: str
    size: str
    image: Tensor
    box: Tensor
    label: int
    proposals: Tensor
    ious: Tensor


def subjects(
    data: str, split: str, count: int, seed: int, sizes: Sequence[str] = SIZES
) -> tuple[list[Subject], tuple[str, ...]]:
    """Objects of a data set, in turn of each size, each of another image; and the set's class names."""
    dataset = CocoDataset(*resolve_split(data, split))
    order = np.random.default_rng(seed).permutation(dataset.indices_with_objects())
    found: list[Subject] = []
    for index in order.tolist():
        if len(found) == count:
            break
        sample = dataset[index]
        names = [size_name(float(area)) for area in sample.areas]
        wanted = sizes[len(found) % len(sizes)]
        if wanted not in names:
            continue
        at = names.index(wanted)
        height, width = sample.image.shape[1:]
        proposals = grid(sample.boxes[at], (height, width))
        found.append(
            Subject(
                f"{sample.image_id}/{int(sample.object_ids[at])}",
                wanted,
                sample.image,
                sample.boxes[at],
                int(sample.labels[at]),
                proposals.boxes,
                proposals.ious,
            )
        )
    return found, dataset.class_names


def sampled(subject: Subject, count: int | None, seed: int) -> Tensor:
    """Ascending indices of the proposals that are measured where ``count`` an object are asked for; None: all."""
    if count is None:
        return torch.arange(len(subject.proposals))
    return draw(iou_bin(subject.ious), count, generator("proposals", seed, 0))[0]


def pcc(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two (N,)."""
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


class Moments(NamedTuple):
    """Count, means, mean squares and mean product of two (N,), of which a correlation over several objects is made."""

    proposals: float
    a: float
    b: float
    a_a: float
    b_b: float
    a_b: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Moments:
        """Those of two (N,)."""
        a, b = a.double(), b.double()
        means = [each.mean().item() for each in (a, b, a * a, b * b, a * b)]
        return cls(len(a), *means)


def pooled_pcc(found: Iterable[Sequence[float]]) -> float:
    """Pearson's correlation over the proposals of several objects together, of each one's :class:`Moments`."""
    each = np.array([list(moments) for moments in found])
    a, b, a_a, b_b, a_b = np.average(each[:, 1:], axis=0, weights=each[:, 0])
    return float((a_b - a * b) / np.sqrt((a_a - a**2) * (b_b - b**2)))
