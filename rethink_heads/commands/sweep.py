"""``rethink-heads sweep``: train and compare the points of one description, in one table and one figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import bounds
from rethink_heads.console import log, redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    OverridesArgument,
    argument,
    flag,
    value,
)
from rethink_heads.report.output import Report
from rethink_heads.runs import default_runs_root

if TYPE_CHECKING:
    from rethink_heads.sweeps.plan import Plan

NAME = "sweep"
EXAMPLE = (
    "Example: rethink-heads sweep structures --preset shapes-tiny --seed 0 --seed 1"
    " --use single-fc=runs/shapes-fc-0 training.max_iterations=1500"
)


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep trains, and where it goes."""

    sweep: str = argument(
        "NAME|FILE",
        "structures, depth, balance, weights, fusion, enlargement, backbone, or a YAML file of"
        " your own.",
    )
    overrides: OverridesArgument = None
    preset: str | None = value(
        "NAME|FILE", "What all points share, as of train. Without it: the sweep's own."
    )
    output: Path | None = value(
        "FOLDER", "Folder of the runs, the table and the figure. [default: runs/sweeps/NAME]"
    )
    data: DataOption = None
    seed: list[int] | None = value(
        "N",
        "Seed of a training of every point; repeat it for several. Without it: the sweep's own.",
        bounds.SEED,
    )
    use: list[str] | None = value(
        "LABEL=RUN",
        "Trained run that takes the place of a point's training (of the run's seed); its settings"
        " must be the point's. Repeat it.",
    )
    axis: list[str] | None = value(
        "KEY=V,V",
        "Other values of one of the sweep's axes, for example model.conv_blocks=1,2.",
    )
    device: DeviceOption = "auto"
    dry_run: bool = flag("List what would be done and what is done.")
    prepare: bool = flag(
        "Only make the run folders, and print the command that trains each, to train them apart."
    )
    as_json: JsonOption = False


def command(options: SweepOptions) -> None:
    """Train what is missing of a sweep, read all its points, write one table and one figure.

    The same command goes on where it was interrupted and skips what is done. A point that fails
    stops no other; the command then ends with code 2 and tries that point again when repeated.
    """
    from rethink_heads.sweeps.description import load_sweep
    from rethink_heads.sweeps.plan import make_plan

    description = load_sweep(options.sweep).with_values(options.axis or [])
    output = options.output or default_runs_root() / "sweeps" / description.name
    used = [_used_run(text) for text in options.use or ()]
    overrides, seeds = options.overrides or [], options.seed or []
    plan = make_plan(description, output, options.preset, overrides, seeds, options.data, used)
    result = Report(NAME)
    if options.dry_run or options.prepare:
        rank_zero_only()
        (_list if options.dry_run else _prepare)(result, plan)
        result.end(options.as_json)
        return
    from rethink_heads.run_options import train_run
    from rethink_heads.sweeps.runner import run_sweep

    log(f"sweep {plan.description.name}: {len(plan.points)} points, into {plan.output}")
    with redirect_stdout():
        found = run_sweep(plan, options.device, train_run)
    failures = [{"part": part, "reason": reason} for part, reason in found.failures.items()]
    result.data(table=found.table, ordering=found.ordering, failures=failures)
    result.files = list(found.files)
    for name in ("table.md", "ordering.md"):
        path = plan.output / name
        if path in found.files:
            result.lines(path.read_text(encoding="utf-8"))
    result.lines(*(f"written: {path}" for path in found.files))
    result.end(options.as_json)
    if found.failures:
        told = "; ".join(f"{key}: {reason}" for key, reason in found.failures.items())
        raise UserError(
            f"{len(found.failures)} of the sweep's parts failed, the table has the others ({told});"
            f" run the same command again to try them again (details: {plan.output / 'failures'})"
        )


def _used_run(text: str) -> tuple[str, Path]:
    """Label and folder of ``--use``."""
    label, equals, path = text.partition("=")
    if not (label and equals and path):
        raise UserError(f"cannot read --use {text!r}; write LABEL=RUN, the folder of a trained run")
    return label, Path(path)


def _list(result: Report, plan: Plan) -> None:
    """Add the points of a sweep, and which of their trainings are done."""
    points = [
        {
            "point": point.label,
            "seed": seed,
            "head": point.head,
            "reading": point.reading or "fullest",
            "fusion": point.fusion or "as trained",
            "run": str(plan.training_of(point, seed).path),
            "state": plan.training_of(point, seed).state,
        }
        for point in plan.points
        for seed in plan.seeds
    ]
    result.data(points=points)
    states = [training.state for training in plan.trainings.values()]
    result.table(
        f"{plan.description.title} ({plan.description.name}): {len(plan.points)} points,"
        f" {len(states)} trainings, {states.count('done')} done",
        {name: [str(each[name]) for each in points] for name in points[0]},
    )


def _prepare(result: Report, plan: Plan) -> None:
    """Make the run folders, and add the commands that train them."""
    from rethink_heads.sweeps.runner import prepare

    commands = {each.path: f"rethink-heads train --run {each.path}" for each in prepare(plan)}
    result.data(commands=[{"run": path, "command": words} for path, words in commands.items()])
    result.lines(*commands.values())
