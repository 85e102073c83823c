"""Runs one script of ``analyses/`` by itself: its command line, its tables and its figure."""

from __future__ import annotations

from pathlib import Path

import typer

from rethink_heads.commands.figures import (
    FigureRunsOption,
    MeasurementsOption,
    OutputOption,
    SweepsOption,
    chosen_seed,
    default_output,
    folders,
    one_each,
    open_runs,
)
from rethink_heads.commands.given import given
from rethink_heads.console import print_lines, work
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.exit_handling import reporting_errors
from rethink_heads.options import SeedOption, grouped
from rethink_heads.runs import DEFAULT_MEASUREMENTS


def main(file: str) -> None:
    """Run a script as a program; its docstring is the help text.

    Args:
        file: the script's ``__file__``.
    """

    def command(
        run: FigureRunsOption = None,
        sweep: SweepsOption = None,
        measurements: MeasurementsOption = None,
        output: OutputOption = None,
        seed: SeedOption = None,
    ) -> None:
        from rethink_heads.paper import load_analysis
        from rethink_heads.plots.layout import save_figure
        from rethink_heads.plots.style import NothingToDrawError
        from rethink_heads.results import write_tables

        rank_zero_only()
        analysis = load_analysis(Path(file))
        runs = open_runs(run, sweep)
        names = one_each(runs, measurements or [DEFAULT_MEASUREMENTS])
        found = given(runs, names, sweep or [], chosen_seed(runs, seed))
        tables, figures = folders(output or default_output(runs, sweep))
        with work():
            computed = analysis.complete(found)
            written = list(write_tables(computed, tables).values())
            try:
                written += save_figure(analysis.draw(computed), figures / analysis.name)
            except NothingToDrawError as error:
                raise UserError(f"no figure {analysis.name}: {error}") from error
        print_lines(*map(str, written))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=_help(Path(file)))(reporting_errors(grouped(command)))
    app()


def _help(path: Path) -> str:
    """The script's docstring, as typer lays it out."""
    import ast

    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
