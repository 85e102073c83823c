"""``rethink-heads correlate --stage``: the correlation at the later stages of a detector as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rethink_heads.commands.alike import check_alike
from rethink_heads.commands.classes import common_classes
from rethink_heads.commands.comparing import (
    legends_for,
    note_comparison,
    result_folders,
    written_folder,
)
from rethink_heads.commands.sessions import logged, opened
from rethink_heads.commands.studies import (
    Side,
    check_precision,
    chosen_runs,
    in_order,
    records,
    study_of,
    verdict,
)
from rethink_heads.console import interval, print_json, print_table, say, work
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.options import StudyOptions
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.measure.store import Measurements

PREDEFINED, ALL = "predefined", "all"
STAGES = (PREDEFINED, "rpn", "detections")
WHOLE_RANGE = (0.0, 1.0)
LEVEL_NAMES = {
    ("image", "rpn"): "images, before NMS",
    ("image", "detections"): "images, after NMS",
    ("class", "detections"): "classes, after NMS",
}

StagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        metavar="|".join((*STAGES, ALL)),
        help="Boxes to look at: the predefined proposals, RPN's proposals, the final detections;"
        " repeat it for several. Without it: the predefined proposals.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class StageStudy:
    """Boxes of one or more runs at the stages asked for.

    Attributes:
        runs: the runs, in the order given.
        boxes: of RPN and of the final detections; None where not asked for.
        measurements: of the predefined proposals; None where not asked for.
        names: of each run's measurements (see :mod:`rethink_heads.runs`).
        seed: of the bootstrap.
        provenance: of the boxes of each run, by its name.
    """

    runs: list[StudyFolder]
    boxes: pd.DataFrame | None
    measurements: Measurements | None
    names: list[str]
    seed: int
    provenance: dict[str, dict[str, str]]

    @property
    def sides(self) -> list[Side]:
        """(detector, head) of each head that is looked at, runs in the order given."""
        there: set[Side] = set()
        if self.measurements is not None:
            there |= set(self.measurements.keys)
        if self.boxes is not None:
            pairs = self.boxes[["detector", "head"]].drop_duplicates()
            there |= set(pairs.itertuples(index=False, name=None))
        return [
            (run.name, head)
            for run in self.runs
            for head in in_order(run.heads)
            if (run.name, head) in there
        ]


def chosen_stages(stages: Sequence[str] | None) -> list[str]:
    """The stages asked for, in the order of a detector; none asked for means the predefined ones.

    Raises:
        UserError: there is no such stage.
    """
    for stage in stages or ():
        if stage not in (*STAGES, ALL):
            raise UserError(
                f"unknown stage {stage!r}; the stages are {', '.join(STAGES)}, or {ALL} of them"
            )
    asked = set(stages or (PREDEFINED,))
    return [stage for stage in STAGES if stage in asked or ALL in asked]


def stage_study(stages: Sequence[str], options: StudyOptions) -> StageStudy:
    """Measure runs at some stages, or read what was measured before; then only the first process goes on.

    Args:
        stages: of STAGES.
        options: as on the command line.

    Raises:
        UserError: as of ``studies.study``.
    """
    later = [stage for stage in stages if stage != PREDEFINED]
    runs, heads = chosen_runs(options)
    if later:
        check_precision(runs, options)
    classes = common_classes(runs, options)
    measurements, names = None, []
    if PREDEFINED in stages:
        predefined = study_of(runs, heads, options, classes)
        measurements, names = predefined.selected, predefined.names
    found = []
    if later:
        found = [
            _measured(run, options, index, len(runs), classes) for index, run in enumerate(runs)
        ]
        names = found
    rank_zero_only()
    boxes, provenance = None, {}
    if found:
        folders = [run.measurements(name) for run, name in zip(runs, found, strict=True)]
        boxes, each_provenance = _opened(folders, later, heads)
        check_alike(runs, each_provenance)
        provenance = {run.name: of for run, of in zip(runs, each_provenance, strict=True)}
        for stage in later:
            if not (boxes["stage"] == stage).any():
                say(f"there are no boxes at the stage {stage}: nothing to correlate")
        if measurements is None and boxes.empty:
            raise UserError(f"there is nothing to correlate at the stages {', '.join(later)}")
    return StageStudy(
        runs,
        boxes,
        measurements,
        names,
        runs[0].config.seed if options.seed is None else options.seed,
        provenance,
    )


def report_stages(found: StageStudy, iou_range: tuple[float, float], as_json: bool) -> None:
    """Print the correlations of a study, write its tables, and draw its figure."""
    from rethink_heads.stage_results import stage_tables, write_stage_results
    from rethink_heads.statistics.comparison import compared_pairs

    pairs = compared_pairs(found.sides, "pcc")
    with work():
        tables = stage_tables(found.boxes, found.measurements, pairs, iou_range, seed=found.seed)
        suffix = "" if iou_range == WHOLE_RANGE else "_iou_{:g}_{:g}".format(*iou_range)
        of_tables, of_figures = result_folders(found.runs, found.names)
        with hold(written_folder(found.runs)), legends_for(found.runs):
            written = write_stage_results(tables, of_tables, of_figures, suffix)
            note_comparison(found.runs, found.names, of_tables)
    if as_json:
        content = {name: records(table) for name, table in tables.items()}
        rest = {"iou_range": iou_range, "provenance": _provenance(found)}
        print_json({**content, **rest, "files": [str(path) for path in written]})
        return
    _print_correlations(tables["stage_correlation"], iou_range)
    _print_levels(tables)
    _print_differences(tables["stage_comparisons"])
    for path in written:
        say(f"wrote {path}")


def _measured(
    run: StudyFolder,
    options: StudyOptions,
    index: int,
    count: int,
    classes: Sequence[str] | None,
) -> str:
    """Match the boxes of a detector's own stages; the name of the measurements that keep them."""
    from rethink_heads.measure.stages import keep_stages

    found = opened(run, options, index, count, classes)
    dataset, settings = found.dataset, found.config.measuring
    if settings.images is not None:
        dataset = dataset.subset(settings.images)
    folder = run.measurements(found.name)
    with logged(run, f"matching boxes {folder.name}"), work():
        keep_stages(found.detector, dataset, run.name, folder, found.provenance, settings.memory_mb)
    return found.name


def _opened(
    folders: Sequence[Path], stages: Sequence[str], heads: Sequence[str] | None
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The boxes of some stages and heads (None: all) in folders, and each one's provenance."""
    import pandas as pd

    from rethink_heads.measure.stages import load_stages

    frames, provenances = zip(*map(load_stages, folders), strict=True)
    boxes = pd.concat(frames, ignore_index=True)
    kept = boxes["stage"].isin(list(stages))
    if heads is not None:
        kept &= boxes["head"].isin(list(heads))
    return boxes[kept], list(provenances)


def _provenance(found: StageStudy) -> dict[str, Any]:
    predefined = {} if found.measurements is None else found.measurements.provenance
    return {"predefined": predefined, "later stages": found.provenance}


def _print_correlations(frame: pd.DataFrame, iou_range: tuple[float, float]) -> None:
    rows = [
        [
            row["detector"],
            row["head"],
            row["stage"],
            row["size"],
            interval(row, "pcc"),
            interval(row, "spearman"),
            f"{row['objects']}",
            f"{row['n']}",
        ]
        for row in records(frame)
    ]
    low, high = iou_range
    print_table(
        f"Correlation of score and IoU at each stage, IoU {low:g} to {high:g} [95% interval]",
        ["run", "head", "stage", "size", "PCC", "Spearman", "objects", "boxes"],
        rows,
    )


def _print_levels(tables: dict[str, pd.DataFrame]) -> None:
    if "rank_levels" not in tables:
        return
    rows = [
        [
            row["detector"],
            row["head"],
            LEVEL_NAMES[row["level"], row["stage"]],
            interval(row, "spearman"),
            f"{row['groups']}",
            f"{row['boxes']}",
        ]
        for row in records(tables["rank_levels"])
    ]
    print_table(
        "Spearman's correlation of score and IoU of positive boxes, IoU 0.5 to 1, mean of images or"
        " classes [95% interval]",
        ["run", "head", "mean of", "Spearman", "averaged", "boxes"],
        rows,
    )
    differences = [
        [
            LEVEL_NAMES[row["level"], row["stage"]],
            f"{row['a']} - {row['b']}",
            interval(row, "difference"),
            verdict(row),
        ]
        for row in records(tables["rank_level_comparisons"])
        if row["difference"] == row["difference"]
    ]
    if differences:
        print_table(
            "Difference of two heads on the same images [95% interval]",
            ["mean of", "heads", "difference", "excludes zero"],
            differences,
        )


def _print_differences(frame: pd.DataFrame) -> None:
    if frame.empty:
        return
    rows = [
        [
            row["statistic"],
            row["stage"],
            row["size"],
            f"{row['a']} - {row['b']}",
            interval(row, "difference"),
            verdict(row),
            str(row["objects"]),
        ]
        for row in records(frame)
    ]
    print_table(
        "Difference of two heads on the same images [95% interval]",
        ["statistic", "stage", "size", "heads", "difference", "excludes zero", "objects"],
        rows,
    )
