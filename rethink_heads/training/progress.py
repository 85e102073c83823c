"""Training's progress where there is no terminal: a plain line now and then."""

from __future__ import annotations

import sys
import time

import lightning
from lightning.pytorch.callbacks import Callback

from rethink_heads.progress import duration


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
            self._say(trainer, f"training: goes on at iteration {self._first}")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        now, step, last = time.monotonic(), trainer.global_step, trainer.max_steps
        if now - self._printed < self.seconds and step < last:
            return
        self._printed = now
        pace = (now - self._begin) / max(step - self._first, 1)
        loss = float(trainer.callback_metrics.get("loss", float("nan")))
        self._say(
            trainer,
            f"training: iteration {step}/{last}, loss {loss:.3f}, {pace:.2f} s each, "
            f"{duration(pace * (last - step))} left",
        )

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        metrics = trainer.callback_metrics
        values = [
            f"{name.removeprefix('val_AP50_')} {float(value):.3f}"
            for name, value in metrics.items()
            if name.startswith("val_AP50_")
        ]
        if values:
            self._say(trainer, f"validation: AP50 {', '.join(values)}")

    @staticmethod
    def _say(trainer: lightning.Trainer, text: str) -> None:
        if trainer.is_global_zero:
            print(text, file=sys.stderr, flush=True)
