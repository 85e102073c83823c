"""What each of two processes on the CPU does under detectron2's launcher, which imports it anew there."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import defaults
from detectron2.utils import comm

from rethink_heads.detectors.detectron2 import train_net


def train(args: Namespace, folder: Path) -> None:
    """What ``train_net.main`` does; the sums of the weights before and after are left in the folder."""
    torch.set_num_threads(1)
    # detectron2 hands its processes a GPU each, which a model on the CPU must not be given.
    defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    cfg = train_net.build_config(args)
    defaults.default_setup(cfg, args)
    trainer = train_net.trainer()(cfg)
    trainer.resume_or_load(resume=False)
    sums = [_sum(trainer)]
    trainer.train()
    sums.append(_sum(trainer))
    said = {"sums": sums, "wrapped": type(trainer.model).__name__}
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(said))


def _sum(trainer: Any) -> float:
    with torch.no_grad():
        return float(sum(p.double().abs().sum() for p in trainer.model.parameters()))
