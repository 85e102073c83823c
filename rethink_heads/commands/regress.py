"""``rethink-heads regress``: how well a head's boxes fit, by the IoU of the proposal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rethink_heads.options import ScreenOptions, StudyOptions
from rethink_heads.report.output import Report
from rethink_heads.results import whereabouts, write_comparison
from rethink_heads.study import study

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.report.heads import Heads

NAME = "regress"
EXAMPLE = "Example: rethink-heads regress --run runs/demo --head fc --head conv"
LEAST_IOU = 0.5


def command(options: StudyOptions, screen: ScreenOptions) -> None:
    """Regression error: IoU of the regressed box per IoU of the proposal (paper Figure 2, row 2).

    Beside it the gain over the proposal's own IoU, and the error split into centre (in units of the
    object's size) and scale (log ratios); 95% intervals from a bootstrap over images.
    """
    found = study(options)

    from rethink_heads.report.heads import SIZES, Heads, name_bins, select, widen
    from rethink_heads.statistics.by_iou import error_components, regressed_iou_by_iou

    curves = regressed_iou_by_iou(found.selected, seed=found.seed)
    errors = error_components(found.selected, seed=found.seed)
    differences = found.compare("regressed_iou", by_bin=True)
    result = Report(NAME, found.measurements.provenance)
    result.data(regressed_iou=curves, error_components=errors, comparisons=differences)
    tables = {"regressed_iou": curves, "error_components": errors}
    with result.attempt():
        result.files = write_comparison(found, NAME, differences, tables)

    heads = Heads(found.keys, curves, errors)
    result.lines(_answer(heads, curves), *_leads(heads, differences))
    components = list(dict.fromkeys(errors["component"]))
    result.table(
        "Error of the regressed box, root mean square [95% interval]",
        heads.rows(widen(errors, "component", "rms"), ["size", *components]),
        *heads.share("regressor"),
        "dx, dy: centre, in units of the object's size; dw, dh: log ratio of width and height, held at -4.1 for boxes"
        f" narrower than 0.016 of the object. {SIZES}",
    )
    all_sizes, by_bin = (name_bins(select(each, size="all")) for each in (curves, differences))
    upper = all_sizes[all_sizes["iou_low"] > LEAST_IOU - 0.01]
    title = "IoU of the regressed box by IoU of the proposal"
    cells = heads.columns(upper, ["proposal IoU"], "mean", by_bin)
    result.table(f"{title} from {LEAST_IOU}, all sizes [95% interval]", cells)
    cells = heads.columns(all_sizes, ["proposal IoU"], "mean", by_bin)
    result.table(f"{title}, all sizes [95% interval]", cells, full=True)
    cells = heads.columns(all_sizes, ["proposal IoU"], "gain")
    result.table("Gain over the proposal by its IoU, all sizes [95% interval]", cells, full=True)
    cells, _ = heads.differences(differences, full=True)
    result.table("Differences on the same objects [95% interval]", cells, full=True)
    result.end(screen.as_json, screen.full, whereabouts(found.runs, result.files))


def _answer(heads: Heads, curves: pd.DataFrame) -> str:
    """What becomes of a proposal of the least IoU that final boxes come from."""
    from rethink_heads.report.heads import interval, records, rows_of

    found = curves[(curves["size"] == "all") & (curves["iou_low"] > LEAST_IOU - 0.01)]
    found = found[found["bin"] == found["bin"].min()]
    boxes = [
        f"{name} {interval(row, 'mean')}"
        for key, name in heads.names.items()
        for row in records(rows_of(found, key))
    ]
    return f"From a proposal of IoU {LEAST_IOU:.2f} - 0.55 comes a box of IoU: {'; '.join(boxes)}."


def _leads(heads: Heads, differences: pd.DataFrame) -> Iterator[str]:
    """For each pair of heads in how many bins of the proposal's IoU either fits better, over all sizes."""
    from rethink_heads.report.heads import interval, records

    pairs = heads.pairs(differences)
    if pairs.empty:
        return
    bins = pairs[(pairs["size"] == "all") & pairs["difference"].notna()]
    for names, pair_rows in bins.groupby("heads", sort=False):
        decided = pair_rows[pair_rows["excludes_zero"]]
        above = int((decided["difference"] > 0).sum())
        a, b = str(names).split(" - ")
        line = (
            f"Boxes of {a} fit better than those of {b} in {above} of {len(pair_rows)} bins of the proposal's IoU,"
            f" worse in {len(decided) - above} (the difference's interval excludes zero)"
        )
        if len(decided):
            row = max(records(decided), key=lambda each: abs(each["difference"]))
            line += f"; most at IoU {row['iou_low']:.2f} - {row['iou_high']:.2f}: {interval(row, 'difference')}"
        yield f"{line}."
