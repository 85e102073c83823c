"""Panels, titles and legends of a whole figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import TextWrapper
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from rethink_heads.plots.looks import head_label
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    PAGE_WIDTH,
    TIGHT_LINES,
    Series,
    dress,
    paper_style,
)

# Width of a letter of a title, in inches.
TITLE_LETTER = 0.062
# Height of a legend of two rows, in inches.
TWO_ROWS = 0.4
Layout = Literal["constrained", "compressed"]
SIZE_TITLES = {"small": "Small", "medium": "Medium", "large": "Large", "all": "All sizes"}


class _NameWrapper(TextWrapper):
    """Breaks names of detectors after punctuation, which is what they have for spaces."""

    wordsep_re = re.compile(r"(?<=[_\-:./])|(\s+)")


def panel_grid(
    rows: int,
    columns: int,
    *,
    height: float,
    width: float | None = None,
    share: bool = False,
    layout: Layout = "constrained",
) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` inches with dressed panels (rows, columns).

    Without ``width`` it is a page's, or a column's where there are one or two panels a row. With
    ``share`` the panels of a row have one y axis. The layout is "compressed" for panels of a fixed
    shape.
    """
    if width is None:
        width = PAGE_WIDTH if columns > 2 else COLUMN_WIDTH
    figure = Figure(figsize=(width, height), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if share else False)
    for ax in axes.flat:
        dress(ax)
    return figure, axes


def maps_and_panel(count: int) -> tuple[Figure, list[Axes], Axes]:
    """A figure of ``count`` square map panels and, as the last square, one panel for curves."""
    figure, axes = square_panels(count + 1)
    panel = axes.pop()
    panel.set_box_aspect(1)
    dress(panel)
    return figure, axes, panel


def square_panels(squares: int, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of square panels, by default as wide as they need; :func:`trim_height` comes after."""
    # Three or four a row, whichever leaves fewer squares empty.
    columns = min(squares, max((4, 3), key=lambda number: (-(-squares % number), number)))
    rows = -(-squares // columns)
    if width is None:
        width = min(PAGE_WIDTH, columns * 1.42 + 1.25)
    # Higher than needed: `trim_height` takes off what the squares leave free.
    figure = Figure(figsize=(width, 0.8 + rows * width / columns * 1.3), layout="compressed")
    grid = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(grid[divmod(number, columns)]) for number in range(squares)]


def label_maps_outside(maps: Sequence[Axes]) -> None:
    """Keep labels where there is no map to the left, or none below."""
    places = {_place(ax) for ax in maps}
    for ax in maps:
        row, column = _place(ax)
        if (row, column - 1) in places:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False, which="both")
        if (row + 1, column) in places:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False, which="both")


def trim_height(figure: Figure) -> None:
    """Take off the height that panels of a fixed shape leave free."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    panels = Bbox.union([box for ax in figure.axes if (box := ax.get_tightbbox()) is not None])
    legends = sum(legend.get_window_extent().height for legend in figure.legends)
    figure.set_figheight((panels.height + legends) / figure.dpi + 0.1)


def label_outside(axes: Any, sizes: Sequence[str] | None = None) -> None:
    """Keep labels at the left and the bottom only; title the columns with the sizes."""
    for (row, column), ax in np.ndenumerate(axes):
        if row < len(axes) - 1:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False, which="both")
        if column > 0:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False, which="both")
        if row == 0 and sizes is not None:
            ax.set_title(SIZE_TITLES[sizes[column]])


def title_maps(
    maps: Sequence[Axes], heads: Sequence[Series], whats: Sequence[str] | None = None
) -> None:
    """Title each map with its head, with ``what``, and the detector where the legend names it.

    A detector's name goes on in the next line where the maps are narrower than it.
    """
    whats = [""] * len(maps) if whats is None else whats
    columns = max(_place(ax)[1] for ax in maps) + 1
    figure = maps[0].get_figure(root=True)
    assert figure is not None
    letters = max(8, int((figure.get_figwidth() - 1.0) / columns / TITLE_LETTER))
    for ax, one, what in zip(maps, heads, whats, strict=True):
        title = [head_label(one.head) + (f", {what}" if what else "")]
        title += _NameWrapper(letters).wrap(f"({one.detector})") if one.named else []
        ax.set_title("\n".join(title), linespacing=TIGHT_LINES)


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend above all panels, in as few rows as the figure's width allows.

    A figure grows by what more than two rows need, so that many heads do not squeeze its panels.
    """
    for columns in range(len(handles), 0, -1):
        with paper_style():
            legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns)
        width = legend.get_window_extent().width / figure.dpi
        if width <= figure.get_figwidth() - 0.2 or columns == 1:
            height = legend.get_window_extent().height / figure.dpi
            figure.set_figheight(figure.get_figheight() + max(0.0, height - TWO_ROWS))
            return
        legend.remove()


def add_legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """A legend above axes that have a figure of their own."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    legend_above(figure, handles)


def lines(series: Sequence[Series]) -> list[Line2D]:
    """Legend entries of curves."""
    return [one.handle() for one in series]


def dots(series: Sequence[Series]) -> list[Line2D]:
    """Legend entries of dots, and of the bars through them."""
    bar = Line2D(
        [],
        [],
        linestyle="none",
        marker="|",
        markersize=7,
        markeredgewidth=1.3,
        color=FAINT,
        label="95% interval",
    )
    return [*(one.handle(line=False) for one in series), bar]


def _place(ax: Axes) -> tuple[int, int]:
    spec = ax.get_subplotspec()
    assert spec is not None
    return spec.rowspan.start, spec.colspan.start
