"""Figure 3's three panels show the frame they are drawn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from rethink_heads.plots.figures import figure3
from rethink_heads.plots.style import COLUMN_WIDTH, HEAD_COLOURS, PAGE_WIDTH, NothingToDrawError
from rethink_heads.statistics.stages import STAGES
from tests.plots.drawn import draw

SIZES = ("small", "medium", "large", "all")
TITLES = ["Predefined proposals", "RPN's proposals", "Final detections"]


def correlations(
    keys: tuple[tuple[str, str], ...] = (("demo", "fc"), ("demo", "conv")),
    stages: tuple[str, ...] = STAGES,
    lowest: float = 0.3,
) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for detector, head in keys:
        for stage in stages:
            for size in SIZES:
                row = {"detector": detector, "head": head, "stage": stage, "size": size}
                for name in ("pcc", "spearman"):
                    value = generator.uniform(lowest, 0.9)
                    row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.03}
                rows.append({**row, "n": 100, "objects": 10})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("statistic", ["pcc", "spearman"])
def test_each_panel_shows_its_stage(statistic: str) -> None:
    frame = correlations()
    figure = figure3(frame, statistic)
    assert figure.get_figwidth() == PAGE_WIDTH
    assert [ax.get_title() for ax in figure.axes] == TITLES
    for ax, stage in zip(figure.axes, STAGES, strict=True):
        for label, head in (("fc-head", "fc"), ("conv-head", "conv")):
            rows = frame[(frame["head"] == head) & (frame["stage"] == stage)]
            (dots,) = [line for line in ax.get_lines() if line.get_label() == label]
            np.testing.assert_allclose(dots.get_ydata(), rows[statistic])
            assert to_rgb(dots.get_color()) == to_rgb(HEAD_COLOURS[head])
        bars = np.concatenate([bar.get_segments() for bar in ax.collections])
        ends = frame.loc[
            frame["stage"] == stage, [f"{statistic}_low", f"{statistic}_high"]
        ].to_numpy()
        np.testing.assert_allclose(bars[:, :, 1], ends)
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_texts_are_legible_and_neither_cut_nor_overlapping() -> None:
    long = tuple(
        (f"bccd-small-{head}-with-a-long-name-{seed}", head)
        for head in ("fc", "conv", "double-ext")
        for seed in (0, 1)
    )
    for frame in (correlations(long), correlations()):
        drawn = draw(figure3(frame))
        assert drawn.misplaced() == []
        assert min(text.get_fontsize() for text in drawn.texts) >= 7
    (legend,) = drawn.figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["fc-head", "conv-head", "95% interval"]


def test_stages_that_are_not_there_have_no_panel() -> None:
    figure = figure3(correlations(stages=("rpn", "detections")))
    assert [ax.get_title() for ax in figure.axes] == TITLES[1:]
    assert figure3(correlations(stages=("rpn",))).get_figwidth() == COLUMN_WIDTH


def test_zero_is_marked_where_correlations_come_below_it() -> None:
    def at_zero(frame: pd.DataFrame) -> int:
        lines = figure3(frame).axes[0].get_lines()
        return sum(list(line.get_ydata()) == [0, 0] for line in lines)

    assert at_zero(correlations()) == 0
    assert at_zero(correlations(lowest=-0.9)) == 1


def test_nothing_to_draw() -> None:
    with pytest.raises(NothingToDrawError):
        figure3(pd.DataFrame())
    with pytest.raises(NothingToDrawError):
        figure3(correlations().assign(objects=0))
    with pytest.raises(ValueError, match="unknown statistic 'kendall'"):
        figure3(correlations(), "kendall")
