"""``rethink-heads train``: train one detector."""

from __future__ import annotations

from dataclasses import dataclass

from rethink_heads.bounds import HEADS
from rethink_heads.config import load_preset
from rethink_heads.console import log
from rethink_heads.errors import UserError
from rethink_heads.options import (
    AnnotationsOption,
    DataOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    OverridesArgument,
    RunOption,
    SeedOption,
    value,
)
from rethink_heads.report.output import Report
from rethink_heads.run_options import train_run
from rethink_heads.runs import Run, default_runs_root

NAME = "train"
EXAMPLE = (
    "Example: rethink-heads train --preset bccd-small --head conv --data FOLDER"
    " --run runs/bccd-conv training.max_iterations=2000"
)


@dataclass(frozen=True)
class TrainOptions:
    """What is trained on what."""

    overrides: OverridesArgument = None
    preset: str | None = value(
        "NAME|FILE",
        "shapes-tiny, bccd-small, voc-lite, coco-r50, coco-r101, voc07-r50, voc0712-r50, all also with a head's name"
        " after a hyphen, as coco-r50-double-head; or a YAML file of your own."
        " [default: shapes-tiny]",
    )
    head: str | None = value(
        "|".join(HEADS),
        "Head that the detector gets; the paper's names, such as double-head-reverse, are understood too."
        " double-ext trains both branches on both tasks, so that one detector has four heads."
        " [default: double-ext]",
    )
    run: RunOption = None
    data: DataOption = None
    annotations: AnnotationsOption = None
    images: ImagesOption = None
    device: DeviceOption = "auto"
    seed: SeedOption = None
    as_json: JsonOption = False


def command(options: TrainOptions) -> None:
    """Train a detector, or go on with an interrupted training.

    With --run of an existing run and no other option, its own settings are taken. --annotations and
    --images are those to train on; give data.val_annotations=... and data.val_images=... with them.
    """
    run, overrides = options.run, options.overrides
    free = TrainOptions(
        run=run, overrides=overrides, device=options.device, as_json=options.as_json
    )
    if run is not None and run.exists() and options == free:
        config = Run.open(run).trained_config.with_overrides(overrides or [])
    else:
        if (options.annotations is None) != (options.images is None):
            raise UserError("--annotations and --images go together: give both or neither")
        changes = {
            "source": options.data,
            "train_annotations": options.annotations,
            "train_images": options.images,
        }
        preset = options.preset or "shapes-tiny"
        config = load_preset(preset, options.head, overrides, options.seed).with_data(
            **{name: value for name, value in changes.items() if value is not None}
        )
    name = f"{config.preset}-{config.head}-{config.seed}"
    path = run or default_runs_root() / name
    log(f"training {config.preset}, head {config.head}, seed {config.seed}, into {path}")
    trained = train_run(path, config, options.device)
    result = Report(NAME)
    made = {"preset": config.preset, "head": config.head, "seed": config.seed}
    result.data(run=[{"run": trained.path, "detector": trained.detector_path, **made}])
    result.files = [trained.detector_path]
    result.lines(
        f"trained: {trained.detector_path}", f"next: rethink-heads correlate --run {trained.path}"
    )
    result.end(options.as_json)
