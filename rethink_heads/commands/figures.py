"""``rethink-heads figures``: draw everything again from a run's files; and one script of ``analyses/`` by itself."""

from __future__ import annotations

import ast
import json
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rethink_heads.console import log, redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.exit_handling import reporting_errors
from rethink_heads.files import sha256, write_text
from rethink_heads.locking import hold
from rethink_heads.options import JsonOption, SeedOption, grouped, value
from rethink_heads.report.output import Report, print_lines
from rethink_heads.results import NOTE_NAME as COMPARISON_NAME
from rethink_heads.results import measured_names, read_inputs, shared_folder, writing
from rethink_heads.runs import DEFAULT_MEASUREMENTS, Run, default_runs_root

if TYPE_CHECKING:
    from rethink_heads.paper import AnalysisInputs

NAME = "figures"
NOTE_NAME = "drawn.json"
TABLES, FIGURES = "tables", "figures"
EXAMPLE = (
    "Examples: rethink-heads figures --run runs/demo\n\n"
    "rethink-heads figures --run runs/fc --run runs/conv --output figures/fc-and-conv\n\n"
    "rethink-heads figures --redraw figures"
)


@dataclass(frozen=True)
class InputOptions:
    """What was measured and is drawn, and where results go."""

    run: list[Path] | None = value(
        "DIR",
        "Run folder; repeat it to draw detectors trained apart together. [default: runs/demo]",
    )
    sweep: list[Path] | None = value(
        "DIR", "Folder of a sweep (rethink-heads sweep); repeat it for several."
    )
    measurements: list[str] | None = value(
        "NAME",
        "Which of the run's measurements (a folder in measurements/); of several runs, one"
        " name for all or one for each --run. Without it: all of one run, the default ones of"
        " several.",
    )
    output: Path | None = value(
        "DIR",
        "Folder that gets tables/ and figures/. Without it: the run's own; for several runs,"
        " a folder beside the first, named after them; for sweeps alone, the first sweep's.",
    )
    seed: SeedOption = None

    @cached_property
    def runs(self) -> list[Run]:
        """The runs named; runs/demo where neither a run nor a sweep is."""
        named = self.run or ([] if self.sweep else [default_runs_root() / "demo"])
        return [Run.open(path) for path in named]

    @property
    def names(self) -> list[str]:
        """A name of measurements for each run. Raises UserError where there are neither as many as runs nor one."""
        names, count = self.measurements or [DEFAULT_MEASUREMENTS], len(self.runs)
        if len(names) not in (1, count) and count:
            raise UserError(
                f"{len(names)} times --measurements for {count} runs; give it once for all runs or"
                " once for each --run, in their order"
            )
        return names if len(names) == count else names * count

    @property
    def bootstrap_seed(self) -> int:
        """The seed given, or the first run's."""
        own = self.runs[0].config.seed if self.runs else 0
        return own if self.seed is None else self.seed

    @property
    def target(self) -> Path:
        """The folder that gets tables/ and figures/."""
        if self.output is not None:
            return self.output
        return shared_folder(self.runs) if self.runs else Path((self.sweep or [Path()])[0])

    def read(self) -> AnalysisInputs:
        """Read what the analyses need. Raises UserError where something is not there, or runs are not comparable."""
        return read_inputs(self.runs, self.names, self.sweep or [], self.bootstrap_seed)


@dataclass(frozen=True)
class DrawingOptions:
    """How it is drawn."""

    redraw: Path | None = value(
        "DIR",
        "Draw from tables alone: wherever DIR has a folder tables/, figures/ beside it gets"
        " the same files again, to the byte. With --output the figures go there.",
    )
    device: str = value(
        "auto|cpu|cuda",
        "Has no effect: no detector is touched. It is here so that every command has it.",
        default="auto",
    )
    as_json: JsonOption = False


def command(options: InputOptions, drawing: DrawingOptions) -> None:
    """Draw all figures and write all tables from what was measured. No detector is touched.

    The paper's figures and tables are defined by the scripts in analyses/, which this runs; those
    that lack something are named with what they lack.
    """
    rank_zero_only()
    skipped: dict[str, str] = {}
    if drawing.redraw is not None:
        if options.run or options.sweep or options.measurements:
            raise UserError(
                "--redraw draws from tables: leave out --run, --sweep and --measurements"
            )
        written = redraw_folders(drawing.redraw, options.output)
    elif len(options.runs) == 1 and options.output is None and not options.sweep:
        (run,) = options.runs
        written = []
        for name in options.measurements or measured_names(run):
            written += draw_run(run, name, options.bootstrap_seed, skipped)
    else:
        found, target = options.read(), options.target
        with writing(target, options.runs, options.names, target / TABLES):
            written = draw(found, target / TABLES, target / FIGURES, skipped)
    result = Report(NAME)
    result.data(skipped=[{"name": name, "reason": reason} for name, reason in skipped.items()])
    result.files = written
    if not drawing.as_json:
        for name, reason in skipped.items():
            log(f"skipped {name}: {reason}")
    result.lines(*map(str, written))
    result.end(drawing.as_json)


def draw_run(run: Run, name: str, seed: int, skipped: dict[str, str] | None = None) -> list[Path]:
    """Write tables and figures of a run's measurements into the run, and note what was written.
    ``skipped``: gets the reasons of what could not be made, by name.
    """
    with hold(run.path), run.logged(f"drawing {name}"):
        found = read_inputs([run], [name], [], seed)
        written = draw(found, run.tables(name), run.figures(name), skipped)
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
    # The arrays' checksums are in meta.json.
    paths = sorted([*folder.glob("*.parquet"), folder / "meta.json"])
    return {path.name: sha256(path) for path in paths}


def draw(
    found: AnalysisInputs, tables: Path, figures: Path, skipped: dict[str, str] | None = None
) -> list[Path]:
    """Write tables and figures into two folders and return their paths."""
    from rethink_heads.report.results import compute, write_figures, write_tables

    skipped = {} if skipped is None else skipped
    log(f"drawing into {figures}")
    with redirect_stdout():
        computed = compute(found, skipped)
        written = list(write_tables(computed, tables).values())
        # What a table lacks is told by now: that it is not there says less.
        return written + write_figures(computed, figures, skipped=skipped)


def redraw_folders(folder: Path, output: Path | None = None) -> list[Path]:
    """Draw from every ``tables/`` under a folder, beside it or in the same place under ``output``.
    Raises UserError where there are no tables, or a file cannot be read or written.
    """
    from rethink_heads.plots.layout import VERSIONS_NAME, drawing_versions
    from rethink_heads.plots.style import naming_detectors
    from rethink_heads.report.results import read_tables, write_figures

    found = sorted(path.parent for path in Path(folder).rglob(TABLES) if any(path.glob("*.csv")))
    if not found:
        raise UserError(f"there are no tables under {folder}: no folder {TABLES} with *.csv in it")
    target = Path(folder if output is None else output)
    written = []
    with redirect_stdout():
        for each in found:
            place = target / each.relative_to(folder)
            log(f"drawing into {place / FIGURES}")
            compares_detectors = (each / TABLES / COMPARISON_NAME).is_file()
            with hold(place), naming_detectors() if compares_detectors else nullcontext():
                tables = read_tables(each / TABLES)
                written += write_figures(tables, place / FIGURES)
        with hold(target):
            write_text(target / VERSIONS_NAME, json.dumps(drawing_versions(), indent=2) + "\n")
    return [*written, target / VERSIONS_NAME]


def run_script(file: str) -> None:
    """Run a script of ``analyses/`` as a program, with its own tables and figure; its docstring is the help text."""

    def command(options: InputOptions) -> None:
        from rethink_heads.paper import load_analysis
        from rethink_heads.plots.layout import save_figure
        from rethink_heads.plots.style import NothingToDrawError
        from rethink_heads.report.results import write_tables

        rank_zero_only()
        analysis = load_analysis(Path(file))
        found, target = options.read(), options.target
        with redirect_stdout():
            computed = analysis.complete(found)
            written = list(write_tables(computed, target / TABLES).values())
            try:
                written += save_figure(analysis.draw(computed), target / FIGURES / analysis.name)
            except NothingToDrawError as error:
                raise UserError(f"no figure {analysis.name}: {error}") from error
        print_lines(*map(str, written))

    about = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=about or "")(reporting_errors(grouped(command)))
    app()
