"""Panels, titles, legends and colour bars of a whole figure, and its files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import TextWrapper, wrap
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from rethink_heads.bounds import FILE_HEAD
from rethink_heads.files import atomic_path
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    PAGE_WIDTH,
    TIGHT_LINES,
    Series,
    dress,
    paper_style,
    series_of,
)

VERSIONS_NAME = "drawn-with.json"
# Width of a letter of a title, and at most of a legend, in inches.
TITLE_LETTER = 0.065
# Width of what stands beside a legend's labels, in inches.
LEGEND_HANDLE = 0.5
# Width of a letter and height of a line of a caption, in inches.
CAPTION_LETTER, CAPTION_LINE = 0.046, 0.115
CAPTION_PADDING = 0.07
CAPTION_INK = "#5c5c5c"
# Height of a legend of two rows, in inches.
TWO_ROWS = 0.4
SIZE_TITLES = {"small": "Small", "medium": "Medium", "large": "Large", "all": "All sizes"}


class _NameWrapper(TextWrapper):
    """Breaks names of detectors after punctuation, which is what they have for spaces."""

    wordsep_re = re.compile(r"(?<=[_\-:./])|(\s+)")


def new_axes(width: float = COLUMN_WIDTH, height: float = 2.3, *, square: bool = False) -> Axes:
    """Dressed axes in a new pyplot figure of ``width`` x ``height`` inches.

    ``square`` leaves room for axes of equal scales.
    """
    import matplotlib.pyplot as plt

    with paper_style():
        layout = "compressed" if square else "constrained"
        _, ax = plt.subplots(figsize=(width, height), layout=layout)
        dress(ax)
    return ax


@contextmanager
def panel(
    frame: pd.DataFrame,
    series: Sequence[Series] | None,
    ax: Axes | None,
    handles: Callable[[Sequence[Series]], Sequence[Artist]],
    height: float = 2.3,
) -> Iterator[tuple[Axes, Sequence[Series]]]:
    """Axes and heads to draw: new axes a column wide, which get a legend in the end, and all the frame's by default."""
    series = series_of(frame) if series is None else series
    if ax is not None:
        yield ax, series
        return
    ax = new_axes(height=height)
    yield ax, series
    legend_above(_figure(ax), handles(series))


@contextmanager
def map_panel(ax: Axes | None, width: float, height: float, label: str) -> Iterator[Axes]:
    """Axes to draw one image into: new ones by default, which get a colour bar in the end."""
    if ax is not None:
        yield ax
        return
    ax = new_axes(width, height, square=True)
    yield ax
    add_colour_bar(ax, ax.images[0], label)


def panel_grid(
    rows: int,
    columns: int,
    *,
    height: float,
    width: float | None = None,
    share: bool = False,
    layout: Literal["constrained", "compressed"] = "constrained",
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


def trim_height(figure: Figure) -> None:
    """Take off the height that panels of a fixed shape leave free."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    panels = Bbox.union([box for ax in figure.axes if (box := ax.get_tightbbox()) is not None])
    # Legends and captions, which are of no panel.
    outside = [text.get_window_extent().height for text in (*figure.legends, *figure.texts)]
    padding = 0.1 + CAPTION_PADDING * len(figure.texts)
    figure.set_figheight((panels.height + sum(outside)) / figure.dpi + padding)


def label_outside(axes: Iterable[Axes], sizes: Sequence[str] | None = None) -> None:
    """Keep labels where there is no panel to the left, or none below; title the columns with the sizes."""
    places = {ax: _place(ax) for ax in axes}
    for ax, (row, column) in places.items():
        if (row, column - 1) in places.values():
            ax.set_ylabel("")
            ax.tick_params(labelleft=False, which="both")
        if (row + 1, column) in places.values():
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False, which="both")
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
    letters = max(8, int((_figure(maps[0]).get_figwidth() - 1.0) / columns / TITLE_LETTER))
    for ax, one, what in zip(maps, heads, whats, strict=True):
        *first, last = one.title.split(" = ")
        # A file is titled by its name.
        own = _NameWrapper(letters).wrap(last) if one.head == FILE_HEAD else [last]
        title = [*(f"{name} =" for name in first), *own]
        title[-1] += f", {what}" if what else ""
        title += _NameWrapper(letters).wrap(f"({one.detector})") if one.named else []
        ax.set_title("\n".join(title), linespacing=TIGHT_LINES)


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend above all panels, in as few rows as the figure's width allows; labels that are wider go on below.

    A figure grows by what more than two rows need, so that many heads do not squeeze its panels.
    """
    for columns in range(len(handles), 0, -1):
        with paper_style():
            legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns)
        if legend.get_window_extent().width / figure.dpi <= figure.get_figwidth() - 0.2:
            break
        if columns > 1:
            legend.remove()
    else:
        letters = int((figure.get_figwidth() - LEGEND_HANDLE) / TITLE_LETTER)
        for text in legend.get_texts():
            text.set_text("\n".join(_NameWrapper(letters).wrap(text.get_text())))
            text.set_linespacing(TIGHT_LINES)
    height = legend.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + max(0.0, height - TWO_ROWS))


def caption_below(figure: Figure, *sentences: str) -> None:
    """Small text below all panels, by which the figure grows."""
    letters = int(figure.get_figwidth() / CAPTION_LETTER)
    lines = [line for sentence in sentences for line in wrap(sentence, letters)]
    if lines:
        text = "\n".join(lines)
        figure.supxlabel(text, fontsize=7, color=CAPTION_INK, linespacing=1.15)
        figure.set_figheight(figure.get_figheight() + CAPTION_LINE * len(lines))


def line_handles(
    series: Sequence[Series], interval: str = "95% interval of the mean"
) -> list[Artist]:
    """Legend entries of heads' curves and of the dark bands about them."""
    patch = Patch(facecolor=FAINT, alpha=0.6, linewidth=0, label=interval)
    return [*(one.handle() for one in series), patch]


def dot_handles(series: Sequence[Series]) -> list[Artist]:
    """Legend entries of dots, and of the bars through them."""
    bar = bar_handle(markeredgewidth=1.3, color=FAINT)
    return [*(one.handle(line=False) for one in series), bar]


def bar_handle(label: str = "95% interval", markersize: float = 7, **look: Any) -> Line2D:
    """The legend's entry for an upright bar."""
    return Line2D([], [], linestyle="none", marker="|", markersize=markersize, label=label, **look)


def add_colour_bar(ax: Axes | Sequence[Axes], image: AxesImage, label: str) -> None:
    """A thin colour bar to the right of one axes or of several."""
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    rows = {_place(one)[0] for one in axes}
    # As thin beside several rows as beside one.
    with paper_style():
        bar = _figure(axes[0]).colorbar(
            image, ax=axes, fraction=0.05, pad=0.02, aspect=16 * len(rows)
        )
        bar.set_label(label, linespacing=TIGHT_LINES)
    bar.outline.set_linewidth(0.5)
    dress(bar.ax, grid=False)


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _place(ax: Axes) -> tuple[int, int]:
    """Row and column of a panel."""
    spec = ax.get_subplotspec()
    return (0, 0) if spec is None else (spec.rowspan.start, spec.colspan.start)


def drawing_versions() -> dict[str, str]:
    """Versions of what decides a figure's bytes: elsewhere with the same ones they are the same.

    Fonts are matplotlib's own; matplotlib brings FreeType, which draws their letters. Pillow
    compresses PNG with its own zlib, matplotlib PDF with Python's.
    """
    import zlib

    import fontTools
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib import ft2font
    from PIL import __version__ as pillow
    from PIL import features

    return {
        "matplotlib": mpl.__version__,
        "freetype": ft2font.__freetype_version__,
        "seaborn": sns.__version__,
        "numpy": np.__version__,
        "fonttools": fontTools.version,
        "pillow": pillow,
        "zlib of pillow": str(features.version("zlib")),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png (300 dpi) and ``stem``.pdf, whole or not at all.

    The files hold no date and no version, so the same figure gives the same bytes.
    Raises UserError where a file cannot be written.

    Returns:
        The two paths.
    """
    stem = Path(stem)
    paths = []
    with paper_style(), _fixed_layout(figure), _quiet_fonts():
        for suffix, metadata in (
            (".png", {"Software": None}),
            (".pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ):
            # Not `with_suffix`, which would cut a run's name at its last dot.
            path = stem.with_name(stem.name + suffix)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata=metadata)
            paths.append(path)
    return paths


@contextmanager
def _fixed_layout(figure: Figure) -> Iterator[None]:
    """Lay the figure out once, so that all its files agree."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Keep the hundred lines that the subsetting of a font logs out of the program's log."""
    log = logging.getLogger("fontTools.subset")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
