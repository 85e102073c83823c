"""One of several processes that measure a small detector: a program for tests to run under torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from rethink_heads.config import MeasuringConfig, load_preset
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.measure import by_image
from rethink_heads.measure.detections import measure_stages
from rethink_heads.measure.runner import measure
from rethink_heads.measure.store import Measurements
from tests.tiny_coco import SMALL_SETTINGS

BEFORE_THE_KILL = 2
PROVENANCE = {"weights": "of seed 0"}


def small_detector(data: Path) -> RCNN:
    config = load_preset(
        "shapes-tiny", "double-ext", [*SMALL_SETTINGS, "model.score_threshold=0.0"]
    )
    dataset = small_dataset(data)
    torch.manual_seed(0)
    return build_detector(config, dataset.class_names, pretrained=False).eval()


def small_dataset(data: Path) -> CocoDataset:
    return CocoDataset(data / "annotations" / "instances_val.json", data / "val")


def measure_small(data: Path, folder: Path) -> Measurements:
    config = MeasuringConfig(grid_steps=5, rows_per_bin=2, proposals_per_object=40)
    return measure(small_detector(data), small_dataset(data), "tiny", config, 0, folder, PROVENANCE)


def stop_in_the_third_part(rank: int) -> None:
    """Each process makes two parts; then the second is killed while it writes, and the first is busy with another."""
    atomic_path, written = by_image.atomic_path, []

    @contextlib.contextmanager
    def stopping(path: Path) -> Iterator[Path]:
        if len(written) < BEFORE_THE_KILL:
            written.append(path)
            with atomic_path(path) as temporary:
                yield temporary
        elif rank == 1:
            (path.parent / f".{path.name}-half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            time.sleep(600)

    by_image.atomic_path = stopping


def keep_parts(folder: Path) -> None:
    """Have the parts go to another folder in the place of being removed."""
    by_image._remove = lambda parts: parts.rename(folder / f"kept-{parts.name}")


def main(data: Path, folder: Path, stops: bool) -> None:
    rank = int(os.environ["RANK"])
    if stops:
        stop_in_the_third_part(rank)
    else:
        keep_parts(folder)
    measured = measure_small(data, folder)
    stages = measure_stages(small_detector(data), small_dataset(data), "tiny", folder, PROVENANCE)
    # In one piece: the processes share standard output.
    sys.stdout.write(f"rank {rank}: {len(measured.objects)} objects, {len(stages)} boxes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "stops")
