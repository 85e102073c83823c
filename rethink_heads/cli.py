"""The command line ``rethink-heads``. The commands are in :mod:`rethink_heads.commands`, loaded when they are called.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rethink_heads import __version__
from rethink_heads.console import prepare_streams
from rethink_heads.errors import shorten, unwritable
from rethink_heads.exit_handling import ADVICE, end_at_once, explain, reporting_errors
from rethink_heads.options import grouped

COMMANDS = {
    "demo": "Train a small detector with both heads, measure both, draw figures and a report (some minutes).",
    "train": "Train a detector, or go on with an interrupted training.",
    "evaluate": "Print COCO's average precisions of each head on a run's test split or other data.",
    "diagnose": "Say where average precision is lost, and what would win it back.",
    "correlate": "Correlation of score and IoU, by object size (paper Figures 2 and 3).",
    "regress": "Regression error: IoU of the regressed box per IoU of the proposal (paper Figure 2, row 2).",
    "sensitivity": "Spatial sensitivity: how similar RoI positions are, and what a head does when they change.",
    "objects": "Objects that heads find hardest: the lowest correlation of their proposals' scores and IoUs.",
    "report": "Write one HTML file that shows what was found of one or several detectors; it opens offline.",
    "sweep": "Train what is missing of a sweep, read all its points, write one table and one figure.",
    "figures": "Draw all figures and write all tables from what was measured. No detector is touched.",
    "describe": "Print what a preset's detectors cost, head by head: computed from shapes, nothing is trained.",
    "plan": "Say what measuring a detector's heads on a data set will take, without doing it.",
    "import": "Make a run of a detector that maskrcnn-benchmark, mmdetection or detectron2 trained.",
    "export": "Write a run's detector as detectron2's weights (model.pth) and settings (config.yaml).",
}
"""What the commands do, as their own help says first: so that nothing is imported to list them."""
# Words of Python cannot name a module.
MODULES = {"import": "import_detector", "export": "export_detector"}

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

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the order of a study."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command to be listed; :meth:`resolve_command` gives the one to be called."""
        about = COMMANDS.get(cmd_name)
        return None if about is None else TyperCommand(cmd_name, help=about)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that the arguments begin with."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest

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


def load_command(name: str) -> Any:
    """Import a command's module and make its function a command of the command line."""
    module = importlib.import_module(f"rethink_heads.commands.{MODULES.get(name, name)}")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name=name, epilog=module.EXAMPLE)(reporting_errors(grouped(module.command)))
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=Commands,
    name="rethink-heads",
    help="Train detectors that differ only in their head, and see what each head does to the same"
    " proposals (Wu et al., CVPR 2020).",
    epilog="First steps: rethink-heads demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
