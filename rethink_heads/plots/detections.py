"""Figures of final detections: average precision, TIDE's errors, reliability of the scores.

Each function takes frames of :mod:`rethink_heads.statistics` and returns a matplotlib figure; frames without rows
raise NothingToDrawError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rethink_heads.plots.correlation import unit_axes
from rethink_heads.plots.curves import draw_curves, draw_dots, from_zero
from rethink_heads.plots.layout import dots, legend_above, lines, panel_grid
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    INK,
    PAGE_WIDTH,
    NothingToDrawError,
    Series,
    interval_patch,
    paper_style,
    series_of,
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
HATCH = "//////"


def average_precision(table: pd.DataFrame) -> Figure:
    """COCO's average precisions with 95% intervals, heads side by side.

    Args:
        table: what ``precision_table`` returns.
    """
    series = _series(table)
    there = table[table["value"].notna()]
    metrics = [metric for metric in METRICS if metric in set(there["metric"])]
    if not metrics:
        raise NothingToDrawError("no average precision is defined")
    with paper_style():
        figure, axes = panel_grid(1, 1, height=2.2, width=_width(series))
        ax = axes[0, 0]
        draw_dots(
            ax,
            _percent(table, "value"),
            series,
            metrics,
            category="metric",
            value="value",
        )
        ax.set_xticks(range(len(metrics)), [METRICS[metric] for metric in metrics])
        ax.set_ylabel("Average precision (%)")
        legend_above(figure, dots(series))
    return figure


def detection_errors(table: pd.DataFrame) -> Figure:
    """What AP would gain without each of TIDE's errors, with 95% intervals (as TIDE's bar charts).

    Args:
        table: what ``detection_errors`` returns.
    """
    series = _series(table)
    frame = _percent(table, "delta_ap")
    with paper_style():
        figure, axes = panel_grid(1, 2, height=2.3, width=_width(series))
        axes[0, 0].get_gridspec().set_width_ratios([len(MAIN_LABELS), len(SPECIAL_LABELS)])
        for ax, labels in zip(axes[0], (MAIN_LABELS, SPECIAL_LABELS), strict=True):
            draw_bars(ax, frame, series, labels, category="error", value="delta_ap")
        axes[0, 0].set_ylabel("Gain in AP without the error (points)")
        legend_above(figure, [*bars(series), _whisker()])
    return figure


def reliability(table: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Precision and IoU of detections by their score, and the calibration errors, with 95% intervals.

    On the grey diagonal scores say exactly how good detections are; below it the head is overconfident.

    Args:
        table: what ``reliability`` returns.
        errors: what ``calibration_errors`` returns.
    """
    series = _series(table)
    frame = table[table["count"] > 0]
    with paper_style():
        figure, axes = panel_grid(1, 3, height=2.5)
        axes[0, 0].get_gridspec().set_width_ratios([1, 1, 0.8])
        labels = {"precision": "Precision at IoU 0.5", "iou": "Mean IoU, false positives as 0"}
        for ax, (value, label) in zip(axes[0], labels.items(), strict=False):
            ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, zorder=1.8)
            draw_curves(
                ax,
                frame,
                series,
                x="mean_score",
                value=value,
            )
            unit_axes(ax)
            ax.set_xlabel("Score")
            ax.set_ylabel(label)
        ax = axes[0, 2]
        draw_dots(
            ax,
            _percent(errors, "value"),
            series,
            list(ERROR_LABELS),
            category="error",
            value="value",
        )
        from_zero(ax)
        ax.set_xticks(range(len(ERROR_LABELS)), list(ERROR_LABELS.values()))
        ax.set_ylabel("Calibration error (%)")
        patch = interval_patch()
        patch.set_label("95% interval")
        legend_above(figure, [*lines(series), patch])
    return figure


def draw_bars(
    ax: Axes,
    frame: pd.DataFrame,
    series: Sequence[Series],
    labels: Mapping[str, str],
    *,
    category: str,
    value: str,
) -> None:
    """Draw ``value`` as bars from zero, a group a category, a bar a head, with its interval as a line.

    Args:
        frame: columns detector, head, ``category``, ``value`` and its ends.
        labels: the categories to draw, and what the axis calls them.
    """
    width = BAR_WIDTH / max(len(series), 1)
    for place, one in enumerate(series):
        rows = one.rows(frame).set_index(category).reindex(list(labels))
        at = np.arange(len(labels)) + (place - (len(series) - 1) / 2) * width
        ax.bar(
            at,
            rows[value].to_numpy(float),
            width=width * 0.92,
            facecolor="white" if one.hollow else one.colour,
            edgecolor=one.colour,
            hatch=HATCH if one.hollow else None,
            linewidth=0.5,
            zorder=2.2,
        )
        ax.vlines(
            at,
            rows[f"{value}_low"].to_numpy(float),
            rows[f"{value}_high"].to_numpy(float),
            color=INK,
            linewidth=0.8,
            zorder=3,
        )
    ax.axhline(0, color=INK, linewidth=0.5, zorder=3)
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_xticks(range(len(labels)), list(labels.values()))
    ax.tick_params(axis="x", length=0)


def bars(series: Sequence[Series]) -> list[Patch]:
    """Legend entries of bars."""
    return [
        Patch(
            facecolor="white" if one.hollow else one.colour,
            edgecolor=one.colour,
            hatch=HATCH if one.hollow else None,
            linewidth=0.5,
            label=one.label,
        )
        for one in series
    ]


def _whisker() -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker="|", markersize=7, color=INK, label="95% interval"
    )


def _series(table: pd.DataFrame) -> list[Series]:
    if table.empty:
        raise NothingToDrawError("no detections")
    return series_of(table)


def _width(series: Sequence[Series]) -> float:
    return COLUMN_WIDTH if len(series) <= MOST_IN_A_COLUMN else PAGE_WIDTH


def _percent(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    columns = [value, f"{value}_low", f"{value}_high"]
    return frame.assign(**{column: 100 * frame[column] for column in columns})
