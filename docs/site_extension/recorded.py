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
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rethink_heads.data.shapes import shapes_folder
from site_extension.commands import wrapped

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
    "figures": "figures --redraw figures",
    "describe": "describe shapes-tiny --head fc --head conv --head double-ext",
    "train": "train --preset shapes-tiny --head fc --run runs/fc model.fpn_channels=16 model.min_size=128"
    " model.max_size=128 training.max_iterations=40 'training.milestones=[30]' training.validate_every=40"
    " training.validate_images=10",
    "export": "export --run runs/resnet --to detectron2 --output exported",
    "import": "import exported/model.pth --run runs/imported",
}
"""By name what is run, in this order and in one folder, and without the program's name."""
WITH_LOG = ("train", "export", "import")
"""Those that say on standard error what a reader should know."""
BUSY = "the machine is busy"


class RecordedCommand(SphinxDirective):
    """Shows a recorded command and what it printed."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The command as a block of shell, its output as a block of text."""
        path = FOLDER / f"{self.arguments[0]}.txt"
        self.env.note_dependency(str(path))
        command, *lines = path.read_text(encoding="utf-8").splitlines()
        command, text = command.removeprefix(PROMPT), "\n".join(wrapped("\n".join(lines)))
        return [
            nodes.literal_block(command, command, language="bash"),
            nodes.literal_block(text, text, language="text", classes=["printed"]),
        ]


def record(names: Iterable[str]) -> None:
    """Run commands in a folder of their own and write what they print."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _make_runs()
        FOLDER.mkdir(exist_ok=True)
        for name in names:
            _record(name)


def _record(name: str) -> None:
    command = f"rethink-heads {COMMANDS[name]}"
    print(command, file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "rethink_heads", *shlex.split(COMMANDS[name])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if name in WITH_LOG else None,
        env=os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines() if BUSY not in line]
    text = "\n".join([PROMPT + command, *lines]).replace(str(shapes_folder()), "shapes")
    (FOLDER / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def _make_runs() -> None:
    """``runs/both``, ``runs/conv`` and, untrained, ``runs/resnet``, as if just trained; and tables to draw from."""
    from rethink_heads import build_detector, load_preset
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.data.sources import resolve_split
    from rethink_heads.detectors.rcnn.detector import save_detector
    from rethink_heads.runs import Run
    from tests.reference import tables

    class_names = CocoDataset(*resolve_split("shapes", "val")).class_names
    for name in tables.HEADS:
        config = tables.settings(name).with_overrides([f"measuring.images={IMAGES}"])
        run = Run.create(Path("runs", name), config)
        save_detector(tables.load(name, class_names), config, run.detector_path)
    shutil.copytree(ROOT / "figures" / "bccd-sweeps", Path("figures", "bccd-sweeps"))
    config = load_preset("coco-r50", "double", ["data.source=shapes"])
    run = Run.create(Path("runs", "resnet"), config)
    save_detector(build_detector(config, class_names, pretrained=False), config, run.detector_path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("recorded", RecordedCommand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    record(sys.argv[1:] or COMMANDS)
