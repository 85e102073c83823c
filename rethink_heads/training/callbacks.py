"""What happens beside training: the state to go on from, the best detector so far, progress without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from rethink_heads.config import Config
from rethink_heads.console import duration
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.files import cannot_read, write_torch

# What DetectionModule adds to Lightning's checkpoints.
BACKBONE_KEY = "backbone"


class Checkpoints(Checkpoint):
    """Saves the state of training: the last one every so many iterations, the best whenever ``val_AP`` is a new record.

    Where a validation is due, the last is saved after it: so a training that goes on from there neither repeats nor
    skips the validation, and knows its result.

    Args:
        every: iterations between two saves of the last.
        validate_every: iterations between two validations.
    """

    def __init__(self, last: Path, best: Path, every: int, validate_every: int) -> None:
        self.last, self.best = last, best
        self.every, self.validate_every = every, validate_every
        self.highest = -1.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step % self.validate_every:
            trainer.save_checkpoint(self.last)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        precision = float(trainer.callback_metrics["val_AP"])
        if precision > self.highest:
            self.highest = precision
            trainer.save_checkpoint(self.best)
        if trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.highest}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.highest = state_dict["best"]


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, beside the ones before; Lightning's own pass through /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises UserError where the file cannot be written."""
        write_torch(checkpoint, Path(path))


class PlainProgress(Callback):
    """Prints iteration, loss, speed and time left to standard error, at most every ``seconds``."""

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self._begin = self._printed = 0.0
        self._first = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._begin = self._printed = time.monotonic()
        self._first = trainer.global_step
        if self._first:
            self._print(trainer, f"training: goes on at iteration {self._first}")

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        now, step, last = time.monotonic(), trainer.global_step, trainer.max_steps
        if now - self._printed < self.seconds and step < last:
            return
        self._printed = now
        pace = (now - self._begin) / max(step - self._first, 1)
        loss = float(trainer.callback_metrics.get("loss", float("nan")))
        left = duration(pace * (last - step))
        text = f"iteration {step}/{last}, loss {loss:.3f}, {pace:.2f} s each, {left} left"
        self._print(trainer, f"training: {text}")

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        values = [
            f"{name.removeprefix('val_AP50_')} {float(value):.3f}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val_AP50_")
        ]
        if values:
            self._print(trainer, f"validation: AP50 {', '.join(values)}")

    @staticmethod
    def _print(trainer: lightning.Trainer, text: str) -> None:
        if trainer.is_global_zero:
            print(text, file=sys.stderr, flush=True)


def resume_detector(config: Config, class_names: Sequence[str], path: Path) -> RCNN:
    """The detector as it was when the checkpoint was saved.

    Its backbone is that of the training's start: ImageNet weights that could not be downloaded then may be there now,
    or the other way round. Raises UserError if the checkpoint is damaged or does not belong to the configuration.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        norm, trained = content[BACKBONE_KEY]["norm"], content[BACKBONE_KEY]["trained"]
        state = {name.removeprefix("detector."): w for name, w in content["state_dict"].items()}
        model = config.model.model_copy(update={"norm": norm})
        detector = build_detector(config.model_copy(update={"model": model}), class_names, False)
        detector.load_state_dict(state)
    except UserError:
        # Of the configuration: a network of timm, say, which is not installed here.
        raise
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
