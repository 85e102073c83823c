"""The command line ``rethink-heads``. The commands are in :mod:`rethink_heads.commands`.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

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

app = typer.Typer(
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
