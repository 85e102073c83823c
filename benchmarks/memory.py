"""Whether memory stays within its bound however many objects are measured.

    python -m benchmarks.memory run --objects 100000 --images 14000 --memory-mb 512 --folder /tmp/memory

Measurements of made-up objects are written as measuring leaves them, an image a folder. They are merged, and the tables
of three analyses are taken of them; made-up boxes of the later stages are merged and correlated; made-up detections are
evaluated. Each is done in a process of its own, whose peak memory (``getrusage``) is set against what it held after the
same on a handful of objects. The difference is what ``measuring.memory_mb`` bounds.
"""

from __future__ import annotations

import gc
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.made_up import DETECTOR, HEADS, Amount, write_parts, write_stages
from benchmarks.made_up_detections import open_dataset, write_detections
from rethink_heads.files import write_text
from rethink_heads.measure.detections import DETECTIONS_NAME

if TYPE_CHECKING:
    from rethink_heads.measure.measurements import Measurements

MIB = 2**20
PROVENANCE = {"detector": DETECTOR, "seed": "0"}
STAGES, EVALUATE = "stages", "evaluate"
RESULTS = ("merge", "correlate", "regress", "sensitivity", STAGES, EVALUATE)
REPLICATES = 1000
# Ranks are taken anew in each: of them this part of the replicates, which changes the time alone.
RANKS_PART = 50
FEW = Amount(images=4, objects=20)


@dataclass(frozen=True)
class Use:
    """The memory and time of one step in a process of its own.

    Attributes:
        step: of RESULTS.
        before_mib: resident when everything was imported and the step had been taken on a handful of objects.
        peak_mib: the most that was resident.
        seconds: without the imports.
    """

    step: str
    before_mib: float
    peak_mib: float
    seconds: float

    @property
    def growth_mib(self) -> float:
        """What the step itself took."""
        return self.peak_mib - self.before_mib


def use_of(
    step: str, folder: Path, memory_mb: int, amount: Amount, replicates: int = REPLICATES
) -> Use:
    """Run a step in a process of its own.

    Args:
        step: of RESULTS.
        folder: holds "parts", and "measurements" once they are merged; for evaluating "evaluate".
        memory_mb: the bound, in MiB.
        amount: what the parts are of.
        replicates: of the bootstraps; those of ranks are fewer.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "step", step, str(folder), str(memory_mb)]
    command += [str(replicates), json.dumps(asdict(amount))]
    # Through a shell that starts it as a child: a process that replaces another inherits that one's peak.
    shell = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{step} failed: {done.stderr[-2000:]}")
    return Use(**json.loads(done.stdout.splitlines()[-1]))


def run_step(step: str, folder: Path, memory_mb: int, replicates: int, amount: Amount) -> Use:
    """Take one step here, after the same step on a handful of objects.

    What that leaves, as code that is loaded when it is first used, no number of objects adds to.
    """
    import torch  # noqa: F401 - as every command does

    with tempfile.TemporaryDirectory() as passing:
        few = Path(passing)
        write_parts(few / "parts", FEW, PROVENANCE)
        write_detections(few / EVALUATE, FEW)
        _take("merge", few, memory_mb, replicates, FEW)
        _take(step, few, 0, replicates, FEW)
    gc.collect()
    before, start = _resident(), time.perf_counter()
    _take(step, folder, memory_mb, replicates, amount)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Use(step, before, peak, seconds)


def _take(step: str, folder: Path, memory_mb: int, replicates: int, amount: Amount) -> None:
    from rethink_heads.measure.stored import open_measurements

    if step == "merge":
        merge(folder, memory_mb, amount.images)
        return
    if step == STAGES:
        stages(folder, memory_mb, replicates, amount)
        return
    if step == EVALUATE:
        evaluate(folder / EVALUATE, memory_mb, replicates)
        return
    found = open_measurements(folder / "measurements", memory_mb)
    {"correlate": correlate, "regress": regress, "sensitivity": sensitivity}[step](
        found, replicates
    )


def merge(folder: Path, memory_mb: int, images: int) -> None:
    """Merge the parts as measuring does at its end."""
    from rethink_heads.measure.measurements import Measurements
    from rethink_heads.measure.parts import Parts

    parts = Parts(folder / "parts", PROVENANCE)
    parts.merge_into(folder / "measurements", range(images), Measurements.empty(), memory_mb)


def correlate(found: Measurements, replicates: int) -> list[Any]:
    """The tables of ``rethink-heads correlate`` and of the score by IoU."""
    from rethink_heads.statistics.comparison import compare
    from rethink_heads.statistics.correlation import pearson, score_by_iou, spearman

    a, b = sides()
    ranks = max(2, replicates // RANKS_PART)
    tables = [pearson(found, replicates=replicates), spearman(found, replicates=ranks)]
    tables.append(score_by_iou(found, replicates=replicates))
    for statistic in ("pcc", "object_pcc"):
        tables.append(compare(found, statistic, a, b, replicates=replicates))
    return [*tables, compare(found, "spearman", a, b, replicates=ranks)]


def regress(found: Measurements, replicates: int) -> list[Any]:
    """The tables of ``rethink-heads regress``."""
    from rethink_heads.statistics.comparison import compare
    from rethink_heads.statistics.regression import error_components, regressed_iou_by_iou

    a, b = sides()
    return [
        regressed_iou_by_iou(found, replicates=replicates),
        error_components(found, replicates=replicates),
        error_components(found, by_bin=True, replicates=replicates),
        compare(found, "regressed_iou", a, b, by_bin=True, replicates=replicates),
    ]


def sensitivity(found: Measurements, replicates: int) -> list[Any]:
    """The tables of ``rethink-heads sensitivity`` and of the maps in figures."""
    from rethink_heads.statistics.comparison import (
        COMPARED_RESPONSES,
        compare,
        compare_decay,
        compare_responses,
    )
    from rethink_heads.statistics.response import RESPONSE_KINDS, response, response_summary
    from rethink_heads.statistics.spatial import correlation_map, decay, distinct_pairs

    a, b = sides()
    tables: list[Any] = [correlation_map(found), distinct_pairs(found, replicates=replicates)]
    tables.append(decay(found, replicates=replicates))
    for kind in RESPONSE_KINDS:
        tables.append(response(found, kind, replicates=replicates))
        tables.append(response_summary(found, kind, replicates=replicates))
    for kind in COMPARED_RESPONSES:
        tables.append(compare_responses(found, kind, a, b, replicates=replicates))
    tables.append(compare(found, "spatial_correlation", a, b, replicates=replicates))
    return [*tables, compare_decay(found, a, b, replicates=replicates)]


def stages(folder: Path, memory_mb: int, replicates: int, amount: Amount) -> dict[str, Any]:
    """Write boxes at the later stages as measuring does at its end; the tables of ``correlate --stage``."""
    from rethink_heads.measure.stage_boxes import open_stages
    from rethink_heads.stage_results import stage_tables

    write_stages(folder, amount, memory_mb)
    a, b = sides()
    ranks = max(2, replicates // RANKS_PART)
    found = open_stages([folder])
    return stage_tables(found, None, [(a, b)], replicates=replicates, rank_replicates=ranks)


def evaluate(folder: Path, memory_mb: int, replicates: int) -> dict[str, Any]:
    """Open a data set and detections of it; the tables of ``evaluate --errors --calibration --compare``."""
    from rethink_heads.detection_results import detection_tables
    from rethink_heads.measure.kept_detections import open_detections

    found, dataset = open_detections([folder], memory_mb), open_dataset(folder)
    a, b = sides()
    kinds = {"errors": True, "calibration": True}
    return detection_tables(found, dataset, sides(), **kinds, pairs=[(a, b)], replicates=replicates)


def sides() -> list[tuple[str, str]]:
    """The two heads."""
    return [(DETECTOR, head) for head in sorted(HEADS)]


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def _table(amount: Amount, memory_mb: int, uses: list[Use]) -> str:
    lines = [
        f"{amount.objects} objects in {amount.images} images, {len(HEADS)} heads, bound {memory_mb} MiB",
        "",
        "| step | before (MiB) | peak (MiB) | the step itself (MiB) | share of the bound | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for use in uses:
        share = f"{use.growth_mib / memory_mb:.0%}"
        numbers = (f"{use.before_mib:.0f}", f"{use.peak_mib:.0f}", f"{use.growth_mib:.0f}", share)
        lines.append(f"| {use.step} | {' | '.join(numbers)} | {use.seconds:.0f} |")
    return "\n".join(lines) + "\n"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(hidden=True)
def step(step: str, folder: Path, memory_mb: int, replicates: int, amount: str) -> None:
    """One step, in the process that is measured."""
    of = Amount(**json.loads(amount))
    print(json.dumps(asdict(run_step(step, folder, memory_mb, replicates, of))))


@app.command()
def run(
    objects: Annotated[int, typer.Option(help="How many are made up.")] = 100_000,
    images: Annotated[int, typer.Option(help="That they are in.")] = 14_000,
    rows_per_bin: Annotated[int, typer.Option(help="Sampled rows of an object and bin.")] = 20,
    memory_mb: Annotated[int, typer.Option(help="The bound.")] = 512,
    replicates: Annotated[int, typer.Option(help="Of the bootstraps.")] = REPLICATES,
    only: Annotated[
        list[str], typer.Option(help="Of the steps; those after merge need its files.")
    ] = list(RESULTS),  # noqa: B006
    folder: Annotated[Path | None, typer.Option(help="Kept; else a temporary one.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for memory.md and .json.")] = None,
) -> None:
    """Make measurements up, merge them, and take the tables of the analyses."""
    amount = Amount(images, objects, rows_per_bin)
    where = Path(tempfile.mkdtemp()) if folder is None else folder
    try:
        start = time.perf_counter()
        parts = where / "parts"
        if {*only} - {STAGES, EVALUATE} and not (parts / "provenance.json").is_file():
            write_parts(parts, amount, PROVENANCE)
        if EVALUATE in only and not (where / EVALUATE / DETECTIONS_NAME).is_file():
            write_detections(where / EVALUATE, amount)
        print(f"made up in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        uses = []
        for name in only:
            uses.append(use_of(name, where, memory_mb, amount, replicates))
            print(uses[-1], file=sys.stderr)
    finally:
        if folder is None:
            shutil.rmtree(where)
    table = _table(amount, memory_mb, uses)
    print(table)
    if output is not None:
        write_text(output / "memory.md", table)
        write_text(output / "memory.json", json.dumps([asdict(use) for use in uses], indent=1))


if __name__ == "__main__":
    app()
