"""``rethink-heads figures``: draw everything again from a run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rethink_heads.commands.alike import check_names, merged
from rethink_heads.commands.options import JsonOption, SeedOption, reporting_errors
from rethink_heads.commands.sessions import logged
from rethink_heads.console import print_json, print_lines, say, work
from rethink_heads.errors import UserError
from rethink_heads.files import sha256, write_text
from rethink_heads.runs import DEFAULT_MEASUREMENTS, Run, default_runs_root

if TYPE_CHECKING:
    from rethink_heads.measure.measurements import Measurements

NAME = "figures"
NOTE_NAME = "drawn.json"
EXAMPLE = (
    "Examples: rethink-heads figures --run runs/demo\n\n"
    "rethink-heads figures --run runs/fc --run runs/conv --output figures/fc-and-conv"
)

FigureRunsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run folder; repeat it to draw detectors trained apart together. [default: runs/demo]",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder that gets tables/ and figures/. Without it: the run's own; for several runs,"
        " a folder beside the first, named after them.",
        show_default=False,
    ),
]
MeasurementsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--measurements",
        metavar="NAME",
        help="Which of the run's measurements (a folder in measurements/); of several runs, one"
        " name for all or one for each --run. Without it: all of one run, the default ones of"
        " several.",
        show_default=False,
    ),
]
NoDeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda",
        help="Has no effect: no detector is touched. It is here so that every command has it.",
    ),
]


@reporting_errors
def command(
    run: FigureRunsOption = None,
    measurements: MeasurementsOption = None,
    output: OutputOption = None,
    device: NoDeviceOption = "auto",
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw all figures and write all tables from what was measured. No detector is touched."""
    runs = [Run.open(path) for path in run or [default_runs_root() / "demo"]]
    seed = runs[0].config.seed if seed is None else seed
    written: list[Path] = []
    if len(runs) == 1 and output is None:
        for name in measurements or measured_names(runs[0]):
            written += draw_run(runs[0], name, seed)
    else:
        folder = output or runs[0].path.parent / "-".join(each.name for each in runs)
        check_names(runs)
        names = _one_each(runs, measurements or [DEFAULT_MEASUREMENTS])
        found = [load(each, name) for each, name in zip(runs, names, strict=True)]
        written = draw(
            merged(runs, found, drawing=True), folder / "tables", folder / "figures", seed
        )
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        print_lines(*(str(path) for path in written))


def measured_names(run: Run) -> list[str]:
    """Return the names of a run's complete measurements, the default ones first.

    Raises:
        UserError: nothing was measured.
    """
    names = sorted(path.parent.name for path in run.measurements_dir.glob("*/bins.parquet"))
    if not names:
        raise UserError(
            f"nothing was measured in {run.path};"
            f" measure first: rethink-heads correlate --run {run.path}"
        )
    return sorted(names, key=lambda name: name != DEFAULT_MEASUREMENTS)


def load(run: Run, name: str) -> Measurements:
    """Load a run's measurements.

    Raises:
        UserError: there are none of that name; the message names those there are.
    """
    from rethink_heads.measure.measurements import Measurements

    names = measured_names(run)
    if name not in names:
        raise UserError(f"{run.path} has no measurements {name!r}; it has {', '.join(names)}")
    return Measurements.load(run.measurements(name))


def draw_run(run: Run, name: str, seed: int) -> list[Path]:
    """Write tables and figures of a run's measurements into the run, and note what was written."""
    with logged(run, f"drawing {name}"):
        written = draw(load(run, name), run.tables(name), run.figures(name), seed)
    note = {
        "measurements": _measurements_hashes(run, name),
        "seed": seed,
        "files": [path.relative_to(run.path).as_posix() for path in written],
    }
    write_text(run.figures(name) / NOTE_NAME, json.dumps(note, indent=2) + "\n")
    return written


def is_drawn(run: Run, name: str, seed: int) -> bool:
    """Whether all tables and figures of a run's present measurements are there, of that seed."""
    try:
        note = json.loads((run.figures(name) / NOTE_NAME).read_text(encoding="utf-8"))
        files = [run.path / file for file in note["files"]]
        return (
            note["measurements"] == _measurements_hashes(run, name)
            and note["seed"] == seed
            and all(path.is_file() for path in files)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _measurements_hashes(run: Run, name: str) -> dict[str, str]:
    folder = run.measurements(name)
    return {path.name: sha256(path) for path in sorted(folder.glob("*.parquet"))}


def draw(measurements: Measurements, tables: Path, figures: Path, seed: int) -> list[Path]:
    """Write tables and figures into two folders and return their paths."""
    from rethink_heads.results import compute_tables, write_figures, write_tables

    say(f"drawing into {figures}")
    with work():
        computed = compute_tables(measurements, seed=seed)
        return [
            *write_tables(computed, tables, seed=seed).values(),
            *write_figures(computed, figures, seed=seed),
        ]


def _one_each(runs: list[Run], names: list[str]) -> list[str]:
    if len(names) not in (1, len(runs)):
        raise UserError(
            f"{len(names)} times --measurements for {len(runs)} runs; give it once for all runs or"
            " once for each --run, in their order"
        )
    return names if len(names) == len(runs) else names * len(runs)
