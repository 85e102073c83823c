"""One panel of a figure each: how scores follow IoU, how well a head regresses boxes, how it depends on place.

Each ``plot_...`` draws into ``ax``, by default new axes with a legend or a colour bar, and returns the axes. Of those
that draw a frame ``series`` are the heads, by default all that the frame holds, and ``size`` says which objects:
"small", "medium", "large" or "all". An estimate X of a frame has its 95% interval in X_low and X_high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from rethink_heads.plots.layout import dot_handles, line_handles, map_panel, panel
from rethink_heads.plots.style import FAINT, FONT, GRID, INK, TIGHT_LINES, Series, dress, sizes_in

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
Array = npt.NDArray[Any]
SEQUENTIAL = "mako"
DIVERGING = "vlag"


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
        _draw_by_iou(ax, frame[frame["size"] == size], series, "mean", spread)
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
        _draw_by_iou(ax, frame[frame["size"] == size], series, "mean", spread)
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
        _draw_by_iou(ax, frame[frame["size"] == size], series, "gain")
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


def plot_correlation_tiling(
    correlation: Array, *, norm: Normalize | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the correlation of all pairs of RoI positions as an S x S tiling of S x S maps.

    The tile in row i, column j is the map of the cosines of position (i, j) with every position (paper,
    Figure 4).

    Args:
        correlation: (S*S, S*S) cosines, positions numbered row by row.
        norm: colour scale; from the lowest cosine, or 0 if none is negative, to 1 by default.
    """
    side = round(len(correlation) ** 0.5)
    if correlation.shape != (side**2, side**2):
        raise ValueError(f"expected (S*S, S*S) cosines, not {correlation.shape}")
    # Position (i, j) against (k, l) goes to row i*S + k and column j*S + l.
    tiles = correlation.reshape(side, side, side, side).transpose(0, 2, 1, 3)
    with map_panel(ax, 2.9, 2.5, "Cosine similarity") as ax:
        norm = correlation_norm([correlation]) if norm is None else norm
        _draw_map(ax, tiles.reshape(side**2, side**2), SEQUENTIAL, norm)
        for edge in range(1, side):
            for line in (ax.axhline, ax.axvline):
                line(edge * side - 0.5, color="white", linewidth=0.9)
        # First, middle and last: seven names would run into each other at column width.
        named = range(0, side, max(1, (side - 1) // 2))
        ticks = [tile * side + (side - 1) / 2 for tile in named]
        _label(ax, ticks, [str(tile + 1) for tile in named], "RoI {} of the position")
    return ax


def plot_decay(
    frame: pd.DataFrame,
    *,
    kind: str = "spatial_correlation",
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean cosine of two RoI positions against their distance, with 95% bands.

    Args:
        frame: what :func:`rethink_heads.statistics.sensitivity.decay` returns; distance in positions.
        kind: "spatial_correlation" (outputs) or "weight_correlation" (weights, drawn dashed and
            without band: there is one set of weights).
        series: the heads to draw and their looks; all of the frame's by default.
    """
    with panel(frame, series, ax, line_handles) as (ax, series):
        rows = frame[frame["kind"] == kind]
        if kind == "weight_correlation":
            for one in series:
                own = one.rows(rows).sort_values("distance")
                if len(own):
                    line = weights_line(one)
                    line.set_data(own["distance"], own["mean"])
                    ax.add_line(line)
        else:
            draw_curves(ax, rows, series, x="distance", value="mean")
        ax.set_xlabel("Distance of two RoI positions")
        ax.set_ylabel("Cosine similarity")
        # Left to scale itself: outputs and weights may share the axes.
        ax.set_xlim(left=0, auto=None)
        from_zero(ax)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return ax


def plot_displacement(
    scores: Array, *, norm: Normalize | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the mean score of a box displaced from the object as a heat map.

    Args:
        scores: (N, N), rows displaced by dy and columns by dx, from -1 to 1 of the object's size.
        norm: colour scale; 0 to 1 by default.
    """
    with map_panel(ax, 2.7, 2.3, "Score of the true class") as ax:
        # Samples sit at pixel centres, so the picture reaches half a step beyond the last.
        edge = 1 + 1 / (len(scores) - 1)
        extent = (-edge, edge, edge, -edge)
        _draw_map(ax, scores, SEQUENTIAL, norm or Normalize(0, 1), extent)
        ax.plot(0, 0, marker="+", markersize=4, color=INK, markeredgewidth=0.6)
        _label(ax, [-1, -0.5, 0, 0.5, 1], [r"$-$1", "", "0", "", "1"], "")
        ax.set_xlabel("Shift dx (object widths)")
        ax.set_ylabel("Shift dy (object heights)")
    return ax


def plot_cells(
    change: Array,
    low: Array | None = None,
    high: Array | None = None,
    *,
    norm: Normalize | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what zeroing one RoI position at a time changes; blue lowers, red raises.

    A position whose 95% interval holds zero is marked with a dot.

    Args:
        change: (S, S) mean change, zeroed less intact.
        low, high: (S, S) ends of the interval; None for no marks.
        norm: colour scale, symmetric about zero by default.
    """
    with map_panel(ax, 2.6, 2.2, "Change when zeroed") as ax:
        _draw_map(ax, change, DIVERGING, change_norm([change]) if norm is None else norm)
        ticks = [0, len(change) // 2, len(change) - 1]
        _label(ax, ticks, [str(tick + 1) for tick in ticks], "RoI {}")
        if low is not None and high is not None:
            rows, columns = np.nonzero((low <= 0) & (high >= 0))
            ax.plot(columns, rows, linestyle="none", marker=".", markersize=2.6, color=FAINT)
    return ax


def _draw_by_iou(
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


def weights_line(one: Series) -> Line2D:
    """The line of a head's weights: dashed, because weights have no interval."""
    return Line2D(
        [],
        [],
        color=one.look.colour,
        linewidth=0.9,
        linestyle=(0, (1, 1)) if one.look.hollow else (0, (2.5, 1.2)),
        label=f"{one.label}, fc6 weights",
    )


def correlation_norm(correlations: Sequence[Array]) -> Normalize:
    """A colour scale for all of the cosine maps: up to 1, from 0 or the lowest tenth below."""
    lowest = min(float(np.nanmin(correlation)) for correlation in correlations)
    return Normalize(min(0.0, np.floor(lowest * 10) / 10), 1.0)


def change_norm(changes: Sequence[Array]) -> Normalize:
    """A colour scale for all of the maps of changes, symmetric about zero."""
    largest = max(float(np.nanmax(np.abs(change))) for change in changes)
    largest = largest if largest > 0 else 1e-3
    return Normalize(-largest, largest)


def _draw_map(
    ax: Axes,
    values: Array,
    colours: str,
    norm: Normalize,
    extent: tuple[float, float, float, float] | None = None,
) -> None:
    """An image without grid, with a thin frame and short ticks, grey where it is not a number."""
    import seaborn as sns

    colour_map: Colormap = sns.color_palette(colours, as_cmap=True)
    grey = colour_map.with_extremes(bad=GRID)
    ax.imshow(values, cmap=grey, norm=norm, interpolation="nearest", extent=extent)
    dress(ax, grid=False)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.add_patch(
        Rectangle(
            (0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=INK, linewidth=0.5, zorder=4
        )
    )


def _label(ax: Axes, ticks: Sequence[float], names: Sequence[str], label: str) -> None:
    """The same ticks on both axes; ``label`` with "column" and "row" in it."""
    ax.set_xticks(ticks, names)
    ax.set_yticks(ticks, names)
    ax.set_xlabel(label.format("column"))
    ax.set_ylabel(label.format("row"))
