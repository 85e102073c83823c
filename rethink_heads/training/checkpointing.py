"""What training leaves on the way: where to go on, and the best detector so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from rethink_heads.config import Config
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.files import cannot_read, write_torch

# What DetectionModule adds to Lightning's checkpoints.
BACKBONE_KEY = "backbone"


class LastCheckpoint(Checkpoint):
    """Saves the state of training every so many iterations.

    Where a validation is due, it is saved after it: so a training that goes on from there neither repeats nor skips
    the validation, and knows its result.

    Args:
        path: the file, replaced each time.
        every: iterations between two saves.
        validate_every: iterations between two validations.
    """

    def __init__(self, path: Path, every: int, validate_every: int) -> None:
        self.path, self.every, self.validate_every = path, every, validate_every

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step % self.validate_every:
            trainer.save_checkpoint(self.path)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path)


class BestCheckpoint(Checkpoint):
    """Saves the state of training whenever ``val_AP`` is higher than ever before. It must precede LastCheckpoint.

    Args:
        path: the file, replaced each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = -1.0

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        precision = float(trainer.callback_metrics["val_AP"])
        if precision > self.best:
            self.best = precision
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best = state_dict["best"]


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, beside the ones before; Lightning's own pass through /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises UserError where the file cannot be written."""
        write_torch(checkpoint, Path(path))


def resume_detector(config: Config, class_names: Sequence[str], path: Path) -> RCNN:
    """The detector as it was when the checkpoint was saved.

    Its backbone is that of the training's start: ImageNet weights that could not be downloaded then may be there now,
    or the other way round.

    Raises:
        UserError: if the checkpoint is damaged or does not belong to the configuration.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        norm, trained = content[BACKBONE_KEY]["norm"], content[BACKBONE_KEY]["trained"]
        state = {name.removeprefix("detector."): w for name, w in content["state_dict"].items()}
        model = config.model.model_copy(update={"norm": norm})
        detector = build_detector(config.model_copy(update={"model": model}), class_names, False)
        detector.load_state_dict(state)
    except PermissionError as error:
        raise cannot_read(path, "file", error) from error
    except Exception as error:  # Bytes that are no checkpoint can make the reader raise anything.
        raise UserError(
            f"cannot go on from {path}, which is damaged or of another configuration: "
            "delete it to train from the start"
        ) from error
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name in trained)
    return detector
