"""``rethink-heads correlate``: how a head's score follows the IoU of the proposal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rethink_heads.commands.comparing import files_written, write_comparison
from rethink_heads.commands.correlation_tables import (
    print_correlations,
    print_differences,
    print_scores,
)
from rethink_heads.commands.stages import (
    PREDEFINED,
    StagesOption,
    chosen_stages,
    report_stages,
    stage_study,
)
from rethink_heads.commands.studies import (
    Study,
    comparisons,
    one_or_several,
    records,
    study,
)
from rethink_heads.console import print_json
from rethink_heads.errors import UserError
from rethink_heads.options import JsonOption, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

NAME = "correlate"
EXAMPLE = (
    "Examples: rethink-heads correlate --run runs/demo --head fc --head conv --iou-range 0.5 1\n\n"
    "rethink-heads correlate --run runs/fc --run runs/conv --stage all"
)

RangeOption = Annotated[
    tuple[float, float],
    typer.Option("--iou-range", metavar="LOW HIGH", help="Count proposals of this IoU only."),
]


def command(
    options: StudyOptions,
    stage: StagesOption = None,
    iou_range: RangeOption = (0.0, 1.0),
    as_json: JsonOption = False,
) -> None:
    """Correlation of score and IoU, by object size (paper Figures 2 and 3).

    Pearson's correlation (PCC) pooled over proposals, the mean of the objects' own, and Spearman's;
    95% intervals from a bootstrap over images; heads compared on the same objects.

    With --stage also of RPN's proposals and of the final detections after NMS, each matched to the
    object that it overlaps most, and the mean rank correlation of positive boxes within images and
    within classes; tables (CSV) and the figure go into the run, of several runs into a folder
    beside the first.
    """
    from rethink_heads.statistics.sums import bin_range

    bin_range(iou_range)
    stages = chosen_stages(stage)
    if stages == [PREDEFINED]:
        report(study(options), iou_range, as_json)
    else:
        report_stages(stage_study(stages, options), iou_range, as_json)


def report(
    found: Study, iou_range: tuple[float, float], as_json: bool, curves: bool = True
) -> None:
    """Print the correlations of a study, the scores by IoU (``curves``), how its heads differ."""
    import pandas as pd

    from rethink_heads.statistics.correlation import pearson, spearman

    selected = found.selected
    pooled = pearson(selected, iou_range, seed=found.seed)
    ranks = spearman(selected, iou_range, seed=found.seed)
    keys = ["detector", "head", "size"]
    by_size = pooled.merge(ranks.drop(columns="objects"), on=keys, how="left")
    # Without sampled rows (measuring.rows_per_bin=0) there are no ranks.
    statistics = ["pcc", "object_pcc", *(["spearman"] if selected.has_rows else [])]
    differences = pd.concat(
        [comparisons(found, statistic, iou_range=iou_range) for statistic in statistics],
        ignore_index=True,
    )
    written, failure = _write_comparison(found, differences, iou_range)
    if as_json:
        print_json(_as_json(found, by_size, differences, iou_range, written))
    else:
        print_correlations(found, by_size, iou_range)
        if curves:
            print_scores(found, iou_range)
        if len(differences):
            print_differences(differences[differences["statistic"] != "object_pcc"])
    if failure is not None:
        raise failure


def _as_json(
    found: Study,
    by_size: pd.DataFrame,
    differences: pd.DataFrame,
    iou_range: tuple[float, float],
    written: Sequence[Path],
) -> dict[str, Any]:
    from rethink_heads.statistics.correlation import score_by_iou

    curves = score_by_iou(found.selected, seed=found.seed)
    heads = []
    for detector, head in found.sides:
        rows = records(by_size, detector=detector, head=head)
        heads.append(
            {
                "detector": detector,
                "head": head,
                "by_size": {row.pop("size"): row for row in rows},
                "score_by_iou": records(curves, detector=detector, head=head),
            }
        )
    return one_or_several(
        heads,
        comparisons=records(differences),
        iou_range=iou_range,
        provenance=found.measurements.provenance,
        **files_written(written),
    )


def _write_comparison(
    found: Study, differences: pd.DataFrame, iou_range: tuple[float, float]
) -> tuple[list[Path], UserError | None]:
    """The tables and the figure that ``rethink-heads figures`` makes too; of a range that is asked for, apart."""
    if len(found.runs) == 1:
        return [], None
    from rethink_heads.results import IOU_RANGES, over_ranges
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
