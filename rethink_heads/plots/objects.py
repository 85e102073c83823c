"""Single objects: the image around one with its proposals coloured by score, and score against IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from rethink_heads.plots.layout import legend_above, panel_grid
from rethink_heads.plots.panels import unit_axes
from rethink_heads.plots.style import (
    INK,
    PAGE_WIDTH,
    NothingToDrawError,
    Series,
    paper_style,
    plain_label,
)

Array = npt.NDArray[np.float64]

ROW_HEIGHT = 1.75
# Of the object's longer side, shown to every side of its centre.
REACH = 1.1
MOST_BOXES = 60
SCORE_COLOURS = "viridis"


@dataclass(frozen=True)
class ObjectView:
    """An object with the proposals that are drawn around it.

    Attributes:
        title: what the object is called.
        image: (H, W, 3) uint8.
        box: (4,) xyxy, px.
        boxes: (N, 4) proposals, xyxy, px.
        ious: (N,) of the proposals with the object.
        scores: (N,) of its class, by (detector, head).
        pccs: each head's own correlation on the object.
    """

    title: str
    image: npt.NDArray[np.uint8]
    box: Array
    boxes: Array
    ious: Array
    scores: Mapping[tuple[str, str], Array]
    pccs: Mapping[tuple[str, str], float]


@paper_style()
def draw_objects(views: Sequence[ObjectView], series: Sequence[Series]) -> Figure:
    """Draw a row for each object: its proposals by each head's score, and all heads' scores against IoU.

    Scores of an object begin at 0 and end at the highest that any head gives, in colours and on the axis.
    The first view is at the top. Raises NothingToDrawError where there is no object or no head.
    """
    if not views or not series:
        raise NothingToDrawError("no objects to draw")
    columns = len(series) + 1
    figure, axes = panel_grid(
        len(views),
        columns,
        height=ROW_HEIGHT * len(views) + 0.7,
        width=min(PAGE_WIDTH, 2.3 * columns),
    )
    for view, row in zip(views, axes, strict=True):
        keys = [(one.detector, one.head) for one in series]
        top = max((float(view.scores[key].max(initial=0)) for key in keys), default=0) or 1.0
        for one, ax in zip(series, row, strict=False):
            _draw_crop(ax, view, view.scores[one.detector, one.head], top)
            ax.set_title(f"{one.label}: PCC {view.pccs[one.detector, one.head]:.2f}")
        row[0].set_ylabel(plain_label(view.title))
        _draw_scores(row[-1], view, series, top)
    axes[-1][-1].set_xlabel("Proposal IoU")
    colours = ScalarMappable(cmap=SCORE_COLOURS)
    bar = figure.colorbar(
        colours, ax=list(axes.flat), location="bottom", fraction=0.012, pad=0.01, aspect=40
    )
    bar.set_ticks([0, 1], labels=["0", "highest"])
    bar.set_label("Score of the true class, to the highest of each object")
    legend_above(figure, [one.handle(line=False) for one in series])
    return figure


def _draw_scores(ax: Axes, view: ObjectView, series: Sequence[Series], top: float) -> None:
    """Draw the scores of all heads against IoU."""
    for one in series:
        ax.plot(
            view.ious,
            view.scores[one.detector, one.head],
            **one.look.keywords(line=False),
            markersize=2,
            markeredgewidth=0.5,
            alpha=0.6,
        )
    unit_axes(ax, "x")
    ax.set_ylim(0, 1.05 * top)
    ax.set_ylabel("Score")


def _draw_crop(ax: Axes, view: ObjectView, scores: Array, top: float) -> None:
    """Draw the image around the object with some of its proposals, evenly spaced in IoU, low scores below."""
    x1, y1, x2, y2 = view.box
    ax.imshow(view.image, zorder=0)
    by_iou = np.argsort(view.ious, kind="stable")
    chosen = by_iou[np.unique(np.linspace(0, len(by_iou) - 1, MOST_BOXES).round().astype(int))]
    chosen = chosen[np.argsort(scores[chosen], kind="stable")]
    corners = view.boxes[chosen][:, [[0, 1], [2, 1], [2, 3], [0, 3], [0, 1]]]
    lines = LineCollection(list(corners), cmap=SCORE_COLOURS, linewidths=0.7, zorder=2)
    lines.set_array(scores[chosen])
    lines.set_clim(0, top)
    ax.add_collection(lines)
    for colour, width in (("white", 2.2), (INK, 1.1)):
        ax.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=width, zorder=3)
    reach = REACH * max(x2 - x1, y2 - y1)
    ax.set_xlim((x1 + x2) / 2 - reach, (x1 + x2) / 2 + reach)
    ax.set_ylim((y1 + y2) / 2 + reach, (y1 + y2) / 2 - reach)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
