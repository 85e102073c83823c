"""``rethink-heads figures``: draw everything again from a run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rethink_heads.commands.options import JsonOption, SeedOption, reporting_errors
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
    str | None,
    typer.Option(
        "--measurements",
        metavar="NAME",
        help="Which of the run's measurements (a folder in measurements/). Without it: all of one"
        " run, the default ones of several.",
        show_default=False,
    ),
]


@reporting_errors
def command(
    run: FigureRunsOption = None,
    measurements: MeasurementsOption = None,
    output: OutputOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw all figures and write all tables from what was measured. No detector is touched."""
    runs = [Run.open(path) for path in run or [default_runs_root() / "demo"]]
    seed = runs[0].config.seed if seed is None else seed
    written: list[Path] = []
    if len(runs) == 1 and output is None:
        for name in [measurements] if measurements else measured_names(runs[0]):
            written += draw_run(runs[0], name, seed)
    else:
        folder = output or runs[0].path.parent / "-".join(each.name for each in runs)
        name = measurements or DEFAULT_MEASUREMENTS
        from rethink_heads.measure.measurements import Measurements

        loaded = Measurements.merge([load(each, name) for each in _distinct(runs)])
        written = draw(loaded, folder / "tables", folder / "figures", seed)
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
    written = draw(load(run, name), run.tables(name), run.figures(name), seed)
    note = {
        "measurements": _measurements_hash(run, name),
        "seed": seed,
        "files": [path.relative_to(run.path).as_posix() for path in written],
    }
    write_text(run.figures(name) / NOTE_NAME, json.dumps(note, indent=2) + "\n")
    return written


def is_drawn(run: Run, name: str) -> bool:
    """Whether all tables and figures of a run's present measurements are there."""
    try:
        note = json.loads((run.figures(name) / NOTE_NAME).read_text(encoding="utf-8"))
        files = [run.path / file for file in note["files"]]
        return note["measurements"] == _measurements_hash(run, name) and all(
            path.is_file() for path in files
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _measurements_hash(run: Run, name: str) -> str:
    return sha256(run.measurements(name) / "bins.parquet")


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


def _distinct(runs: list[Run]) -> list[Run]:
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of the runs are called {name!r}; rename one of the folders")
    return runs
