"""Average precision of a sweep's points: by point, over an axis, or as a map of two axes.

A table has a row a point and seed (see :func:`rethink_heads.sweeps.tables.sweep_table`); rows of the mean are not
needed. Every seed is a mark of its own with its interval, since an interval speaks of images and the seeds
of trainings. Average precision is drawn in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rethink_heads.plots.layout import bar_handle, legend_above, panel_grid
from rethink_heads.plots.panels import dodge, in_percent
from rethink_heads.plots.style import (
    FAINT,
    GRID,
    HEAD_COLOURS,
    HEAD_MARKERS,
    INK,
    NothingToDrawError,
    paper_style,
)

MEAN = "mean"
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
ROW_HEIGHT = 0.24
FRAME = "#E69F00"
# Numbers are white on cells of a map that are darker than this part of the range.
DARK = 0.55


@paper_style()
def sweep_figure(
    table: pd.DataFrame,
    *,
    kind: str = "points",
    x: str | None = None,
    y: str | None = None,
    series: str | None = None,
    labels: Mapping[str, str] | None = None,
    metric: str = "AP",
) -> Figure:
    """The figure of a sweep, a column wide. Raises NothingToDrawError where no row of a seed has a number.

    Args:
        table: of :func:`rethink_heads.sweeps.tables.sweep_table`.
        kind: "points", "line" over ``x``, or "heatmap" of ``x`` and ``y``.
        x, y, series: columns of the table.
        labels: what axes (by their column) and series (``column=value``) are called.
        metric: a column of the table with its ``_low`` and ``_high``.
    """
    rows = table[(table["seed"] != MEAN) & table[metric].notna()] if len(table) else table
    if rows.empty:
        raise NothingToDrawError(f"no {metric} to draw")
    rows = in_percent(rows, metric)
    names = labels or {}
    if kind == "points":
        height = 0.75 + ROW_HEIGHT * rows["point"].nunique()
    elif kind == "line":
        height = 2.4
    else:
        height = 0.7 + max(1.4, min(2.6, 0.43 * rows[y].nunique()))
    figure, ((ax,),) = panel_grid(1, 1, height=height)
    handles: list[Artist] = []
    if kind == "points":
        handles = _draw_points(ax, rows, metric)
    elif kind == "line":
        assert x is not None
        handles = _draw_lines(ax, rows, metric, names, x, series)
    else:
        assert x is not None
        assert y is not None
        _draw_heat_map(ax, rows, metric, names, x, y)
    if handles:
        legend_above(figure, handles)
    return figure


def _draw_points(ax: Axes, table: pd.DataFrame, metric: str) -> list[Artist]:
    """Draw ``metric`` a point, a row each from the top down: every seed with its interval, and their mean.

    Returns the legend's entries.
    """
    titles = dict(zip(table["point"], table["title"], strict=True))
    seeds = list(dict.fromkeys(table["seed"]))
    several_heads = table["head"].nunique() > 1
    for row, point in enumerate(titles):
        rows = table[table["point"] == point]
        reading = str(rows["reading"].iloc[0]) if several_heads else ""
        colour, marker = HEAD_COLOURS.get(reading, INK), HEAD_MARKERS.get(reading, "o")
        for place, seed in zip(row + 0.75 * dodge(len(seeds)), seeds, strict=True):
            one = rows[rows["seed"] == seed]
            at = np.full(len(one), place)
            _draw_trainings(ax, one, metric, at, colour, marker, across=True)
        if len(seeds) > 1:
            mean = float(rows[metric].mean())
            ax.vlines(mean, row - 0.36, row + 0.36, color=colour, linewidth=1.8, zorder=2.8)
    ax.set_yticks(range(len(titles)), [str(title) for title in titles.values()])
    ax.set_ylim(len(titles) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    ax.grid(True, axis="x", color=GRID, linewidth=0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(f"{_metric_name(metric)} (%)")
    means = [
        bar_handle("mean of seeds", markersize=8, markeredgewidth=1.8, color=FAINT)
        for _ in seeds[1:2]
    ]
    return [_training_handle(), *means]


def _draw_lines(
    ax: Axes,
    table: pd.DataFrame,
    metric: str,
    labels: Mapping[str, str],
    x: str,
    series: str | None,
) -> list[Artist]:
    """Draw ``metric`` over an axis of numbers, a line through the means of a series' seeds.

    Returns the legend's entries.
    """
    values: Sequence[Any] = [None] if series is None else list(dict.fromkeys(table[series]))
    seeds = list(dict.fromkeys(table["seed"]))
    places = np.sort(table[x].astype(float).unique())
    step = float(np.diff(places).min()) if len(places) > 1 else 1.0
    offsets = 0.6 * step * dodge(len(values) * len(seeds)).reshape(len(values), len(seeds))
    handles: list[Artist] = []
    for index, value in enumerate(values):
        rows = table if series is None else table[table[series] == value]
        colour = SERIES_COLOURS[index % len(SERIES_COLOURS)] if series else INK
        marker = SERIES_MARKERS[index % len(SERIES_MARKERS)]
        for offset, seed in zip(offsets[index], seeds, strict=True):
            one = rows[rows["seed"] == seed]
            _draw_trainings(ax, one, metric, one[x].to_numpy(float) + offset, colour, marker)
        mean = rows.groupby(rows[x].astype(float))[metric].mean()
        (line,) = ax.plot(
            mean.index + float(np.mean(offsets[index])),
            mean,
            color=colour,
            linestyle=("-", (0, (4, 1.5)))[index % 2],
            linewidth=1.2,
            zorder=2.8,
        )
        if series is not None:
            text = str(value).lower() if isinstance(value, bool | np.bool_) else str(value)
            line.set_label(labels.get(f"{series}={text}", f"{_axis_name({}, series)} {value}"))
            handles.append(line)
    ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.set_xlim(places[0] - 0.55 * step, places[-1] + 0.55 * step)
    ax.set_xlabel(_axis_name(labels, x))
    ax.set_ylabel(f"{_metric_name(metric)} (%)")
    handles.append(_training_handle())
    if len(seeds) > 1 and series is None:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="mean of seeds"))
    return handles


def _draw_heat_map(
    ax: Axes, table: pd.DataFrame, metric: str, labels: Mapping[str, str], x: str, y: str
) -> None:
    """Draw the mean of ``metric`` over seeds as a map of two axes, y upwards, with the numbers in the cells.

    Under the mean, where there are several seeds, is the standard deviation over them. The best cell is framed.
    """
    grouped = table.groupby([y, x])[metric]
    mean = grouped.mean().unstack(x)
    deviations = grouped.std(ddof=1).unstack(x).reindex_like(mean).to_numpy(float)
    values = mean.to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    ax.imshow(values, cmap="Blues", origin="lower", aspect="auto", vmin=low - 0.15 * (high - low))
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        deviation = deviations[row, column]
        ax.text(
            column,
            row,
            f"{value:.1f}" + ("" if np.isnan(deviation) else f"\n$\\pm${deviation:.1f}"),
            ha="center",
            va="center",
            fontsize=7,
            linespacing=1.05,
            color="white" if high > low and (value - low) / (high - low) > DARK else INK,
        )
    row, column = (int(at) for at in np.unravel_index(np.nanargmax(values), values.shape))
    corner = column - 0.5, row - 0.5
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=FRAME, linewidth=1.8, zorder=3))
    ax.grid(False)
    ax.set_xticks(range(len(mean.columns)), [f"{value:g}" for value in mean.columns])
    ax.set_yticks(range(len(mean.index)), [f"{value:g}" for value in mean.index])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel(_axis_name(labels, x))
    ax.set_ylabel(_axis_name(labels, y))
    count = table["seed"].nunique()
    what = f", mean $\\pm$ s.d. of {count} seeds" if count > 1 else ""
    ax.set_title(f"{_metric_name(metric)} (%){what}; best framed")


def _draw_trainings(
    ax: Axes,
    rows: pd.DataFrame,
    metric: str,
    at: np.ndarray,
    colour: str,
    marker: str,
    across: bool = False,
) -> None:
    """Marks with their intervals, upright or across."""
    bars = ax.hlines if across else ax.vlines
    low, high = (rows[f"{metric}_{end}"].to_numpy(float) for end in ("low", "high"))
    bars(at, low, high, color=colour, linewidth=0.9, alpha=0.65, zorder=2.5)
    ax.plot(
        *((rows[metric], at) if across else (at, rows[metric])),
        marker,
        color=colour,
        markerfacecolor="white",
        markersize=3.6 if across else 3.4,
        markeredgewidth=0.9 if across else 0.8,
        zorder=3,
    )


def _training_handle() -> Line2D:
    return Line2D(
        [],
        [],
        color=FAINT,
        marker="o",
        markerfacecolor="white",
        markersize=3.6,
        markeredgewidth=0.9,
        linewidth=0.9,
        label="one training (95% interval over images)",
    )


def _axis_name(labels: Mapping[str, str], column: str) -> str:
    return labels.get(column, column.rpartition(".")[2])


def _metric_name(metric: str) -> str:
    """An average precision as a paper writes it."""
    subscripts = {"APs": "S", "APm": "M", "APl": "L", "AP50": "50", "AP75": "75"}
    return f"AP$_{{{subscripts[metric]}}}$" if metric in subscripts else metric
