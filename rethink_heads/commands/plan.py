"""``rethink-heads plan``: how long a study will take, how much memory and how much disk, before it is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import bounds
from rethink_heads.bounds import HEADS
from rethink_heads.config import StudyConfig, load_preset
from rethink_heads.console import redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.machine import resolve_device
from rethink_heads.options import (
    DataOptions,
    DetectorOptions,
    DeviceOption,
    JsonOption,
    MeasuringOptions,
    SeedOption,
    StudyOptions,
    argument,
    value,
)
from rethink_heads.report.output import Report
from rethink_heads.run_options import open_runs, with_options
from rethink_heads.study import resolve
from rethink_heads.subject import Datasets

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.planning import Counts, Estimate

NAME = "plan"
EXAMPLE = (
    "Examples: rethink-heads plan coco-r50 --head fc --data FOLDER --split val\n\n"
    "rethink-heads plan --run runs/demo --proposals-per-object 1464 --devices 16"
)

DEVICES = (1, 2, 4, 8)
SAMPLES = (10, 30)
BUDGET = 60.0


@dataclass(frozen=True)
class OneDetectorOptions(DetectorOptions):
    """A detector to plan for, where it is no preset's."""

    run: list[Path] | None = value("DIR", "Run folder.")


@dataclass(frozen=True)
class PlannedMeasuringOptions(MeasuringOptions):
    """What is to be measured; the preset stands among the settings."""

    overrides: list[str] | None = argument(
        "[PRESET|FILE] [KEY=VALUE]...",
        "A preset, whose detector is built with random weights (time does not depend on them), or --run or"
        " --model; then settings to change.",
        None,
    )


@dataclass(frozen=True)
class PlanOptions:
    """How it is planned."""

    head: str | None = value("|".join(HEADS), "The preset's head.")
    devices: int | None = value(
        "N",
        "Devices like the one at hand that share the images. Without it: 1, 2, 4 and 8.",
        bounds.DEVICES,
    )
    seconds: float = value(
        "S",
        "Time to calibrate: no further objects are measured after it. One of each size always is.",
        bounds.SECONDS,
        BUDGET,
    )
    device: DeviceOption = "auto"
    seed: SeedOption = None
    as_json: JsonOption = False


@dataclass(frozen=True)
class Subject:
    """What is planned for: a detector and data with the same classes."""

    title: str
    detector: Detector
    dataset: CocoDataset
    config: StudyConfig
    seed: int


def command(
    detectors: OneDetectorOptions,
    data: DataOptions,
    measuring: PlannedMeasuringOptions,
    plan: PlanOptions,
) -> None:
    """Say what measuring a detector's heads on a data set will take, without doing it.

    A few objects of each size are measured on the machine at hand, in each of the ways that are planned: with all
    proposals of the grid and with a tenth and a thirtieth of them, or with --proposals-per-object. The images and
    objects are counted from the annotation file. Training is not counted, nor are the tables and figures, which take
    seconds to minutes after the measuring.
    """
    rank_zero_only()
    given = measuring.overrides or ()
    overrides, names = ([text for text in given if ("=" in text) is sets] for sets in (True, False))
    if len(names) > 1:
        raise UserError(f"{', '.join(names)}: give one preset, and settings as KEY=VALUE")
    name = names[0] if names else None
    if (name is not None) + len(detectors.run or ()) + len(detectors.model or ()) != 1:
        raise UserError("give one preset, one --run or one --model to plan for")
    # A preset's settings are all changed at once; of a trained detector only those of measuring can be.
    chosen = replace(measuring, overrides=overrides if name is None else None)
    options = StudyOptions(detectors, None, data, chosen, plan.device, plan.seed)
    if name is None:
        if plan.head is not None:
            raise UserError("--head belongs to a preset; of a run or model all heads are measured")
        (opened,) = resolve(open_runs(options), options)
        shared = opened.share_classes()
        subject = Subject(
            str(opened.run.path), shared.detector, shared.dataset, opened.config, opened.seed
        )
    else:
        subject = _preset_subject(name, plan.head, overrides, options)
    settings = _settings(subject.config, measuring.proposals_per_object)
    numbers = DEVICES if plan.devices is None else tuple(sorted({1, plan.devices}))

    from rethink_heads.planning import calibrate, count, estimate

    own = subject.config.measuring
    counts = count(subject.dataset, own, subject.seed)
    with redirect_stdout():
        found = calibrate(
            subject.detector, subject.dataset, own, settings, subject.seed, plan.seconds
        )
    estimates = [estimate(each, counts, numbers, own.memory_mb) for each in found]
    report(subject, counts, estimates, len(found[0].image_seconds), plan.as_json)


def _preset_subject(
    name: str, head: str | None, overrides: list[str], options: StudyOptions
) -> Subject:
    config = with_options(load_preset(name, head, overrides, options.seed), options)
    where = resolve_device(options.device)
    dataset = Datasets().tell(config)
    with redirect_stdout():
        import torch

        from rethink_heads.detectors.rcnn import build_detector

        torch.manual_seed(config.seed)
        detector = build_detector(config, dataset.class_names, pretrained=False).to(where).eval()
    title = f"{config.preset}, head {config.head}, untrained"
    return Subject(title, detector, dataset, config, config.seed)


def _settings(config: StudyConfig, asked: int | None) -> list[int | None]:
    """Proposals an object that are planned for; None is the whole grid."""
    if asked is not None:
        return [asked]
    grid = config.measuring.grid_steps**4
    own = config.measuring.proposals_per_object
    counts = [grid // share for share in SAMPLES]
    samples = {*counts, *([] if own is None or own >= grid else [own])}
    return [None, *sorted(samples, reverse=True)]


def report(
    subject: Subject, counts: Counts, estimates: Sequence[Estimate], tried: int, as_json: bool
) -> None:
    """Print what was counted, and the tables of time, memory and disk, from trying some objects."""
    measuring, machine = subject.config.measuring, _machine(subject.detector)
    grid = measuring.grid_steps**4
    result = Report(NAME)
    study = {
        "subject": subject.title,
        "data": subject.dataset.annotations_path,
        "heads": list(subject.detector.heads),
        "images": counts.images,
        "images_without_objects": counts.empty_images,
        "objects": {**counts.objects, "all": counts.all_objects},
        "grid": grid,
        "precision": measuring.precision,
        "device": machine,
        "calibrated_on_objects": tried,
    }
    result.data(study=[study], estimates=map(vars, estimates))
    sizes = ", ".join(f"{number} {size}" for size, number in counts.objects.items())
    result.lines(
        f"{subject.title} (heads: {', '.join(subject.detector.heads)}) on {subject.dataset.annotations_path}",
        f"{counts.images} images with {counts.all_objects} objects ({sizes});"
        f" {counts.empty_images} images without; {grid} proposals an object, or fewer where the image ends",
        f"calibrated on {tried} objects: {machine}, {measuring.precision}",
        "",
    )
    _show_estimates(result, estimates, grid, list(counts.objects))
    result.lines(
        "+- is two standard errors from how much the calibrating objects differ; a machine that has more or less to"
        " do than now is not in it. Devices are like the one at hand, a CPU being a machine of its own.",
        f"The memory has room for --memory-mb ({measuring.memory_mb} MiB), which the heads may hold at once.",
    )
    result.end(as_json)


def _show_estimates(
    result: Report, estimates: Sequence[Estimate], grid: int, sizes: Sequence[str]
) -> None:
    """Add the tables of time, and of memory and disk: a row for each number of proposals."""
    from rethink_heads.console import duration
    from rethink_heads.report.cells import estimate

    proposals = [
        f"{grid} (all)"
        if each.proposals is None
        else f"{each.proposals} (1/{grid / each.proposals:.3g})"
        for each in estimates
    ]
    time: dict[str, list[str]] = {"proposals": proposals}
    for size in sizes:
        seconds = (each.object_seconds.get(size) for each in estimates)
        time[f"{size} (s)"] = ["-" if each is None else f"{each:.3g}" for each in seconds]
    for number in estimates[0].seconds:
        devices = "1 device" if number == 1 else f"{number} devices"
        time[devices] = [duration(each.seconds[number]) for each in estimates]
    time["+-"] = [f"{each.uncertainty:.0%}" for each in estimates]
    result.table(
        "Time: seconds an object by its size, and of the whole study by number of devices", time
    )
    space = {"proposals": proposals}
    for title, name, digits in (
        ("memory (MiB)", "memory_mb", 0),
        ("GPU memory (MiB)", "device_memory_mb", 0),
        ("disk (MiB)", "disk_mb", 1),
        ("while measuring (MiB)", "disk_while_measuring_mb", 1),
    ):
        values = [getattr(each, name) for each in estimates]
        # On a CPU there is no memory of a GPU.
        if None not in values:
            space[title] = [estimate(value, digits=digits) for value in values]
    result.table("Memory of each process, and disk", space)


def _machine(detector: Detector) -> str:
    import torch

    if detector.device.type == "cuda":
        return torch.cuda.get_device_name(detector.device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
