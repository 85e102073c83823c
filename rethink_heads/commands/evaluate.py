"""``rethink-heads evaluate``: average precision of every head of a run, its errors and its scores' calibration."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rethink_heads.commands.choices import DataChoice, MeasuringChoice
from rethink_heads.commands.comparing import legends_for, shared_folder
from rethink_heads.commands.detected import Detected, Tables, as_json_record, print_report
from rethink_heads.commands.detectors import DetectorChoice
from rethink_heads.commands.options import (
    AnnotationsOption,
    ClassMapOption,
    ClassNamesOption,
    DataOption,
    DeviceOption,
    HeadsOption,
    ImagesOption,
    JsonOption,
    MaxImagesOption,
    ModelsOption,
    RunsOption,
    SeedOption,
    SplitOption,
    WeightsOption,
    reporting_errors,
)
from rethink_heads.commands.sessions import chosen_heads, logged, opened
from rethink_heads.commands.studies import asked_heads, check_known
from rethink_heads.console import print_json, say, work
from rethink_heads.errors import UserError
from rethink_heads.runs import measurements_name, with_fusion
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    from rethink_heads.detectors.rcnn import RCNN

NAME = "evaluate"
EXAMPLE = (
    "Examples: rethink-heads evaluate --run runs/demo --head fc --head conv\n\n"
    "rethink-heads evaluate --run runs/fc --run runs/conv --errors --calibration --compare"
    " --output results/fc-and-conv"
)

FUSION_RULES = ("complementary", "max", "mean")
MOST_FOR_ALL_PAIRS = 4

ErrorsOption = Annotated[
    bool,
    typer.Option("--errors", help="Split what AP loses into TIDE's kinds of error."),
]
ErrorIouOption = Annotated[
    float,
    typer.Option(
        "--error-iou",
        metavar="IOU",
        min=0.1,
        max=1.0,
        help="For --errors: least IoU of a true positive.",
    ),
]
CalibrationOption = Annotated[
    bool,
    typer.Option("--calibration", help="Set scores against precision and IoU: D-ECE and LaECE."),
]
CompareOption = Annotated[
    bool,
    typer.Option(
        "--compare",
        help=f"Differences of every two heads on the same draws of images; of more than"
        f" {MOST_FOR_ALL_PAIRS} heads, of each from the first. Several models are always compared.",
    ),
]
FusionOption = Annotated[
    str | None,
    typer.Option(
        "--fusion",
        metavar="|".join(FUSION_RULES),
        help="Fuse two classifiers' scores by this rule. Without it: the rule of the run.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder that gets tables/ and figures/ of all heads asked for. Without it they are"
        " written into the run, if there is one run and all of its heads are asked for.",
        show_default=False,
    ),
]


@reporting_errors
def command(
    run: RunsOption = None,
    model: ModelsOption = None,
    weights: WeightsOption = None,
    class_names: ClassNamesOption = None,
    class_map: ClassMapOption = None,
    head: HeadsOption = None,
    errors: ErrorsOption = False,
    error_iou: ErrorIouOption = 0.5,
    calibration: CalibrationOption = False,
    compare: CompareOption = False,
    fusion: FusionOption = None,
    output: OutputOption = None,
    data: DataOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    max_images: MaxImagesOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print COCO's average precisions of each head on a run's test split or other data.

    With 95% intervals from a bootstrap over images. Detections are kept in the run and used again.
    """
    # Before the heavy imports, so that a mistake is told at once.
    heads_asked = asked_heads(head)
    if not run and not model:
        check_known(heads_asked)
    if fusion is not None and fusion not in FUSION_RULES:
        raise UserError(f"unknown fusion rule {fusion!r}; the rules are {', '.join(FUSION_RULES)}")
    data_choice = DataChoice(data, annotations, images, split)
    measuring = MeasuringChoice(images=max_images, class_maps=class_map or ())
    if output is not None:
        _check_folder(output)
    detectors = DetectorChoice.of(run, model, weights, class_names)
    runs = detectors.opened(device, data_choice, measuring)
    if model and len(runs) > 1:
        compare, output = True, output or shared_folder(runs)
    heads_of = _heads(runs, heads_asked)
    if fusion is not None:
        _check_fused(runs, heads_of)
    found = [
        _detect(each, heads, data_choice, measuring.of(index, len(runs)), fusion, device)
        for index, (each, heads) in enumerate(zip(runs, heads_of, strict=True))
    ]
    if compare or output is not None:
        _check_same_data(found)
    options = {"errors": errors, "calibration": calibration, "error_iou": error_iou}
    options["seed"] = runs[0].config.seed if seed is None else seed
    tables = _tables(found, options, compare)
    written = _write(found, tables, output, complete=head is None)
    if as_json:
        print_json(as_json_record(found, tables, written))
    else:
        print_report(found, tables)


def _check_folder(output: Path) -> None:
    """Raise UserError before the detecting, which takes long, where nothing can be written."""
    there = next(place for place in (output, *output.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "cannot be written" if there.is_dir() else "is not a folder"
        raise UserError(f"{there} {reason}; choose another folder with --output")


def _heads(runs: Sequence[StudyFolder], asked: Sequence[str] | None) -> list[list[str]]:
    """By run: the heads asked for that it has, at least one; each is one of some run's."""
    there = [each.heads for each in runs]
    of_any = {name for readings in there for name in readings}
    heads = []
    for each, readings in zip(runs, there, strict=True):
        shared = [name for name in asked or () if name in readings or name not in of_any]
        heads.append(chosen_heads(readings, shared or asked, str(each.path)))
    return heads


def _fuses(head: str) -> bool:
    from rethink_heads.heads import READINGS

    return head in READINGS and len(READINGS[head].classifiers) > 1


def _check_fused(runs: Sequence[StudyFolder], heads_of: Sequence[Sequence[str]]) -> None:
    """Raise UserError where a rule of fusion would change nothing."""
    if not any(_fuses(head) for heads in heads_of for head in heads):
        of_runs = zip(runs, heads_of, strict=True)
        looked_at = "; ".join(f"{run.path} as {', '.join(heads)}" for run, heads in of_runs)
        raise UserError(
            f"--fusion is for heads that fuse two classifiers, such as double-ext; here is {looked_at}"
        )


def _detect(
    run: StudyFolder,
    heads: Sequence[str],
    data: DataChoice,
    measuring: MeasuringChoice,
    fusion: str | None,
    device: str,
) -> Detected:
    """Detect with a detector, or read what was detected before."""
    from rethink_heads.detectors.rcnn import RCNN
    from rethink_heads.measure.detections import detect_dataset

    found = opened(run, data, measuring, device)
    detector, dataset, provenance = found.detector, found.dataset, found.provenance
    # Unlike the measuring of predefined proposals, detecting is quick: all images by default.
    if measuring.images is not None:
        dataset = dataset.subset(measuring.images)
    name = measurements_name(run.config, found.config, run.config.seed)
    # Task weights may have left a reading of the structure untrained.
    trained = [head for head in heads if head in detector.heads]
    if not trained:
        raise UserError(
            f"the task weights of {run.path} left {', '.join(heads)} untrained;"
            f" it has {', '.join(detector.heads)}"
        )
    ours = getattr(detector, "detector", detector)
    if fusion is not None and isinstance(ours, RCNN) and any(map(_fuses, trained)):
        name, provenance = _with_fusion(ours, fusion, name, provenance)
    with logged(run, f"detecting {name}"), work():
        frame = detect_dataset(detector, dataset, run.name, run.measurements(name), provenance)
    return Detected(run, dataset, name, [(run.name, head) for head in trained], frame)


def _with_fusion(
    detector: RCNN, rule: str, name: str, provenance: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """Have a detector fuse scores by a rule; name and provenance of what it then detects."""
    if rule == detector.roi_heads.fusion:
        return name, provenance
    detector.roi_heads.fusion = rule
    return with_fusion(name, provenance, rule)


def _check_same_data(found: Sequence[Detected]) -> None:
    first = found[0]
    for other in found[1:]:
        same = (first.dataset.file_fingerprint, first.dataset.image_ids) == (
            other.dataset.file_fingerprint,
            other.dataset.image_ids,
        )
        if same and first.dataset.class_names != other.dataset.class_names:
            raise UserError(
                f"{first.run.name} and {other.run.name} were evaluated on different classes of"
                f" {first.dataset.annotations_path} and cannot be compared; leave out of both, with"
                " --class-map, what one of them lacks"
            )
        if not same:
            raise UserError(
                f"{first.run.name} and {other.run.name} were evaluated on different data and cannot be compared;"
                " give --data FOLDER, or --annotations FILE and --images DIR, to evaluate all runs alike"
            )


def _tables(found: Sequence[Detected], options: dict[str, Any], compare: bool) -> Tables:
    """All runs' tables, those of the same data made together."""
    import pandas as pd

    from rethink_heads.detection_results import detection_tables

    if compare:
        sides = [side for each in found for side in each.sides]
        pairs = list(itertools.combinations(sides, 2))
        if len(sides) > MOST_FOR_ALL_PAIRS:
            pairs = [pair for pair in pairs if pair[0] == sides[0]]
        detections = pd.concat([each.detections for each in found], ignore_index=True)
        return detection_tables(detections, found[0].dataset, sides, pairs=pairs, **options)
    parts = [
        detection_tables(each.detections, each.dataset, each.sides, **options) for each in found
    ]
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


def _write(
    found: Sequence[Detected], tables: Tables, output: Path | None, complete: bool
) -> list[Path]:
    from rethink_heads.detection_results import write_detection_results

    if output is not None:
        folders = output / "tables", output / "figures"
    elif len(found) == 1 and complete:
        run, name = found[0].run, found[0].name
        folders = run.tables(name), run.figures(name)
    else:
        return []
    with work(), legends_for([each.run for each in found]):
        written = write_detection_results(tables, *folders)
    say(f"written: {len(written)} files in {folders[0]} and {folders[1]}")
    return written
