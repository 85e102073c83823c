"""Trains a run's detector, on one device or many, from its start or from where it stopped."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from rethink_heads.config import Config
from rethink_heads.console import duration
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import save_detector
from rethink_heads.distributed import processes
from rethink_heads.errors import UserError, interruption
from rethink_heads.fastpath.conv import channels_last
from rethink_heads.files import cannot_read, write_torch
from rethink_heads.locking import hold
from rethink_heads.machine import check_workers, resolve_device
from rethink_heads.runs import Run
from rethink_heads.training.data import DetectionData
from rethink_heads.training.module import DetectionModule

LOGS = "logs"
CANNOT_WRITE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EEXIST", "EISDIR")
    if hasattr(errno, name)
}
# Of torch's RuntimeErrors: a file of /dev/shm that cannot be written, a worker that was killed for it.
SHARED_MEMORY = ("</torch_", "shared memory")


def train(config: Config, run: Run, device: str = "auto", resume: bool = True) -> Path:
    """Trains the detector of a run and returns the file of its final weights.

    A run that is complete is left as it is. An interrupted one goes on from its last checkpoint and ends as it would
    have without the interruption. While another command trains it, this one waits for the result. Under ``torchrun``
    the processes share each batch (DDP).

    Args:
        config: what to train, usually ``run.config``.
        run: the folder that gets checkpoints and logs.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        resume: go on from the last checkpoint if there is one.

    Raises:
        UserError: if data or settings do not work.
        KeyboardInterrupt: on Ctrl-C, or a signal that ends a command as it does; the last checkpoint stays.
    """

    def is_done() -> bool:
        return resume and run.detector_path.is_file()

    with hold(run.path, is_done):
        # Decided by one process: the file may appear while the last has not looked yet.
        if not processes().broadcast(is_done):
            _train(config, run, device, resume)
    return run.detector_path


def _train(config: Config, run: Run, device: str, resume: bool) -> None:
    trainer = _trainer(config, run, device)
    train_set, val_set = (CocoDataset(*split_paths(config.data, role)) for role in ("train", "val"))
    if train_set.class_names != val_set.class_names:
        raise UserError(
            f"the classes of {train_set.where} ({', '.join(train_set.class_names)}) and of "
            f"{val_set.where} ({', '.join(val_set.class_names)}) differ: give splits of one dataset"
        )
    if config.training.validate_images is not None:
        val_set = val_set.subset(config.training.validate_images)

    last = run.last_checkpoint if resume and run.last_checkpoint.is_file() else None
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    if last is None:
        detector = build_detector(config, train_set.class_names)
    else:
        detector = _resume_detector(config, train_set.class_names, last)
    if processes().count == 1 and resolve_device(device).type == "cpu":
        # Convolutions on a CPU are a tenth to a fifth faster; DDP's buckets would not have the weights' strides.
        channels_last(detector)
    module = DetectionModule(detector, config.training, val_set, config.seed, config.head)
    data = DetectionData(train_set, val_set, config.training, config.seed)
    _fit(trainer, module, data, last)
    if trainer.is_global_zero:
        detector = detector.to(memory_format=torch.contiguous_format)
        save_detector(detector, config, run.detector_path)
    trainer.strategy.barrier()


def _fit(
    trainer: lightning.Trainer, module: DetectionModule, data: DetectionData, last: Path | None
) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(), _quiet_log_threads():
        # Lightning's advice on workers and logging intervals is settled by the configuration.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
        except BaseException as error:
            # Lightning makes an exit of it, or fails in cleaning up, as on a terminal that is gone.
            stopped = interruption(error)
            if stopped is not None and stopped is not error:
                raise stopped from None
            mistake = _mistake(error, Path(trainer.default_root_dir) / LOGS)
            if mistake is not None:
                raise UserError(mistake) from error
            raise
        finally:
            # After Ctrl-C Lightning ignores all that follow.
            if signal.getsignal(signal.SIGINT) is not on_interrupt:
                signal.signal(signal.SIGINT, on_interrupt)


def _mistake(error: BaseException, logs: Path) -> str | None:
    """What a user can fix of an error in training, in a sentence; None where it is another one."""
    if isinstance(error, UserError):
        # What a loader's process raises arrives with its whole traceback as the message.
        return str(error).rsplit("UserError: ", 1)[-1].strip()
    if isinstance(error, OSError) and error.errno is not None and error.errno in CANNOT_WRITE:
        # Checkpoints tell it themselves; Lightning's logs know their file only when it is opened.
        return (
            f"cannot write {error.filename or logs}: {os.strerror(error.errno)}; free some space or make the folder"
            " writable, and run the same command again to go on"
        )
    if isinstance(error, RuntimeError) and any(text in str(error) for text in SHARED_MEMORY):
        return (
            "the memory that data workers hand images over in (/dev/shm) is full: give more of it (docker run"
            " --shm-size=2g), or training.workers=0"
        )
    return None


@contextlib.contextmanager
def _quiet_log_threads() -> Iterator[None]:
    """Keep still what fails in TensorBoard's writing thread: it is raised in the training, too."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        by_tensorboard = type(args.thread).__module__.startswith("tensorboard")
        if not (by_tensorboard and issubclass(args.exc_type, OSError)):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _trainer(config: Config, run: Run, device: str) -> lightning.Trainer:
    training = config.training
    chosen = resolve_device(device)
    if training.precision == "16-mixed" and chosen.type == "cpu":
        raise UserError(
            "training.precision=16-mixed needs a GPU: add training.precision=bf16-mixed or 32-true"
        )
    check_workers(training.workers)
    # Lightning is quiet here: what a user needs to know comes from this package.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal = sys.stderr.isatty()
    validate_every = min(training.validate_every, training.max_iterations)
    callbacks: list[Callback] = [
        Checkpoints(
            run.last_checkpoint, run.best_checkpoint, training.checkpoint_every, validate_every
        ),
        TQDMProgressBar() if terminal else PlainProgress(),
    ]
    logs = run.path / LOGS
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    index = [chosen.index] if chosen.type == "cuda" and chosen.index is not None else 1
    return lightning.Trainer(
        accelerator="gpu" if chosen.type == "cuda" else "cpu",
        devices=local if world > 1 else index,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,
        precision=training.precision,
        max_steps=training.max_iterations,
        max_epochs=-1,
        gradient_clip_val=training.gradient_clip,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        # A file for each session: Lightning would delete what the sessions before wrote.
        logger=[CSVLogger(logs, "csv"), TensorBoardLogger(run.path, LOGS, "tensorboard")],
        callbacks=callbacks,
        plugins=[WholeFiles()],
        enable_progress_bar=terminal,
        enable_model_summary=False,
        default_root_dir=run.path,
    )


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


def _resume_detector(config: Config, class_names: Sequence[str], path: Path) -> RCNN:
    """The detector as it was when the checkpoint was saved.
    Raises UserError if the checkpoint is damaged or does not belong to the configuration.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = {name.removeprefix("detector."): w for name, w in content["state_dict"].items()}
        detector = build_detector(config, class_names, pretrained=False)
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
    return detector
