"""How well a head regresses boxes: regressed IoU, gain over the proposal, parts of the error.

``series`` and ``ax`` are as of all functions in :mod:`rethink_heads.plots.correlation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from rethink_heads.plots.correlation import (
    curve_handles,
    draw_by_iou,
    draw_dots,
    from_zero,
    unit_axes,
)
from rethink_heads.plots.layout import dot_handles, panel
from rethink_heads.plots.style import FAINT, FONT, INK, TIGHT_LINES, Series

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
    """
    with panel(frame, series, ax, lambda heads: curve_handles(heads, spread)) as (ax, series):
        ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, zorder=1.8, label="proposal")
        draw_by_iou(ax, frame[frame["size"] == size], series, "mean", spread)
        ax.set_ylabel("Regressed IoU")
        unit_axes(ax)
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
    """
    with panel(frame, series, ax, lambda heads: curve_handles(heads, False)) as (ax, series):
        ax.axhline(0, color=FAINT, linewidth=0.7, zorder=1.8)
        draw_by_iou(ax, frame[frame["size"] == size], series, "gain")
        ax.set_ylabel("Gain in IoU")
        unit_axes(ax, "x")
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
    """
    with panel(frame, series, ax, dot_handles, height=2.2) as (ax, series):
        # Centre and scale have different units: a line keeps them apart.
        ax.axvline(1.5, color=FAINT, linewidth=0.5, linestyle=(0, (2, 2)), zorder=1.4)
        rows = frame[frame["size"] == size]
        draw_dots(ax, rows, series, COMPONENTS, category="component", value=value)
        if value == "mean":
            ax.axhline(0, color=FAINT, linewidth=0.7, zorder=1.8)
        else:
            from_zero(ax)
        ax.set_xticks([0.5, 2.5], ["centre", "scale"], minor=True)
        ax.tick_params(axis="x", which="minor", length=0, pad=12, labelcolor=INK)
        ax.tick_params(axis="x", which="minor", labelsize=8, labelfontfamily=FONT)
        ax.set_xlabel("")
        ax.set_ylabel(f"{ERROR_LABELS[value]}\n{UNITS}", linespacing=TIGHT_LINES)
    return ax
