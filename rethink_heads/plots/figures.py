"""Whole figures: the paper's Figures 2, 3 and 4, and the ones it lacks.

Each function takes frames of :mod:`rethink_heads.statistics` and returns a matplotlib figure with
axes for the sizes and heads that the frames hold. Frames without any raise NothingToDrawError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rethink_heads.plots.layout import (
    add_colour_bar,
    caption_below,
    dot_handles,
    label_outside,
    legend_above,
    line_handles,
    panel_grid,
    square_panels,
    title_maps,
    trim_height,
)
from rethink_heads.plots.panels import (
    COEFFICIENTS,
    change_norm,
    correlation_norm,
    curve_handles,
    draw_curves,
    draw_dots,
    plot_cells,
    plot_correlation_tiling,
    plot_decay,
    plot_displacement,
    plot_error_components,
    plot_gain,
    plot_pcc,
    plot_regressed_iou_by_iou,
    plot_score_by_iou,
    unit_axes,
    weights_line,
)
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    PAGE_WIDTH,
    TIGHT_LINES,
    NothingToDrawError,
    Series,
    dress,
    paper_style,
    series_of,
    sizes_in,
    source_text,
    without_repeats,
)

CELL_LABELS = {
    "cell_score": "Change of score,\nposition zeroed",
    "cell_iou": "Change of regressed\nIoU, position zeroed",
}
# More heads than these go on in further rows, so that their names stay apart.
MAPS_A_ROW = 5
CELL_REPEATS = {"cell_score": "scores", "cell_iou": "boxes"}
# Kind of a correlation map -> what the panel's title says of it; in the paper's order.
CORRELATIONS = {"spatial_correlation": "output", "weight_correlation": "fc6 weights"}
# In the paper's order, which is that of the boxes' way through a detector.
STAGE_TITLES = {
    "predefined": "Predefined proposals",
    "rpn": "RPN's proposals",
    "detections": "Final detections",
}


@paper_style()
def figure2(
    scores: pd.DataFrame,
    regressed: pd.DataFrame,
    *,
    spread: bool = True,
    sizes: Sequence[str] | None = None,
) -> Figure:
    """Score and regressed IoU against the proposal's IoU, a column a size (paper, Figure 2).

    Args:
        scores: what ``score_by_iou`` returns.
        regressed: what ``regressed_iou_by_iou`` returns.
        spread: draw one standard deviation about each mean.
        sizes: the columns; by default every size that the frames hold, and all sizes together.
    """
    if sizes is not None:
        scores, regressed = (
            frame[frame["size"].isin(sizes)] if len(frame) else frame
            for frame in (scores, regressed)
        )
    series, columns = _contents(scores, regressed)
    by_score, by_box = without_repeats(series, scores), without_repeats(series, regressed)
    drawn = [one for one in series if {one.key} & {other.key for other in (*by_score, *by_box)}]
    figure, axes = panel_grid(2, len(columns), height=3.7)
    for size, (top, bottom) in zip(columns, axes.T, strict=True):
        plot_score_by_iou(scores, size, spread=spread, series=by_score, ax=top)
        plot_regressed_iou_by_iou(regressed, size, spread=spread, series=by_box, ax=bottom)
    label_outside(axes.flat, columns)
    proposal = Line2D([], [], color=FAINT, linewidth=0.7, label="the proposal itself")
    legend_above(figure, [*curve_handles(drawn, spread), proposal])
    same = _repeats(by_score, "scores"), _repeats(by_box, "boxes")
    caption_below(figure, *same, source_text(scores, regressed))
    return figure


@paper_style()
def figure3(frame: pd.DataFrame) -> Figure:
    """PCC of score and IoU by object size, a panel a stage (paper, Figure 3), of what ``stage_correlation`` returns.

    The panels have one y axis. Bars through the dots are 95% intervals. A stage that the frame does
    not hold has no panel.
    """
    present = set(frame["stage"]) if len(frame) else set()
    stages = [stage for stage in STAGE_TITLES if stage in present]
    if not stages:
        raise NothingToDrawError("no correlations at any stage to draw")
    series, sizes = _contents(frame)
    width = PAGE_WIDTH if len(stages) > 1 else COLUMN_WIDTH
    figure, axes = panel_grid(1, len(stages), height=2.25, width=width, share=True)
    for ax, stage in zip(axes[0], stages, strict=True):
        rows = frame[frame["stage"] == stage]
        draw_dots(ax, rows, series, sizes, category="size", value="pcc")
        ax.set_title(STAGE_TITLES[stage])
        ax.set_xlabel("Object size")
    axes[0, 0].set_ylabel("PCC of score and IoU", linespacing=TIGHT_LINES)
    for ax in axes[0]:
        # Where the axes reach below zero.
        if ax.get_ylim()[0] <= 0:
            ax.axhline(0, color=FAINT, linewidth=0.7, zorder=1)
    label_outside(axes.flat)
    legend_above(figure, dot_handles(series))
    caption_below(figure, source_text(frame))
    return figure


@paper_style()
def figure4(maps: pd.DataFrame) -> Figure:
    """Spatial correlation of RoI positions as tilings: outputs, then fc6's weights (paper, Figure 4).
    ``maps``: mean cosines in the columns detector, head, kind, cell_a, cell_b and cosine.
    """
    panels = [
        (one, what, _pivot(rows, "cell_a", "cell_b", "cosine"))
        for kind, what in CORRELATIONS.items()
        # The paper shows conv-head first.
        for one in reversed(series_of(maps))
        if len(rows := one.rows(maps[maps["kind"] == kind]))
    ]
    if not panels:
        raise NothingToDrawError("no correlation maps to draw")
    heads, whats, tilings = zip(*panels, strict=True)
    norm = correlation_norm(tilings)
    figure, axes = square_panels(len(panels), PAGE_WIDTH if len(panels) > 2 else None)
    for ax, tiles in zip(axes, tilings, strict=True):
        plot_correlation_tiling(tiles, norm=norm, ax=ax)
    title_maps(axes, heads, whats)
    label_outside(axes)
    add_colour_bar(axes, axes[0].images[0], "Cosine similarity")
    caption_below(figure, source_text(maps))
    trim_height(figure)
    return figure


@paper_style()
def correlations(pcc: pd.DataFrame, spearman: pd.DataFrame | None = None) -> Figure:
    """Coefficients of score and IoU of the predefined proposals by size, a row a range of IoU.

    Args:
        pcc: what ``pearson`` returns, with columns "iou_low" and "iou_high" where there are several
            ranges of IoU.
        spearman: the same of ``spearman``.
    """
    frames = {"pcc": pcc, "object_pcc": pcc}
    if spearman is not None and len(spearman):
        frames["spearman"] = spearman
    series, _ = _contents(*frames.values())
    if "iou_low" not in pcc:
        frames = {name: frame.assign(iou_low=0.0, iou_high=1.0) for name, frame in frames.items()}
    ends = (
        frames["pcc"][["iou_low", "iou_high"]].drop_duplicates().itertuples(index=False, name=None)
    )
    # The widest first.
    ranges = sorted(ends, key=lambda ends: (ends[0] - ends[1], ends))
    height = 0.55 + 1.55 * len(ranges)
    figure, axes = panel_grid(len(ranges), len(frames), height=height, share=True)
    for row, (low, high) in zip(axes, ranges, strict=True):
        for ax, (value, frame) in zip(row, frames.items(), strict=True):
            rows = frame[(frame["iou_low"] == low) & (frame["iou_high"] == high)]
            plot_pcc(rows, value, series=series, ax=ax)
        label = f"Correlation,\nproposal IoU {low:g} to {high:g}"
        row[0].set_ylabel(label, linespacing=TIGHT_LINES)
    for ax, value in zip(axes[0], frames, strict=True):
        ax.set_title(COEFFICIENTS[value])
    label_outside(axes.flat)
    legend_above(figure, dot_handles(series))
    caption_below(figure, source_text(*frames.values()))
    return figure


@paper_style()
def decay(means: pd.DataFrame) -> Figure:
    """Mean cosine of two RoI positions by their distance, a line a head and, dashed, its weights.
    ``means`` is what the statistic ``decay`` returns; the rows of size "all" are drawn.
    """
    means = means[means["size"] == "all"] if len(means) else means
    if means.empty:
        raise NothingToDrawError("no correlations by distance to draw")
    series = series_of(means)
    figure, axes = panel_grid(1, 1, height=2.4)
    for kind in CORRELATIONS:
        plot_decay(means, kind=kind, series=series, ax=axes[0, 0])
    weights = means[means["kind"] == "weight_correlation"]
    *lines, interval = line_handles(series)
    dashed = [weights_line(one) for one in series if len(one.rows(weights))]
    legend_above(figure, [*lines, *dashed, interval])
    # Many heads make a high legend, which must not squeeze the curves.
    legend = figure.legends[0].get_window_extent().height / figure.dpi
    figure.set_figheight(2.0 + legend)
    caption_below(figure, source_text(means))
    return figure


@paper_style()
def gain(regressed: pd.DataFrame) -> Figure:
    """The regressed box's gain in IoU over the proposal, a column a size.
    ``regressed`` is what ``regressed_iou_by_iou`` returns.
    """
    series, sizes = _contents(regressed)
    figure, axes = panel_grid(1, len(sizes), height=2.05, share=True)
    for ax, size in zip(axes[0], sizes, strict=True):
        plot_gain(regressed, size, series=series, ax=ax)
    label_outside(axes.flat, sizes)
    legend_above(figure, curve_handles(series, spread=False))
    caption_below(figure, source_text(regressed))
    return figure


@paper_style()
def error_components(errors: pd.DataFrame) -> Figure:
    """Mean absolute error and bias of the regressed box in centre and scale, a column a size.
    ``errors`` is what ``error_components`` returns for all bins together.
    """
    series, sizes = _contents(errors)
    figure, axes = panel_grid(2, len(sizes), height=3.4, share=True)
    for row, value in zip(axes, ("mae", "mean"), strict=True):
        for ax, size in zip(row, sizes, strict=True):
            plot_error_components(errors, size, value, series=series, ax=ax)
    label_outside(axes.flat, sizes)
    legend_above(figure, dot_handles(series))
    caption_below(figure, source_text(errors))
    return figure


@paper_style()
def displacement(scores: pd.DataFrame) -> Figure:
    """Score of the object's box when it is displaced, a map a head, and its profile along dx.
    ``scores`` is what ``response`` returns for "displacement_score".
    """
    scores = scores[scores["size"] == "all"] if len(scores) else scores
    series, _ = _contents(scores)
    figure, (*maps, side) = square_panels(len(series) + 1)
    side.set_box_aspect(1)
    dress(side)
    for ax, one in zip(maps, series, strict=True):
        plot_displacement(_pivot(one.rows(scores), "row", "column", "mean"), ax=ax)
    title_maps(maps, series)
    label_outside(maps)
    add_colour_bar(maps, maps[0].images[0], "Mean score")
    middle = scores[np.isclose(scores["dy"], 0)]
    draw_curves(side, middle, series, x="dx", value="mean")
    unit_axes(side, "y")
    # As far as the maps, whose outermost samples have a width.
    side.set_xlim(-1.05, 1.05)
    side.set_xticks([-1, -0.5, 0, 0.5, 1], [r"$-$1", "", "0", "", "1"])
    side.set_xlabel("Shift dx (object widths)")
    side.set_title("Mean score at dy = 0")
    legend_above(figure, curve_handles(series, spread=False))
    caption_below(figure, source_text(scores))
    trim_height(figure)
    return figure


@paper_style()
def cells(changes: pd.DataFrame) -> Figure:
    """What zeroing an RoI position does to the score (row 1) and to the regressed IoU (row 2).
    ``changes`` is what ``response`` returns for "cell_score" and for "cell_iou", in one frame.
    """
    changes = changes[changes["size"] == "all"] if len(changes) else changes
    series, _ = _contents(changes)
    kinds = [kind for kind in CELL_LABELS if (changes["kind"] == kind).any()]
    frames = [changes[changes["kind"] == kind] for kind in kinds]
    drawn = [without_repeats(series, frame) for frame in frames]
    keys = {one.key for each in drawn for one in each}
    series = [one for one in series if one.key in keys]
    blocks = -(-len(series) // MAPS_A_ROW)
    # As many in each row, as far as they go.
    columns = -(-len(series) // blocks)
    width = min(PAGE_WIDTH, max(COLUMN_WIDTH, 0.75 + 1.3 * columns))
    rows = len(kinds) * blocks
    figure, axes = panel_grid(
        rows, columns, height=0.8 + 1.6 * rows, width=width, layout="compressed"
    )
    for number, (kind, frame) in enumerate(zip(kinds, frames, strict=True)):
        norm = change_norm([frame["mean"].to_numpy()])
        panels = axes[number :: len(kinds)].flat
        for ax, one in zip(panels, series, strict=False):
            mean, low, high = (
                _pivot(one.rows(frame), "row", "column", column)
                for column in ("mean", "mean_low", "mean_high")
            )
            plot_cells(mean, low, high, norm=norm, ax=ax)
        for row in axes[number :: len(kinds)]:
            add_colour_bar(list(row), row[0].images[0], CELL_LABELS[kind])
    title_maps([ax for ax in axes[:: len(kinds)].flat if ax.images], series)
    for ax in axes.flat:
        if not ax.images:
            ax.set_axis_off()
    label_outside([ax for ax in axes.flat if ax.images])
    dot = Line2D(
        [],
        [],
        linestyle="none",
        marker=".",
        markersize=4,
        color=FAINT,
        label="95% interval holds zero",
    )
    legend_above(figure, [dot])
    same = [_repeats(heads, CELL_REPEATS[kind]) for kind, heads in zip(kinds, drawn, strict=True)]
    caption_below(figure, *same, source_text(changes))
    trim_height(figure)
    return figure


def _repeats(series: Sequence[Series], what: str) -> str:
    """The sentence that names heads with the same numbers; empty where there are none."""
    same = [one.label for one in series if " = " in one.title]
    return f"The same {what}: {'; '.join(same)}." if same else ""


def _contents(*frames: pd.DataFrame) -> tuple[list[Series], list[str]]:
    """The heads of all the frames, and the sizes of the first. Each must have rows."""
    if not frames or any(frame.empty for frame in frames) or not sizes_in(frames[0]):
        raise NothingToDrawError("no rows to draw")
    return series_of(*frames), sizes_in(frames[0])


def _pivot(frame: pd.DataFrame, row: str, column: str, value: str) -> npt.NDArray[np.float64]:
    """A column of a long frame of one head as a matrix."""
    return frame.pivot(index=row, columns=column, values=value).to_numpy(float)
