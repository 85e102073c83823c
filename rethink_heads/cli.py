"""The command line ``rethink-heads``. The commands are in :mod:`rethink_heads.commands`.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rethink_heads import __version__
from rethink_heads.commands import (
    correlate,
    demo,
    describe,
    evaluate,
    export_detector,
    figures,
    import_detector,
    plan,
    regress,
    sensitivity,
    sweep,
    train,
)
from rethink_heads.commands.exit_handling import ADVICE, end_at_once, explain
from rethink_heads.console import prepare_streams
from rethink_heads.errors import shorten, unwritable

LONGEST_USAGE_ERROR = 400
# Where releases of Typer keep it differs.
UsageError: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """All commands: what is wrong with their arguments is told in a few lines, whatever is in them."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        """Run a command, with streams that take every text."""
        prepare_streams()
        return super().main(args, *more, **settings)

    def make_context(self, info_name: Any, args: list[str], *more: Any, **settings: Any) -> Any:
        """Refuse arguments that no file could hold, which all options may come to."""
        for argument in args:
            if character := unwritable(argument):
                end_at_once(
                    f"the argument {shorten(argument)!r} has {character}, which no text file can hold; rename what it"
                    " names in UTF-8"
                )
        with _short_errors():
            return super().make_context(info_name, args, *more, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of a context."""
        with _short_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.message = shorten(error.message, LONGEST_USAGE_ERROR)
        raise
    # Of help and the version, which are printed before there is a command to end.
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        end_at_once(explain(error))


app = typer.Typer(
    cls=Commands,
    name="rethink-heads",
    help="Train detectors that differ only in their head, and see what each head does to the same"
    " proposals (Wu et al., CVPR 2020).",
    epilog="First steps: rethink-heads demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for module in (
    demo,
    train,
    evaluate,
    correlate,
    regress,
    sensitivity,
    sweep,
    figures,
    describe,
    plan,
    import_detector,
    export_detector,
):
    app.command(name=module.NAME, epilog=module.EXAMPLE)(module.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rethink-heads {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line. Exit code 2: a user's mistake; 130: interrupted."""
    app()
