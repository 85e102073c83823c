"""Seconds of CPU and peak memory of ``rethink-heads diagnose --detections``, of as much as COCO's val2017 has.

    python -m benchmarks.diagnosing --images 5000 --objects 36000 --detections 20

Made-up detections of 80 classes by one head, in a results file. Each part of the command, and then the command without
its files and figures, runs in a process of its own, with everything imported; its memory is that beside what the
process held before. Target: the command under 60 s on two cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.peak import growth
from benchmarks.synthetic import DETECTOR, Amount
from benchmarks.synthetic_detections import ANNOTATIONS, write_detections
from rethink_heads.commands.diagnose import ask_candidates, diagnose
from rethink_heads.commands.evaluate import detect_asked
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.result_files import write_coco_results
from rethink_heads.detection_files import read_detections
from rethink_heads.evaluation.by_class import confusion_matrix, precision_recall
from rethink_heads.evaluation.fates import detection_fates, fate_counts
from rethink_heads.evaluation.measures import measured_tables
from rethink_heads.measure.detections import open_detections
from rethink_heads.options import DataOptions, DetectionOptions, ResultsOptions

RESULTS = "results.json"
SIDE = (DETECTOR, "fc")
NAMES: dict[str, tuple[str, ...]] = {
    "average precision": ("ap",),
    # One analysis of the head serves all three.
    "causes, oracles, exchange rate": (
        *("lost_precision", "lost_by_threshold", "oracles", "exchange_rate"),
    ),
    "oLRP": ("lrp",),
    "classes": ("by_class",),
    "TIDE's errors": ("detection_errors",),
    "calibration": ("calibration",),
}
READING, CURVES, FATES = "reading both files", "confusion matrix and curves", "fates"
ALL = "diagnose"
PARTS = (READING, *NAMES, CURVES, FATES, ALL)


def write(folder: Path, amount: Amount) -> None:
    """Write the annotations, and one head's detections as a results file."""
    write_detections(folder, amount)
    found = open_detections([folder])
    own = found[(found["detector"] == SIDE[0]) & (found["head"] == SIDE[1])]
    dataset = CocoDataset(folder / ANNOTATIONS, None)
    write_coco_results(own, dataset.category_ids, folder / RESULTS)


def prepare(part: str, folder: Path, small: Path, draws: int) -> Callable[[], object]:
    """Do a part once on a handful, so that all is imported, and return it on the rest; it leaves its seconds there."""
    work(part, small, draws)()
    ready = work(part, folder, draws)

    def timed() -> None:
        begun = time.process_time()
        ready()
        (folder / "seconds").write_text(str(time.process_time() - begun))

    return timed


def work(part: str, folder: Path, draws: int) -> Callable[[], object]:
    """A part of the command, on what is in a folder."""
    if part == ALL:
        data = DataOptions(annotations=folder / ANNOTATIONS)
        files = ResultsOptions(detections=[str(folder / RESULTS)])
        options = DetectionOptions(data=data, results=files, seed=0, draws=draws)

        def whole() -> None:
            asked = detect_asked(options)
            diagnose(asked, ask_candidates(asked)[0])

        return whole
    if part == READING:
        return lambda: _read(folder)
    dataset, found = _read(folder)
    (key,) = found[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None)
    if part == CURVES:
        return lambda: (confusion_matrix(found, dataset), precision_recall(found, dataset))
    if part == FATES:
        return lambda: fate_counts(
            detection_fates(found, dataset), dataset, replicates=draws, seed=0
        )
    return lambda: measured_tables(NAMES[part], found, dataset, [key], replicates=draws)


def _read(folder: Path) -> tuple[CocoDataset, pd.DataFrame]:
    dataset = CocoDataset(folder / ANNOTATIONS, None)
    return dataset, read_detections(folder / RESULTS, dataset)


def command(
    images: int = 5000,
    objects: int = 36_000,
    detections: Annotated[int, typer.Option(help="Of an image.")] = 20,
    draws: Annotated[int, typer.Option(help="Of images.")] = 200,
    only: Annotated[list[str], typer.Option(help="Of the parts.")] = list(PARTS),  # noqa: B006
) -> None:
    """Time the parts and the whole, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder, small = Path(name) / "data", Path(name) / "small"
        write(folder, Amount(images, objects, proposals=2 * detections))
        write(small, Amount(images=20, objects=60, proposals=20))
        typer.echo(
            f"{images:,} images, {objects:,} objects, {images * detections:,} detections, {draws} draws\n\n"
            "| part | seconds of CPU | memory (MiB) |\n| --- | ---: | ---: |"
        )
        for part in only:
            grown = growth(prepare, part, folder, small, draws)
            seconds = float((folder / "seconds").read_text())
            typer.echo(f"| {part} | {seconds:.1f} | {grown:.0f} |")


if __name__ == "__main__":
    typer.run(command)
