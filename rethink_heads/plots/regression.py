"""How well a head regresses boxes: regressed IoU, gain over the proposal, parts of the error."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from rethink_heads.plots.correlation import curve_handles, unit_axes, with_bin_centres
from rethink_heads.plots.curves import draw_curves, draw_dots, from_zero
from rethink_heads.plots.layout import add_legend, dots
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    FONT,
    INK,
    TIGHT_LINES,
    Series,
    new_axes,
    series_of,
)

COMPONENTS: tuple[str, ...] = ("dx", "dy", "dw", "dh")
UNITS = "(object sizes; ln ratio)"
# Column of the frame -> the axis label.
ERROR_LABELS: dict[str, str] = {
    "mae": "Mean absolute error",
    "mean": "Mean error (bias)",
    "rms": "Root mean square error",
}


def plot_regressed_iou_by_iou(
    frame: pd.DataFrame,
    size: str = "all",
    *,
    spread: bool = True,
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the regressed box's mean IoU against the proposal's (paper, Figure 2, row 2).

    The dark band is the mean's 95% interval; the light band (thin lines where there are more than
    two heads) is one standard deviation to either side. On the grey diagonal the regressed box is
    as good as the proposal.

    Args:
        frame: what :func:`rethink_heads.statistics.regression.regressed_iou_by_iou` returns.
        size: which objects: "small", "medium", "large" or "all".
        spread: draw the standard deviation.
        series: the heads to draw and their looks; all of the frame's by default.
        ax: where to draw; new axes with a legend by default.
    """
    series = series_of(frame) if series is None else series
    own = ax is None
    ax = new_axes() if ax is None else ax
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, zorder=1.8, label="proposal")
    draw_curves(
        ax,
        with_bin_centres(frame[frame["size"] == size]),
        series,
        x="iou",
        value="mean",
        spread="std" if spread else None,
    )
    ax.set_xlabel("Proposal IoU")
    ax.set_ylabel("Regressed IoU")
    unit_axes(ax)
    if own:
        add_legend(ax, curve_handles(series, spread))
    return ax


def plot_gain(
    frame: pd.DataFrame,
    size: str = "all",
    *,
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the gain, regressed less proposal IoU, against the proposal's IoU, with 95% bands.

    Args:
        frame: what :func:`rethink_heads.statistics.regression.regressed_iou_by_iou` returns.
        size: which objects: "small", "medium", "large" or "all".
        series: the heads to draw and their looks; all of the frame's by default.
        ax: where to draw; new axes with a legend by default.
    """
    series = series_of(frame) if series is None else series
    own = ax is None
    ax = new_axes() if ax is None else ax
    ax.axhline(0, color=FAINT, linewidth=0.7, zorder=1.8)
    draw_curves(
        ax,
        with_bin_centres(frame[frame["size"] == size]),
        series,
        x="iou",
        value="gain",
    )
    ax.set_xlabel("Proposal IoU")
    ax.set_ylabel("Gain in IoU")
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    if own:
        add_legend(ax, curve_handles(series, spread=False))
    return ax


def plot_error_components(
    frame: pd.DataFrame,
    size: str = "all",
    value: str = "mae",
    *,
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the regressed box's error in centre (dx, dy) and scale (dw, dh), with 95% intervals.

    dx and dy are in widths and heights of the object, dw and dh natural logarithms of the ratio of
    the widths and heights.

    Args:
        frame: what :func:`rethink_heads.statistics.regression.error_components` returns for all
            bins together.
        size: which objects: "small", "medium", "large" or "all".
        value: "mae" (mean absolute error), "mean" (bias) or "rms".
        series: the heads to draw and their looks; all of the frame's by default.
        ax: where to draw; new axes with a legend by default.
    """
    series = series_of(frame) if series is None else series
    own = ax is None
    ax = new_axes(COLUMN_WIDTH, 2.2) if ax is None else ax
    # Centre and scale have different units: a line keeps them apart.
    ax.axvline(1.5, color=FAINT, linewidth=0.5, linestyle=(0, (2, 2)), zorder=1.4)
    draw_dots(
        ax,
        frame[frame["size"] == size],
        series,
        COMPONENTS,
        category="component",
        value=value,
    )
    if value == "mean":
        ax.axhline(0, color=FAINT, linewidth=0.7, zorder=1.8)
    else:
        from_zero(ax)
    ax.set_xticks([0.5, 2.5], ["centre", "scale"], minor=True)
    ax.tick_params(axis="x", which="minor", length=0, pad=12, labelcolor=INK)
    ax.tick_params(axis="x", which="minor", labelsize=8, labelfontfamily=FONT)
    ax.set_xlabel("")
    ax.set_ylabel(f"{ERROR_LABELS[value]}\n{UNITS}", linespacing=TIGHT_LINES)
    if own:
        add_legend(ax, dots(series))
    return ax
