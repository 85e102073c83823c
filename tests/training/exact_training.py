"""One process of a training whose gradients do not depend on how a batch is shared.

Batch statistics are not used and RoIs are not drawn by chance. Then the processes' mean gradient is that of one
process, up to the order of float32 sums. Run it as ``exact_training.py RUN RESULTS``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rethink_heads.runs import Run
from rethink_heads.training import train as training
from tests.training.recorded import recording


@contextlib.contextmanager
def nothing_by_chance() -> Iterator[None]:
    """Normalise with the initial statistics; sample the first RoIs and anchors instead of random ones."""
    build, train_mode = training.build_detector, nn.BatchNorm2d.train

    def build_in_mode(*args: Any) -> Any:
        return build(*args).train()

    def stay_in_evaluation(self: nn.BatchNorm2d, mode: bool = True) -> nn.BatchNorm2d:
        return train_mode(self, False)

    def in_order(count: int, *, device: Any = None, **kwargs: Any) -> Tensor:
        return torch.arange(count, device=device)

    with (
        patch.object(training, "build_detector", build_in_mode),
        patch.object(nn.BatchNorm2d, "train", stay_in_evaluation),
        patch.object(torch, "randperm", in_order),
    ):
        yield


def train_exactly(run: Run, results: Path, rank: int) -> None:
    """Train a run's detector and save what this process did and had in the end as ``RANK.pt``."""
    fit, saved = training._fit, []
    detectors: list[nn.Module] = []

    def keep(trainer: Any, module: Any, *args: Any) -> None:
        detectors.append(module.detector)
        fit(trainer, module, *args)

    def save(*args: Any) -> None:
        saved.append(str(args[-1]))

    with (
        patch.object(training, "_fit", keep),
        patch.object(training, "save_detector", save),
        nothing_by_chance(),
        recording() as record,
    ):
        training.train(run.config, run, "cpu")
    (detector,) = detectors
    content = {"record": asdict(record), "state": detector.state_dict(), "saved": saved}
    torch.save(content, results / f"{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_exactly(Run.open(Path(sys.argv[1])), Path(sys.argv[2]), int(os.environ["RANK"]))
