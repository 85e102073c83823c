"""Runs a sweep: trains what is missing, reads every point, writes the table and the figure."""

from __future__ import annotations

import itertools
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from rethink_heads.config import Config
from rethink_heads.console import log
from rethink_heads.data.sources import split_paths
from rethink_heads.distributed import process_count, processes, rank_zero_only
from rethink_heads.errors import OtherProcessError, UserError
from rethink_heads.files import write_csv, write_text
from rethink_heads.locking import hold
from rethink_heads.machine import resolve_device
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.runs import Run
from rethink_heads.sweeps.plan import Plan, Training
from rethink_heads.sweeps.precision import Precision
from rethink_heads.sweeps.tables import ordering_table, sweep_table, write_up

logger = logging.getLogger(__name__)

Train = Callable[[Path, Config, str], object]
FAILURES_FOLDER = "failures"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        table: see :func:`rethink_heads.sweeps.tables.sweep_table`.
        ordering: see :func:`rethink_heads.sweeps.tables.ordering_table`; without rows where the sweep has no ranking.
        failures: by ``<label>-<seed>``, the sentence of what went wrong.
        files: what was written.
    """

    table: pd.DataFrame
    ordering: pd.DataFrame
    failures: Mapping[str, str]
    files: list[Path] = field(default_factory=list)


def train_into(path: Path, config: Config, device: str) -> None:
    """Train into a run folder, or go on where an interrupted training stopped."""
    from rethink_heads.training.train import train

    train(config, Run.create(path, config), device)


def run_sweep(plan: Plan, device: str = "auto", train: Train = train_into) -> SweepResult:
    """Train what is missing, read all points, and write the table and the figure.

    Trainings that are complete are left alone, and one that was interrupted goes on where it stopped. What goes wrong
    in one point is kept in ``failures/`` and stops no other.

    Processes that torchrun started train each detector together and share the images that it is read on; then the first
    goes on alone and the others end with it. Here a failure ends all: processes that wait for one that failed cannot
    be called back.

    Args:
        plan: what to do; its folder gets ``table.csv``, ``table.md``, ``table.tex``, ``figure.png``,
            ``figure.pdf``, and ``ordering.*`` where the sweep has a ranking.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        train: trains a run folder.

    Raises:
        UserError: the settings, the data, the device or a folder cannot be used at all, or no point could be read.
        KeyboardInterrupt: on Ctrl-C; the same call goes on.
    """
    resolve_device(device)
    with hold(plan.output):
        return _run(plan, device, train)


def _run(plan: Plan, device: str, train: Train) -> SweepResult:
    plan.check_folders()
    precision = Precision(plan, device)
    split_paths(precision.config.data, "train")
    failures = _train_missing(plan, device, train)
    if process_count() > 1:
        # All processes share the images of every point that is still to be read.
        for point, seed in itertools.product(plan.points, plan.seeds):
            with _attempt(plan, f"{point.label}-{seed}", {}):
                precision.detect(point, seed)
        rank_zero_only()
    found: dict[tuple[str, int], pd.DataFrame] = {}
    for point, seed in itertools.product(plan.points, plan.seeds):
        if plan.training_of(point, seed).key in failures:
            continue
        with _attempt(plan, f"{point.label}-{seed}", failures):
            found[point.label, seed] = precision.table(point, seed)
    if not found:
        key, reason = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise UserError(
            f"no point of sweep {plan.description.name} could be read; {key}: {reason}{more}"
        )
    sizes = {point.label: precision.size(point) for point in plan.points}
    table = sweep_table(plan, precision.reads, sizes, found)
    ordering = ordering_table(
        plan, lambda point, seed: (point.label, seed) in found, precision.difference
    )
    dataset = precision.dataset
    texts = write_up(plan, table, ordering, len(dataset), dataset.annotations_path.name)
    return SweepResult(table, ordering, failures, write_results(plan, table, ordering, texts))


def prepare(plan: Plan) -> list[Training]:
    """Make the folder of every training that is still to do, and return those trainings.

    Each can be trained apart, on several machines or under torchrun; the sweep then collects them.
    """
    plan.check_folders()
    missing = [each for each in plan.trainings.values() if each.state != "done"]
    for each in missing:
        Run.create(each.path, each.config)
    return missing


def write_results(
    plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame, texts: Mapping[str, str]
) -> list[Path]:
    """Write the table and the ordering as CSV, the texts by file name, the figure, and what was run.

    Returns:
        The paths.
    """
    output, written = plan.output, []
    for name, frame in (("table.csv", table), ("ordering.csv", ordering)):
        if len(frame):
            write_csv(frame, output / name)
            written.append(output / name)
    for name, content in {"sweep.yaml": _record(plan), **texts}.items():
        write_text(output / name, content)
        written.append(output / name)
    try:
        figure = sweep_figure(table, **plan.description.figure.model_dump())
    except NothingToDrawError as error:
        logger.warning("no figure: %s", error)
        return written
    return written + save_figure(figure, output / "figure")


def _train_missing(plan: Plan, device: str, train: Train) -> dict[str, str]:
    failures: dict[str, str] = {}
    # A folder may change while the last of the processes has not looked yet.
    states = processes().broadcast(lambda: [each.state for each in plan.trainings.values()])
    for number, (each, state) in enumerate(zip(plan.trainings.values(), states, strict=True), 1):
        if state == "done":
            continue
        verb = "going on with" if state == "interrupted" else "training"
        log(f"training {number} of {len(plan.trainings)}: {verb} {each.path}")
        with _attempt(plan, each.key, failures):
            train(each.path, each.config, device)
    return failures


@contextmanager
def _attempt(plan: Plan, key: str, failures: dict[str, str]) -> Iterator[None]:
    """Keep what goes wrong in the block, and go on."""
    path = plan.output / FAILURES_FOLDER / f"{key}.txt"
    try:
        yield
    except OtherProcessError:
        raise
    except Exception as error:
        # Whatever it is, such as a GPU without memory left: the other points are still wanted.
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        failures[key] = first
        write_text(path, traceback.format_exc())
        if processes().working > 1:
            raise UserError(
                f"{key} of the sweep failed: {first} (details: {path}); run the same command again to go on, without"
                " torchrun to have the other points whatever becomes of this one"
            ) from error
        logger.warning("%s failed: %s", key, first)
    else:
        path.unlink(missing_ok=True)


def _record(plan: Plan) -> str:
    """What was run, as YAML: every point and where its trainings are."""
    content = {
        "name": plan.description.name,
        "title": plan.description.title,
        "seeds": list(plan.seeds),
        "points": [
            {
                "label": point.label,
                "head": point.head,
                "reading": point.reading,
                "fusion": point.fusion,
                "runs": [str(plan.training_of(point, seed).path) for seed in plan.seeds],
            }
            for point in plan.points
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)
