"""How a head depends on place: correlation of RoI positions, response to shifts and to zeroed positions.

``ax`` is by default new axes with a colour bar or a legend; each function returns the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rethink_heads.plots.layout import line_handles, map_panel, panel
from rethink_heads.plots.panels import draw_curves, from_zero
from rethink_heads.plots.style import FAINT, GRID, INK, Series, dress

Array = npt.NDArray[Any]

SEQUENTIAL = "mako"
DIVERGING = "vlag"


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
