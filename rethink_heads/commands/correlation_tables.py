"""What ``rethink-heads correlate`` prints, and the tables by bin and of differences that others print too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rethink_heads.commands.studies import Study, records, verdict
from rethink_heads.console import interval, number, print_lines, print_table

if TYPE_CHECKING:
    import pandas as pd


def print_correlations(found: Study, by_size: pd.DataFrame, iou_range: tuple[float, float]) -> None:
    """Print a row for each head and size."""
    rows = []
    for detector, head in found.sides:
        for row in records(by_size, detector=detector, head=head):
            rows.append(
                [
                    detector,
                    head,
                    row["size"],
                    interval(row, "pcc"),
                    interval(row, "object_pcc"),
                    interval(row, "spearman"),
                    f"{row['objects']}",
                    f"{row['measured']}",
                ]
            )
    low, high = iou_range
    print_table(
        f"Correlation of score and proposal IoU, IoU {low:g} to {high:g} [95% interval]",
        ["run", "head", "size", "PCC", "mean PCC of objects", "Spearman", "objects", "measured"],
        rows,
    )
    print_lines(_sampling(found, by_size))


def _sampling(found: Study, by_size: pd.DataFrame) -> str:
    """How many proposals an object were measured and how far that may put the correlations off."""
    from rethink_heads.statistics.sampling_error import proposals_per_object

    measured, whole = proposals_per_object(found.selected)
    if measured == whole:
        return (
            f"All {whole:,.0f} proposals an object (on average) were measured: no sampling error of the PCC;"
            f" of Spearman's correlation, which ranks some of them: {_errors(found, by_size, 'spearman')}."
        )
    return (
        f"{measured:,.0f} of {whole:,.0f} proposals an object (on average) were measured. Standard error of this"
        f" sampling, all sizes, of the PCC: {_errors(found, by_size, 'pcc')}; of Spearman's correlation:"
        f" {_errors(found, by_size, 'spearman')}. Where there are intervals they hold it."
    )


def _errors(found: Study, by_size: pd.DataFrame, statistic: str) -> str:
    """Each head's error of sampling over all sizes."""
    of_all = by_size[by_size["size"] == "all"].set_index(["detector", "head"])
    errors = of_all[f"{statistic}_sampling_error"]
    return ", ".join(f"{'/'.join(side)} {number(errors[side], 4)}" for side in found.sides)


def print_scores(found: Study, iou_range: tuple[float, float]) -> None:
    """Print the score by IoU of the proposal: mean and standard deviation in each bin."""
    from rethink_heads.statistics.correlation import score_by_iou

    def cell(row: dict[str, Any]) -> str:
        mean = interval(row, "mean")
        return mean if mean == "-" else f"{mean} ± {number(row['std'])}"

    scores = score_by_iou(found.selected, seed=found.seed)
    middle = (scores["iou_low"] + scores["iou_high"]) / 2
    title = "Score by IoU of the proposal, all sizes: mean [95% interval] ± standard deviation"
    print_by_bin(found, scores[middle.between(*iou_range)], title, cell)


def print_by_bin(
    found: Study, curves: pd.DataFrame, title: str, cell: Callable[[dict[str, Any]], str]
) -> None:
    """Print a curve over all sizes: a row for each bin, a column for each head."""
    of_all = {
        side: records(curves, detector=side[0], head=side[1], size="all") for side in found.sides
    }
    rows = []
    for bins in zip(*of_all.values(), strict=True):
        first = bins[0]
        rows.append(
            [
                f"{first['iou_low']:.2f} - {first['iou_high']:.2f}",
                *(cell(row) for row in bins),
                str(first["measured"]),
            ]
        )
    columns = ["proposal IoU", *("/".join(side) for side in of_all), "measured"]
    print_table(title, columns, rows)


def print_differences(frame: pd.DataFrame) -> None:
    """Print comparisons of two heads: a row for each statistic, size and, where given, bin."""
    if frame.empty:
        return
    by_bin = "iou_low" in frame.columns
    rows = []
    for row in records(frame):
        bins = [f"{row['iou_low']:.2f} - {row['iou_high']:.2f}"] if by_bin else []
        rows.append(
            [
                row["statistic"],
                row["size"],
                *bins,
                f"{row['a']} - {row['b']}",
                interval(row, "difference"),
                verdict(row),
                str(row["objects"]),
            ]
        )
    print_table(
        "Difference of two heads on the same objects [95% interval]",
        [
            "statistic",
            "size",
            *(["proposal IoU"] if by_bin else []),
            "heads",
            "difference",
            "excludes zero",
            "objects",
        ],
        rows,
    )
