"""The paper's Figure 3 with its three panels: correlation at each stage of a detector."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rethink_heads.plots.curves import draw_dots
from rethink_heads.plots.layout import dots, label_outside, legend_above, panel_grid
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    FAINT,
    PAGE_WIDTH,
    TIGHT_LINES,
    NothingToDrawError,
    paper_style,
    series_of,
    sizes_in,
)

# In the paper's order, which is that of the boxes' way through a detector.
STAGE_TITLES = {
    "predefined": "Predefined proposals",
    "rpn": "RPN's proposals",
    "detections": "Final detections",
}
STATISTIC_LABELS = {
    "pcc": "PCC of score and IoU",
    "spearman": "Spearman's correlation\nof score and IoU",
}
HEIGHT = 2.25


def figure3_stages(frame: pd.DataFrame, statistic: str = "pcc") -> Figure:
    """Correlation of score and IoU by object size, a panel a stage (paper, Figure 3).

    The panels have one y axis. Bars through the dots are 95% intervals. A stage that the frame does
    not hold has no panel.

    Args:
        frame: what :func:`rethink_heads.statistics.stages.stage_correlation` returns.
        statistic: "pcc", as in the paper, or "spearman".

    Raises:
        NothingToDrawError: no rows of a known stage.
        ValueError: unknown statistic.
    """
    if statistic not in STATISTIC_LABELS:
        raise ValueError(
            f"unknown statistic {statistic!r}; there are {', '.join(STATISTIC_LABELS)}"
        )
    present = set(frame["stage"]) if len(frame) else set()
    stages = [stage for stage in STAGE_TITLES if stage in present]
    sizes = sizes_in(frame) if stages else []
    if not sizes:
        raise NothingToDrawError("no correlations at any stage to draw")
    series = series_of(frame)
    width = PAGE_WIDTH if len(stages) > 1 else COLUMN_WIDTH
    with paper_style():
        figure, axes = panel_grid(1, len(stages), height=HEIGHT, width=width, share=True)
        for ax, stage in zip(axes[0], stages, strict=True):
            draw_dots(
                ax,
                frame[frame["stage"] == stage],
                series,
                sizes,
                category="size",
                value=statistic,
            )
            ax.set_title(STAGE_TITLES[stage])
            ax.set_xlabel("Object size")
        axes[0, 0].set_ylabel(STATISTIC_LABELS[statistic], linespacing=TIGHT_LINES)
        _mark_zero(axes[0])
        label_outside(axes)
        legend_above(figure, dots(series))
    return figure


def _mark_zero(axes: Iterable[Axes]) -> None:
    """A line at zero where the axes reach below it."""
    for ax in axes:
        if ax.get_ylim()[0] <= 0:
            ax.axhline(0, color=FAINT, linewidth=0.7, zorder=1)
