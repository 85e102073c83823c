"""Trains a run's detector, on one device or many, from its start or from where it stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rethink_heads.config import Config
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.checkpoints import save_detector
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.devices import resolve_device
from rethink_heads.distributed import processes
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.runs import Run
from rethink_heads.training.checkpointing import (
    BestCheckpoint,
    LastCheckpoint,
    WholeFiles,
    resume_detector,
)
from rethink_heads.training.data_module import DetectionData
from rethink_heads.training.module import DetectionModule
from rethink_heads.training.progress import PlainProgress


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
        KeyboardInterrupt: on Ctrl-C; the last checkpoint stays.
    """

    def is_done() -> bool:
        return resume and run.detector_path.is_file()

    with hold(run.path, is_done):
        # Decided by one process: the file may appear while the last has not looked yet.
        if not processes().decide(is_done):
            _train(config, run, device, resume)
    return run.detector_path


def _train(config: Config, run: Run, device: str, resume: bool) -> None:
    trainer = _trainer(config, run, device)
    train_set, val_set = (CocoDataset(*config.data.paths(role)) for role in ("train", "val"))
    _check_same_classes(train_set, val_set)
    if config.training.validate_images is not None:
        val_set = val_set.subset(config.training.validate_images)

    last = run.last_checkpoint if resume and run.last_checkpoint.is_file() else None
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    if last is None:
        detector = build_detector(config, train_set.class_names)
    else:
        detector = resume_detector(config, train_set.class_names, last)
    module = DetectionModule(detector, config.training, val_set, config.seed, config.head)
    data = DetectionData(train_set, val_set, config.training, config.seed)
    _fit(trainer, module, data, last)
    if trainer.is_global_zero:
        save_detector(detector, config, run.detector_path)
    trainer.strategy.barrier()


def _fit(
    trainer: lightning.Trainer, module: DetectionModule, data: DetectionData, last: Path | None
) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        # Lightning's advice on workers and logging intervals is settled by the configuration.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
        except UserError as error:
            # What a loader's process raises arrives with its whole traceback as the message.
            raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from error
        except SystemExit as error:
            # What Lightning makes of Ctrl-C, which it then ignores for good.
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from error


def _check_same_classes(train_set: CocoDataset, val_set: CocoDataset) -> None:
    if train_set.class_names != val_set.class_names:
        raise UserError(
            f"the classes of {train_set.annotations_path} ({', '.join(train_set.class_names)}) and of "
            f"{val_set.annotations_path} ({', '.join(val_set.class_names)}) differ: give splits of one dataset"
        )


def _trainer(config: Config, run: Run, device: str) -> lightning.Trainer:
    training = config.training
    chosen = resolve_device(device)
    if training.precision == "16-mixed" and chosen.type == "cpu":
        raise UserError(
            "training.precision=16-mixed needs a GPU: add training.precision=bf16-mixed or 32-true"
        )
    # Lightning is quiet here: what a user needs to know comes from this package.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal = sys.stderr.isatty()
    validate_every = min(training.validate_every, training.max_iterations)
    callbacks: list[Callback] = [
        BestCheckpoint(run.best_checkpoint),
        LastCheckpoint(run.last_checkpoint, training.checkpoint_every, validate_every),
        TQDMProgressBar() if terminal else PlainProgress(),
    ]
    logs = run.path / "logs"
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
        logger=[CSVLogger(logs, "csv"), TensorBoardLogger(run.path, "logs", "tensorboard")],
        callbacks=callbacks,
        plugins=[WholeFiles()],
        enable_progress_bar=terminal,
        enable_model_summary=False,
        default_root_dir=run.path,
    )
