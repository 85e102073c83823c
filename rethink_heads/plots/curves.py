"""What the figures are made of: curves with bands over IoU bins, and dots with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rethink_heads.plots.style import INTERVAL_ALPHA, MOST_SPREAD_BANDS, SPREAD_ALPHA, Series

DODGE_WIDTH = 0.78


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
        at = rows[x].to_numpy(float)
        mean = rows[value].to_numpy(float)
        if spread is not None:
            deviation = rows[spread].to_numpy(float)
            _draw_spread(ax, at, mean - deviation, mean + deviation, one, len(series))
        ax.fill_between(
            at,
            rows[f"{value}_low"].to_numpy(float),
            rows[f"{value}_high"].to_numpy(float),
            color=one.colour,
            alpha=INTERVAL_ALPHA,
            linewidth=0,
            zorder=2.5,
        )
        ax.plot(
            at,
            mean,
            color=one.colour,
            linestyle=one.line_style,
            marker=one.marker,
            markerfacecolor=one.marker_face,
            # Staggered, so that curves that coincide can still be told apart.
            markevery=(index % _marker_step(at), _marker_step(at)),
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
    offsets = dodge(len(series))
    for one, offset in zip(series, offsets, strict=True):
        rows = one.rows(frame).set_index(category).reindex(list(categories))
        at = np.arange(len(categories)) + offset
        mean = rows[value].to_numpy(float)
        ax.vlines(
            at,
            rows[f"{value}_low"].to_numpy(float),
            rows[f"{value}_high"].to_numpy(float),
            color=one.colour,
            linewidth=1.3,
            linestyle="-",
            zorder=2.5,
        )
        ax.plot(
            at,
            mean,
            color=one.colour,
            linestyle="none",
            marker=one.marker,
            markerfacecolor=one.marker_face,
            markersize=4 if len(series) <= 4 else 3.2,
            markeredgewidth=0.9,
            label=one.label,
            zorder=3,
        )
    ax.set_xlim(-0.5, len(categories) - 0.5)
    ax.set_xticks(range(len(categories)), list(categories))
    ax.tick_params(axis="x", length=0)


def from_zero(ax: Axes) -> None:
    """Let the y axis start at zero exactly, unless there are values below, and scale itself."""
    line = ax.axhline(0, linewidth=0)
    line.sticky_edges.y.append(0)


def dodge(count: int) -> np.ndarray:
    """Offsets (count,) of dots side by side about a category's centre."""
    step = min(0.2, DODGE_WIDTH / max(count, 1))
    return (np.arange(count) - (count - 1) / 2) * step


def _draw_spread(
    ax: Axes, at: np.ndarray, low: np.ndarray, high: np.ndarray, one: Series, count: int
) -> None:
    if count <= MOST_SPREAD_BANDS:
        ax.fill_between(
            at, low, high, color=one.colour, alpha=SPREAD_ALPHA, linewidth=0, zorder=1.5
        )
    for edge in (low, high):
        ax.plot(at, edge, color=one.colour, linewidth=0.5, alpha=0.6, linestyle="-", zorder=1.6)


def _marker_step(at: np.ndarray) -> int:
    return 1 if len(at) <= 8 else 3
