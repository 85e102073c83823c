"""``rethink-heads evaluate``: average precision of every head of a run, its errors and its scores' calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rethink_heads import bounds
from rethink_heads.console import log
from rethink_heads.detection_files import DetectionFile, files_alone, on_same_data, open_files
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import DetectionOptions, ScreenOptions, flag, option, value
from rethink_heads.report.output import Report
from rethink_heads.results import is_of_detectors, whereabouts, write_run_results
from rethink_heads.run_options import open_runs
from rethink_heads.runs import Run
from rethink_heads.study import asked_heads, on_common_classes, resolve
from rethink_heads.subject import Key, RunDetections, Subject, fuses

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset

NAME = "evaluate"
EXAMPLE = (
    "Examples: rethink-heads evaluate --run runs/demo --head fc --head conv\n\n"
    "rethink-heads evaluate --run runs/fc --run runs/conv --errors --calibration --compare"
    " --output results/fc-and-conv\n\n"
    "rethink-heads evaluate --detections old=old.bbox.json --detections new=new.bbox.json --annotations"
    " instances_val2017.json --draws 0"
)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CALIBRATION = ("d_ece", "laece", "overconfidence")
# A table, which rows of it say who leads, and how these are called.
LEADS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("ap", {"metric": "AP"}, "AP (average precision)"),
    ("calibration", {"error": "d_ece"}, "D-ECE (lower is better)"),
    ("calibration", {"error": "laece"}, "LaECE (lower is better)"),
)
ERRORS_MEAN = (
    "cls: wrong class; loc: wrong place; both: wrong class and place; dupe: a second detection of an object; bkg: on"
    " background; miss: objects that no detection is near; fp, fn: all false positives, all objects not found."
)
CALIBRATION_MEANS = (
    "D-ECE: how far scores are from precision; LaECE: from precision times IoU; overconfidence: mean score less"
    " precision."
)
Tables = dict[str, "pd.DataFrame"]
DetectionSource = RunDetections | DetectionFile
FUSION_RULES = ("complementary", "max", "mean")

OutputOption = Annotated[
    Path | None,
    option(
        "--output",
        "DIR",
        "Folder that gets tables/ and figures/ of all heads asked for. Without it they are"
        " written into the run, if there is one run and all of its heads are asked for.",
    ),
]


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated beside average precision."""

    errors: bool = flag("Split what AP loses into TIDE's kinds of error.")
    error_iou: float = value(
        "IOU", "For --errors: least IoU of a true positive.", bounds.ERROR_IOU, 0.5
    )
    calibration: bool = flag("Set scores against precision and IoU: D-ECE and LaECE.")
    compare: bool = flag(
        "Compare several runs, on the classes that all have; without it they are compared where their data and"
        " classes are the same. Heads of one run, and several models, are always compared."
    )
    fusion: str | None = value(
        "|".join(FUSION_RULES),
        "Fuse two classifiers' scores by this rule. Without it: the rule of the run.",
    )
    output: OutputOption = None
    save_detections: Path | None = value(
        "FILE",
        "Write the detections as COCO's results JSON; of several heads into FILE with the head before its suffix.",
    )


def command(options: DetectionOptions, screen: ScreenOptions, own: EvaluateOptions) -> None:
    """Print COCO's average precisions of each head on a run's test split or other data.

    With 95% intervals from a bootstrap over images. Detections are kept in the run and used again; those of a file
    (--detections) need neither a model nor images.
    """
    # Before the heavy imports, so that a mistake is told at once.
    fusion, output = own.fusion, own.output
    if fusion is not None and fusion not in FUSION_RULES:
        raise UserError(f"unknown fusion rule {fusion!r}; the rules are {', '.join(FUSION_RULES)}")
    if output is not None:
        check_folder(output)
    asked = detect_asked(options, compare=own.compare, fusion=fusion)
    rank_zero_only()
    if own.save_detections is not None:
        _save(asked, own.save_detections)
    if asked.different and (asked.compare or output is not None):
        raise UserError(asked.different)
    names = ["ap", *["detection_errors"] * own.errors, *["calibration"] * own.calibration]
    options_of = {"error_iou": own.error_iou, **asked.bootstrap}
    tables = _tables(names, asked.found, options_of, compare=not asked.different)
    written = write_evaluation(asked.found, tables, output, complete=options.head is None)
    report(asked, tables, written, screen)


@dataclass(frozen=True)
class EvaluationInputs:
    """What a command is asked about, detected.

    Attributes:
        subjects: the detectors, in the order of the first entries of ``found``.
        found: final detections of each detector and file.
        compare: whether they were asked to be comparable.
        different: what is said of data that are not the same for all; nothing where they are.
        bootstrap: its options: the seed asked for or the first detector's, and the draws, where they were asked for.
    """

    subjects: list[Subject]
    found: list[DetectionSource]
    compare: bool
    different: str
    bootstrap: dict[str, Any]

    @property
    def keys(self) -> list[Key]:
        """(detector, head) of all, in the order of ``found``."""
        return [key for each in self.found for key in each.keys]

    @property
    def dataset(self) -> CocoDataset:
        """The data, where they are the same for all."""
        return self.found[0].dataset

    @cached_property
    def detections(self) -> pd.DataFrame:
        """The final detections of all, in DETECTION_COLUMNS."""
        import pandas as pd

        return pd.concat([each.frame for each in self.found], ignore_index=True)

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """What each detector's or file's results depend on."""
        return {each.detector: each.provenance for each in self.found}


def detect_asked(
    options: DetectionOptions, *, compare: bool = False, fusion: str | None = None
) -> EvaluationInputs:
    """Open the detectors and files that options name, and detect where it was not done before.
    Raises UserError where something cannot be read, or a head is not there.

    Args:
        compare: look at all of them on the classes that all have; files and several models always are.
        fusion: the rule by which heads of two classifiers fuse scores; None for the run's own.
    """
    chosen = options.study
    heads_asked = asked_heads(chosen)
    alone = files_alone(options.results, options.detectors)
    subjects = [] if alone else resolve(open_runs(chosen), chosen)
    files = open_files(options.results, options.data, subjects)
    compare = compare or bool(files) or is_of_detectors([subject.run for subject in subjects])
    if compare and subjects:
        subjects = _with_detections(subjects)
    runs = [subject.run for subject in subjects]
    heads_of = _heads(runs, heads_asked)
    if fusion is not None:
        _check_fused(runs, heads_of)
    if compare and subjects:
        subjects = on_common_classes(subjects)
    images = options.max_images
    detected = [
        subject.detect(heads, images, fusion)
        for subject, heads in zip(subjects, heads_of, strict=True)
    ]
    dataset, own_seed = (detected[0].dataset, runs[0].config.seed) if detected else (None, 0)
    found: list[DetectionSource] = [*detected, *on_same_data(files, dataset, images)]
    bootstrap = {"seed": own_seed if options.seed is None else options.seed}
    if options.draws is not None:
        bootstrap["replicates"] = options.draws
    return EvaluationInputs(subjects, found, compare, _different_data(found), bootstrap)


def report(
    asked: EvaluationInputs, tables: Tables, written: list[Path], screen: ScreenOptions
) -> None:
    """Print average precision, errors and calibration of heads, and how the heads differ."""
    from rethink_heads.report.heads import MOST_DIFFERENCES, Heads, widen, with_count

    result = Report(NAME, asked.provenance)
    result.data(
        runs=[
            {
                "detector": each.detector,
                "annotations": each.dataset.annotations_path,
                "images": len(each.dataset),
                "measurements": each.name if isinstance(each, RunDetections) else each.path,
            }
            for each in asked.found
        ],
        **tables,
    )
    result.files = written
    heads = Heads(asked.keys)
    for table, which, label in LEADS:
        if table in tables:
            rows, pairs, lowest = tables[table], tables.get(f"{table}_comparisons"), table != "ap"
            result.lines(heads.leader(rows, pairs, "value", label, lowest, **which))
    result.table(
        "Average precision [95% interval]",
        heads.rows(widen(tables["ap"], "metric", "value"), [*METRICS, "images"]),
        "AP: mean over IoU 0.50 to 0.95; AP50, AP75: at one IoU; APs, APm, APl: objects of an area below 32 x 32 px,"
        " between, and above 96 x 96 px.",
    )
    if "detection_errors" in tables:
        result.table(
            "TIDE: gain in AP at the IoU threshold without each kind of error [95% interval] (how many)",
            heads.columns(tables["detection_errors"], ["error"], with_count("delta_ap")),
            ERRORS_MEAN,
        )
    if "calibration" in tables:
        result.table(
            "Calibration errors of scores [95% interval]",
            heads.rows(widen(tables["calibration"], "error", "value"), CALIBRATION),
            CALIBRATION_MEANS,
        )
    compared = [table for name, table in tables.items() if name.endswith("_comparisons")]
    # With the tables of errors and of calibration the screen is full.
    most = MOST_DIFFERENCES - 2 * ("detection_errors" in tables) - 2 * ("calibration" in tables)
    cells, said = heads.differences(*compared, full=screen.full, most=most)
    result.table("Differences on the same images [95% interval]", cells, *said)
    result.end(screen.as_json, screen.full, where_written(asked.found, written))


def where_written(found: Sequence[DetectionSource], written: Sequence[Path]) -> str:
    """Say where tables and figures are, or what keeps them."""
    if not written:
        return "--output DIR keeps tables and figures"
    runs = [each.run for each in found if isinstance(each, RunDetections)]
    return whereabouts(runs, written) if runs else ""


def check_folder(output: Path) -> None:
    """Raise UserError before the detecting, which takes long, where nothing can be written."""
    there = next(place for place in (output, *output.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "cannot be written" if there.is_dir() else "is not a folder"
        raise UserError(f"{there} {reason}; choose another folder with --output")


def _with_detections(subjects: Sequence[Subject]) -> list[Subject]:
    """The detectors that show their detections, before any of them takes long; the others are said.
    Raises UserError where there is none.
    """
    from rethink_heads.detectors.base import missing, supports

    kept = []
    for subject in subjects:
        if not subject.run.is_external or supports(subject.load(), "detect"):
            kept.append(subject)
        else:
            log(f"{subject.run.name} is left out: {missing('detect')}")
    if not kept:
        raise UserError(f"none of the detectors can be evaluated: {missing('detect')}")
    return kept


def _heads(runs: Sequence[Run], asked: Sequence[str] | None) -> list[list[str]]:
    """By run: the heads asked for that it has, at least one; each is one of some run's."""
    known = {name for run in runs for name in run.heads}
    heads = []
    for run in runs:
        shared = [name for name in asked or run.heads if name in run.heads or name not in known]
        for head in shared or asked or ():
            if head not in run.heads:
                raise UserError(f"{run.path} has no head {head!r}; it has {', '.join(run.heads)}")
        heads.append(shared)
    return heads


def _check_fused(runs: Sequence[Run], heads_of: Sequence[Sequence[str]]) -> None:
    """Raise UserError where a rule of fusion would change nothing."""
    if not any(fuses(head) for heads in heads_of for head in heads):
        paired = zip(runs, heads_of, strict=True)
        looked_at = "; ".join(f"{run.path} as {', '.join(heads)}" for run, heads in paired)
        raise UserError(
            f"--fusion is for heads that fuse two classifiers, such as double-ext; here is {looked_at}"
        )


def _different_data(found: Sequence[DetectionSource]) -> str:
    """Say which detectors were evaluated on other images or classes than the first; nothing where none was."""
    first = found[0].dataset
    for other in found[1:]:
        same = [
            (each.file_fingerprint, each.image_ids, each.class_names)
            for each in (first, other.dataset)
        ]
        if same[0] != same[1]:
            return (
                f"{found[0].detector} and {other.detector} were evaluated on different data and cannot be compared;"
                " give --data FOLDER, or --annotations FILE and --images DIR, to evaluate all runs alike"
            )
    return ""


def _tables(
    names: Sequence[str], found: Sequence[DetectionSource], options: dict[str, Any], compare: bool
) -> Tables:
    """All runs' tables, those of the same data made together."""
    import pandas as pd

    from rethink_heads.evaluation.measures import measured_tables
    from rethink_heads.statistics.comparison import compared_pairs

    def made(group: Sequence[DetectionSource]) -> Tables:
        keys, dataset = [key for each in group for key in each.keys], group[0].dataset
        detections = pd.concat([each.frame for each in group], ignore_index=True)
        pairs = compared_pairs(keys) if compare else []
        return measured_tables(names, detections, dataset, keys, pairs=pairs, **options)

    if compare:
        return made(found)
    parts = [made([each]) for each in found]
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


def _save(asked: EvaluationInputs, path: Path) -> None:
    """Write each head's detections as COCO's results JSON."""
    from rethink_heads.data.result_files import write_coco_results

    for each in asked.found:
        frame = each.frame
        for detector, head in each.keys:
            rows = frame[(frame["detector"] == detector) & (frame["head"] == head)]
            own = [detector] * (len(asked.found) > 1) + [head]
            several = len(asked.keys) > 1
            target = path.with_suffix(f".{'.'.join(own)}{path.suffix}") if several else path
            write_coco_results(rows, each.dataset.category_ids, target)
            log(f"written: {len(rows):,} detections of {detector}/{head} in {target}")


def write_evaluation(
    found: Sequence[DetectionSource], tables: Tables, output: Path | None, complete: bool
) -> list[Path]:
    """Write tables and figures into ``output``, else into the folder of one run or of models that are compared.

    Of one run only where the results are ``complete``: of all of its heads. Files have no folder of their own.
    """
    detected = [each for each in found if isinstance(each, RunDetections)]
    runs, names = [each.run for each in detected], [each.name for each in detected]
    files = len(found) - len(runs)
    if not (files or output or is_of_detectors(runs) or (len(found) == 1 and complete)):
        return []
    written = write_run_results(runs, names, tables, output=output, files=files)
    if not files:
        folders = " and ".join(dict.fromkeys(str(path.parent) for path in written))
        log(f"written: {len(written)} files in {folders}")
    return written
