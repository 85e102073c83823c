"""How long AP with its intervals takes, against pycocotools' accumulation once for each draw of images.

    python -m benchmarks.evaluating --images 5000 --objects 36000 --detections 20

Made-up detections of 80 classes are matched and resampled by the package, and by pycocotools: matched once, then its
``accumulate`` on the images of a few draws, whose time stands for all of them. One head, both in one process.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.synthetic import DETECTOR, Amount
from benchmarks.synthetic_detections import open_dataset, write_detections
from rethink_heads.evaluation.average_precision import resampled_precision
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.measure.detections import open_detections
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap

SIDE = (DETECTOR, "fc")


def ours(folder: Path) -> float:
    """Seconds of AP and its replicates."""
    dataset, found = open_dataset(folder), open_detections([folder])
    begun = time.perf_counter()
    truth = GroundTruth(dataset, found)
    bootstrap = ImageBootstrap(truth.image_ids, REPLICATES)
    resampled_precision(truth.detections_of(found, SIDE), truth, bootstrap)
    return time.perf_counter() - begun


def theirs(folder: Path, draws: int) -> float:
    """Seconds of pycocotools' matching, and of its accumulation for as many draws as ours, from the time of a few."""
    dataset, found = open_dataset(folder), open_detections([folder])
    chosen = (found["detector"] == SIDE[0]) & (found["head"] == SIDE[1])
    columns = ["image_id", "label", "x1", "y1", "x2", "y2", "score"]
    rows = found.loc[chosen, columns].to_numpy(float)
    boxes = np.column_stack([rows[:, 2:4], rows[:, 4:6] - rows[:, 2:4]])
    results = np.column_stack([rows[:, 0], boxes, rows[:, 6], rows[:, 1] + 1])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotations_path))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        begun = time.perf_counter()
        evaluation.evaluate()
        matched = time.perf_counter() - begun
        # By class and size, an entry an image.
        whole = np.array(evaluation.evalImgs, object).reshape(-1, len(dataset))
        generator, begun = np.random.default_rng(0), time.perf_counter()
        for _ in range(draws):
            drawn = generator.integers(0, len(dataset), len(dataset))
            evaluation.evalImgs = whole[:, drawn].ravel().tolist()
            evaluation.accumulate()
    return matched + (time.perf_counter() - begun) / draws * REPLICATES


def command(
    images: int = 5000,
    objects: int = 36_000,
    detections: Annotated[int, typer.Option(help="Of an image.")] = 20,
    draws: Annotated[int, typer.Option(help="That pycocotools accumulates.")] = 2,
) -> None:
    """Time both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        write_detections(folder, Amount(images, objects, proposals=2 * detections))
        seconds, plain = ours(folder), theirs(folder, draws)
    typer.echo(
        f"{images:,} images, {images * detections:,} detections, {REPLICATES:,} draws: {seconds:.1f} s;"
        f" pycocotools {plain:,.0f} s, {plain / seconds:.0f} times as long"
    )


if __name__ == "__main__":
    typer.run(command)
