"""Average precision of a sweep's points: by point, over an axis, or as a map of two axes.

A table has a row a point and seed (see :func:`rethink_heads.sweeps.tables.sweep_table`); rows of the mean are not
needed. Every seed is a mark of its own with its interval, since an interval speaks of images and the seeds
of trainings.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rethink_heads.plots.curves import dodge
from rethink_heads.plots.heat_map import PERCENT, axis_name, metric_name, plot_heat_map
from rethink_heads.plots.layout import legend_above
from rethink_heads.plots.looks import HEAD_COLOURS, HEAD_MARKERS
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    GRID,
    INK,
    NothingToDrawError,
    dress,
    paper_style,
)

MEAN = "mean"
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
ROW_HEIGHT = 0.24


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
    """The figure of a sweep, a column wide.

    Args:
        table: of :func:`rethink_heads.sweeps.tables.sweep_table`.
        kind: "points", "line" over ``x``, or "heatmap" of ``x`` and ``y``.
        x, y, series: columns of the table.
        labels: what axes (by their column) and series (``column=value``) are called.
        metric: a column of the table with its ``_low`` and ``_high``.

    Raises:
        NothingToDrawError: no row of a seed has a number.
    """
    of_seeds = table[(table["seed"] != MEAN) & table[metric].notna()] if len(table) else table
    if of_seeds.empty:
        raise NothingToDrawError(f"no {metric} to draw")
    names = labels or {}
    with paper_style():
        if kind == "points":
            rows = of_seeds["point"].nunique()
            figure, ax = _figure(0.75 + ROW_HEIGHT * rows)
            handles = plot_points(of_seeds, metric=metric, ax=ax)
        elif kind == "line":
            assert x is not None
            figure, ax = _figure(2.4)
            handles = plot_line(of_seeds, x, series, labels=names, metric=metric, ax=ax)
        else:
            assert x is not None
            assert y is not None
            rows = of_seeds[y].nunique()
            figure, ax = _figure(0.7 + max(1.4, min(2.6, 0.43 * rows)))
            plot_heat_map(of_seeds, x, y, labels=names, metric=metric, ax=ax)
            handles = []
        if handles:
            legend_above(figure, handles)
    return figure


def plot_points(table: pd.DataFrame, *, metric: str = "AP", ax: Axes) -> list[Artist]:
    """Draw ``metric`` a point, a row each from the top down: every seed with its interval, and their mean.

    Args:
        table: rows of seeds.
        metric: the column drawn, in percent.
        ax: where to draw.

    Returns:
        The legend's entries.
    """
    points = list(dict.fromkeys(table["point"]))
    seeds = list(dict.fromkeys(table["seed"]))
    several_heads = table["head"].nunique() > 1
    for row, point in enumerate(points):
        rows = table[table["point"] == point]
        reading = str(rows["reading"].iloc[0])
        colour = HEAD_COLOURS.get(reading, INK) if several_heads else INK
        marker = HEAD_MARKERS.get(reading, "o") if several_heads else "o"
        at = row + 0.75 * dodge(len(seeds))
        for place, seed in zip(at, seeds, strict=True):
            of_seed = rows[rows["seed"] == seed]
            _interval(ax, of_seed, metric, np.full(len(of_seed), place), colour, across=True)
            ax.plot(
                PERCENT * of_seed[metric],
                [place] * len(of_seed),
                marker,
                color=colour,
                markerfacecolor="white",
                markersize=3.6,
                markeredgewidth=0.9,
                zorder=3,
            )
        if len(seeds) > 1:
            mean = PERCENT * float(rows[metric].mean())
            ax.vlines(mean, row - 0.36, row + 0.36, color=colour, linewidth=1.8, zorder=2.8)
    titles = dict(zip(table["point"], table["title"], strict=True))
    ax.set_yticks(range(len(points)), [str(titles[point]) for point in points])
    ax.set_ylim(len(points) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    ax.grid(True, axis="x", color=GRID, linewidth=0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(f"{metric_name(metric)} (%)")
    return _handles(len(seeds), upright=True)


def plot_line(
    table: pd.DataFrame,
    x: str,
    series: str | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    metric: str = "AP",
    ax: Axes,
) -> list[Artist]:
    """Draw ``metric`` over an axis of numbers, a line through the means of a series' seeds.

    Args:
        table: rows of seeds, with the columns ``x`` and ``series``.
        labels: as of :func:`sweep_figure`.
        metric: the column drawn, in percent.
        ax: where to draw.

    Returns:
        The legend's entries.
    """
    names = labels or {}
    values = [None] if series is None else list(dict.fromkeys(table[series]))
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
            of_seed = rows[rows["seed"] == seed]
            at = of_seed[x].to_numpy(float) + offset
            _interval(ax, of_seed, metric, at, colour)
            ax.plot(
                at,
                PERCENT * of_seed[metric],
                marker,
                color=colour,
                markerfacecolor="white",
                markersize=3.4,
                markeredgewidth=0.8,
                zorder=3,
            )
        mean = rows.groupby(rows[x].astype(float))[metric].mean()
        (line,) = ax.plot(
            mean.index + float(np.mean(offsets[index])),
            PERCENT * mean,
            color=colour,
            linestyle=("-", (0, (4, 1.5)))[index % 2],
            linewidth=1.2,
            zorder=2.8,
        )
        if series is not None:
            line.set_label(names.get(_value_key(series, value), f"{axis_name(series)} {value}"))
            handles.append(line)
    ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.set_xlim(places[0] - 0.55 * step, places[-1] + 0.55 * step)
    ax.set_xlabel(names.get(x, axis_name(x)))
    ax.set_ylabel(f"{metric_name(metric)} (%)")
    return handles + _handles(len(seeds), line=series is None)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    ax = figure.subplots()
    dress(ax)
    return figure, ax


def _interval(
    ax: Axes,
    rows: pd.DataFrame,
    metric: str,
    at: np.ndarray,
    colour: str,
    across: bool = False,
) -> None:
    low, high = (PERCENT * rows[f"{metric}_{end}"].to_numpy(float) for end in ("low", "high"))
    draw = ax.hlines if across else ax.vlines
    draw(at, low, high, color=colour, linewidth=0.9, alpha=0.65, zorder=2.5)


def _handles(seeds: int, *, upright: bool = False, line: bool = False) -> list[Artist]:
    """What a mark, its bar and the mean are."""
    one = Line2D(
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
    handles: list[Artist] = [one]
    if seeds > 1 and upright:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="|",
                markersize=8,
                markeredgewidth=1.8,
                color=FAINT,
                label="mean of seeds",
            )
        )
    if seeds > 1 and line:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="mean of seeds"))
    return handles


def _value_key(column: str, value: object) -> str:
    text = str(value).lower() if isinstance(value, bool | np.bool_) else str(value)
    return f"{column}={text}"
