"""``rethink-heads regress``: how well a head's boxes fit, by the IoU of the proposal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rethink_heads.commands.comparing import files_written, write_comparison
from rethink_heads.commands.correlation_tables import print_by_bin, print_differences
from rethink_heads.commands.studies import Study, comparisons, one_or_several, records, study
from rethink_heads.console import interval, print_json, print_lines, print_table
from rethink_heads.options import JsonOption, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

NAME = "regress"
EXAMPLE = "Example: rethink-heads regress --run runs/demo --head fc --head conv"


def command(
    options: StudyOptions,
    as_json: JsonOption = False,
) -> None:
    """Regression error: IoU of the regressed box per IoU of the proposal (paper Figure 2, row 2).

    Beside it the gain over the proposal's own IoU, and the error split into centre (in units of the
    object's size) and scale (log ratios); 95% intervals from a bootstrap over images.
    """
    report(study(options), as_json)


def report(found: Study, as_json: bool) -> None:
    """Print the regression error of a study's heads and how they differ."""
    from rethink_heads.statistics.regression import error_components, regressed_iou_by_iou

    selected = found.selected
    curves = regressed_iou_by_iou(selected, seed=found.seed)
    errors = error_components(selected, seed=found.seed)
    differences = comparisons(found, "regressed_iou", by_bin=True)
    tables = {"regressed_iou": curves, "error_components": errors}
    written, failure = write_comparison(found.runs, found.names, NAME, differences, tables)
    if as_json:
        print_json(_as_json(found, curves, errors, differences) | files_written(written))
    else:
        _print_report(found, curves, errors, differences)
    if failure is not None:
        raise failure


def _print_report(
    found: Study, curves: pd.DataFrame, errors: pd.DataFrame, differences: pd.DataFrame
) -> None:
    _print_curves(found, curves)
    _print_errors(found, errors)
    if not differences.empty:
        print_differences(differences[differences["size"] == "all"])


def _as_json(
    found: Study, curves: pd.DataFrame, errors: pd.DataFrame, differences: pd.DataFrame
) -> dict[str, Any]:
    heads = []
    for detector, head in found.sides:
        by_size = {}
        for size in dict.fromkeys(curves["size"]):
            chosen = {"detector": detector, "head": head, "size": size}
            by_size[size] = {
                "regressed_iou_by_iou": records(curves, **chosen),
                "error_components": records(errors, **chosen),
            }
        heads.append({"detector": detector, "head": head, "by_size": by_size})
    return one_or_several(
        heads,
        comparisons=records(differences),
        provenance=found.measurements.provenance,
    )


def _print_curves(found: Study, curves: pd.DataFrame) -> None:
    for title, value in (("IoU of the regressed box", "mean"), ("Gain over the proposal", "gain")):
        print_by_bin(
            found,
            curves,
            f"{title} by IoU of the proposal, all sizes [95% interval]",
            partial(interval, value=value),
        )


def _print_errors(found: Study, errors: pd.DataFrame) -> None:
    rows = []
    for detector, head in found.sides:
        of_head = errors[(errors["detector"] == detector) & (errors["head"] == head)]
        for size in dict.fromkeys(of_head["size"]):
            by_component = {
                row["component"]: interval(row, "rms") for row in records(of_head, size=size)
            }
            rows.append([detector, head, size, *by_component.values()])
    components = list(dict.fromkeys(errors["component"]))
    print_table(
        "Error of the regressed box, root mean square [95% interval]: centre dx, dy in units of"
        " the object's size; log ratio of width dw and height dh",
        ["run", "head", "size", *components],
        rows,
    )
    print_lines(
        "The ratios of dw and dh are held at 0.016 or more: so narrow a box counts as -4.1."
    )
