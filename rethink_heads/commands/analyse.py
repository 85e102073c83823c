"""Runs one script of ``analyses/`` by itself: its command line, its tables and its figure."""

from __future__ import annotations

import ast
from pathlib import Path

import typer

from rethink_heads.commands.figures import FIGURES, TABLES, InputOptions
from rethink_heads.console import redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.exit_handling import reporting_errors
from rethink_heads.options import grouped
from rethink_heads.report.output import print_lines


def main(file: str) -> None:
    """Run a script as a program; its docstring is the help text.

    Args:
        file: the script's ``__file__``.
    """

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
