"""The look shared by every figure: which colour, marker and line each head of each detector has, type, lines and sizes.

A head has one colour and marker in every figure, told apart in grey by the marker; detectors that share a head's name
differ in line style and marker fill, and from the third on in shade. Where one head's name is all that there is, colour
and marker tell detectors apart instead. Sizes are those of a two-column paper, in inches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from zlib import crc32

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from rethink_heads.bounds import FILE_HEAD

COLUMN_WIDTH = 3.35
PAGE_WIDTH = 6.9

SIZES: tuple[str, ...] = ("small", "medium", "large", "all")

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

# Okabe and Ito's colour-blind safe set for the paper's heads, then two that stay apart from them; in the paper's order.
HEAD_COLOURS: Mapping[str, str] = {
    "fc": "#D55E00",
    "conv": "#0072B2",
    "double": "#009E73",
    "double-ext": "#CC79A7",
    "double-reverse": "#000000",
    "double-fc": "#E69F00",
    "double-conv": "#56B4E9",
    "conv-fc": "#6A4CE0",
    "box": "#8B0000",
}
HEAD_MARKERS: Mapping[str, str] = dict(zip(HEAD_COLOURS, "os^DvPXph", strict=True))
HEAD_LABELS: Mapping[str, str] = {
    "fc": "fc-head",
    "conv": "conv-head",
    "double": "Double-Head",
    "double-ext": "Double-Head-Ext",
    "double-reverse": "Double-Head-Reverse",
    "double-fc": "Double-FC",
    "double-conv": "Double-Conv",
    "conv-fc": "conv-fc-head",
    "box": "box head",
    "fc2": "second fc-head",
    "conv2": "second conv-head",
}
LONGEST_LABEL = 40
# Colours and markers of other heads.
_OTHERS = (("#8C7A00", "<"), ("#B0578D", ">"), ("#5B2A86", "*"), ("#1B5E3B", "d"))
# Of detectors, where one head's name is all that there is; its own look comes first.
_DETECTOR_LOOKS = (
    *((colour, HEAD_MARKERS[head]) for head, colour in list(HEAD_COLOURS.items())[:7]),
    *_OTHERS,
)
_LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
# Fractions of black (below zero) or white that are mixed into a head's colour, for each two of its detectors.
_SHADES = (0.0, -0.5, 0.5, -0.75, 0.7)
# From so many detectors on with a head of one name, line style and marker fill are not enough.
_MANY_DETECTORS = 3
_DARK = 0.1

Pair = tuple[str, str]  # detector, head
_NAMING = ContextVar("naming_detectors", default=False)
_DATA = ContextVar("naming_data", default="")


class NothingToDrawError(ValueError):
    """The frames hold no rows for a figure."""


@dataclass(frozen=True)
class Look:
    """How one head of one detector is drawn."""

    colour: str
    marker: str
    line_style: Any = "-"
    hollow: bool = False

    @property
    def marker_face(self) -> str:
        return "white" if self.hollow else self.colour

    def keywords(self, line: bool = True) -> dict[str, Any]:
        """Keywords of a plot of marks, on a line or alone."""
        style = self.line_style if line else "none"
        marks = {"marker": self.marker, "markerfacecolor": self.marker_face}
        return {"color": self.colour, "linestyle": style, **marks}


@dataclass(frozen=True)
class Series:
    """One head of one detector, with the look that it has in every panel and figure.

    Attributes:
        title: the head's name as it is printed, with those of the heads that it stands for as well.
        named: whether the label names the detector.
    """

    detector: str
    head: str
    look: Look
    title: str
    named: bool = False

    @property
    def key(self) -> Pair:
        return self.detector, self.head

    @property
    def label(self) -> str:
        return self.title + (f" ({plain_label(self.detector)})" if self.named else "")

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame's rows of this head and detector."""
        return frame[(frame["detector"] == self.detector) & (frame["head"] == self.head)]

    def handle(self, line: bool = True) -> Line2D:
        """A marker, on a line or alone, for a legend."""
        look = self.look.keywords(line)
        return Line2D([], [], markersize=3.8, linewidth=1.2, label=self.label, **look)


def series_of(*frames: pd.DataFrame) -> list[Series]:
    """Every (detector, head) pair of the frames as a :class:`Series`, in a fixed order.

    Heads come in the paper's order (fc, conv, double, double-ext, ..., then others by name), and under one head the
    detectors by name. Labels name the detector only where several have a head of that name, or inside
    :func:`naming_detectors`. Heads with the same numbers are one, see :func:`without_repeats`.
    """
    return without_repeats(heads_of(*frames), *frames)


def without_repeats(series: Sequence[Series], *frames: pd.DataFrame) -> list[Series]:
    """The series, with one for all heads of a detector whose rows are the same in each frame, named together.

    Heads that share a classifier have the same scores, those that share a regressor the same boxes: drawn apart, one
    would hide the other.
    """
    first: dict[Series, list[pd.DataFrame]] = {}
    titles: dict[Series, list[str]] = {}
    for one in series:
        rows = [
            one.rows(frame).drop(columns=["detector", "head"]).reset_index(drop=True)
            for frame in frames
            if len(frame)
        ]
        same = (
            other
            for other, its in first.items()
            if other.detector == one.detector
            and any(frame.shape[1] for frame in rows)
            and all(a.equals(b) for a, b in zip(rows, its, strict=True))
        )
        other = next(same, one)
        first.setdefault(other, rows)
        titles.setdefault(other, []).append(one.title)
    return [replace(one, title=" = ".join(names)) for one, names in titles.items()]


def heads_of(*frames: pd.DataFrame) -> list[Series]:
    """The series of :func:`series_of`, those with the same numbers apart."""
    pairs = {
        (str(detector), str(head))
        for frame in frames
        if len(frame)
        for detector, head in frame[["detector", "head"]].drop_duplicates().to_numpy()
    }
    order = sorted(pairs, key=lambda pair: (head_order(pair[1]), pair[0]))
    looks = looks_of(order)
    detectors = Counter(head for _, head in order)
    return [
        Series(
            detector,
            head,
            looks[detector, head],
            # A file has one head, which has no name of its own.
            plain_label(detector) if head == FILE_HEAD else head_label(head),
            named=head != FILE_HEAD and (detectors[head] > 1 or _NAMING.get()),
        )
        for detector, head in order
    ]


@contextmanager
def naming_detectors() -> Iterator[None]:
    """Have every label name its detector, for figures that are about detectors rather than heads."""
    token = _NAMING.set(True)
    try:
        yield
    finally:
        _NAMING.reset(token)


@contextmanager
def naming_data(name: str) -> Iterator[None]:
    """Have every figure's caption name the data."""
    token = _DATA.set(name)
    try:
        yield
    finally:
        _DATA.reset(token)


def source_text(*frames: pd.DataFrame) -> str:
    """What a figure is drawn from, for its caption: the data, the number of objects, the runs or files."""
    objects = max(map(_object_count, frames), default=0)
    runs = sorted({str(name) for frame in frames for name in frame.get("detector", ())})
    heads = {str(name) for frame in frames for name in frame.get("head", ())}
    word = "file" if heads == {FILE_HEAD} else "run"
    parts = [
        *[plain_label(_DATA.get())] * bool(_DATA.get()),
        *[f"{objects:,} object{'s' * (objects > 1)}"] * bool(objects),
        *[f"{word}{'s' * (len(runs) > 1)} {', '.join(map(plain_label, runs))}"] * bool(runs),
    ]
    return "; ".join(parts)


def _object_count(frame: pd.DataFrame) -> int:
    """Objects that a frame is of; where it has no rows of all sizes, those of its sizes together."""
    if frame.empty or not {"objects", "size"} <= set(frame):
        return 0
    by_size = frame.groupby("size")["objects"].max()
    return int(by_size["all"] if "all" in by_size else by_size.sum())


def head_label(head: str) -> str:
    """A head's name as a legend prints it."""
    return HEAD_LABELS.get(head, plain_label(head))


def plain_label(name: str) -> str:
    """A user's name as a legend can print it: no formulas, and not longer than a legend is wide."""
    short = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
    return short.replace("$", r"\$")


def head_order(head: str) -> tuple[int, str]:
    """Sorts heads: the paper's, other known ones, then by name."""
    names = list(HEAD_COLOURS)
    return (names.index(head) if head in names else len(names), head)


def looks_of(pairs: Sequence[Pair]) -> dict[Pair, Look]:
    """The look of each (detector, head)."""
    detectors = sorted({detector for detector, _ in pairs})
    heads = sorted({head for _, head in pairs}, key=head_order)
    by_head = _head_looks(heads)
    if len(heads) == 1 and len(detectors) >= _MANY_DETECTORS:
        own = by_head[heads[0]]
        choices = [own, *(look for look in _DETECTOR_LOOKS if look != own)]
        return {
            (detector, heads[0]): Look(
                *choices[place % len(choices)],
                _LINE_STYLES[place // len(choices) % len(_LINE_STYLES)],
                place // len(choices) % 2 == 1,
            )
            for place, detector in enumerate(detectors)
        }
    # The smallest style number that no detector before it with a common head has.
    styles: dict[str, int] = {}
    heads_of = {d: {head for name, head in pairs if name == d} for d in detectors}
    for detector in detectors:
        used = {styles[other] for other in styles if heads_of[other] & heads_of[detector]}
        styles[detector] = next(number for number in count() if number not in used)
    looks = {}
    for detector, head in pairs:
        (colour, marker), style = by_head[head], styles[detector]
        shade = _shade(colour, _SHADES[style // 2 % len(_SHADES)])
        line_style = _LINE_STYLES[style % len(_LINE_STYLES)]
        looks[detector, head] = Look(shade, marker, line_style, style % 2 == 1)
    return looks


def _head_looks(heads: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by head; heads of other detectors keep theirs from figure to figure, too."""
    looks: dict[str, tuple[str, str]] = {}
    taken: set[int] = set()
    for head in heads:
        if head in HEAD_COLOURS:
            looks[head] = HEAD_COLOURS[head], HEAD_MARKERS[head]
            continue
        slot = crc32(head.encode()) % len(_OTHERS)
        while slot in taken and len(taken) < len(_OTHERS):
            slot = (slot + 1) % len(_OTHERS)
        taken.add(slot)
        looks[head] = _OTHERS[slot]
    return looks


def _shade(colour: str, amount: float) -> str:
    """A colour mixed with black or white; one as dark as black only with white."""
    if amount == 0:
        return colour
    rgb = to_rgb(colour)
    share, white = abs(amount), max(amount, 0.0)
    if max(rgb) < _DARK:
        share = white = amount if amount > 0 else 0.6 * share
    red, green, blue = ((1 - share) * channel + white for channel in rgb)
    return to_hex((red, green, blue))


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
