"""The figures of sweeps show what their tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep, sweep_names
from rethink_heads.sweeps.plan import Plan, make_plan
from rethink_heads.sweeps.tables import Read, Size, sweep_table
from tests.plots.drawn import draw

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def synthetic(
    name: str, folder: Path, seeds: tuple[int, ...] = (0, 1)
) -> tuple[Plan, pd.DataFrame]:
    """A built-in sweep, and a table of made-up precisions."""
    plan = make_plan(load_sweep(name), folder, "coco-r50", seeds=seeds)
    random = np.random.default_rng(0)
    precisions = {}
    for point in plan.points:
        for seed in seeds:
            value = 0.38 + 0.02 * random.standard_normal(len(METRICS))
            precisions[point.label, seed] = pd.DataFrame(
                {
                    "metric": METRICS,
                    "value": value,
                    "value_low": value - 0.01,
                    "value_high": value + 0.02,
                }
            )
    reads = {p.label: Read(p.reading or p.head, p.fusion or "complementary") for p in plan.points}
    sizes = {point.label: Size(40_000_000, 14_000_000) for point in plan.points}
    return plan, sweep_table(plan, reads, sizes, precisions)


def drawn(plan: Plan, table: pd.DataFrame, metric: str = "AP") -> tuple[Figure, Axes]:
    figure = sweep_figure(table, **plan.description.figure.model_dump(), metric=metric)
    (ax,) = figure.axes
    return figure, ax


def intervals(ax: Axes, axis: int) -> list[tuple[float, float]]:
    """The ends, along an axis, of all bars but those of the means."""
    return sorted(
        (float(segment[0, axis]), float(segment[1, axis]))
        for bars in ax.collections
        if isinstance(bars, LineCollection) and bars.get_linewidths()[0] < 1
        for segment in bars.get_segments()
    )


def seed_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["seed"] != "mean"]


def wanted(table: pd.DataFrame, metric: str = "AP") -> list[tuple[float, float]]:
    rows = seed_rows(table)
    return sorted(zip(100 * rows[f"{metric}_low"], 100 * rows[f"{metric}_high"], strict=True))


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one", "three"])
@pytest.mark.parametrize("name", sweep_names())
def test_every_sweep_has_a_figure(name: str, seeds: tuple[int, ...], tmp_path: Path) -> None:
    plan, table = synthetic(name, tmp_path, seeds)
    figure, ax = drawn(plan, table)
    assert figure.get_figwidth() < 3.5
    assert "AP (%)" in ax.get_xlabel() + ax.get_ylabel() + ax.get_title()
    assert draw(figure).misplaced() == []


def test_points_show_every_seed_and_the_mean(tmp_path: Path) -> None:
    plan, table = synthetic("structures", tmp_path)
    _, ax = drawn(plan, table)
    assert [label.get_text() for label in ax.get_yticklabels()] == [p.title for p in plan.points]
    assert np.allclose(intervals(ax, 0), wanted(table))
    marks = sorted(float(np.asarray(line.get_xdata())[0]) for line in ax.lines)
    assert np.allclose(marks, sorted(100 * seed_rows(table)["AP"]))
    means = [
        float(bars.get_segments()[0][0, 0])
        for bars in ax.collections
        if isinstance(bars, LineCollection) and bars.get_linewidths()[0] > 1
    ]
    assert np.allclose(means, 100 * table[table["seed"] == "mean"]["AP"])
    # The first point is at the top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_lines_go_through_the_means(tmp_path: Path) -> None:
    plan, table = synthetic("depth", tmp_path)
    figure, ax = drawn(plan, table, "AP75")
    assert np.allclose(intervals(ax, 1), wanted(table, "AP75"))
    means = [line for line in ax.lines if line.get_linestyle() != "None"]
    assert len(means) == 2
    for line, non_local in zip(means, (False, True), strict=True):
        rows = table[(table["seed"] == "mean") & (table["model.non_local"] == non_local)]
        assert np.allclose(np.asarray(line.get_ydata()), 100 * rows["AP75"])
        assert np.allclose(np.asarray(line.get_xdata()), [1, 2, 3, 4, 5], atol=0.5)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:2] == ["bottlenecks alone", "with non-local blocks"]
    assert ax.get_ylabel() == "AP$_{75}$ (%)"


def test_a_heat_map_has_its_axes_the_right_way(tmp_path: Path) -> None:
    plan, table = synthetic("balance", tmp_path)
    _, ax = drawn(plan, table)
    (image,) = ax.images
    values = np.asarray(image.get_array())
    means = table[table["seed"] == "mean"].set_index(["model.l_fc", "model.l_conv"])
    xs = [float(label.get_text()) for label in ax.get_xticklabels()]
    ys = [float(label.get_text()) for label in ax.get_yticklabels()]
    texts = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    for column, x in enumerate(xs):
        for row, y in enumerate(ys):
            assert values[row, column] == pytest.approx(100 * means.loc[(x, y), "AP"])
            shown, spread = texts[column, row].split("\n")
            assert shown == f"{values[row, column]:.1f}"
            assert spread == f"$\\pm${100 * means.loc[(x, y), 'AP_sd']:.1f}"
    (frame,) = ax.patches
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert frame.get_xy() == (column - 0.5, row - 0.5)
    assert image.origin == "lower"


def test_missing_points_leave_gaps(tmp_path: Path) -> None:
    for name in ("balance", "depth", "structures"):
        plan, table = synthetic(name, tmp_path)
        gone = table["point"].isin([plan.points[0].label]) | (table["seed"] == "1")
        figure, _ = drawn(plan, table[~gone])
        figure.draw_without_rendering()
    with pytest.raises(NothingToDrawError):
        sweep_figure(table.iloc[:0])
