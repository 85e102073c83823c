"""Figures of final detections: average precision, TIDE's errors, reliability of the scores.

Each function takes result frames of detections and returns a matplotlib figure; frames without rows raise
NothingToDrawError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rethink_heads.plots.layout import (
    bar_handle,
    caption_below,
    dot_handles,
    legend_above,
    line_handles,
    panel_grid,
)
from rethink_heads.plots.panels import (
    draw_curves,
    draw_dots,
    from_zero,
    in_percent,
    name_categories,
    unit_axes,
)
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    INK,
    PAGE_WIDTH,
    NothingToDrawError,
    Series,
    heads_of,
    paper_style,
    source_text,
)

METRICS: Mapping[str, str] = {
    "AP": "AP",
    "AP50": "AP$_{50}$",
    "AP75": "AP$_{75}$",
    "APs": "AP$_S$",
    "APm": "AP$_M$",
    "APl": "AP$_L$",
}
# Error -> the axis label; the second group is of TIDE's special errors.
MAIN_LABELS: Mapping[str, str] = {
    "cls": "Cls",
    "loc": "Loc",
    "both": "Both",
    "dupe": "Dupe",
    "bkg": "Bkg",
    "miss": "Miss",
}
SPECIAL_LABELS: Mapping[str, str] = {"fp": "FP", "fn": "FN"}
ERROR_LABELS: Mapping[str, str] = {"d_ece": "D-ECE", "laece": "LaECE"}
# More heads than these need the width of a page.
MOST_IN_A_COLUMN = 4
BAR_WIDTH = 0.82


@paper_style()
def average_precision(table: pd.DataFrame) -> Figure:
    """COCO's average precisions of ``precision_table`` with 95% intervals, heads side by side."""
    series, width = _contents(table)
    present = set(table.loc[table["value"].notna(), "metric"])
    metrics = [metric for metric in METRICS if metric in present]
    if not metrics:
        raise NothingToDrawError("no average precision is defined")
    figure, ((ax,),) = panel_grid(1, 1, height=2.2, width=width)
    draw_dots(ax, in_percent(table, "value"), series, metrics, category="metric", value="value")
    name_categories(ax, [METRICS[metric] for metric in metrics])
    ax.set_ylabel("Average precision (%)")
    legend_above(figure, dot_handles(series))
    caption_below(figure, source_text(table))
    return figure


@paper_style()
def detection_errors(table: pd.DataFrame) -> Figure:
    """What AP would gain without each of TIDE's errors, with 95% intervals (as TIDE's bar charts).
    ``table`` is what ``detection_errors`` returns.
    """
    series, width = _contents(table)
    frame = in_percent(table, "delta_ap")
    figure, axes = panel_grid(1, 2, height=2.3, width=width)
    axes[0, 0].get_gridspec().set_width_ratios([len(MAIN_LABELS), len(SPECIAL_LABELS)])
    for ax, labels in zip(axes[0], (MAIN_LABELS, SPECIAL_LABELS), strict=True):
        _draw_gains(ax, frame, series, labels)
    axes[0, 0].set_ylabel("Gain in AP without the error (points)")
    bars = [Patch(label=one.label, **_bar_look(one)) for one in series]
    legend_above(figure, [*bars, bar_handle(color=INK)])
    caption_below(figure, source_text(table))
    return figure


@paper_style()
def reliability(table: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Precision and IoU of detections by their score, and the calibration errors, with 95% intervals.

    On the grey diagonal scores say exactly how good detections are; below it the head is overconfident.

    Args:
        table: what ``reliability`` returns.
        errors: what ``calibration_errors`` returns.
    """
    series, _ = _contents(table)
    frame = table[table["count"] > 0]
    figure, axes = panel_grid(1, 3, height=2.5)
    axes[0, 0].get_gridspec().set_width_ratios([1, 1, 0.8])
    labels = {"precision": "Precision at IoU 0.5", "iou": "Mean IoU, false positives as 0"}
    for ax, (value, label) in zip(axes[0], labels.items(), strict=False):
        ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, zorder=1.8)
        draw_curves(ax, frame, series, x="mean_score", value=value)
        unit_axes(ax)
        ax.set_xlabel("Score")
        ax.set_ylabel(label)
    ax, kinds = axes[0, 2], list(ERROR_LABELS)
    draw_dots(ax, in_percent(errors, "value"), series, kinds, category="error", value="value")
    from_zero(ax)
    name_categories(ax, list(ERROR_LABELS.values()))
    ax.set_ylabel("Calibration error (%)")
    legend_above(figure, line_handles(series, "95% interval"))
    caption_below(figure, source_text(table))
    return figure


def _draw_gains(
    ax: Axes, frame: pd.DataFrame, series: Sequence[Series], labels: Mapping[str, str]
) -> None:
    """Draw gains in AP as bars from zero, a group an error, a bar a head, with their intervals as lines.

    ``labels``: the errors to draw, and what the axis calls them.
    """
    width = BAR_WIDTH / max(len(series), 1)
    for place, one in enumerate(series):
        rows = one.rows(frame).set_index("error").reindex(list(labels))
        gain, low, high = (rows[f"delta_ap{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        at = np.arange(len(labels)) + (place - (len(series) - 1) / 2) * width
        ax.bar(at, gain, width=width * 0.92, zorder=2.2, **_bar_look(one))
        ax.vlines(at, low, high, color=INK, linewidth=0.8, zorder=3)
    ax.axhline(0, color=INK, linewidth=0.5, zorder=3)
    name_categories(ax, list(labels.values()))


def _bar_look(one: Series) -> dict[str, Any]:
    hatch = "//////" if one.look.hollow else None
    colours = {"facecolor": one.look.marker_face, "edgecolor": one.look.colour}
    return {**colours, "hatch": hatch, "linewidth": 0.5}


def _contents(table: pd.DataFrame) -> tuple[list[Series], float]:
    """The heads, and the width of a figure with all of them side by side."""
    if table.empty:
        raise NothingToDrawError("no detections")
    series = heads_of(table)
    return series, COLUMN_WIDTH if len(series) <= MOST_IN_A_COLUMN else PAGE_WIDTH
