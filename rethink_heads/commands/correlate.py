"""``rethink-heads correlate``: how a head's score follows the IoU of the proposal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from rethink_heads.commands.stages import (
    PREDEFINED,
    StageOptions,
    chosen_stages,
    report_stages,
    stage_study,
)
from rethink_heads.detection_files import files_alone
from rethink_heads.errors import UserError
from rethink_heads.options import ResultsOptions, ScreenOptions, StudyOptions
from rethink_heads.report.output import Report
from rethink_heads.results import whereabouts, write_comparison
from rethink_heads.study import Study, study
from rethink_heads.subject import Key

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

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
    from rethink_heads.statistics.correlation import score_by_iou

    by_size, differences, statistics = _correlations(found, iou_range)
    curves = score_by_iou(found.selected, seed=found.seed)
    result = Report(NAME, found.measurements.provenance)
    ends = {"iou_low": iou_range[0], "iou_high": iou_range[1]}
    result.data(correlations=by_size.assign(**ends), comparisons=differences.assign(**ends))
    result.data(score_by_iou=curves)
    with result.attempt():
        result.files = _write_comparison(found, differences, iou_range)

    heads = Heads(found.keys, by_size)
    all_sizes = by_size[by_size["size"] == "all"]
    for statistic in statistics:
        statistic_rows = select(differences, size="all", statistic=statistic)
        result.lines(heads.leader(all_sizes, statistic_rows, statistic))
    result.lines(QUESTIONS)
    low, high = iou_range
    columns = ["size", *statistics, "objects", "measured"]
    result.table(
        f"Correlation of score and IoU, proposals of IoU {low:g} to {high:g} [95% interval]",
        heads.rows(by_size, columns),
        *heads.share("classifier"),
        f"{SIZES} {_sampling(found, all_sizes, heads.names)}",
    )
    within = curves[((curves["iou_low"] + curves["iou_high"]) / 2).between(*iou_range)]
    result.table(
        "Score by IoU of the proposal, all sizes: mean [95% interval] ± standard deviation",
        heads.columns(
            name_bins(within[within["size"] == "all"]),
            ["proposal IoU"],
            lambda row: interval(row, "mean", "std"),
        ),
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

    from rethink_heads.statistics.correlation import pearson, spearman

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
    from rethink_heads.statistics.correlation import pearson, spearman

    selected, whole = found.selected, iou_range == IOU_RANGES[0]
    ranges = IOU_RANGES if whole else (iou_range,)
    statistics = {"pcc": pearson} | ({"spearman": spearman} if selected.has_rows else {})
    tables = {
        name: over_ranges(partial(statistic, selected, seed=found.seed), ranges)
        for name, statistic in statistics.items()
    }
    inner = "" if whole else "iou_{:g}_{:g}".format(*iou_range)
    return write_comparison(found.runs, found.names, NAME, differences, tables, inner)
