"""``rethink-heads export``: a run's detector as another framework's files."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.console import log
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.options import JsonOption, value
from rethink_heads.report.output import Report
from rethink_heads.runs import Run

if TYPE_CHECKING:
    from rethink_heads.detectors.checkpoints.conversion import ExportedDetector

NAME = "export"
EXAMPLE = "Example: rethink-heads export --run runs/double --to detectron2 --output exported"
FRAMEWORKS = ("detectron2",)


@dataclass(frozen=True)
class ExportOptions:
    """Whose detector is written, for which framework and where."""

    run: Path = value("DIR", "Run folder.", default=MISSING)
    output: Path = value("FOLDER", "New folder for the weights and settings.", default=MISSING)
    to: str = value(
        "|".join(FRAMEWORKS), "Framework that is to read the detector.", default=FRAMEWORKS[0]
    )
    as_json: JsonOption = False


def command(options: ExportOptions) -> None:
    """Write a run's detector as detectron2's weights (model.pth) and settings (config.yaml).

    A single fc-head becomes detectron2's own box head; for the other heads detectron2 needs this package, whose
    rethink_heads.detectors.detectron2.config.add_rethink_heads_config(cfg) is called before the settings are read.
    What detectron2 computes otherwise with the same weights is said. `rethink-heads import` reads the files back.
    """
    rank_zero_only()
    if options.to not in FRAMEWORKS:
        raise UserError(f"unknown framework {options.to!r}: give --to {' or '.join(FRAMEWORKS)}")
    _check_free(options.output)
    opened = Run.open(options.run)

    from rethink_heads.detectors.checkpoints.conversion import to_detectron2
    from rethink_heads.detectors.rcnn import RCNN

    settings = opened.trained_config
    detector = opened.load()
    assert isinstance(detector, RCNN)
    exported = to_detectron2(detector, settings)
    with hold(options.output):
        _check_free(options.output)
        exported.write(options.output)
    _report(exported, options.output, options.to, options.as_json)


def _check_free(output: Path) -> None:
    """Raise UserError where a folder holds anything but hidden files, or what a killed export left: no weights."""
    from rethink_heads.detectors.checkpoints.conversion import CLASSES_NAME, CONFIG_NAME

    if not output.exists():
        return
    names = {each.name for each in output.iterdir()} if output.is_dir() else {output.name}
    if any(not name.startswith(".") for name in names - {CLASSES_NAME, CONFIG_NAME}):
        raise UserError(f"{output} is not an empty folder; give a new one with --output")


def _report(exported: ExportedDetector, output: Path, framework: str, as_json: bool) -> None:
    for sentence in exported.differences:
        log(f"{framework} does this otherwise: {sentence}")
    names = exported.file_names
    result = Report(NAME)
    result.data(
        export=[
            {
                "folder": output,
                "framework": framework,
                "roi_heads": exported.roi_heads,
                "differences": list(exported.differences),
            }
        ]
    )
    result.files = [output / name for name in names]
    result.lines(
        f"exported: {output} ({', '.join(names)})",
        f"{exported.roi_heads} of {len(exported.class_names)} classes, {len(exported.state)} weights",
        f"next: rethink-heads correlate --model detectron2:{output / names[1]} --class-names {output / names[2]}"
        " --annotations FILE --images DIR",
    )
    result.end(as_json)
