"""The directive ``run``: a command line that the build runs, with what it prints.

    ```{run}
    rethink-heads evaluate --detections loose.json --annotations instances.json
    ```

It runs in the folder of :mod:`site_extension.example`. A command that ends in another exit code than ``:code:`` (0)
fails the build; ``:quiet:`` shows the command alone, ``:from:`` and ``:lines:`` a part of what it printed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import cache
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from site_extension.example import folder

TIME_LIMIT = 120


class Run(SphinxDirective):
    """Shows a command and what it prints, standard error with it."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "code": directives.nonnegative_int,
        "quiet": directives.flag,
        "lines": directives.positive_int,
    }

    def run(self) -> list[nodes.Node]:
        """The command as a block of shell, its output as a block of text."""
        command = "\n".join(self.content)
        code, printed = run_command(command)
        if code != self.options.get("code", 0):
            raise self.error(f"exit code {code} of {command}\n{printed}")
        shown: list[nodes.Node] = [nodes.literal_block(command, command, language="bash")]
        if "quiet" not in self.options:
            lines = printed.rstrip().splitlines()
            if len(lines) > (most := self.options.get("lines", len(lines))):
                lines = [*lines[:most], "..."]
            text = "\n".join(line.rstrip() for line in lines)
            shown.append(nodes.literal_block(text, text, language="text", classes=["printed"]))
        for block in shown:
            self.set_source_info(block)
        return shown


@cache
def run_command(command: str) -> tuple[int, str]:
    """Run ``rethink-heads ...`` in the folder of results files and return exit code and output.

    Raises:
        ValueError: it is another program.
    """
    program, *arguments = shlex.split(command.replace("\\\n", " "), comments=True)
    if program != "rethink-heads":
        raise ValueError(f"{program} is not run by the documentation, only rethink-heads is")
    done = subprocess.run(
        [sys.executable, "-m", "rethink_heads", *arguments],
        cwd=folder(),
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=TIME_LIMIT,
        check=False,
    )
    return done.returncode, done.stdout


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("run", Run)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
