"""The look shared by every figure: its heads as series, type, lines and sizes.

Markers tell heads apart in grey, line styles and marker fill tell detectors apart: see :mod:`.looks`. Sizes are those
of a two-column paper, in inches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rethink_heads.plots.looks import head_label, head_order, looks_of, plain_label

COLUMN_WIDTH = 3.35
PAGE_WIDTH = 6.9

SIZES: tuple[str, ...] = ("small", "medium", "large", "all")

# Light bands of more heads than these lie over each other and cannot be told apart.
MOST_SPREAD_BANDS = 2
INTERVAL_ALPHA = 0.35
SPREAD_ALPHA = 0.10
INK = "#222222"
FAINT = "#8a8a8a"
GRID = "#e4e4e4"
# The font's own line spacing is that of a formula.
TIGHT_LINES = 1.03

# Times-like, as the papers' text, and part of every matplotlib.
FONT = "STIXGeneral"
PAPER_STYLE: Mapping[Any, Any] = {
    "font.family": FONT,
    "mathtext.fontset": "stix",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.9,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.3,
    "legend.borderaxespad": 0.2,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlepad": 4,
    "axes.labelpad": 2.5,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.4,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "figure.dpi": 120,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.025,
    "figure.constrained_layout.w_pad": 0.025,
    "figure.constrained_layout.hspace": 0.03,
    "figure.constrained_layout.wspace": 0.05,
}


_NAMING = ContextVar("naming_detectors", default=False)


class NothingToDrawError(ValueError):
    """The frames hold no rows for a figure."""


@dataclass(frozen=True)
class Series:
    """How one head of one detector is drawn, the same in every panel and figure."""

    detector: str
    head: str
    label: str
    colour: str
    marker: str
    line_style: Any
    hollow: bool
    named: bool = False
    """Whether the label names the detector."""

    @property
    def marker_face(self) -> str:
        return "white" if self.hollow else self.colour

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame's rows of this head and detector."""
        return frame[(frame["detector"] == self.detector) & (frame["head"] == self.head)]

    def handle(self, line: bool = True) -> Line2D:
        """A marker, on a line or alone, for a legend."""
        return Line2D(
            [],
            [],
            color=self.colour,
            linestyle=self.line_style if line else "none",
            marker=self.marker,
            markerfacecolor=self.marker_face,
            markersize=3.8,
            linewidth=1.2,
            label=self.label,
        )


def series_of(frames: pd.DataFrame | Iterable[pd.DataFrame]) -> list[Series]:
    """Every (detector, head) pair of the frames as a :class:`Series`, in a fixed order.

    Heads come in the paper's order (fc, conv, double, double-ext, ..., then others by name), and under
    one head the detectors by name. Looks are those of :func:`.looks.looks_of`. Labels name the
    detector only where several have a head of that name, or inside :func:`naming_detectors`.
    """
    if isinstance(frames, pd.DataFrame):
        frames = [frames]
    pairs = {
        (str(detector), str(head))
        for frame in frames
        if len(frame)
        for detector, head in frame[["detector", "head"]].drop_duplicates().to_numpy()
    }
    order = sorted(pairs, key=lambda pair: (head_order(pair[1]), pair[0]))
    looks = looks_of(order)
    count = Counter(head for _, head in order)
    named = {head for head in count if count[head] > 1 or _NAMING.get()}
    return [
        Series(
            detector,
            head,
            head_label(head) + (f" ({plain_label(detector)})" if head in named else ""),
            look.colour,
            look.marker,
            look.line_style,
            look.hollow,
            named=head in named,
        )
        for (detector, head), look in ((pair, looks[pair]) for pair in order)
    ]


@contextmanager
def naming_detectors() -> Iterator[None]:
    """Have every label name its detector, for figures that are about detectors rather than heads."""
    token = _NAMING.set(True)
    try:
        yield
    finally:
        _NAMING.reset(token)


def sizes_in(frame: pd.DataFrame) -> list[str]:
    """The object sizes that have objects, in the order small, medium, large, all."""
    if "objects" in frame:
        frame = frame[frame["objects"] > 0]
    present = set(frame["size"]) if len(frame) else set()
    return [size for size in SIZES if size in present]


@contextmanager
def paper_style() -> Iterator[None]:
    """The figures' matplotlib settings, in force inside the block only."""
    before = {name: mpl.rcParams[name] for name in PAPER_STYLE}
    mpl.rcParams.update(PAPER_STYLE)
    try:
        yield
    finally:
        # Not `rc_context`, which would also undo what a notebook's backend sets when it is loaded
        # inside the block: that figures show themselves.
        mpl.rcParams.update(before)


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


def dress(ax: Axes, grid: bool = True) -> None:
    """Thin spines left and below, short ticks and faint horizontal lines."""
    ax.spines[["top", "right"]].set_visible(False)
    # Ticks are made when drawn, perhaps outside `paper_style`: so their look is set here.
    ax.tick_params(length=2.2, width=0.6, pad=2, color=INK, labelcolor=INK)
    for axis, name in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
        axis.set_tick_params(labelsize=PAPER_STYLE[f"{name}.labelsize"], labelfontfamily=FONT)
    ax.grid(False)
    if grid:
        ax.grid(True, axis="y", color=GRID, linewidth=0.5)


def interval_patch() -> Patch:
    """The legend's entry for a dark band."""
    return Patch(facecolor=FAINT, alpha=0.6, linewidth=0, label="95% interval of the mean")


def spread_handle(count: int) -> Artist:
    """The legend's entry for the standard deviation of ``count`` heads: a light band or lines."""
    label = r"$\pm$ 1 standard deviation"
    if count <= MOST_SPREAD_BANDS:
        return Patch(facecolor=FAINT, alpha=0.25, edgecolor=FAINT, linewidth=0.5, label=label)
    return Line2D([], [], color=FAINT, linewidth=0.5, label=label)
