"""The Lightning module: one training step, validation by average precision, SGD with the paper's schedule."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import Any

import lightning
import pandas as pd
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from rethink_heads.config import TrainingConfig
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.errors import UserError
from rethink_heads.evaluation.measures import DETECTOR, precision_by_head
from rethink_heads.measure.detections import detection_frame


def parameter_groups(detector: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """What is trained of a detector, as SGD takes it: all in one group, or biases in a second one of their own.

    Biases are the parameters of that name: of convolutions, linear layers and normalisation alike (authors' code).
    """
    trained = {name: p for name, p in detector.named_parameters() if p.requires_grad}
    decay = training.bias_weight_decay
    if training.bias_learning_rate_factor == 1 and decay in (None, training.weight_decay):
        return [{"params": list(trained.values())}]
    biases = [p for name, p in trained.items() if name.endswith("bias")]
    return [
        {"params": [p for name, p in trained.items() if not name.endswith("bias")]},
        {
            "params": biases,
            "lr": training.bias_learning_rate_factor * training.learning_rate,
            "weight_decay": training.weight_decay if decay is None else decay,
        },
    ]


def learning_rate_factor(iteration: int, training: TrainingConfig) -> float:
    """Factor on the base learning rate at an iteration, counted from 0 (authors' code).

    Rises linearly from ``warmup_factor`` at iteration 0 to 1 at ``warmup_iterations``, and is multiplied by
    ``gamma`` at each milestone.
    """
    steps = training.gamma ** bisect_right(sorted(training.milestones), iteration)
    if iteration >= training.warmup_iterations:
        return steps
    done = iteration / training.warmup_iterations
    return steps * (training.warmup_factor * (1 - done) + done)


class DetectionModule(lightning.LightningModule):
    """Trains a detector.

    Args:
        seed: of the sampling of anchors and RoIs, renewed each iteration so that a resumed run continues exactly.
        main_head: the head whose AP, ``val_AP``, picks the best checkpoint.
    """

    def __init__(
        self, detector: RCNN, training: TrainingConfig, val: CocoDataset, seed: int, main_head: str
    ) -> None:
        super().__init__()
        self.detector = detector
        self.training_config, self.val = training, val
        self.seed, self.main_head = seed, main_head
        self._found: list[pd.DataFrame] = []

    def training_step(
        self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], batch_index: int
    ) -> Tensor:
        """The sum of all losses of a batch of images and targets."""
        torch.manual_seed(self.seed + 1_000_003 * (self.global_step + 1) + 7919 * self.global_rank)
        losses = self.detector(*batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise UserError(
                f"the loss is not finite at iteration {self.global_step} "
                f"({ {name: float(value.detach()) for name, value in losses.items()} }): "
                "lower training.learning_rate, lengthen training.warmup_iterations or set training.gradient_clip"
            )
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        values = {f"train_{name}": value.detach() for name, value in losses.items()}
        size = len(batch[0])
        self.log_dict({**values, "learning_rate": rate}, batch_size=size)
        self.log("loss", total.detach(), prog_bar=True, batch_size=size)
        return total

    def on_validation_epoch_start(self) -> None:
        self._found = []
        if self.trainer.world_size > 1:
            # Each process keeps batch statistics of its own images; what is validated is what rank 0 saves.
            for buffer in self.detector.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, sample: Sample, batch_index: int) -> None:
        """Adds one image's detections."""
        found = self.detector.detect(sample.image)
        self._found.append(detection_frame(sample.image_id, found, DETECTOR))

    def on_validation_epoch_end(self) -> None:
        """AP by head over all processes' images, logged as ``val_AP_<head>``."""
        found = self._found
        if self.trainer.world_size > 1:
            gathered: list[list[pd.DataFrame]] = [[]] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, found)
            found = list(itertools.chain.from_iterable(gathered))
        if self.trainer.sanity_checking:
            return
        precision = precision_by_head(found, self.val, self.detector.heads)
        for head, values in precision.items():
            self.log_dict(
                {f"val_{name}_{head}": values[name] for name in ("AP", "AP50", "AP75")},
                rank_zero_only=True,
                batch_size=1,
            )
        self.log("val_AP", precision[self.main_head]["AP"], prog_bar=True, batch_size=1)

    def transfer_batch_to_device(self, batch: object, device: torch.device, index: int) -> object:
        """Samples of validation stay where they are: the detector moves their image itself."""
        if isinstance(batch, Sample):
            return batch
        return super().transfer_batch_to_device(batch, device, index)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD with momentum, its rates scheduled by iteration."""
        training = self.training_config
        optimizer = torch.optim.SGD(
            parameter_groups(self.detector, training),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda iteration: learning_rate_factor(iteration, training)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
