"""How a head's score follows the proposal's IoU and how well it regresses boxes: curves with bands, dots with bars.

Each ``plot_...`` draws the heads in ``series``, by default all that the frame holds, into ``ax``, by default new axes a
column wide with a legend, and returns the axes. ``size`` says which objects: "small", "medium", "large" or "all". An
estimate X of a frame has its 95% interval in X_low and X_high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rethink_heads.plots.layout import dot_handles, line_handles, panel
from rethink_heads.plots.style import FAINT, FONT, INK, TIGHT_LINES, Series, sizes_in

# Column of the frame -> the axis label.
COEFFICIENTS: dict[str, str] = {
    "pcc": "PCC, all proposals",
    "object_pcc": "PCC, mean of objects",
    "spearman": "Spearman, all proposals",
}
ERROR_LABELS: dict[str, str] = {
    "mae": "Mean absolute error",
    "mean": "Mean error (bias)",
    "rms": "Root mean square error",
}
COMPONENTS: tuple[str, ...] = ("dx", "dy", "dw", "dh")
UNITS = "(object sizes; ln ratio)"
# Light bands of more heads than these lie over each other and cannot be told apart.
MOST_SPREAD_BANDS = 2
INTERVAL_ALPHA = 0.35
SPREAD_ALPHA = 0.10
DODGE_WIDTH = 0.78


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
        frame: what :func:`rethink_heads.statistics.by_iou.score_by_iou` returns.
        spread: draw the standard deviation.
    """
    with panel(frame, series, ax, lambda heads: curve_handles(heads, spread)) as (ax, series):
        draw_by_iou(ax, frame[frame["size"] == size], series, "mean", spread)
        ax.set_ylabel("Score of the true class")
        unit_axes(ax)
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
        frame: what :func:`rethink_heads.statistics.by_iou.pearson` or ``spearman`` returns.
        value: "pcc", "object_pcc" (a frame of ``pearson``) or "spearman".
    """
    with panel(frame, series, ax, dot_handles, height=2.1) as (ax, series):
        draw_dots(ax, frame, series, sizes_in(frame), category="size", value=value)
        ax.set_xlabel("Object size")
        ax.set_ylabel(COEFFICIENTS[value])
    return ax


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
        frame: what :func:`rethink_heads.statistics.by_iou.regressed_iou_by_iou` returns.
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
    ``frame`` is what :func:`rethink_heads.statistics.by_iou.regressed_iou_by_iou` returns.
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
        frame: what :func:`rethink_heads.statistics.by_iou.error_components` returns for all
            bins together.
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


def draw_by_iou(
    ax: Axes, frame: pd.DataFrame, series: Sequence[Series], value: str, spread: bool = False
) -> None:
    """Draw a column of a frame by IoU bin at the bins' middles."""
    middles = frame.assign(iou=(frame["iou_low"] + frame["iou_high"]) / 2)
    draw_curves(ax, middles, series, x="iou", value=value, spread="std" if spread else None)
    ax.set_xlabel("Proposal IoU")


def draw_curves(
    ax: Axes,
    frame: pd.DataFrame,
    series: Sequence[Series],
    *,
    x: str,
    value: str,
    spread: str | None = None,
) -> None:
    """Draw ``value`` against ``x`` a head, with its interval as a band.

    Args:
        frame: rows of one size; columns detector, head, ``x``, ``value`` and its ends.
        spread: column of the standard deviation, drawn as a light band of +- 1 when there are one
            or two heads, else as thin lines; None to leave it out.
    """
    for index, one in enumerate(series):
        rows = one.rows(frame).sort_values(x)
        if rows.empty:
            continue
        colour, step = one.look.colour, 1 if len(rows) <= 8 else 3
        at, mean, low, high = _numbers(rows, x, value, f"{value}_low", f"{value}_high")
        if spread is not None:
            (deviation,) = _numbers(rows, spread)
            edges = mean - deviation, mean + deviation
            if len(series) <= MOST_SPREAD_BANDS:
                ax.fill_between(
                    at, *edges, color=colour, alpha=SPREAD_ALPHA, linewidth=0, zorder=1.5
                )
            for edge in edges:
                ax.plot(at, edge, color=colour, linewidth=0.5, alpha=0.6, ls="-", zorder=1.6)
        ax.fill_between(at, low, high, color=colour, alpha=INTERVAL_ALPHA, linewidth=0, zorder=2.5)
        ax.plot(
            at,
            mean,
            **one.look.keywords(),
            # Staggered, so that curves that coincide can still be told apart.
            markevery=(index % step, step),
            markersize=3.2,
            markeredgewidth=0.8,
            linewidth=1.2,
            label=one.label,
            zorder=3,
        )


def draw_dots(
    ax: Axes,
    frame: pd.DataFrame,
    series: Sequence[Series],
    categories: Sequence[str],
    *,
    category: str,
    value: str,
) -> None:
    """Draw ``value`` and its interval a category and head, heads side by side.

    Category ``i`` is at x = i. A value that is not a number, or has no row, is left out.
    """
    for one, offset in zip(series, dodge(len(series)), strict=True):
        rows = one.rows(frame).set_index(category).reindex(list(categories))
        mean, low, high = _numbers(rows, value, f"{value}_low", f"{value}_high")
        at = np.arange(len(categories)) + offset
        ax.vlines(at, low, high, color=one.look.colour, linewidth=1.3, linestyle="-", zorder=2.5)
        ax.plot(
            at,
            mean,
            **one.look.keywords(line=False),
            markersize=4 if len(series) <= 4 else 3.2,
            markeredgewidth=0.9,
            label=one.label,
            zorder=3,
        )
    name_categories(ax, categories)


def name_categories(ax: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of an x axis."""
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_xticks(range(len(names)), list(names))
    ax.tick_params(axis="x", length=0)


def in_percent(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """The frame with an estimate and its ends times 100."""
    columns = [value, f"{value}_low", f"{value}_high"]
    return frame.assign(**{column: 100 * frame[column] for column in columns})


def from_zero(ax: Axes) -> None:
    """Let the y axis start at zero exactly, unless there are values below, and scale itself."""
    line = ax.axhline(0, linewidth=0)
    line.sticky_edges.y.append(0)


def dodge(count: int) -> np.ndarray:
    """Offsets (count,) of dots side by side about a category's centre."""
    step = min(0.2, DODGE_WIDTH / max(count, 1))
    return (np.arange(count) - (count - 1) / 2) * step


def unit_axes(ax: Axes, axes: str = "xy") -> None:
    """Axes from 0 to 1, with ticks that five panels side by side leave room for."""
    for axis in axes:
        getattr(ax, f"set_{axis}lim")(0, 1)
        getattr(ax, f"set_{axis}ticks")([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])


def curve_handles(series: Sequence[Series], spread: bool) -> list[Artist]:
    """Legend entries of heads' curves and of their bands, those of the standard deviation as they are drawn."""
    handles = line_handles(series)
    label = r"$\pm$ 1 standard deviation"
    if spread and len(series) <= MOST_SPREAD_BANDS:
        handles.append(
            Patch(facecolor=FAINT, alpha=0.25, edgecolor=FAINT, linewidth=0.5, label=label)
        )
    elif spread:
        handles.append(Line2D([], [], color=FAINT, linewidth=0.5, label=label))
    return handles


def _numbers(rows: pd.DataFrame, *columns: str) -> tuple[np.ndarray, ...]:
    return tuple(rows[column].to_numpy(float) for column in columns)
