"""``rethink-heads sweep``: train and compare the points of one description, in one table and one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rethink_heads import bounds
from rethink_heads.console import log, redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import DataOption, DeviceOption, JsonOption, OverridesArgument, option
from rethink_heads.report.output import Report
from rethink_heads.runs import default_runs_root

if TYPE_CHECKING:
    from rethink_heads.sweeps.plan import Plan
    from rethink_heads.sweeps.runner import SweepResult

NAME = "sweep"
EXAMPLE = (
    "Example: rethink-heads sweep structures --preset shapes-tiny --seed 0 --seed 1"
    " --use single-fc=runs/shapes-fc-0 training.max_iterations=1500"
)

SweepArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="structures, depth, balance, weights, fusion, enlargement, backbone, or a YAML file of"
        " your own.",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str | None,
    option(
        "--preset", "NAME|FILE", "What all points share, as of train. Without it: the sweep's own."
    ),
]
OutputOption = Annotated[
    Path | None,
    option(
        "--output",
        "FOLDER",
        "Folder of the runs, the table and the figure. [default: runs/sweeps/NAME]",
    ),
]
SeedsOption = Annotated[
    list[int] | None,
    option(
        "--seed",
        "N",
        "Seed of a training of every point; repeat it for several. Without it: the sweep's own.",
        bounds.SEED,
    ),
]
UseOption = Annotated[
    list[str] | None,
    option(
        "--use",
        "LABEL=RUN",
        "Trained run that takes the place of a point's training (of the run's seed); its settings"
        " must be the point's. Repeat it.",
    ),
]
AxisOption = Annotated[
    list[str] | None,
    option(
        "--axis",
        "KEY=V,V",
        "Other values of one of the sweep's axes, for example model.conv_blocks=1,2.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="List what would be done and what is done.")
]
PrepareOption = Annotated[
    bool,
    typer.Option(
        "--prepare",
        help="Only make the run folders, and print the command that trains each, to train them apart.",
    ),
]


def command(
    sweep: SweepArgument,
    overrides: OverridesArgument = None,
    preset: PresetOption = None,
    output: OutputOption = None,
    data: DataOption = None,
    seed: SeedsOption = None,
    use: UseOption = None,
    axis: AxisOption = None,
    device: DeviceOption = "auto",
    dry_run: DryRunOption = False,
    prepare: PrepareOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train what is missing of a sweep, read all its points, write one table and one figure.

    The same command goes on where it was interrupted and skips what is done. A point that fails
    stops no other; the command then ends with code 2 and tries that point again when repeated.
    """
    from rethink_heads.sweeps.description import load_sweep
    from rethink_heads.sweeps.plan import make_plan

    description = load_sweep(sweep).with_values(axis or [])
    output = output or default_runs_root() / "sweeps" / description.name
    used = [_used_run(text) for text in use or ()]
    plan = make_plan(description, output, preset, overrides or [], seed or [], data, used)
    if dry_run or prepare:
        rank_zero_only()
    if dry_run:
        _print_plan(plan, as_json)
        return
    if prepare:
        _prepare(plan, as_json)
        return
    from rethink_heads.run_options import train_run
    from rethink_heads.sweeps.runner import run_sweep

    log(f"sweep {plan.description.name}: {len(plan.points)} points, into {plan.output}")
    with redirect_stdout():
        result = run_sweep(plan, device, train_run)
    _report(plan, result, as_json)
    if result.failures:
        told = "; ".join(f"{key}: {reason}" for key, reason in result.failures.items())
        raise UserError(
            f"{len(result.failures)} of the sweep's parts failed, the table has the others ({told});"
            f" run the same command again to try them again (details: {plan.output / 'failures'})"
        )


def _used_run(text: str) -> tuple[str, Path]:
    """Label and folder of ``--use``."""
    label, equals, path = text.partition("=")
    if not (label and equals and path):
        raise UserError(f"cannot read --use {text!r}; write LABEL=RUN, the folder of a trained run")
    return label, Path(path)


def _print_plan(plan: Plan, as_json: bool) -> None:
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
    result = Report(NAME)
    result.data(points=points)
    states = [training.state for training in plan.trainings.values()]
    cells = {name: [str(each[name]) for each in points] for name in points[0]}
    result.table(
        f"{plan.description.title} ({plan.description.name}): {len(plan.points)} points,"
        f" {len(states)} trainings, {states.count('done')} done",
        cells,
    )
    result.end(as_json)


def _prepare(plan: Plan, as_json: bool) -> None:
    from rethink_heads.sweeps.runner import prepare

    result = Report(NAME)
    rows = [
        {"run": each.path, "command": f"rethink-heads train --run {each.path}"}
        for each in prepare(plan)
    ]
    result.data(commands=rows)
    result.lines(*(str(row["command"]) for row in rows))
    result.end(as_json)


def _report(plan: Plan, found: SweepResult, as_json: bool) -> None:
    result = Report(NAME)
    result.data(
        table=found.table,
        ordering=found.ordering,
        failures=[{"part": part, "reason": reason} for part, reason in found.failures.items()],
    )
    result.files = list(found.files)
    for name in ("table.md", "ordering.md"):
        path = plan.output / name
        if path in found.files:
            result.lines(path.read_text(encoding="utf-8"))
    result.lines(*(f"written: {path}" for path in found.files))
    result.end(as_json)
