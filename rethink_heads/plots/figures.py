"""Whole figures: the paper's Figures 2 and 4, and the ones it lacks.

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

from rethink_heads.plots.correlation import COEFFICIENTS, curve_handles, plot_pcc, plot_score_by_iou
from rethink_heads.plots.curves import draw_curves
from rethink_heads.plots.layout import (
    dots,
    label_maps_outside,
    label_outside,
    legend_above,
    lines,
    maps_and_panel,
    panel_grid,
    square_panels,
    title_maps,
    trim_height,
)
from rethink_heads.plots.regression import (
    plot_error_components,
    plot_gain,
    plot_regressed_iou_by_iou,
)
from rethink_heads.plots.spatial import (
    add_colour_bar,
    change_norm,
    correlation_norm,
    plot_cells,
    plot_correlation_tiling,
    plot_decay,
    plot_displacement,
    weights_line,
)
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    PAGE_WIDTH,
    TIGHT_LINES,
    NothingToDrawError,
    Series,
    interval_patch,
    paper_style,
    series_of,
    sizes_in,
)

CELL_LABELS = {"cell_score": "Change of\nscore", "cell_iou": "Change of\nregressed IoU"}
Array = npt.NDArray[np.float64]
# Kind of a correlation map -> what the panel's title says of it; in the paper's order.
CORRELATIONS = {"spatial_correlation": "output", "weight_correlation": "fc6 weights"}


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
        scores, regressed = (_of_sizes(frame, sizes) for frame in (scores, regressed))
    series, columns = _contents(scores, regressed)
    with paper_style():
        figure, axes = panel_grid(2, len(columns), height=3.7)
        for column, size in enumerate(columns):
            top, bottom = axes[:, column]
            plot_score_by_iou(scores, size, spread=spread, series=series, ax=top)
            plot_regressed_iou_by_iou(regressed, size, spread=spread, series=series, ax=bottom)
        label_outside(axes, columns)
        proposal = Line2D([], [], color=FAINT, linewidth=0.7, label="the proposal itself")
        legend_above(figure, [*curve_handles(series, spread), proposal])
    return figure


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
    ranges = _iou_ranges(pcc)
    with paper_style():
        figure, axes = panel_grid(
            len(ranges), len(frames), height=0.55 + 1.55 * len(ranges), share=True
        )
        for row, iou_range in enumerate(ranges):
            for ax, (value, frame) in zip(axes[row], frames.items(), strict=True):
                plot_pcc(_in_range(frame, iou_range), value, series=series, ax=ax)
                if row == 0:
                    ax.set_title(COEFFICIENTS[value])
            low, high = iou_range
            label = f"Correlation,\nproposal IoU {low:g} to {high:g}"
            axes[row, 0].set_ylabel(label, linespacing=TIGHT_LINES)
        label_outside(axes)
        legend_above(figure, dots(series))
    return figure


def figure4(maps: pd.DataFrame) -> Figure:
    """Spatial correlation of RoI cells as tilings: outputs, then fc6's weights (paper, Figure 4).

    Args:
        maps: mean cosines in the columns detector, head, kind, cell_a, cell_b and cosine.
    """
    series = series_of(maps)
    panels = [
        (one, kind, _square(rows))
        for kind in CORRELATIONS
        # The paper shows conv-head first.
        for one in reversed(series)
        if len(rows := one.rows(maps[maps["kind"] == kind]))
    ]
    if not panels:
        raise NothingToDrawError("no correlation maps to draw")
    norm = correlation_norm([tiles for _, _, tiles in panels])
    with paper_style():
        figure, axes = square_panels(len(panels), PAGE_WIDTH if len(panels) > 2 else None)
        for ax, (_, _, tiles) in zip(axes, panels, strict=True):
            plot_correlation_tiling(tiles, norm=norm, ax=ax)
        whats = [CORRELATIONS[kind] for _, kind, _ in panels]
        title_maps(axes, [one for one, _, _ in panels], whats)
        label_maps_outside(axes)
        add_colour_bar(axes, axes[0].images[0], "Cosine similarity")
        trim_height(figure)
    return figure


def decay(means: pd.DataFrame) -> Figure:
    """Mean cosine of two RoI cells by their distance, a line a head and, dashed, its weights.

    Args:
        means: what the statistic ``decay`` returns; the rows of size "all" are drawn.
    """
    means = means[means["size"] == "all"] if len(means) else means
    if means.empty:
        raise NothingToDrawError("no correlations by distance to draw")
    series = series_of(means)
    with paper_style():
        figure, axes = panel_grid(1, 1, height=2.4)
        for kind in CORRELATIONS:
            plot_decay(means, kind=kind, series=series, ax=axes[0, 0])
        weights = means[means["kind"] == "weight_correlation"]
        dashed = [weights_line(one) for one in series if len(one.rows(weights))]
        legend_above(figure, [*lines(series), *dashed, interval_patch()])
        # Many heads make a high legend, which must not squeeze the curves.
        legend = figure.legends[0].get_window_extent().height / figure.dpi
        figure.set_figheight(2.0 + legend)
    return figure


def gain(regressed: pd.DataFrame) -> Figure:
    """The regressed box's gain in IoU over the proposal, a column a size.

    Args:
        regressed: what ``regressed_iou_by_iou`` returns.
    """
    series, sizes = _contents(regressed)
    with paper_style():
        figure, axes = panel_grid(1, len(sizes), height=2.05, share=True)
        for ax, size in zip(axes[0], sizes, strict=True):
            plot_gain(regressed, size, series=series, ax=ax)
        label_outside(axes, sizes)
        legend_above(figure, curve_handles(series, spread=False))
    return figure


def error_components(errors: pd.DataFrame) -> Figure:
    """Mean absolute error and bias of the regressed box in centre and scale, a column a size.

    Args:
        errors: what ``error_components`` returns for all bins together.
    """
    series, sizes = _contents(errors)
    with paper_style():
        figure, axes = panel_grid(2, len(sizes), height=3.4, share=True)
        for row, value in enumerate(("mae", "mean")):
            for ax, size in zip(axes[row], sizes, strict=True):
                plot_error_components(errors, size, value, series=series, ax=ax)
        label_outside(axes, sizes)
        legend_above(figure, dots(series))
    return figure


def displacement(scores: pd.DataFrame, size: str = "all") -> Figure:
    """Score of the object's box when it is displaced, a map a head, and its profile along dx.

    Args:
        scores: what ``response`` returns for "displacement_score".
        size: which objects.
    """
    scores = scores[scores["size"] == size] if len(scores) else scores
    series, _ = _contents(scores)
    with paper_style():
        figure, map_axes, side = maps_and_panel(len(series))
        for ax, one in zip(map_axes, series, strict=True):
            plot_displacement(_map_of(one.rows(scores), "mean"), ax=ax)
        title_maps(map_axes, series)
        label_maps_outside(map_axes)
        add_colour_bar(map_axes, map_axes[0].images[0], "Mean score")
        middle = scores[np.isclose(scores["dy"], 0)]
        draw_curves(side, middle, series, x="dx", value="mean")
        # As far as the maps, whose outermost samples have a width.
        side.set_xlim(-1.05, 1.05)
        side.set_ylim(0, 1)
        side.set_xticks([-1, -0.5, 0, 0.5, 1], [r"$-$1", "", "0", "", "1"])
        side.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        side.set_xlabel("Shift dx (object widths)")
        side.set_title("Mean score at dy = 0")
        legend_above(figure, curve_handles(series, spread=False))
        trim_height(figure)
    return figure


def cells(changes: pd.DataFrame, size: str = "all") -> Figure:
    """What zeroing an RoI cell does to the score (row 1) and to the regressed IoU (row 2).

    Args:
        changes: what ``response`` returns for "cell_score" and for "cell_iou", in one frame.
        size: which objects.
    """
    changes = changes[changes["size"] == size] if len(changes) else changes
    series, _ = _contents(changes)
    rows = [
        (changes[changes["kind"] == kind], label)
        for kind, label in CELL_LABELS.items()
        if (changes["kind"] == kind).any()
    ]
    width = min(PAGE_WIDTH, max(COLUMN_WIDTH, 0.75 + 1.3 * len(series)))
    with paper_style():
        figure, axes = panel_grid(
            len(rows), len(series), height=0.8 + 1.6 * len(rows), width=width, layout="compressed"
        )
        for row, (frame, label) in zip(axes, rows, strict=True):
            norm = change_norm([frame["mean"].to_numpy()])
            for ax, one in zip(row, series, strict=True):
                low, mean, high = (
                    _map_of(one.rows(frame), c) for c in ("mean_low", "mean", "mean_high")
                )
                plot_cells(mean, low, high, norm=norm, ax=ax)
            add_colour_bar(list(row), row[0].images[0], label)
        title_maps(list(axes[0]), series)
        label_outside(axes)
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
        trim_height(figure)
    return figure


def _contents(*frames: pd.DataFrame) -> tuple[list[Series], list[str]]:
    """The heads of all the frames, and the sizes of the first. Each must have rows."""
    if not frames or any(frame.empty for frame in frames) or not sizes_in(frames[0]):
        raise NothingToDrawError("no rows to draw")
    return series_of(frames), sizes_in(frames[0])


def _of_sizes(frame: pd.DataFrame, sizes: Sequence[str]) -> pd.DataFrame:
    return frame[frame["size"].isin(sizes)] if len(frame) else frame


def _iou_ranges(frame: pd.DataFrame) -> list[tuple[float, float]]:
    """The ranges of IoU that a frame holds, the widest first."""
    if "iou_low" not in frame:
        return [(0.0, 1.0)]
    ranges = frame[["iou_low", "iou_high"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(ranges, key=lambda ends: (ends[0] - ends[1], ends))


def _in_range(frame: pd.DataFrame, iou_range: tuple[float, float]) -> pd.DataFrame:
    if "iou_low" not in frame:
        return frame
    return frame[(frame["iou_low"] == iou_range[0]) & (frame["iou_high"] == iou_range[1])]


def _square(frame: pd.DataFrame) -> Array:
    """Cosines (S*S, S*S) of a long frame of one head and kind."""
    return frame.pivot(index="cell_a", columns="cell_b", values="cosine").to_numpy(float)


def _map_of(frame: pd.DataFrame, column: str) -> Array:
    """A column of a long frame of one head as a map, rows by columns."""
    return frame.pivot(index="row", columns="column", values=column).to_numpy(float)
