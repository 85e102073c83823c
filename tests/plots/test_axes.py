"""Each plot function: what it draws is what the frame says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rethink_heads.plots.panels import (
    change_norm,
    correlation_norm,
    plot_cells,
    plot_correlation_tiling,
    plot_decay,
    plot_displacement,
    plot_error_components,
    plot_gain,
    plot_pcc,
    plot_regressed_iou_by_iou,
    plot_score_by_iou,
)
from rethink_heads.plots.style import HEAD_COLOURS, series_of
from tests.plots.drawn import draw, pixels

Tables = dict[str, pd.DataFrame]


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def line(ax: Axes, label: str) -> Line2D:
    (found,) = [one for one in ax.get_lines() if one.get_label() == label]
    return found


def rows_of(frame: pd.DataFrame, head: str, size: str = "all") -> pd.DataFrame:
    return frame[(frame["head"] == head) & (frame["size"] == size)]


def edges(band: PolyCollection, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends of a band over ``count`` points."""
    (path,) = band.get_paths()
    y = path.vertices[:, 1]
    return y[1 : count + 1], y[count + 2 : 2 * count + 2][::-1]


def six(frame: pd.DataFrame) -> pd.DataFrame:
    """The fc-head's rows for six heads; with the place no two have the same numbers."""
    rows = frame[frame["head"] == "fc"]
    heads = [rows.assign(head=head, place=place) for place, head in enumerate(HEAD_COLOURS)]
    return pd.concat(heads[:6], ignore_index=True)


@pytest.mark.parametrize(
    ("plot", "name", "value"),
    [
        (plot_score_by_iou, "score_by_iou", "mean"),
        (plot_regressed_iou_by_iou, "regressed_iou", "mean"),
        (plot_gain, "regressed_iou", "gain"),
    ],
)
@pytest.mark.parametrize("size", ["small", "all"])
def test_curves_and_bands_are_those_of_the_frame(
    ax: Axes, tables: Tables, plot: Callable[..., Axes], name: str, value: str, size: str
):
    assert plot(tables[name], size, ax=ax) is ax
    for head, label in (("fc", "fc-head"), ("conv", "conv-head")):
        rows = rows_of(tables[name], head, size)
        drawn = line(ax, label)
        np.testing.assert_allclose(drawn.get_xdata(), (np.arange(20) + 0.5) / 20)
        np.testing.assert_array_equal(drawn.get_ydata(), rows[value])
        assert drawn.get_color() == HEAD_COLOURS[head]
        bands = [edges(band, 20) for band in ax.collections if isinstance(band, PolyCollection)]
        low, high = (rows[f"{value}_{end}"].to_numpy() for end in ("low", "high"))
        assert any(np.array_equal(a, low) and np.array_equal(b, high) for a, b in bands)


@pytest.mark.parametrize("plot", [plot_score_by_iou, plot_regressed_iou_by_iou])
def test_standard_deviation_is_a_band_with_edges_unless_left_out(
    tables: Tables, plot: Callable[..., Axes]
):
    frame = tables["score_by_iou" if plot is plot_score_by_iou else "regressed_iou"]
    rows = rows_of(frame, "fc")
    with_spread = plot(frame, ax=Figure().subplots())
    without = plot(frame, spread=False, ax=Figure().subplots())
    upper = (rows["mean"] + rows["std"]).to_numpy()
    assert any(np.array_equal(one.get_ydata(), upper) for one in with_spread.get_lines())
    assert not any(np.array_equal(one.get_ydata(), upper) for one in without.get_lines())
    assert len(with_spread.collections) == len(without.collections) + 2


def test_many_heads_show_their_deviation_as_lines_only(ax: Axes, tables: Tables):
    frame = six(tables["score_by_iou"])
    plot_score_by_iou(frame, ax=ax)
    heads = len(series_of(frame))
    assert heads == 6
    assert len(ax.collections) == heads
    assert len(ax.get_lines()) == 3 * heads


def test_coinciding_curves_have_markers_in_different_places(ax: Axes, tables: Tables):
    plot_gain(six(tables["regressed_iou"]), ax=ax)
    starts = [one.get_markevery()[0] for one in ax.get_lines() if one.get_marker() != "None"]
    assert set(starts) == {0, 1, 2}


@pytest.mark.parametrize("value", ["pcc", "object_pcc", "spearman"])
def test_coefficients_and_their_intervals_are_those_of_the_frame(
    ax: Axes, tables: Tables, value: str
):
    frame = tables["spearman" if value == "spearman" else "pcc"]
    frame = frame[frame["iou_low"] == 0]
    plot_pcc(frame, value, ax=ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["small", "medium", "large", "all"]
    bars = [found for found in ax.collections if isinstance(found, LineCollection)]
    for number, (head, label) in enumerate((("fc", "fc-head"), ("conv", "conv-head"))):
        rows = frame[frame["head"] == head]
        dots = line(ax, label)
        np.testing.assert_array_equal(dots.get_ydata(), rows[value])
        np.testing.assert_array_equal(np.rint(dots.get_xdata()), np.arange(4))
        ends = np.array([segment[:, 1] for segment in bars[number].get_segments()])
        np.testing.assert_array_equal(ends, rows[[f"{value}_low", f"{value}_high"]])


def test_dots_of_different_heads_stand_side_by_side(ax: Axes, tables: Tables):
    frame = six(tables["pcc"])
    plot_pcc(frame[frame["iou_low"] == 0], ax=ax)
    places = np.sort(np.concatenate([one.get_xdata() for one in ax.get_lines()]))
    assert len(places) == 6 * 4
    assert np.diff(places).min() > 0.1


@pytest.mark.parametrize("value", ["mae", "mean", "rms"])
def test_error_components_are_those_of_the_frame(ax: Axes, tables: Tables, value: str):
    plot_error_components(tables["error_components"], "medium", value, ax=ax)
    rows = rows_of(tables["error_components"], "conv", "medium")
    assert list(rows["component"]) == ["dx", "dy", "dw", "dh"]
    np.testing.assert_array_equal(line(ax, "conv-head").get_ydata(), rows[value])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(rows["component"])
    ax.figure.draw_without_rendering()
    assert (ax.get_ylim()[0] == 0) == (value != "mean")


def test_a_tile_is_the_map_of_its_cell(ax: Axes):
    correlation = np.random.default_rng(0).random((49, 49))
    plot_correlation_tiling(correlation, ax=ax)
    (image,) = ax.images
    drawn = image.get_array()
    for row, column in ((0, 0), (2, 5), (6, 3)):
        tile = drawn[row * 7 : row * 7 + 7, column * 7 : column * 7 + 7]
        np.testing.assert_array_equal(tile, correlation[row * 7 + column].reshape(7, 7))
    assert image.get_clim() == (0, 1)


def test_correlations_must_be_of_a_square_of_cells(ax: Axes):
    with pytest.raises(ValueError, match="expected"):
        plot_correlation_tiling(np.zeros((48, 49)), ax=ax)


def test_negative_cosines_lower_the_colour_scale():
    norm = correlation_norm([np.array([[0.2, -0.13]]), np.ones((1, 2))])
    assert (norm.vmin, norm.vmax) == (pytest.approx(-0.2), 1)


def test_decay_is_that_of_the_frame(ax: Axes, tables: Tables):
    frame = tables["decay"]
    plot_decay(frame[frame["size"] == "all"], ax=ax)
    plot_decay(frame[frame["size"] == "all"], kind="weight_correlation", ax=ax)
    rows = rows_of(frame[frame["kind"] == "spatial_correlation"], "conv")
    np.testing.assert_array_equal(line(ax, "conv-head").get_xdata(), rows["distance"])
    np.testing.assert_array_equal(line(ax, "conv-head").get_ydata(), rows["mean"])
    weights = rows_of(frame[frame["kind"] == "weight_correlation"], "fc")
    np.testing.assert_array_equal(line(ax, "fc-head, fc6 weights").get_ydata(), weights["mean"])


def test_displacement_goes_right_and_down(ax: Axes):
    scores = np.zeros((21, 21))
    scores[15, 20] = 1  # dy = 0.5, dx = 1
    plot_displacement(scores, ax=ax)
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    step = (right - left) / 21
    assert left + 20.5 * step == pytest.approx(1)
    assert top + 15.5 * step == pytest.approx(0.5)
    assert bottom > top
    assert image.get_clim() == (0, 1)


def test_cells_share_a_scale_about_zero_and_mark_what_may_be_nothing(ax: Axes):
    change = np.linspace(-0.3, 0.1, 49).reshape(7, 7)
    low, high = change - 0.05, change + 0.05
    plot_cells(change, low, high, ax=ax)
    assert ax.images[0].get_clim() == pytest.approx((-0.3, 0.3))
    dots = ax.get_lines()[0]
    marked = np.zeros((7, 7), bool)
    marked[dots.get_ydata().astype(int), dots.get_xdata().astype(int)] = True
    np.testing.assert_array_equal(marked, np.abs(change) <= 0.05)


def test_maps_without_any_change_have_a_scale():
    norm = change_norm([np.zeros((7, 7))])
    assert norm.vmin < 0 < norm.vmax


def test_missing_intervals_leave_the_means(ax: Axes, tables: Tables):
    frame = tables["score_by_iou"].assign(mean_low=np.nan, mean_high=np.nan)
    plot_score_by_iou(frame, ax=ax)
    assert np.isfinite(line(ax, "fc-head").get_ydata()).all()
    pcc = tables["pcc"]
    plot_pcc(pcc[pcc["iou_low"] == 0].assign(pcc_low=np.nan, pcc_high=np.nan), ax=ax)
    pixels(ax.figure)


@pytest.mark.parametrize(
    "plot",
    [
        lambda t: plot_score_by_iou(t["score_by_iou"]),
        lambda t: plot_pcc(t["pcc"][t["pcc"]["iou_low"] == 0]),
        lambda t: plot_regressed_iou_by_iou(t["regressed_iou"]),
        lambda t: plot_gain(t["regressed_iou"]),
        lambda t: plot_error_components(t["error_components"]),
        lambda t: plot_decay(t["decay"][t["decay"]["size"] == "all"]),
        lambda t: plot_correlation_tiling(np.random.default_rng(0).random((49, 49))),
        lambda t: plot_displacement(np.random.default_rng(0).random((21, 21))),
        lambda t: plot_cells(np.random.default_rng(0).random((7, 7)) - 0.5),
    ],
    ids=["score", "pcc", "regressed", "gain", "errors", "decay", "tiling", "displacement", "cells"],
)
def test_new_axes_fit_a_column(tables: Tables, plot: Callable[[Tables], Axes]):
    ax = plot(tables)
    figure = ax.figure
    assert figure.get_figwidth() <= 3.35
    assert ax.get_xlabel() or [t.get_text() for t in ax.get_xticklabels(minor=True)]
    assert ax.get_ylabel()
    assert figure.legends or ax.images
    assert draw(figure).misplaced() == []
