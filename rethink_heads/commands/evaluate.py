"""``rethink-heads evaluate``: average precision of every head of a run, its errors and its scores' calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rethink_heads import bounds
from rethink_heads.commands.classes import common_classes
from rethink_heads.commands.comparing import (
    is_of_detectors,
    legends_for,
    note_comparison,
    result_folders,
    written_folder,
)
from rethink_heads.commands.detected import (
    Detected,
    Tables,
    as_json_record,
    open_detected,
    print_report,
)
from rethink_heads.commands.detecting import detect, detecting, fuses
from rethink_heads.commands.detectors import opened_folders
from rethink_heads.commands.sessions import chosen_heads
from rethink_heads.commands.studies import asked_heads, check_known
from rethink_heads.console import print_json, say, work
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.options import (
    DataOptions,
    DetectorOptions,
    DeviceOption,
    HeadsOption,
    JsonOption,
    MaxImagesOption,
    MeasuringOptions,
    SeedOption,
    StudyOptions,
    within,
)
from rethink_heads.study_folder import StudyFolder

NAME = "evaluate"
EXAMPLE = (
    "Examples: rethink-heads evaluate --run runs/demo --head fc --head conv\n\n"
    "rethink-heads evaluate --run runs/fc --run runs/conv --errors --calibration --compare"
    " --output results/fc-and-conv"
)

FUSION_RULES = ("complementary", "max", "mean")

ErrorsOption = Annotated[
    bool,
    typer.Option("--errors", help="Split what AP loses into TIDE's kinds of error."),
]
ErrorIouOption = Annotated[
    float,
    typer.Option(
        "--error-iou",
        metavar="IOU",
        callback=within(bounds.ERROR_IOU),
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
        help="Differences of heads on the same draws of images: of every two of a run, of the same"
        " head of several runs. Several models are always compared.",
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


def command(
    detectors: DetectorOptions,
    data: DataOptions,
    head: HeadsOption = None,
    errors: ErrorsOption = False,
    error_iou: ErrorIouOption = 0.5,
    calibration: CalibrationOption = False,
    compare: CompareOption = False,
    fusion: FusionOption = None,
    output: OutputOption = None,
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
    if not detectors.run and not detectors.model:
        check_known(heads_asked)
    if fusion is not None and fusion not in FUSION_RULES:
        raise UserError(f"unknown fusion rule {fusion!r}; the rules are {', '.join(FUSION_RULES)}")
    if output is not None:
        _check_folder(output)
    # What is detected does not depend on the seed.
    chosen = StudyOptions(
        detectors, data=data, measuring=MeasuringOptions(max_images=max_images), device=device
    )
    runs = opened_folders(chosen)
    compare = compare or is_of_detectors(runs)
    if compare:
        runs = detecting(runs, device)
    heads_of = _heads(runs, heads_asked)
    if fusion is not None:
        _check_fused(runs, heads_of)
    classes = common_classes(runs, chosen) if compare else None
    found = [
        detect(each, heads, chosen, index, len(runs), fusion, classes)
        for index, (each, heads) in enumerate(zip(runs, heads_of, strict=True))
    ]
    rank_zero_only()
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


def _check_fused(runs: Sequence[StudyFolder], heads_of: Sequence[Sequence[str]]) -> None:
    """Raise UserError where a rule of fusion would change nothing."""
    if not any(fuses(head) for heads in heads_of for head in heads):
        of_runs = zip(runs, heads_of, strict=True)
        looked_at = "; ".join(f"{run.path} as {', '.join(heads)}" for run, heads in of_runs)
        raise UserError(
            f"--fusion is for heads that fuse two classifiers, such as double-ext; here is {looked_at}"
        )


def _check_same_data(found: Sequence[Detected]) -> None:
    first = found[0]
    for other in found[1:]:
        same = (first.dataset.file_fingerprint, first.dataset.image_ids) == (
            other.dataset.file_fingerprint,
            other.dataset.image_ids,
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
    from rethink_heads.statistics.comparison import compared_pairs

    if compare:
        sides = [side for each in found for side in each.sides]
        pairs = compared_pairs(sides)
        dataset = found[0].dataset
        return detection_tables(open_detected(found), dataset, sides, pairs=pairs, **options)
    parts = [
        detection_tables(open_detected([each]), each.dataset, each.sides, **options)
        for each in found
    ]
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


def _write(
    found: Sequence[Detected], tables: Tables, output: Path | None, complete: bool
) -> list[Path]:
    from rethink_heads.detection_results import write_detection_results

    runs = [each.run for each in found]
    if output is not None:
        folders = output / "tables", output / "figures"
    elif is_of_detectors(runs):
        folders = result_folders(runs, [each.name for each in found])
    elif len(found) == 1 and complete:
        run, name = found[0].run, found[0].name
        folders = run.tables(name), run.figures(name)
    else:
        return []
    with hold(output or written_folder(runs)), work(), legends_for(runs):
        written = write_detection_results(tables, *folders)
        note_comparison(runs, [each.name for each in found], folders[0])
    say(f"written: {len(written)} files in {folders[0]} and {folders[1]}")
    return written
