"""What commands print that need a detector: recorded once, shown by the directive ``recorded``.

    ```{recorded} correlate
    ```

The detectors are those that the tests keep (``tests/reference``): a double-ext and a conv-head of half a megabyte each,
trained for 600 iterations on the generated set, looked at on its first 60 validation images. So everybody can record
again, in some minutes: ``python -m site_extension.recorded`` in ``docs/``. A test runs every command on tiny inputs
and holds what is recorded to the tables and columns that it prints then.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "commands" / "recorded"
PROMPT = "$ "
IMAGES = 60
COMMANDS = {
    "correlate": "correlate --run runs/both --head fc --head conv",
    "correlate-stages": "correlate --run runs/both --head fc --head conv --stage all",
    "regress": "regress --run runs/both --head fc --head conv",
    "sensitivity": "sensitivity --run runs/both",
    "objects": "objects --run runs/both --head fc --head conv --worst 5",
    "evaluate": "evaluate --run runs/both --run runs/conv --head conv --head double-ext",
    "diagnose": "diagnose --run runs/both --head fc --head conv",
    "report": "report --run runs/both --head fc --head conv --output report.html",
    "plan": "plan --run runs/both --proposals-per-object 200 --seconds 5",
    "figures": "figures --run runs/both",
    "export": "export --run runs/resnet --to detectron2 --output exported",
    "import": "import exported/model.pth --data data --run runs/imported",
}
"""By name what is run, in this order and in one folder, and without the program's name."""


class Recorded(SphinxDirective):
    """Shows a recorded command and what it printed, or the first lines of that."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"lines": directives.positive_int}

    def run(self) -> list[nodes.Node]:
        """The command as a block of shell, its output as a block of text."""
        path = FOLDER / f"{self.arguments[0]}.txt"
        self.env.note_dependency(str(path))
        command, *lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > (most := self.options.get("lines", len(lines))):
            lines = [*lines[:most], "..."]
        command, text = command.removeprefix(PROMPT), "\n".join(lines)
        return [
            nodes.literal_block(command, command, language="bash"),
            nodes.literal_block(text, text, language="text", classes=["printed"]),
        ]


def record() -> None:
    """Run all commands on the kept detectors and write what they print."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _make_runs()
        FOLDER.mkdir(exist_ok=True)
        for name, arguments in COMMANDS.items():
            command = f"rethink-heads {arguments}"
            print(command, file=sys.stderr)
            done = subprocess.run(
                [sys.executable, "-m", "rethink_heads", *shlex.split(arguments)],
                stdout=subprocess.PIPE,
                env=os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
                text=True,
                check=True,
            )
            lines = [PROMPT + command, *(line.rstrip() for line in done.stdout.splitlines())]
            (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_runs() -> None:
    """``runs/both``, ``runs/conv`` and, untrained, ``runs/resnet``, as if they had just been trained."""
    from rethink_heads import build_detector, load_preset
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.data.sources import resolve_split
    from rethink_heads.detectors.rcnn.checkpoints import save_detector
    from rethink_heads.runs import Run
    from tests.reference import tables

    class_names = CocoDataset(*resolve_split("shapes", "val")).class_names
    for name in tables.HEADS:
        config = tables.settings(name).with_overrides([f"measuring.images={IMAGES}"])
        run = Run.create(Path("runs", name), config)
        save_detector(tables.load(name, class_names), config, run.detector_path)
    config = load_preset("coco-r50", "double", ["data.source=shapes"])
    run = Run.create(Path("runs", "resnet"), config)
    save_detector(build_detector(config, class_names, pretrained=False), config, run.detector_path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("recorded", Recorded)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    record()
