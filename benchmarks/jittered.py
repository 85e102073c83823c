"""What is lost by results that are real ground truth with shaken boxes, where what must be lost is known beforehand.

    python -m benchmarks.jittered ANNOTATIONS FOLDER

Every object of the annotations (COCO's JSON) is found once, with its own class. The edges of its box are off by some
hundredths of its side, one standard deviation, and its score is the IoU that is left. Then only boxes can cost
anything, at an IoU threshold as much as there are objects below it, class by class. With the scores dealt out at
random boxes that fit too little stand before others, which costs more, and is a fault of both: three quarters of it are
localization's, one the ranking's. The files are read as any results file is; FOLDER gets them and the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from benchmarks.planted import Array, overlap, shake
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.result_files import write_coco_results
from rethink_heads.detection_files import read_detections
from rethink_heads.evaluation.lost_precision import lost_precision
from rethink_heads.evaluation.matching import THRESHOLDS, GroundTruth, Indices
from rethink_heads.files import write_csv
from rethink_heads.measure.detections import DETECTION_TYPES
from rethink_heads.report.cells import to_markdown

LEVELS = (0.0, 0.02, 0.05, 0.1)
SHUFFLED = 0.05


def jitter(truth: GroundTruth, by: float, seed: int = 0) -> pd.DataFrame:
    """A detection of each object, its box off by ``by`` of its side, its score the IoU that is left."""
    rows = np.flatnonzero(truth.findable)
    boxes = np.hstack([truth.boxes[rows, :2], truth.boxes[rows, :2] + truth.boxes[rows, 2:]])
    # The same errors at each level, but for their size.
    shaken = shake(np.random.default_rng(seed), boxes, by) if by else boxes
    columns = {
        "image_id": truth.image_ids[truth.images[rows]],
        "label": truth.labels[rows],
        "score": overlap(shaken, boxes),
    }
    return pd.DataFrame(columns | dict(zip(("x1", "y1", "x2", "y2"), shaken.T, strict=True)))


def certain_loss(labels: Indices, ious: Array) -> float:
    """1 - AP of one detection an object, ranked by IoU: 101 recalls up to the share of a class's objects found."""
    lost = []
    for label in np.unique(labels):
        found = (ious[labels == label, None] >= THRESHOLDS).mean(axis=0)
        lost.append(1 - np.where(found > 0, np.floor(100 * found + 1e-9) + 1, 0) / 101)
    return float(np.mean(lost))


def try_one(
    name: str, frame: pd.DataFrame, dataset: CocoDataset, folder: Path
) -> dict[str, object]:
    """Write a results file, read it, and divide its loss: a row of the table."""
    named = frame.assign(detector=name, head="jittered").astype(DETECTION_TYPES)
    path = folder / f"{name}.json"
    write_coco_results(named, dataset.category_ids, path)
    found = read_detections(path, dataset)
    lost = lost_precision(found, dataset)
    columns: dict[str, object] = {"results": name, "ap": 1 - lost["share"].sum()}
    for row in lost.to_dict("records"):
        columns |= {f"{row['cause']}{end}": row[f"share{end}"] for end in ("", "_low", "_high")}
    return columns


def command(
    annotations: Annotated[Path, typer.Argument(help="Ground truth, COCO's JSON.")],
    folder: Annotated[Path, typer.Argument(help="Gets the results files and the table.")],
) -> None:
    """Shake the boxes of ground truth, and look what is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = CocoDataset(annotations, None)
    truth, rows = GroundTruth(dataset), []
    for by in LEVELS:
        frame = jitter(truth, by)
        certain = certain_loss(frame["label"].to_numpy(), frame["score"].to_numpy())
        name = f"off-by-{100 * by:.0f}"
        rows.append({"certain": certain, **try_one(name, frame, dataset, folder)})
        if by == SHUFFLED:
            scores = np.random.default_rng(1).permutation(frame["score"].to_numpy())
            shuffled = frame.assign(score=scores)
            rows.append(
                {"certain": certain, **try_one(f"{name}-shuffled", shuffled, dataset, folder)}
            )
    table = pd.DataFrame(rows).set_index("results")
    write_csv(table.round(4).reset_index(), folder / "jittered.csv")
    typer.echo(to_markdown((100 * table).round(1).reset_index(), digits=1))


if __name__ == "__main__":
    typer.run(command)
