"""Seconds of CPU and peak memory of the tables of all analyses, of as many objects as COCO's val2017 has.

    python -m benchmarks.memory --objects 36000 --images 5000 --output benchmarks/results/memory

Each step runs in a process of its own on synthetic measurements of two heads; its memory is that beside what the
process held before, with everything imported. Target: `correlate`, `regress` and `correlate --stage` together under
20 s on two cores and under 1 GiB.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.peak import growth
from benchmarks.synthetic import (
    DETECTOR,
    HEADS,
    Amount,
    join,
    synthetic_stages,
    write_measurements,
    write_parts,
)
from benchmarks.synthetic_detections import open_dataset, write_detections
from rethink_heads.files import write_parquet, write_text
from rethink_heads.measure.detections import STAGES_NAME, load_stages
from rethink_heads.measure.store import Measurements

TARGET = ("correlate", "regress", "stages")
STEPS = ("join", *TARGET, "sensitivity", "evaluate")
MEASUREMENTS, EVALUATE = "measurements", "evaluate"
A, B = sorted((DETECTOR, head) for head in HEADS)


def correlate(found: Measurements) -> list[Any]:
    """The tables of ``rethink-heads correlate`` and of the score by IoU."""
    from rethink_heads.statistics.by_iou import pearson, score_by_iou, spearman
    from rethink_heads.statistics.comparison import compare

    tables = [pearson(found), spearman(found), score_by_iou(found)]
    return [*tables, *(compare(found, s, A, B) for s in ("pcc", "object_pcc", "spearman"))]


def regress(found: Measurements) -> list[Any]:
    """The tables of ``rethink-heads regress``."""
    from rethink_heads.statistics.by_iou import error_components, regressed_iou_by_iou
    from rethink_heads.statistics.comparison import compare

    tables = [regressed_iou_by_iou(found), error_components(found)]
    tables.append(error_components(found, by_bin=True))
    return [*tables, compare(found, "regressed_iou", A, B, by_bin=True)]


def sensitivity(found: Measurements) -> list[Any]:
    """The tables of ``rethink-heads sensitivity`` and of the maps in figures."""
    from rethink_heads.statistics.comparison import (
        COMPARED_RESPONSES,
        compare,
        compare_decay,
        compare_responses,
    )
    from rethink_heads.statistics.sensitivity import (
        RESPONSE_KINDS,
        correlation_map,
        decay,
        distinct_pairs,
        response,
        response_summary,
    )

    tables: list[Any] = [correlation_map(found), distinct_pairs(found), decay(found)]
    for kind in RESPONSE_KINDS:
        tables += [response(found, kind), response_summary(found, kind)]
    tables += [compare_responses(found, kind, A, B) for kind in COMPARED_RESPONSES]
    return [*tables, compare(found, "spatial_correlation", A, B), compare_decay(found, A, B)]


def stages(folder: Path) -> dict[str, Any]:
    """The tables of ``rethink-heads correlate --stage`` at the later stages."""
    from rethink_heads.report.results import stage_tables

    return stage_tables(load_stages(folder)[0], None, [(A, B)])


def evaluate(folder: Path) -> dict[str, Any]:
    """The tables of ``rethink-heads evaluate --errors --calibration --compare``."""
    from rethink_heads.evaluation.measures import measured_tables
    from rethink_heads.measure.detections import open_detections

    found, dataset = open_detections([folder]), open_dataset(folder)
    names = ("ap", "detection_errors", "calibration")
    return measured_tables(names, found, dataset, [A, B], pairs=[(A, B)])


def prepare(step: str, folder: Path) -> Callable[[], object]:
    """Import what a step needs, and return the step on what is in a folder; it leaves its seconds there."""
    work: Callable[[], object]
    if step == "join":
        parts = sorted((folder / "parts").iterdir(), key=lambda path: int(path.name))
        work = partial(join, parts, folder / "joined")
    elif step == "stages":
        work = partial(stages, folder)
    elif step == "evaluate":
        work = partial(evaluate, folder / EVALUATE)
    else:
        by_name = {"correlate": correlate, "regress": regress, "sensitivity": sensitivity}
        work = partial(by_name[step], Measurements.load(folder / MEASUREMENTS))
    # Once on a handful: what code leaves that is loaded when it is first used, no number of objects adds to.
    if os.environ.get("WARM") is None:
        os.environ["WARM"] = "1"
        with tempfile.TemporaryDirectory() as passing:
            write(Path(passing), Amount(images=6, objects=24, rows_per_bin=2, proposals=40), step)
            prepare(step, Path(passing))()

    def timed() -> None:
        begun = time.process_time()
        work()
        (folder / f"{step}.seconds").write_text(str(time.process_time() - begun))

    return timed


def write(folder: Path, amount: Amount, step: str) -> None:
    """Write what a step reads, unless it is there."""
    if step == "join":
        if not (folder / "parts").is_dir():
            write_parts(folder / "parts", amount)
    elif step == "stages":
        if not (folder / STAGES_NAME).is_file():
            write_parquet(synthetic_stages(amount), folder / STAGES_NAME, {})
    elif step == "evaluate":
        if not (folder / EVALUATE).is_dir():
            write_detections(folder / EVALUATE, amount)
    elif not (folder / MEASUREMENTS / "meta.json").is_file():
        write_measurements(folder / MEASUREMENTS, amount)


def use(step: str, folder: Path, amount: Amount) -> dict[str, Any]:
    """A step's name, seconds of CPU, and MiB by which it raises the memory of a process of its own."""
    write(folder, amount, step)
    grown = growth(prepare, step, folder)
    return {
        "step": step,
        "seconds": float((folder / f"{step}.seconds").read_text()),
        "mib": grown,
    }


def main(
    objects: Annotated[int, typer.Option(help="How many are made.")] = 36_000,
    images: Annotated[int, typer.Option(help="That they are in.")] = 5_000,
    rows_per_bin: Annotated[int, typer.Option(help="Sampled rows of an object and bin.")] = 20,
    only: Annotated[list[str], typer.Option(help="Of the steps.")] = list(STEPS),  # noqa: B006
    folder: Annotated[Path | None, typer.Option(help="Kept; else a temporary one.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for memory.md and .json.")] = None,
) -> None:
    """Make synthetic measurements, and take the tables of the analyses."""
    amount = Amount(images, objects, rows_per_bin)
    where = Path(tempfile.mkdtemp()) if folder is None else folder
    try:
        uses = [use(step, where, amount) for step in only]
    finally:
        if folder is None:
            shutil.rmtree(where)
    lines = [f"{objects} objects in {images} images, {len(HEADS)} heads", ""]
    lines += ["| step | seconds of CPU | memory (MiB) |", "|---|---|---|"]
    lines += [f"| {each['step']} | {each['seconds']:.1f} | {each['mib']:.0f} |" for each in uses]
    target = [each for each in uses if each["step"] in TARGET]
    seconds, most = sum(t["seconds"] for t in target), max((t["mib"] for t in target), default=0)
    lines.append(f"| {' + '.join(TARGET)} | {seconds:.1f} | {most:.0f} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if output is not None:
        write_text(output / "memory.md", table)
        write_text(output / "memory.json", json.dumps(uses, indent=1))


if __name__ == "__main__":
    typer.run(main)
