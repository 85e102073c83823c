"""The two sides of every comparison: the baseline and the package, with the same weights on the same device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.baseline import Baseline, Pyramid
from benchmarks.random_weights import branch_of, fit, random_detector
from benchmarks.subjects import Subject, subjects
from rethink_heads.config import Config
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.machine import resolve_device
from rethink_heads.measure.responses import Responder

BASELINE = "baseline"


class Options(NamedTuple):
    """What is asked for on the command line."""

    preset: str
    data: str
    split: str
    objects: int
    repeats: int
    threads: int
    memory_mb: int
    seed: int
    device: str
    chunk: int | None
    fit: int = 0


class Variant(NamedTuple):
    """One way to measure with the package; ``proposals`` None is the whole grid."""

    precision: str
    proposals: int | None

    @property
    def name(self) -> str:
        grid = "all proposals" if self.proposals is None else f"{self.proposals} proposals"
        return f"{self.precision}, {grid}"


class Sides(NamedTuple):
    """Both sides, of the same weights."""

    baseline: Baseline
    detector: RCNN


def make_sides(config: Config, options: Options) -> tuple[Sides, list[Subject]]:
    """The detector, its baseline and the subjects."""
    found, class_names = subjects(options.data, options.split, options.objects, options.seed)
    detector = random_detector(config, class_names, found, options.seed)
    detector.to(resolve_device(options.device))
    fit(detector, found, options.fit, options.seed)
    baseline = baseline_of(detector, config)
    if options.chunk is not None:
        baseline = replace(baseline, chunk=options.chunk, threads=options.threads)
    return Sides(baseline, detector), found


def baseline_of(detector: RCNN, config: Config) -> Baseline:
    """The baseline with a detector's weights; it has one branch."""
    (branch,) = detector.branches
    model = config.model
    return Baseline.of(
        detector.backbone,
        branch_of(detector),
        detector.roi_heads.enlargement.get(branch, 1.0),
        (model.min_size, model.max_size),
        model.image_mean,
        model.image_std,
    )


def ours(
    responder: Responder, features: Any, subject: Subject, chosen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N,), regressed boxes (N, 4) and their IoUs (N,) of a subject's chosen proposals."""
    with torch.inference_mode():
        found = responder(features, subject.proposals[chosen], subject.label)
        ((scores, regressed),) = found.values()
        return scores, regressed, box_iou(regressed, subject.box[None].to(regressed))[:, 0]


def on_device(subject: Subject, device: torch.device) -> Subject:
    """The subject with its tensors on a device."""
    return replace(
        subject,
        image=subject.image.to(device),
        box=subject.box.to(device),
        proposals=subject.proposals.to(device),
    )


def exhaust(baseline: Baseline, pyramid: Pyramid, proposals: Tensor) -> None:
    """Pool all proposals, a chunk at a time."""
    for _ in baseline.pool(pyramid, proposals):
        pass


def keep(baseline: Baseline, pyramid: Pyramid, proposals: Tensor) -> Tensor:
    """Pool all proposals, a chunk at a time, into one (N, C, 7, 7)."""
    return torch.cat(list(baseline.pool(pyramid, proposals)))
