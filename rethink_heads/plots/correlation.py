"""How a head's score follows the proposal's IoU: curves over IoU bins, coefficients by size."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from rethink_heads.plots.curves import draw_curves, draw_dots
from rethink_heads.plots.layout import add_legend, dots, lines
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    Series,
    interval_patch,
    new_axes,
    series_of,
    sizes_in,
    spread_handle,
)

# Column of the frame -> the axis label.
COEFFICIENTS: dict[str, str] = {
    "pcc": "PCC, all proposals",
    "object_pcc": "PCC, mean of objects",
    "spearman": "Spearman, all proposals",
}


def plot_score_by_iou(
    frame: pd.DataFrame,
    size: str = "all",
    *,
    spread: bool = True,
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean score against the proposal's IoU, a line a head (paper, Figure 2, row 1).

    The dark band is the mean's 95% interval; the light band (thin lines where there are more than
    two heads) is one standard deviation of the score to either side.

    Args:
        frame: what :func:`rethink_heads.statistics.correlation.score_by_iou` returns.
        size: which objects: "small", "medium", "large" or "all".
        spread: draw the standard deviation.
        series: the heads to draw and their looks; all of the frame's by default.
        ax: where to draw; new axes with a legend by default.
    """
    series = series_of(frame) if series is None else series
    own = ax is None
    ax = new_axes() if ax is None else ax
    draw_curves(
        ax,
        with_bin_centres(frame[frame["size"] == size]),
        series,
        x="iou",
        value="mean",
        spread="std" if spread else None,
    )
    ax.set_xlabel("Proposal IoU")
    ax.set_ylabel("Score of the true class")
    unit_axes(ax)
    if own:
        add_legend(ax, curve_handles(series, spread))
    return ax


def plot_pcc(
    frame: pd.DataFrame,
    value: str = "pcc",
    *,
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a correlation coefficient a size and head, with 95% intervals (paper, Figure 3, left).

    Args:
        frame: what :func:`rethink_heads.statistics.correlation.pearson` or ``spearman`` returns.
        value: "pcc", "object_pcc" (a frame of ``pearson``) or "spearman".
        series: the heads to draw and their looks; all of the frame's by default.
        ax: where to draw; new axes with a legend by default.
    """
    series = series_of(frame) if series is None else series
    own = ax is None
    ax = new_axes(COLUMN_WIDTH, 2.1) if ax is None else ax
    draw_dots(
        ax,
        frame,
        series,
        sizes_in(frame),
        category="size",
        value=value,
    )
    ax.set_xlabel("Object size")
    ax.set_ylabel(COEFFICIENTS[value])
    if own:
        add_legend(ax, dots(series))
    return ax


def with_bin_centres(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with ``iou``, the middle of each IoU bin, for a curve's x."""
    return frame.assign(iou=(frame["iou_low"] + frame["iou_high"]) / 2)


def unit_axes(ax: Axes) -> None:
    """Both axes from 0 to 1, with ticks that five panels side by side leave room for."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    names = ["0", "", "0.5", "", "1"]
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xticks(ticks, names)
    ax.set_yticks(ticks, names)


def curve_handles(series: Sequence[Series], spread: bool) -> list[Artist]:
    """Legend entries of heads' curves and of their bands."""
    spreads = [spread_handle(len(series))] if spread else []
    return [*lines(series), interval_patch(), *spreads]
