"""``rethink-heads import``: a run from another framework's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.config import load_preset
from rethink_heads.console import log
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.options import (
    DataOption,
    JsonOption,
    OverridesArgument,
    RunOption,
    argument,
    value,
)
from rethink_heads.report.output import Report
from rethink_heads.runs import Run, default_runs_root
from rethink_heads.subject import Datasets

if TYPE_CHECKING:
    from rethink_heads.detectors.checkpoints.conversion import ImportedDetector

NAME = "import"
EXAMPLE = (
    "Example: rethink-heads import dh_faster_rcnn_r50_fpn_1x_coco.pth --run runs/mmdetection"
    " --data FOLDER"
)
# Frameworks whose files have their settings beside them.
CONFIGURED = ("detectron2",)


@dataclass(frozen=True)
class ImportOptions:
    """The file, what it does not say of itself, and where the run goes."""

    file: Path = argument(
        "FILE", "Checkpoint of the framework (.pth, or .pkl of detectron2's zoo)."
    )
    overrides: OverridesArgument = None
    layout: str | None = value(
        "maskrcnn-benchmark|mmdetection|detectron2",
        "Framework that wrote the file. Without it: recognised by the weights' names.",
    )
    backbone: str | None = value(
        "resnet50|resnet101|...",
        "Backbone that the file must have. Without it: read off the weights.",
    )
    head: str | None = value(
        "double|double-ext|double-reverse",
        "What a double head was trained as, where its file does not say it. [default: double-ext]",
    )
    config: Path | None = value(
        "FILE",
        "detectron2's configuration (YAML) of the weights. Without it: config.yaml beside them, or"
        " detectron2's defaults.",
    )
    run: RunOption = None
    data: DataOption = None
    as_json: JsonOption = False


def command(options: ImportOptions) -> None:
    """Make a run of a detector that maskrcnn-benchmark, mmdetection or detectron2 trained.

    For the Double-Head authors' released files, mmdetection's dh-faster-rcnn_r50_fpn_1x_coco and this
    package's heads trained in detectron2; plain Faster R-CNNs with FPN of each framework are read too. The other
    commands treat the run as one that was trained here. --data is kept as the run's data; its classes name those
    of a file that names none.
    """
    rank_zero_only()
    # A setting that does not exist is told before a large file is read.
    settings = load_preset("coco-r50", overrides=options.overrides)
    class_names = None
    if options.data is not None:
        settings = settings.with_data(source=options.data)
        class_names = Datasets().tell(settings).class_names

    from rethink_heads.detectors.checkpoints.conversion import import_detector
    from rethink_heads.detectors.rcnn.detector import same_weights, save_detector

    imported = import_detector(
        options.file,
        options.layout,
        options.backbone,
        options.head,
        class_names,
        options.overrides or [],
        options.config,
    )
    config = imported.config.with_data(source=settings.data.source)
    path = options.run or default_runs_root() / options.file.stem
    with hold(path):
        made = Run.create(path, config)
        if not made.detector_path.is_file():
            with made.logged("import"):
                save_detector(imported.detector, config, made.detector_path)
        elif not same_weights(made.detector_path, imported.detector):
            raise UserError(
                f"{made.path} has a detector with other weights than {options.file}; choose another folder with --run"
            )
    _report(imported, made, options.as_json)


def _report(imported: ImportedDetector, run: Run, as_json: bool) -> None:
    from rethink_heads.detectors.checkpoints.layouts import in_groups

    beside = [*in_groups(imported.left_out), *imported.extras]
    if beside:
        log(f"left out of the file, since a detector here does not need it: {', '.join(beside)}")
    if imported.settings_path:
        log(f"settings read from {imported.settings_path}")
    elif imported.layout in CONFIGURED:
        log(
            f"nothing says the file's settings: {imported.layout}'s defaults are taken (--config FILE)"
        )
    for sentence in imported.remarks:
        log(sentence)
    model = imported.config.model
    result = Report(NAME)
    result.data(
        run=[
            {
                "run": run.path,
                "detector": run.detector_path,
                "layout": imported.layout,
                "backbone": model.backbone,
                "head": imported.config.head,
                "heads": list(imported.detector.heads),
                "classes": len(imported.detector.class_names),
                "left_out": list(imported.left_out),
            }
        ]
    )
    result.files = [run.detector_path]
    result.lines(
        f"imported: {run.detector_path}",
        f"{imported.layout}, {model.backbone}, {len(imported.detector.class_names)} classes;"
        f" heads: {', '.join(imported.detector.heads)}",
        f"next: rethink-heads correlate --run {run.path}",
    )
    result.end(as_json)
