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
    whereabouts,
    written_folder,
)
from rethink_heads.commands.sessions import logged, opened
from rethink_heads.commands.studies import (
    Side,
    check_precision,
    chosen_runs,
    in_order,
    pairs_of,
    study_of,
)
from rethink_heads.console import say, work
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.options import ScreenOptions, StudyOptions
from rethink_heads.report.output import Report
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.measure.measurements import Measurements
    from rethink_heads.measure.stage_boxes import StageBoxes

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
    boxes: StageBoxes | None
    measurements: Measurements | None
    names: list[str]
    seed: int
    provenance: dict[str, dict[str, str]]

    @property
    def sides(self) -> list[Side]:
        """(detector, head) of each head that is looked at, runs in the order given."""
        there: set[Side] = set()
        if self.measurements is not None:
            there |= set(self.measurements.detector_heads)
        if self.boxes is not None:
            there |= {(detector, head) for detector, head, _ in self.boxes.groups}
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
            if not any(group[2] == stage for group in boxes.groups):
                say(f"there are no boxes at the stage {stage}: nothing to correlate")
        if measurements is None and not boxes.groups:
            raise UserError(f"there is nothing to correlate at the stages {', '.join(later)}")
    return StageStudy(
        runs,
        boxes,
        measurements,
        names,
        runs[0].config.seed if options.seed is None else options.seed,
        provenance,
    )


def report_stages(found: StageStudy, iou_range: tuple[float, float], screen: ScreenOptions) -> None:
    """Print the correlations of a study, write its tables, and draw its figure."""
    from rethink_heads.report.heads import SIZES, Heads, interval, select
    from rethink_heads.stage_results import stage_tables, write_stage_results

    pairs = pairs_of(found.sides, found.runs)
    with work():
        tables = stage_tables(found.boxes, found.measurements, pairs, iou_range, seed=found.seed)
        suffix = "" if iou_range == WHOLE_RANGE else "_iou_{:g}_{:g}".format(*iou_range)
        of_tables, of_figures = result_folders(found.runs, found.names)
        with hold(written_folder(found.runs)), legends_for(found.runs):
            written = write_stage_results(tables, of_tables, of_figures, suffix)
            note_comparison(found.runs, found.names, of_tables)
    result = Report("correlate", _provenance(found))
    ends = {"iou_low": iou_range[0], "iou_high": iou_range[1]}
    for name, table in tables.items():
        # The levels are of all IoUs from 0.5, whatever the range.
        result.data(**{name: table if "level" in name else table.assign(**ends)})
    result.files = written
    correlations, compared = tables["stage_correlation"], tables["stage_comparisons"]
    heads = Heads(found.sides, correlations)
    for stage in correlations["stage"].unique():
        of_stage = select(correlations, stage=stage, size="all")
        of_pairs = select(compared, stage=stage, size="all", statistic="pcc")
        result.lines(heads.leader(of_stage, of_pairs, "pcc", f"PCC at the stage {stage}"))
    shown = correlations if screen.full else correlations[correlations["size"] == "all"]
    low, high = iou_range
    where = "" if screen.full else ", all sizes"
    result.table(
        f"Correlation of score and IoU at each stage, IoU {low:g} to {high:g}"
        f"{where} [95% interval]",
        heads.rows(shown, ["stage", "size", "pcc", "spearman", "objects", "n"]),
        *heads.share("scores and boxes"),
        "PCC: Pearson's correlation of all boxes; Spearman: of their ranks. Stages: the predefined proposals, RPN's,"
        " final detections after NMS.",
        *([SIZES] if screen.full else []),
    )
    frames = [compared]
    if "rank_levels" in tables:
        frames.insert(0, _levels_named(tables["rank_level_comparisons"]))
        levels = _levels_named(tables["rank_levels"])
        title = "Spearman's correlation of score and IoU of positive boxes, IoU 0.5 to 1, mean of images or classes"
        result.table(
            f"{title} [95% interval]",
            heads.columns(levels, ["level"], lambda row: interval(row, "spearman")),
        )
        result.table(
            f"{title}: of how many",
            heads.rows(levels, ["level", "spearman", "groups", "boxes"]),
            full=True,
        )
    cells, said = heads.differences(*frames, full=screen.full)
    result.table(
        f"Differences on the same images{where} [95% interval]",
        cells,
        *said,
    )
    result.end(screen.as_json, screen.full, whereabouts(found.runs, written))


def _levels_named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of correlations within images or classes named in one column; only what is defined."""
    if frame.empty:
        return frame
    names = [LEVEL_NAMES[key] for key in zip(frame["level"], frame["stage"], strict=True)]
    named = frame.assign(level=names, statistic="spearman").drop(columns="stage")
    return named[named["difference"].notna()] if "difference" in named else named


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
) -> tuple[StageBoxes, list[dict[str, str]]]:
    """The boxes of some stages and heads (None: all) in folders, and each one's provenance."""
    from rethink_heads.measure.provenance import file_provenance
    from rethink_heads.measure.stage_boxes import open_stages
    from rethink_heads.measure.stage_frame import STAGES_NAME

    boxes = open_stages(folders).only(stages, heads)
    return boxes, [file_provenance(folder / STAGES_NAME) or {} for folder in folders]


def _provenance(found: StageStudy) -> dict[str, Any]:
    predefined = {} if found.measurements is None else found.measurements.provenance
    return {"predefined": predefined, "later stages": found.provenance}
