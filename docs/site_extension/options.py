"""Tables made from the command line itself: ``commands`` lists all of them, ``options`` those of one.

    ```{options} evaluate
    ```

Nothing of them is written by hand, so that a page cannot lack an option or keep one that is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rethink_heads.cli import COMMANDS, load_command

Cell = Sequence[nodes.Node]


class Commands(SphinxDirective):
    """Every command, a link to its page, and what its help says first."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [table(("command", "what it does"), map(self._row, COMMANDS.items()), (15, 85))]

    def _row(self, entry: tuple[str, str]) -> tuple[Cell, Cell]:
        name, about = entry
        link = addnodes.pending_xref(
            "",
            nodes.literal(text=name),
            refdomain="std",
            reftype="doc",
            reftarget=f"/commands/{name}",
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )
        return [link], [nodes.Text(about)]


class Options(SphinxDirective):
    """Arguments and options of the command that is named, in the order of its help."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows = [(_left(each), _right(each)) for each in parameters(self.arguments[0])]
        return [table(("option", "what it does"), rows, (32, 68))]


def parameters(command: str) -> list[Any]:
    """The arguments and options of a command, without ``--help``."""
    return [each for each in load_command(command).params if "--help" not in each.opts]


def _left(parameter: Any) -> Cell:
    """The option's names, and what follows it; of an argument what stands for it."""
    context = click.Context(click.Command(""))
    shown, _ = parameter.get_help_record(context)
    if parameter.param_type_name == "argument":
        return [nodes.literal(text=shown.strip())]
    names = ", ".join(parameter.opts)
    values = re.sub(r"^[\s,]*(--[\w-]+[\s,]*)*", "", shown)
    # Choices may be many: a line breaks between them.
    return [nodes.literal(text=names), nodes.Text(" " + values.replace("|", " | "))]


def _right(parameter: Any) -> Cell:
    """What the help says, commands and files in it as code."""
    context = click.Context(click.Command(""))
    _, about = parameter.get_help_record(context)
    parts = re.split(r"`([^`]+)`", " ".join(about.split()))
    return [
        nodes.literal(text=part) if number % 2 else nodes.Text(part)
        for number, part in enumerate(parts)
    ]


def table(
    titles: Sequence[str], rows: Iterable[Sequence[Cell]], widths: Sequence[int]
) -> nodes.table:
    """A table of rows of cells, its columns as wide as the numbers say."""
    group = nodes.tgroup(cols=len(titles))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead("", _row([[nodes.Text(title)] for title in titles]))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["colwidths-given", "options"])


def _row(cells: Iterable[Cell]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("commands", Commands)
    app.add_directive("options", Options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
