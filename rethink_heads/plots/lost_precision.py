"""Figures of where average precision is lost: shares by cause, the ranking's exchange rate, the recall ladder, swaps.

Each function takes result frames and returns a matplotlib figure; frames without rows raise NothingToDrawError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rethink_heads.plots.layout import (
    add_colour_bar,
    caption_below,
    dot_handles,
    label_outside,
    legend_above,
    line_handles,
    panel_grid,
    title_maps,
)
from rethink_heads.plots.panels import (
    SEQUENTIAL,
    draw_curves,
    draw_dots,
    from_zero,
    in_percent,
    name_categories,
    unit_axes,
)
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    GRID,
    INK,
    PAGE_WIDTH,
    TIGHT_LINES,
    NothingToDrawError,
    Series,
    dress,
    head_label,
    heads_of,
    paper_style,
    plain_label,
    source_text,
)

CAUSE_LABELS: Mapping[str, str] = {
    "ranking": "Ranking",
    "localization": "Localization",
    "classification": "Classification",
    "duplicates": "Duplicates",
    "background": "Background",
    "misses": "Misses",
}
# Tol's muted set, colour-blind safe and none of a head's.
CAUSE_COLOURS: Mapping[str, str] = dict(
    zip(
        CAUSE_LABELS,
        ("#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#999999"),
        strict=True,
    )
)
# Every second cause, each in its own way, so that neighbours and light colours stay apart in grey.
HATCHES: Mapping[str, str] = {
    "localization": "////",
    "duplicates": "\\\\\\\\",
    "misses": "....",
}
STAGES: Mapping[str, str] = {
    "proposals": "Proposals",
    "regressed": "Regressed",
    "classified": "Right class",
    "after_nms": "After NMS",
    "detections": "Detections",
}
LADDER_IOUS = ("0.50", "0.75", "mean")
MOST_A_ROW = 4
# Diameter in points of the circle about a detector's own ranking.
OWN_RANKING = 8.0
# From more heads on, cells are too narrow for their intervals.
MOST_WITH_ENDS = 6
# Labels below more columns than these do not fit side by side.
MOST_LEVEL_LABELS = 3
# Darker cells have light text.
LIGHT_TEXT_BELOW = 0.6


@paper_style()
def shares(by_threshold: pd.DataFrame, lost: pd.DataFrame) -> Figure:
    """100% of average precision as one stacked bar for each IoU threshold and their mean, a panel a head.

    Below them the shares of the mean with 95% intervals, heads side by side.

    Args:
        by_threshold: what ``lost_by_threshold`` returns.
        lost: what ``lost_precision`` returns.
    """
    if lost.empty:
        raise NothingToDrawError("no detections")
    series = heads_of(lost)
    rows = -(-len(series) // MOST_A_ROW)
    # As many in each row, as far as they go.
    columns = -(-len(series) // rows)
    figure = Figure(
        figsize=(PAGE_WIDTH, 0.5 + 1.75 * rows + 1.9),
        layout="constrained",
    )
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*[1.75] * rows, 1.9])
    panels = [figure.add_subplot(grid[divmod(place, columns)]) for place in range(len(series))]
    for ax, one in zip(panels, series, strict=True):
        dress(ax)
        stack_shares(ax, one.rows(by_threshold), one.rows(lost))
    title_maps(panels, series)
    label_outside(panels)
    below = figure.add_subplot(grid[rows, :])
    dress(below)
    percent = in_percent(lost, "share")
    draw_dots(below, percent, series, list(CAUSE_LABELS), category="cause", value="share")
    from_zero(below)
    name_categories(below, list(CAUSE_LABELS.values()))
    below.set_ylabel("AP lost (points)")
    causes = [Patch(label=label, **_look(cause)) for cause, label in CAUSE_LABELS.items()]
    left = Patch(facecolor=GRID, edgecolor=FAINT, linewidth=0.5, label="AP")
    legend_above(figure, [left, *causes, *dot_handles(series)])
    caption_below(figure, source_text(lost))
    return figure


def stack_shares(ax: Axes, by_threshold: pd.DataFrame, lost: pd.DataFrame) -> None:
    """Draw one head's AP and its lost shares on top of it: the mean, then each IoU threshold."""
    ious = sorted(set(by_threshold["iou"]))
    at = [0.0, *(1.6 + place for place in range(len(ious)))]
    bottom = np.zeros(len(at))
    columns = {
        cause: [
            _value(lost, cause),
            *(_value(by_threshold[by_threshold["iou"] == iou], cause) for iou in ious),
        ]
        for cause in CAUSE_LABELS
    }
    kept = 100 - 100 * np.sum(list(columns.values()), axis=0)
    ax.bar(at, kept, width=0.86, facecolor=GRID, edgecolor=FAINT, linewidth=0.5, zorder=2)
    bottom += kept
    for cause, values in columns.items():
        # A share below zero, of a fix that costs precision, has no height to be drawn with.
        heights = np.clip(100 * np.array(values), 0, None)
        ax.bar(at, heights, bottom=bottom, width=0.86, zorder=2, **_look(cause))
        bottom += heights
    ax.set_ylim(0, 100)
    ax.set_ylabel("Average precision (%)")
    ax.set_xlabel("IoU threshold")
    ax.set_xticks(at, ["mean", *(f"{iou:.2f}"[1:] for iou in ious)], rotation=90)


@paper_style()
def exchange_rate(table: pd.DataFrame) -> Figure:
    """AP as the ranking moves from the detector's own to that of the true IoU, with 95% bands, and their correlation.
    ``table`` is what ``exchange_rate`` returns.
    """
    series = _series(table)
    frame = in_percent(table, "ap")
    figure, ((left, right),) = panel_grid(1, 2, height=2.2, width=PAGE_WIDTH * 0.78, share=True)
    draw_curves(left, frame, series, x="step", value="ap")
    # Room for the outermost markers.
    left.set_xlim(-0.03, 1.03)
    left.set_xlabel("Ranking: own (0) to the true IoU's (1)")
    left.set_ylabel("Average precision (%)")
    for one in series:
        rows = one.rows(frame).sort_values("step")
        look = one.look
        right.plot(
            rows["pcc"],
            rows["ap"],
            **look.keywords(),
            markersize=3.2,
            markeredgewidth=0.8,
            zorder=3,
        )
        right.plot(
            rows["pcc"].iloc[:1],
            rows["ap"].iloc[:1],
            linestyle="none",
            marker="o",
            markersize=OWN_RANKING,
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markeredgewidth=0.8,
            zorder=3,
        )
    right.set_xlabel("PCC of score and IoU of detections")
    label_outside([left, right])
    legend_above(figure, line_handles(series, "95% interval"))
    caption_below(figure, "Circles: the detector's own ranking.", source_text(table))
    return figure


@paper_style()
def recall_ladder(table: pd.DataFrame) -> Figure:
    """Recall at each stage from proposals to detections, at IoU 0.5, 0.75 and over all thresholds, with 95% intervals.
    ``table`` is what ``recall_ladder`` returns.
    """
    rows = table[table["size"] == "all"] if len(table) else table
    series = _series(rows)
    stages = [stage for stage in STAGES if stage in set(rows["stage"])]
    figure, axes = panel_grid(1, len(LADDER_IOUS), height=2.4, share=True)
    for ax, iou in zip(axes[0], LADDER_IOUS, strict=True):
        own = rows[rows["iou"] == iou]
        draw_dots(ax, own, series, stages, category="stage", value="recall")
        name_categories(ax, [STAGES[stage] for stage in stages])
        ax.tick_params(axis="x", rotation=90)
        unit_axes(ax, "y")
        # Marks at 1 are not cut.
        ax.set_ylim(0, 1.03)
        ax.set_ylabel("Recall")
        ax.set_title("Mean over IoU 0.50 to 0.95" if iou == "mean" else f"IoU {iou}")
    label_outside(axes.flat)
    legend_above(figure, dot_handles(series))
    caption_below(figure, source_text(rows))
    return figure


@paper_style()
def swaps(table: pd.DataFrame) -> Figure:
    """AP of each head's scores with each head's boxes on the same proposals, a cell a pair, with 95% intervals.
    ``table`` is what ``swap_matrix`` returns.
    """
    rows = table[table["metric"] == "AP"] if len(table) else table
    if rows.empty:
        raise NothingToDrawError("no swaps were measured")
    names = list(dict.fromkeys(rows["scores"]))
    cells = rows.set_index(["scores", "boxes"])
    several = len({name.split("/")[0] for name in names}) > 1
    labels = [_key_label(name, several) for name in names]
    values, lows, highs = (
        np.array([[100 * cells.loc[(a, b), end] for b in names] for a in names])
        for end in ("value", "value_low", "value_high")
    )
    width = min(PAGE_WIDTH, max(COLUMN_WIDTH, 1.6 + 0.95 * len(names)))
    figure, ((ax,),) = panel_grid(
        1, 1, height=0.9 + 0.55 * len(names), width=width, layout="constrained"
    )
    dress(ax, grid=False)
    # As far as the intervals: what differs by less looks much the same.
    norm = Normalize(float(np.nanmin([values, lows])), float(np.nanmax([values, highs])))
    import seaborn as sns

    colours = sns.color_palette(SEQUENTIAL, as_cmap=True)
    image = ax.imshow(values, cmap=colours, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        low, high = lows[row, column], highs[row, column]
        has_ends = len(names) <= MOST_WITH_ENDS and np.isfinite(low)
        ax.text(
            column,
            row,
            f"{value:.1f}" + (f"\n[{low:.1f}, {high:.1f}]" if has_ends else ""),
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold" if row == column else "normal",
            color="white" if norm(value) < LIGHT_TEXT_BELOW else INK,
        )
    upright = 0 if len(names) <= MOST_LEVEL_LABELS else 90
    ax.set_xticks(range(len(names)), labels, linespacing=TIGHT_LINES, rotation=upright)
    ax.set_yticks(range(len(names)), labels, linespacing=TIGHT_LINES)
    ax.set_xlabel("Boxes of")
    ax.set_ylabel("Scores of")
    add_colour_bar(ax, image, "AP (%)")
    shown = ", [95% interval]" if len(names) <= MOST_WITH_ENDS else ""
    caption_below(figure, f"AP on the same proposals{shown}. Bold: a head's own boxes.")
    return figure


def _key_label(key: str, several: bool) -> str:
    """The label of "detector/head", with the detector where there are several."""
    detector, _, head = key.rpartition("/")
    return f"{head_label(head)}\n({plain_label(detector)})" if several else head_label(head)


def _series(table: pd.DataFrame) -> Sequence[Series]:
    if table.empty:
        raise NothingToDrawError("nothing was measured")
    return heads_of(table)


def _value(rows: pd.DataFrame, cause: str) -> float:
    return float(rows.loc[rows["cause"] == cause, "share"].sum())


def _look(cause: str) -> dict[str, Any]:
    return {
        "facecolor": CAUSE_COLOURS[cause],
        "edgecolor": "white",
        "linewidth": 0.3,
        "hatch": HATCHES.get(cause),
    }
