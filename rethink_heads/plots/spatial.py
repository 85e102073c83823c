"""How a head depends on place: correlation of RoI cells, response to shifts and to zeroed cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rethink_heads.plots.curves import draw_curves, from_zero
from rethink_heads.plots.layout import add_legend, lines
from rethink_heads.plots.style import (
    FAINT,
    GRID,
    INK,
    TIGHT_LINES,
    Series,
    dress,
    interval_patch,
    new_axes,
    paper_style,
    series_of,
)

Array = npt.NDArray[Any]

SEQUENTIAL = "mako"
DIVERGING = "vlag"


def plot_correlation_tiling(
    correlation: Array, *, norm: Normalize | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the correlation of all pairs of RoI cells as an S x S tiling of S x S maps.

    The tile in row i, column j is the map of the cosines of cell (i, j) with every cell (paper,
    Figure 4).

    Args:
        correlation: (S*S, S*S) cosines, cells numbered row by row.
        norm: colour scale; from the lowest cosine, or 0 if none is negative, to 1 by default.
        ax: where to draw; new axes with a colour bar by default.
    """
    own = ax is None
    ax = new_axes(2.9, 2.5, square=True) if ax is None else ax
    side = _side(correlation)
    # Cell (i, j) against (k, l) goes to row i*S + k and column j*S + l.
    tiles = correlation.reshape(side, side, side, side).transpose(0, 2, 1, 3)
    image = ax.imshow(
        tiles.reshape(side**2, side**2),
        cmap=colour_map(SEQUENTIAL),
        norm=correlation_norm([correlation]) if norm is None else norm,
        interpolation="nearest",
    )
    for edge in range(1, side):
        for line in (ax.axhline, ax.axvline):
            line(edge * side - 0.5, color="white", linewidth=0.9)
    # Every fourth tile is named: seven names would run into each other at column width.
    named = range(0, side, max(1, (side - 1) // 2))
    centres = [tile * side + (side - 1) / 2 for tile in named]
    ax.set_xticks(centres, [str(tile + 1) for tile in named])
    ax.set_yticks(centres, [str(tile + 1) for tile in named])
    dress_map(ax)
    ax.set_xlabel("RoI column of the cell")
    ax.set_ylabel("RoI row of the cell")
    if own:
        add_colour_bar(ax, image, "Cosine similarity")
    return ax


def plot_decay(
    frame: pd.DataFrame,
    *,
    kind: str = "spatial_correlation",
    series: Sequence[Series] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean cosine of two RoI cells against their distance, with 95% bands.

    Args:
        frame: what :func:`rethink_heads.statistics.spatial.decay` returns; distance in cells.
        kind: "spatial_correlation" (outputs) or "weight_correlation" (weights, drawn dashed and
            without band: there is one set of weights).
        series: the heads to draw and their looks; all of the frame's by default.
        ax: where to draw; new axes with a legend by default.
    """
    series = series_of(frame) if series is None else series
    own = ax is None
    ax = new_axes() if ax is None else ax
    of_kind = frame[frame["kind"] == kind]
    if kind == "weight_correlation":
        for one in series:
            rows = one.rows(of_kind).sort_values("distance")
            if len(rows):
                line = weights_line(one)
                line.set_data(rows["distance"], rows["mean"])
                ax.add_line(line)
    else:
        draw_curves(ax, of_kind, series, x="distance", value="mean")
    ax.set_xlabel("Distance of two cells (cells)")
    ax.set_ylabel("Cosine similarity")
    # Left to scale itself: outputs and weights may share the axes.
    ax.set_xlim(left=0, auto=None)
    from_zero(ax)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if own:
        add_legend(ax, [*lines(series), interval_patch()])
    return ax


def plot_displacement(
    scores: Array, *, norm: Normalize | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the mean score of a box displaced from the object as a heat map.

    Args:
        scores: (N, N), rows displaced by dy and columns by dx, from -1 to 1 of the object's size.
        norm: colour scale; 0 to 1 by default.
        ax: where to draw; new axes with a colour bar by default.
    """
    own = ax is None
    ax = new_axes(2.7, 2.3, square=True) if ax is None else ax
    # Samples sit at pixel centres, so the picture reaches half a step beyond the last.
    edge = 1 + 1 / (len(scores) - 1)
    image = ax.imshow(
        scores,
        extent=(-edge, edge, edge, -edge),
        cmap=colour_map(SEQUENTIAL),
        norm=Normalize(0, 1) if norm is None else norm,
        interpolation="nearest",
    )
    dress_map(ax)
    ax.plot(0, 0, marker="+", markersize=4, color=INK, markeredgewidth=0.6)
    ticks = [-1, -0.5, 0, 0.5, 1]
    names = [r"$-$1", "", "0", "", "1"]
    ax.set_xticks(ticks, names)
    ax.set_yticks(ticks, names)
    ax.set_xlabel("Shift dx (object widths)")
    ax.set_ylabel("Shift dy (object heights)")
    if own:
        add_colour_bar(ax, image, "Score of the true class")
    return ax


def plot_cells(
    change: Array,
    low: Array | None = None,
    high: Array | None = None,
    *,
    norm: Normalize | None = None,
    label: str = "Change when zeroed",
    ax: Axes | None = None,
) -> Axes:
    """Draw what zeroing one RoI cell at a time changes; blue lowers, red raises.

    A cell whose 95% interval holds zero is marked with a dot.

    Args:
        change: (S, S) mean change, zeroed less intact.
        low, high: (S, S) ends of the interval; None for no marks.
        norm: colour scale, symmetric about zero by default.
        label: of the colour bar of new axes.
        ax: where to draw; new axes with a colour bar by default.
    """
    own = ax is None
    ax = new_axes(2.6, 2.2, square=True) if ax is None else ax
    image = ax.imshow(
        change,
        cmap=colour_map(DIVERGING),
        norm=change_norm([change]) if norm is None else norm,
        interpolation="nearest",
    )
    dress_map(ax)
    ax.set_xticks([0, len(change) // 2, len(change) - 1])
    ax.set_yticks([0, len(change) // 2, len(change) - 1])
    names = ["1", str(len(change) // 2 + 1), str(len(change))]
    ax.set_xticklabels(names)
    ax.set_yticklabels(names)
    if low is not None and high is not None:
        rows, columns = np.nonzero((low <= 0) & (high >= 0))
        ax.plot(columns, rows, linestyle="none", marker=".", markersize=2.6, color=FAINT)
    ax.set_xlabel("RoI column")
    ax.set_ylabel("RoI row")
    if own:
        add_colour_bar(ax, image, label)
    return ax


def weights_line(one: Series) -> Line2D:
    """The line of a head's weights: dashed, because weights have no interval."""
    return Line2D(
        [],
        [],
        color=one.colour,
        linewidth=0.9,
        linestyle=(0, (1, 1)) if one.hollow else (0, (2.5, 1.2)),
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


def colour_map(name: str) -> Colormap:
    """One of seaborn's colour maps, with grey for what is not a number."""
    import seaborn as sns

    found: Colormap = sns.color_palette(name, as_cmap=True)
    return found.with_extremes(bad=GRID)


def add_colour_bar(ax: Axes | Sequence[Axes], image: AxesImage, label: str) -> Any:
    """A thin colour bar to the right of one axes or of several."""
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    figure = axes[0].get_figure()
    assert figure is not None
    rows = {spec.rowspan.start for one in axes if (spec := one.get_subplotspec()) is not None}
    # As thin beside several rows as beside one.
    with paper_style():
        bar = figure.colorbar(
            image, ax=axes, fraction=0.05, pad=0.02, aspect=16 * max(len(rows), 1)
        )
        bar.set_label(label, linespacing=TIGHT_LINES)
    bar.outline.set_linewidth(0.5)
    dress(bar.ax, grid=False)
    return bar


def dress_map(ax: Axes) -> None:
    """A map's axes: no grid, a thin frame, short ticks."""
    dress(ax, grid=False)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.add_patch(
        Rectangle(
            (0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=INK, linewidth=0.5, zorder=4
        )
    )


def _side(correlation: Array) -> int:
    side = round(len(correlation) ** 0.5)
    if correlation.shape != (side**2, side**2):
        raise ValueError(f"expected (S*S, S*S) cosines, not {correlation.shape}")
    return side
