"""The directive ``run``: a command line that the build runs, with what it prints.

    ```{run}
    rethink-heads evaluate --detections loose.json --annotations instances.json
    ```

It runs in the folder of :mod:`site_extension.example`. A command that ends in another exit code than ``:code:`` (0)
fails the build. Shown is standard output, of a mistake standard error; ``:lines:`` shows its first lines, ``:keep:``
puts a file that the command writes into the site, with a link to it.

``python -m site_extension.commands`` runs commands for the directive: it imports the package once, and forks for each.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rethink_heads import cli
from site_extension.example import folder

KEPT = "written"
"""Folder of the site that files written by commands lie in."""
WIDTH = 100
IMPORTED = (
    "commands.evaluate",
    "commands.diagnose",
    "report.contents",
    "evaluation.lost_precision",
)


class Run(SphinxDirective):
    """Shows a command and what it prints."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "code": directives.nonnegative_int,
        "lines": directives.positive_int,
        "keep": directives.path,
    }

    def run(self) -> list[nodes.Node]:
        """The command as a block of shell, its output as a block of text."""
        command = "\n".join(self.content)
        expected = self.options.get("code", 0)
        code, printed, said = run_command(command)
        if code != expected:
            raise self.error(f"exit code {code} of {command}\n{printed}{said}")
        lines = _wrapped(said if expected else printed)
        if len(lines) > (most := self.options.get("lines", len(lines))):
            lines = [*lines[:most], "..."]
        text = "\n".join(lines)
        shown: list[nodes.Node] = [
            nodes.literal_block(command, command, language="bash"),
            nodes.literal_block(text, text, language="text", classes=["printed"]),
        ]
        if kept := self.options.get("keep"):
            target = f"{'../' * self.env.docname.count('/')}{KEPT}/{kept}"
            link = nodes.reference("", f"Open {kept}", refuri=target, internal=False)
            shown.append(nodes.paragraph("", "", link))
            self.env.metadata[self.env.docname].setdefault(KEPT, []).append(kept)
        for block in shown:
            self.set_source_info(block)
        return shown


def _wrapped(printed: str) -> list[str]:
    """Lines as a terminal would show them, but for tables, which a page can scroll."""
    lines = []
    for line in printed.rstrip().splitlines():
        is_table = "   " in line.strip() or line.startswith("─")
        lines += [line.rstrip()] if is_table else textwrap.wrap(line, WIDTH) or [""]
    return lines


@cache
def run_command(command: str) -> tuple[int, str, str]:
    """Run ``rethink-heads ...`` in the folder of results files.

    Returns:
        Exit code, standard output and standard error.

    Raises:
        ValueError: it is another program.
    """
    program, *arguments = shlex.split(command.replace("\\\n", " "), comments=True)
    if program != "rethink-heads":
        raise ValueError(f"{program} is not run by the documentation, only rethink-heads is")
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps(arguments), file=server.stdin, flush=True)
    code, printed, said = json.loads(server.stdout.readline())
    return code, printed, said


@cache
def _server() -> subprocess.Popen[str]:
    """The process that runs commands; it ends with this one, which closes its input."""
    packages = os.pathsep.join([str(Path(__file__).parents[1]), os.environ["PYTHONPATH"]])
    return subprocess.Popen(
        [sys.executable, "-m", "site_extension.commands"],
        cwd=folder(),
        env=os.environ | {"PYTHONPATH": packages},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def serve() -> None:
    """Read a JSON list of arguments a line, answer each with a line of JSON."""
    for name in IMPORTED:
        importlib.import_module(f"rethink_heads.{name}")
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
            child = os.fork()
            if child == 0:
                _run_and_exit(json.loads(line), printed.fileno(), said.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for stream in (printed, said):
                stream.seek(0)
            print(json.dumps([code, printed.read(), said.read()]), flush=True)


def _run_and_exit(arguments: list[str], printed: int, said: int) -> None:
    os.dup2(printed, 1)
    os.dup2(said, 2)
    sys.argv = ["rethink-heads", *arguments]
    code = 1
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _copy_kept(app: Sphinx, exception: Exception | None) -> None:
    names = [name for page in app.env.metadata.values() for name in page.get(KEPT, [])]
    # Pages that were read by an earlier build ran nothing in this one.
    for name in names if exception is None else []:
        if not (folder() / name).is_file():
            continue
        (app.outdir / KEPT).mkdir(exist_ok=True)
        shutil.copyfile(folder() / name, app.outdir / KEPT / name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("run", Run)
    app.connect("build-finished", _copy_kept)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


if __name__ == "__main__":
    serve()
