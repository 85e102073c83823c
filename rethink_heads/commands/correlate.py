"""``rethink-heads correlate``: how a head's score follows the IoU of the proposal, and of the boxes of later stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.console import log, redirect_stdout
from rethink_heads.detection_files import DetectionFile, files_alone, on_same_data, open_files
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import ResultsOptions, ScreenOptions, StudyOptions, value
from rethink_heads.report.output import Report
from rethink_heads.results import whereabouts, write_comparison, write_run_results
from rethink_heads.study import Study, check_comparable, in_order, open_study, study
from rethink_heads.subject import Key

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.measure.store import Measurements
    from rethink_heads.report.heads import Heads

NAME = "correlate"
EXAMPLE = (
    "Examples: rethink-heads correlate --run runs/demo --head fc --head conv --iou-range 0.5 1\n\n"
    "rethink-heads correlate --run runs/fc --run runs/conv --stage all\n\n"
    "rethink-heads correlate --stage detections --detections results.json --annotations instances_val2017.json"
)

QUESTIONS = (
    "PCC (Pearson's correlation) pools all proposals: does a score mean the same IoU for every object? The mean PCC of"
    " objects: are the proposals of one object told apart? Spearman, of ranks: has the better box the higher score?"
)
PREDEFINED, ALL = "predefined", "all"
STAGES = (PREDEFINED, "rpn", "detections")
WHOLE_RANGE = (0.0, 1.0)
LEVEL_NAMES = {
    ("image", "rpn"): "images, before NMS",
    ("image", "detections"): "images, after NMS",
    ("class", "detections"): "classes, after NMS",
}


@dataclass(frozen=True)
class StageOptions:
    """Which boxes are looked at, and where results of files go."""

    stage: list[str] | None = value(
        "|".join((*STAGES, ALL)),
        "Boxes to look at: the predefined proposals, RPN's proposals, the final detections;"
        " repeat it for several. Without it: the predefined proposals.",
    )
    iou_range: tuple[float, float] = value(
        "LOW HIGH", "Count proposals of this IoU only.", default=WHOLE_RANGE
    )
    output: Path | None = value(
        "DIR",
        "Folder that gets tables/ and figures/ where there are files of detections, which have none of their own.",
    )


@dataclass(frozen=True)
class StageStudy:
    """Boxes of one or more detectors, or files of detections, at the stages asked for.

    Attributes:
        study: the detectors; what was measured of the predefined proposals is None where not asked for.
        boxes: of RPN and of the final detections, as far as asked for.
        provenance: of the boxes of each detector, by its name.
        files: of detections, beside the detectors or without any.
    """

    study: Study
    boxes: pd.DataFrame
    provenance: dict[str, dict[str, str]]
    files: list[DetectionFile] = field(default_factory=list)

    @property
    def measurements(self) -> Measurements | None:
        """Measurements of the predefined proposals by the heads that are looked at."""
        return None if self.study.measured is None else self.study.selected

    @property
    def keys(self) -> list[Key]:
        """(detector, head) of each head that is looked at, detectors in the order given."""
        there = set(zip(self.boxes["detector"], self.boxes["head"], strict=True))
        if self.measurements is not None:
            there |= set(self.measurements.keys)
        return in_order(self.study.runs, there) + [key for file in self.files for key in file.keys]


def command(
    options: StudyOptions, results: ResultsOptions, screen: ScreenOptions, own: StageOptions
) -> None:
    """Correlation of score and IoU, by object size (paper Figures 2 and 3).

    Pearson's correlation (PCC) pooled over proposals, the mean of the objects' own, and Spearman's;
    95% intervals from a bootstrap over images; heads compared on the same objects.

    With --stage also of RPN's proposals and of the final detections after NMS, each matched to the
    object that it overlaps most, and the mean rank correlation of positive boxes within images and
    within classes; tables (CSV) and the figure go into the run, of several runs into a folder
    beside the first. Those of files (--detections) go into --output.
    """
    from rethink_heads.statistics.sums import bin_range

    bin_range(own.iou_range)
    if own.output is not None and not results.detections:
        raise UserError(
            "--output takes the tables of --detections; those of --run and --model lie in their own folder, from"
            " which rethink-heads figures --output writes them elsewhere"
        )
    stages = chosen_stages(own.stage)
    if stages == [PREDEFINED] and not results.detections:
        files_alone(results, options.detectors)
        report(study(options), own.iou_range, screen)
    else:
        found = stage_study(stages, options, results)
        report_stages(found, own.iou_range, screen, own.output)


def report(
    found: Study, iou_range: tuple[float, float], screen: ScreenOptions, more: str = ""
) -> None:
    """Print the correlations of a study's heads, how they differ, and the scores by IoU."""
    from rethink_heads.report.heads import SIZES, Heads, interval, name_bins, select
    from rethink_heads.statistics.by_iou import score_by_iou

    by_size, differences, statistics = _correlations(found, iou_range)
    curves = score_by_iou(found.selected, seed=found.seed)
    result = Report(NAME, found.measurements.provenance)
    ends = {"iou_low": iou_range[0], "iou_high": iou_range[1]}
    result.data(correlations=by_size.assign(**ends), comparisons=differences.assign(**ends))
    result.data(score_by_iou=curves)
    with result.attempt():
        result.files = _write_comparison(found, differences, iou_range)

    heads = Heads(found.keys, by_size)
    for statistic in statistics:
        result.lines(heads.leader(by_size, differences, statistic, size="all", statistic=statistic))
    result.lines(QUESTIONS)
    low, high = iou_range
    columns = ["size", *statistics, "objects", "measured"]
    result.table(
        f"Correlation of score and IoU, proposals of IoU {low:g} to {high:g} [95% interval]",
        heads.rows(by_size, columns),
        *heads.share("classifier"),
        f"{SIZES} {_sampling(found, select(by_size, size='all'), heads.names)}",
    )
    within = curves[((curves["iou_low"] + curves["iou_high"]) / 2).between(*iou_range)]
    bins = name_bins(select(within, size="all"))
    result.table(
        "Score by IoU of the proposal, all sizes: mean [95% interval] ± standard deviation",
        heads.columns(bins, ["proposal IoU"], lambda row: interval(row, "mean", "std")),
        full=True,
    )
    where = "" if screen.full else ", all sizes"
    cells, said = heads.differences(differences, full=screen.full)
    result.table(f"Differences on the same objects{where} [95% interval]", cells, *said)
    result.end(screen.as_json, screen.full, more or whereabouts(found.runs, result.files))


def _correlations(
    found: Study, iou_range: tuple[float, float]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The correlations of all heads by size, the differences of heads, and which statistics these are of."""
    import pandas as pd

    from rethink_heads.statistics.by_iou import pearson, spearman

    selected = found.selected
    pooled = pearson(selected, iou_range, seed=found.seed)
    ranks = spearman(selected, iou_range, seed=found.seed).drop(columns="objects")
    by_size = pooled.merge(ranks, on=["detector", "head", "size"], how="left")
    # Without sampled rows (measuring.rows_per_bin=0) there are no ranks.
    statistics = ["pcc", "object_pcc", *(["spearman"] if selected.has_rows else [])]
    differences = [found.compare(statistic, iou_range=iou_range) for statistic in statistics]
    return by_size, pd.concat(differences, ignore_index=True), statistics


def _sampling(found: Study, all_sizes: pd.DataFrame, names: Mapping[Key, str]) -> str:
    """How many proposals an object were measured and how far that may put the correlations off."""
    from rethink_heads.report.cells import estimate
    from rethink_heads.statistics.sampling_error import proposals_per_object

    def errors(statistic: str) -> str:
        by_key = all_sizes.set_index(["detector", "head"])[f"{statistic}_sampling_error"]
        return ", ".join(f"{name} {estimate(by_key[key], digits=4)}" for key, name in names.items())

    measured, whole = proposals_per_object(found.selected)
    if measured == whole:
        return (
            f"All {whole:,.0f} proposals an object (on average) were measured: no sampling error of the PCC;"
            f" of Spearman's correlation, which ranks some of them: {errors('spearman')}."
        )
    return (
        f"{measured:,.0f} of {whole:,.0f} proposals an object (on average) were measured. Standard error of this"
        f" sampling, all sizes, of the PCC: {errors('pcc')}; of Spearman's correlation: {errors('spearman')}. Where"
        " there are intervals they hold it."
    )


def _write_comparison(
    found: Study, differences: pd.DataFrame, iou_range: tuple[float, float]
) -> list[Path]:
    """The tables and the figure that ``rethink-heads figures`` makes too; of a range that is asked for, apart."""
    if len(found.runs) == 1:
        return []
    from rethink_heads.report.results import IOU_RANGES, over_ranges
    from rethink_heads.statistics.by_iou import pearson, spearman

    selected, whole = found.selected, iou_range == IOU_RANGES[0]
    ranges = IOU_RANGES if whole else (iou_range,)
    statistics = {"pcc": pearson} | ({"spearman": spearman} if selected.has_rows else {})
    tables = {
        name: over_ranges(partial(statistic, selected, seed=found.seed), ranges)
        for name, statistic in statistics.items()
    }
    inner = "" if whole else "iou_{:g}_{:g}".format(*iou_range)
    return write_comparison(found, NAME, differences, tables, inner)


def chosen_stages(stages: Sequence[str] | None) -> list[str]:
    """The stages asked for, in the order of a detector; none asked for means the predefined ones.
    Raises UserError where there is no such stage.
    """
    for stage in stages or ():
        if stage not in (*STAGES, ALL):
            raise UserError(
                f"unknown stage {stage!r}; the stages are {', '.join(STAGES)}, or {ALL} of them"
            )
    asked = set(stages or (PREDEFINED,))
    return [stage for stage in STAGES if stage in asked or ALL in asked]


def stage_study(
    stages: Sequence[str], options: StudyOptions, results: ResultsOptions
) -> StageStudy:
    """Measure runs at some stages, or read what was measured before; then only the first process goes on.
    ``stages`` are of STAGES, one at least after the predefined one.
    Raises UserError as ``study.study`` and ``detection_files.open_files``.
    """
    later = [stage for stage in stages if stage != PREDEFINED]
    if results.detections and "detections" not in later:
        raise UserError("files have final detections alone: give --stage detections")
    alone = files_alone(results, options.detectors)
    found = Study([], None, options.seed or 0) if alone else open_study(options)
    files = open_files(results, options.data, found.subjects)
    _check_precision(found)
    if PREDEFINED in stages:
        found = found.measure()
    for subject in found.subjects:
        subject.match_stages()
    rank_zero_only()
    from rethink_heads.measure.stage_boxes import (
        join_stages,
        load_stages,
        match_detections,
        objects_of,
    )

    frames, provenances = [], []
    for subject in found.subjects:
        boxes, provenance = load_stages(subject.folder)
        is_asked = boxes["stage"].isin(later)
        if found.heads is not None:
            is_asked &= boxes["head"].isin(found.heads)
        frames.append(boxes[is_asked])
        provenances.append(provenance)
    if found.subjects:
        check_comparable(found.runs, provenances)
    images = options.measuring.max_images
    dataset = found.subjects[0].measured_data if found.subjects else None
    files = on_same_data(files, dataset, images)
    for file in files:
        own = file.dataset
        frames.append(match_detections(file.frame, objects_of(own), own.class_names))
        provenances.append(file.provenance)
    boxes = join_stages(frames)
    for stage in later:
        if not (boxes["stage"] == stage).any():
            log(f"there are no boxes at the stage {stage}: nothing to correlate")
    if found.measured is None and boxes.empty:
        raise UserError(f"there is nothing to correlate at the stages {', '.join(later)}")
    names = [*(run.name for run in found.runs), *(file.detector for file in files)]
    return StageStudy(found, boxes, dict(zip(names, provenances, strict=True)), files)


def report_stages(
    found: StageStudy,
    iou_range: tuple[float, float],
    screen: ScreenOptions,
    output: Path | None = None,
) -> None:
    """Print the correlations of a study, write its tables, and draw its figure."""
    from rethink_heads.report.heads import SIZES, Heads, select

    tables, written = _write_tables(found, iou_range, output)
    predefined = {} if found.measurements is None else found.measurements.provenance
    made_of = {"predefined": predefined, "later stages": found.provenance}
    result = Report(NAME, made_of)
    ends = {"iou_low": iou_range[0], "iou_high": iou_range[1]}
    for name, table in tables.items():
        # The levels are of all IoUs from 0.5, whatever the range.
        result.data(**{name: table if "level" in name else table.assign(**ends)})
    result.files = written
    correlations, compared = tables["stage_correlation"], tables["stage_comparisons"]
    heads = Heads(found.keys, correlations)
    for stage in correlations["stage"].unique():
        which = {"stage": stage, "size": "all"}
        at_stage = Heads(found.keys, select(correlations, **which))
        label = f"PCC at the stage {stage}"
        result.lines(
            at_stage.leader(correlations, compared, "pcc", label, **which, statistic="pcc")
        )
    shown = correlations if screen.full else select(correlations, size="all")
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
        _show_levels(result, heads, _levels_named(tables["rank_levels"]))
    cells, said = heads.differences(*frames, full=screen.full)
    result.table(f"Differences on the same images{where} [95% interval]", cells, *said)
    runs = found.study.runs
    where = whereabouts(runs, written) if runs and not found.files else ""
    result.end(screen.as_json, screen.full, where)


def _write_tables(
    found: StageStudy, iou_range: tuple[float, float], output: Path | None
) -> tuple[dict[str, pd.DataFrame], list[Path]]:
    """The tables of the stages, and the paths of these and of the figures: those of a range are named after it."""
    from rethink_heads.report.results import stage_tables
    from rethink_heads.statistics.comparison import compared_pairs

    # Final detections differ by the regressor, too.
    pairs, study = compared_pairs(found.keys), found.study
    with redirect_stdout():
        tables = stage_tables(found.boxes, found.measurements, pairs, iou_range, seed=study.seed)
    suffix = "" if iou_range == WHOLE_RANGE else "_iou_{:g}_{:g}".format(*iou_range)
    named = {f"{name}{suffix}": table for name, table in tables.items()}
    files = len(found.files)
    return tables, write_run_results(study.runs, study.names, named, "", output, files)


def _show_levels(result: Report, heads: Heads, levels: pd.DataFrame) -> None:
    """Add the rank correlations within images and classes, and with --full of how many they are means."""
    title = "Spearman's correlation of score and IoU of positive boxes, IoU 0.5 to 1, mean of images or classes"
    cells = heads.columns(levels, ["level"], "spearman")
    result.table(f"{title} [95% interval]", cells)
    counts = heads.rows(levels, ["level", "spearman", "groups", "boxes"])
    result.table(f"{title}: of how many", counts, full=True)


def _levels_named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of correlations within images or classes named in one column; only what is defined."""
    if frame.empty:
        return frame
    names = [LEVEL_NAMES[key] for key in zip(frame["level"], frame["stage"], strict=True)]
    named = frame.assign(level=names, statistic="spearman").drop(columns="stage")
    return named[named["difference"].notna()] if "difference" in named else named


def _check_precision(found: Study) -> None:
    """Raise UserError where boxes of a detector's own stages are asked for in another arithmetic than theirs."""
    for subject in found.subjects:
        precision = subject.config.measuring.precision
        if precision != "float32":
            raise UserError(
                f"{subject.run.name}: the later stages are read in float32 only; give --precision float32, or leave out"
                f" --stage to have the predefined proposals in {precision}"
            )
