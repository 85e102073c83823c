"""Trainings of a very small detector on a few small images, and a record of what they did."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rethink_heads.config import Config, load_preset
from rethink_heads.runs import Run
from rethink_heads.training import module
from rethink_heads.training.module import DetectionModule

TINY = [
    "model.fpn_channels=8",
    "model.fc_width=16",
    "model.conv_width=16",
    "model.conv_bottleneck=8",
    "model.conv_blocks=1",
    "model.min_size=48",
    "model.max_size=64",
    "model.rpn_proposals_train=20",
    "model.rpn_proposals_test=10",
    "model.rois_per_image=8",
    "training.max_iterations=6",
    "training.batch_size=2",
    "training.learning_rate=0.02",
    # As the paper's presets have it, so that whatever is trained here has two groups of parameters.
    "training.bias_learning_rate_factor=2.0",
    "training.bias_weight_decay=0.0",
    "training.warmup_iterations=2",
    "training.milestones=[5]",
    "training.validate_every=4",
    "training.validate_images=none",
    "training.checkpoint_every=2",
    "training.workers=0",
]


def tiny_config(data: Path, head: str, *overrides: str) -> Config:
    """Settings of a small detector on the data set in a folder."""
    return load_preset("shapes-tiny", head, [*TINY, f"data.source={data}", *overrides])


@dataclass
class Record:
    """What a process did in training.

    Attributes:
        iterations: the trainer's ``global_step`` at each training step.
        images: for each step the digests of its images, as they went into the detector.
        losses: the sum of losses of each step.
        rates: the optimizer's learning rate in each step.
        validated: ``global_step`` at each validation that came to its end.
        before: the detector's state before the first step.
    """

    iterations: list[int] = field(default_factory=list)
    images: list[list[str]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def recording(
    stop_at: int | None = None, stop_in_validation: int | None = None
) -> Iterator[Record]:
    """Record the trainings in this block; interrupt them in the step or validation at an iteration."""
    record = Record()
    step, validate = DetectionModule.training_step, DetectionModule.validation_step
    precision = module.precision_by_head
    modules: list[DetectionModule] = []

    def recorded_step(self: DetectionModule, batch: Any, batch_index: int) -> Tensor:
        if self.global_step == stop_at:
            raise KeyboardInterrupt
        modules[:] = [self]
        if not record.before:
            record.before = {n: v.clone() for n, v in self.detector.state_dict().items()}
        record.iterations.append(self.global_step)
        record.images.append([digest(image) for image in batch[0]])
        record.rates.append(self.optimizers().param_groups[0]["lr"])
        loss = step(self, batch, batch_index)
        record.losses.append(float(loss.detach()))
        return loss

    def recorded_validation(self: DetectionModule, sample: Any, batch_index: int) -> None:
        if self.global_step == stop_in_validation:
            raise KeyboardInterrupt
        validate(self, sample, batch_index)

    def recorded_precision(*args: Any) -> Any:
        record.validated.append(modules[0].global_step)
        return precision(*args)

    with (
        patch.object(DetectionModule, "training_step", recorded_step),
        patch.object(DetectionModule, "validation_step", recorded_validation),
        patch.object(module, "precision_by_head", recorded_precision),
    ):
        yield record


def digest(image: Tensor) -> str:
    """A name for an image's pixels."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def weights(run: Run) -> dict[str, Tensor]:
    """The state of a run's trained detector."""
    return torch.load(run.detector_path, weights_only=True)["state"]


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Equal to the bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
