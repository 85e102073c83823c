"""Whole figures show the frames that they are drawn from, legibly, and their files are the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from rethink_heads.plots import figures
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import (
    COLUMN_WIDTH,
    HEAD_COLOURS,
    PAGE_WIDTH,
    NothingToDrawError,
    naming_data,
    paper_style,
)
from rethink_heads.statistics.stages import STAGES
from tests.plots.drawn import RenderedFigure, draw

Tables = dict[str, pd.DataFrame]
SIZE_TITLES = ["Small", "Medium", "Large", "All sizes"]

MAKE: dict[str, Callable[[Tables], Figure]] = {
    "figure2": lambda t: figures.figure2(t["score_by_iou"], t["regressed_iou"]),
    "correlations": lambda t: figures.correlations(t["pcc"], t["spearman"]),
    "figure3": lambda t: figures.figure3(t["stages"]),
    "figure4": lambda t: figures.figure4(t["correlation_maps"]),
    "decay": lambda t: figures.decay(t["decay"]),
    "gain": lambda t: figures.gain(t["regressed_iou"]),
    "error_components": lambda t: figures.error_components(t["error_components"]),
    "displacement": lambda t: figures.displacement(t["displacement"]),
    "cells": lambda t: figures.cells(t["cells"]),
}


@pytest.fixture(scope="module")
def drawn(tables: Tables) -> dict[str, RenderedFigure]:
    with naming_data("shapes val"):
        return {name: draw(make(tables)) for name, make in MAKE.items()}


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def legend_labels(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("name", MAKE)
def test_figures_are_a_page_wide_at_most_and_not_blank(drawn: dict[str, RenderedFigure], name: str):
    figure, image = drawn[name].figure, drawn[name].image[..., :3].astype(int)
    assert COLUMN_WIDTH <= figure.get_figwidth() <= PAGE_WIDTH
    inked = (image < 250).any(axis=-1)
    assert 0.02 < inked.mean() < 0.9
    for ax in figure.axes:
        box = ax.get_window_extent()
        rows = slice(int(len(image) - box.y1), int(len(image) - box.y0))
        assert inked[rows, int(box.x0) : int(box.x1)].any()


@pytest.mark.parametrize("name", MAKE)
def test_texts_are_legible_and_apart_and_the_caption_says_data_objects_and_run(
    drawn: dict[str, RenderedFigure], name: str
):
    assert min(text.get_fontsize() for text in drawn[name].texts) >= 7
    assert drawn[name].misplaced() == []
    # A map of correlations does not say of how many objects.
    objects = [] if name == "figure4" else ["15 objects"]
    assert drawn[name].texts_below() == ["; ".join(["shapes val", *objects, "run demo"])]


def test_figure2_has_a_column_a_size_and_explains_its_bands(drawn: dict[str, RenderedFigure]):
    figure = drawn["figure2"].figure
    assert len(figure.axes) == 8
    assert titles(figure) == SIZE_TITLES
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == [
        "Score of the true class",
        "Regressed IoU",
    ]
    assert all(ax.get_xlabel() == "Proposal IoU" for ax in figure.axes[4:])
    assert legend_labels(figure) == [
        "fc-head",
        "conv-head",
        "95% interval of the mean",
        r"$\pm$ 1 standard deviation",
        "the proposal itself",
    ]
    diagonals = [
        line
        for ax in figure.axes[4:]
        for line in ax.get_lines()
        if list(line.get_xdata()) == list(line.get_ydata()) == [0, 1]
    ]
    assert len(diagonals) == 4


def test_figure2_panels_show_the_size_of_their_title(
    drawn: dict[str, RenderedFigure], tables: Tables
):
    for ax, size in zip(
        drawn["figure2"].figure.axes[:4], ["small", "medium", "large", "all"], strict=True
    ):
        (line,) = [one for one in ax.get_lines() if one.get_label() == "conv-head"]
        frame = tables["score_by_iou"]
        rows = frame[(frame["head"] == "conv") & (frame["size"] == size)]
        np.testing.assert_array_equal(line.get_ydata(), rows["mean"])


def test_correlations_has_a_row_a_range_and_a_column_a_coefficient(
    drawn: dict[str, RenderedFigure], tables: Tables
):
    figure = drawn["correlations"].figure
    assert titles(figure) == [
        "PCC, all proposals",
        "PCC, mean of objects",
        "Spearman, all proposals",
    ]
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == [
        "Correlation,\nproposal IoU 0 to 1",
        "Correlation,\nproposal IoU 0.5 to 1",
    ]
    (dots,) = [line for line in figure.axes[3].get_lines() if line.get_label() == "fc-head"]
    frame = tables["pcc"]
    rows = frame[(frame["head"] == "fc") & (frame["iou_low"] == 0.5)]
    np.testing.assert_array_equal(dots.get_ydata(), rows["pcc"])


def test_correlations_without_sampled_rows_or_ranges_shows_the_pccs(tables: Tables):
    pcc = tables["pcc"]
    pcc = pcc[pcc["iou_low"] == 0].drop(columns=["iou_low", "iou_high"])
    for spearman in (None, pd.DataFrame()):
        figure = figures.correlations(pcc, spearman)
        assert titles(figure) == ["PCC, all proposals", "PCC, mean of objects"]


def test_figure4_tilings_come_in_the_papers_order_on_one_scale(drawn: dict[str, RenderedFigure]):
    figure = drawn["figure4"].figure
    assert titles(figure) == [
        "conv-head, output",
        "fc-head, output",
        "fc-head, fc6 weights",
    ]
    images = [ax.images[0] for ax in figure.axes[:3]]
    assert len({id(image.norm) for image in images}) == 1
    assert [ax.get_ylabel() for ax in figure.axes[3:]] == ["Cosine similarity"]
    assert figure.get_figwidth() == PAGE_WIDTH
    assert len({tuple(np.round(ax.get_position().bounds[1:], 3)) for ax in figure.axes[:3]}) == 1


def test_figure2_draws_the_sizes_asked_for(tables: Tables):
    scores, regressed = tables["score_by_iou"], tables["regressed_iou"]
    figure = figures.figure2(scores, regressed, sizes=("small", "medium", "large"))
    assert titles(figure) == SIZE_TITLES[:3]
    assert figure.get_figwidth() == PAGE_WIDTH
    # Of sizes without all the objects are added up.
    two = draw(figures.figure2(scores, regressed, sizes=("small", "large")))
    assert two.texts_below() == ["10 objects; run demo"]
    with pytest.raises(NothingToDrawError):
        figures.figure2(scores, regressed, sizes=())


def test_decay_has_a_line_a_head_and_a_dashed_one_for_weights(tables: Tables):
    figure = figures.decay(tables["decay"])
    labels = ["fc-head", "conv-head", "fc-head, fc6 weights", "95% interval of the mean"]
    assert legend_labels(figure) == labels
    assert figure.get_figwidth() == COLUMN_WIDTH


def test_displacement_maps_share_one_scale_beside_the_profile(
    drawn: dict[str, RenderedFigure], tables: Tables
):
    figure = drawn["displacement"].figure
    assert titles(figure) == ["fc-head", "conv-head", "Mean score at dy = 0"]
    assert {ax.images[0].get_clim() for ax in figure.axes[:2]} == {(0, 1)}
    (profile,) = [line for line in figure.axes[2].get_lines() if line.get_label() == "fc-head"]
    frame = tables["displacement"]
    rows = frame[(frame["head"] == "fc") & (frame["size"] == "all") & (frame["row"] == 10)]
    np.testing.assert_array_equal(profile.get_ydata(), rows["mean"])
    np.testing.assert_array_equal(profile.get_xdata(), rows["dx"])


def test_cells_have_a_row_a_change_and_one_scale_a_row(
    drawn: dict[str, RenderedFigure], tables: Tables
):
    figure = drawn["cells"].figure
    assert titles(figure) == ["fc-head", "conv-head"]
    labels = [ax.get_ylabel() for ax in figure.axes[4:]]
    assert labels == [
        "Change of score,\nposition zeroed",
        "Change of regressed\nIoU, position zeroed",
    ]
    limits = [ax.images[0].get_clim() for ax in figure.axes[:4]]
    assert limits[0] == limits[1]
    assert limits[2] == limits[3]
    assert all(low == -high for low, high in limits)
    frame = tables["cells"]
    rows = frame[
        (frame["head"] == "conv") & (frame["size"] == "all") & (frame["kind"] == "cell_iou")
    ]
    drawn_map = figure.axes[3].images[0].get_array()
    np.testing.assert_array_equal(drawn_map.ravel(), rows["mean"])


def test_error_components_have_their_units(drawn: dict[str, RenderedFigure]):
    figure = drawn["error_components"].figure
    assert titles(figure) == SIZE_TITLES
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert labels == [
        "Mean absolute error\n(object sizes; ln ratio)",
        "Mean error (bias)\n(object sizes; ln ratio)",
    ]
    # No panel of a row may cut off another's dots.
    for ax in figure.axes:
        low, high = ax.get_ylim()
        for line in ax.get_lines():
            if "head" in line.get_label():
                assert low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high


@pytest.mark.parametrize("name", ["figure2", "correlations", "error_components", "cells"])
def test_only_the_sizes_that_there_are_get_panels(tables: Tables, name: str):
    some = {
        key: table[table["size"].isin(["medium", "all"])] if "size" in table else table
        for key, table in tables.items()
    }
    found = draw(MAKE[name](some))
    assert found.misplaced() == []
    if name in ("figure2", "error_components"):
        assert titles(found.figure) == ["Medium", "All sizes"]
        assert found.figure.get_figwidth() == COLUMN_WIDTH


@pytest.mark.parametrize(
    "name", ["correlations", "figure3", "figure4", "decay", "displacement", "cells"]
)
def test_a_single_head_is_drawn(tables: Tables, name: str):
    conv = {key: table[table["head"] == "conv"] for key, table in tables.items() if "head" in table}
    found = draw(MAKE[name](conv))
    assert found.misplaced() == []
    assert not any("fc" in text.get_text() for text in found.texts)


@pytest.mark.parametrize("name", MAKE)
def test_no_rows_are_nothing_to_draw(tables: Tables, name: str):
    for empty in (
        {key: pd.DataFrame() for key in tables},
        {key: table.iloc[:0] for key, table in tables.items()},
    ):
        with pytest.raises(NothingToDrawError):
            MAKE[name](empty)


@pytest.fixture(scope="module")
def shared(tables: Tables) -> Tables:
    """Four heads of one detector: Double-Head has fc-head's scores and, as Double-Head-Ext, conv-head's boxes."""

    def of(name: str, **sources: str) -> pd.DataFrame:
        table = tables[name]
        if name == "cells":
            parts = [
                kind_frame(table, "cell_score", **sources),
                kind_frame(table, "cell_iou", **BOXES),
            ]
            return pd.concat(parts, ignore_index=True)
        return kind_frame(table, None, **sources)

    def kind_frame(table: pd.DataFrame, kind: str | None, **sources: str) -> pd.DataFrame:
        rows = table if kind is None else table[table["kind"] == kind]
        copies = [rows[rows["head"] == source].assign(head=h) for h, source in sources.items()]
        frame = pd.concat(copies, ignore_index=True).replace({"head": {"ext": "double-ext"}})
        # Only Double-Head-Ext has both branches' scores.
        return frame.assign(fused=(frame["head"] == "double-ext") & (sources == SCORES))

    scores = {name: of(name, **SCORES) for name in ("score_by_iou", "pcc", "displacement", "cells")}
    return {**scores, "regressed_iou": of("regressed_iou", **BOXES)}


SCORES = {"fc": "fc", "conv": "conv", "double": "fc", "ext": "fc"}
BOXES = {"fc": "fc", "conv": "conv", "double": "conv", "ext": "conv"}
SAME_SCORES = "The same scores: fc-head = Double-Head."
SAME_BOXES = "The same boxes: conv-head = Double-Head = Double-Head-Ext."


def test_heads_with_the_same_numbers_are_drawn_once_and_named_together(shared: Tables):
    found = draw(figures.figure2(shared["score_by_iou"], shared["regressed_iou"]))
    assert found.misplaced() == []
    assert legend_labels(found.figure)[:3] == ["fc-head", "conv-head", "Double-Head-Ext"]
    curves = [
        [line.get_label() for line in ax.get_lines() if "ead" in line.get_label()]
        for ax in (found.figure.axes[0], found.figure.axes[-1])
    ]
    assert curves == [
        ["fc-head = Double-Head", "conv-head", "Double-Head-Ext"],
        ["fc-head", "conv-head = Double-Head = Double-Head-Ext"],
    ]
    assert found.texts_below()[:2] == [SAME_SCORES, SAME_BOXES]
    found = draw(figures.displacement(shared["displacement"]))
    assert titles(found.figure)[:3] == ["fc-head =\nDouble-Head", "conv-head", "Double-Head-Ext"]
    found = draw(figures.cells(shared["cells"]))
    assert titles(found.figure) == ["fc-head", "conv-head", "Double-Head-Ext"]
    assert found.texts_below()[:2] == [SAME_SCORES, SAME_BOXES]
    assert found.misplaced() == []


STAGE_TITLES = ["Predefined proposals", "RPN's proposals", "Final detections"]


def made_stages(
    keys: tuple[tuple[str, str], ...] = (("demo", "fc"), ("demo", "conv")),
    stages: tuple[str, ...] = STAGES,
    lowest: float = 0.3,
) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for detector, head in keys:
        for stage in stages:
            for size in ("small", "medium", "large", "all"):
                row = {"detector": detector, "head": head, "stage": stage, "size": size}
                value = generator.uniform(lowest, 0.9)
                row |= {"pcc": value, "pcc_low": value - 0.05, "pcc_high": value + 0.03}
                rows.append({**row, "n": 100, "objects": 10})
    return pd.DataFrame(rows)


def test_figure3_has_a_panel_a_stage() -> None:
    frame = made_stages()
    figure = figures.figure3(frame)
    assert figure.get_figwidth() == PAGE_WIDTH
    assert [ax.get_title() for ax in figure.axes] == STAGE_TITLES
    for ax, stage in zip(figure.axes, STAGES, strict=True):
        for label, head in (("fc-head", "fc"), ("conv-head", "conv")):
            rows = frame[(frame["head"] == head) & (frame["stage"] == stage)]
            (dots,) = [line for line in ax.get_lines() if line.get_label() == label]
            np.testing.assert_allclose(dots.get_ydata(), rows["pcc"])
            assert to_rgb(dots.get_color()) == to_rgb(HEAD_COLOURS[head])
        bars = np.concatenate([bar.get_segments() for bar in ax.collections])
        ends = frame.loc[frame["stage"] == stage, ["pcc_low", "pcc_high"]].to_numpy()
        np.testing.assert_allclose(bars[:, :, 1], ends)
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert legend_labels(figure) == ["fc-head", "conv-head", "95% interval"]


def test_stages_that_are_not_there_have_no_panel() -> None:
    figure = figures.figure3(made_stages(stages=("rpn", "detections")))
    assert [ax.get_title() for ax in figure.axes] == STAGE_TITLES[1:]
    assert figures.figure3(made_stages(stages=("rpn",))).get_figwidth() == COLUMN_WIDTH


def test_zero_is_marked_where_correlations_come_below_it() -> None:
    def at_zero(frame: pd.DataFrame) -> int:
        lines = figures.figure3(frame).axes[0].get_lines()
        return sum(list(line.get_ydata()) == [0, 0] for line in lines)

    assert at_zero(made_stages()) == 0
    assert at_zero(made_stages(lowest=-0.9)) == 1


def test_figure3_of_stages_without_objects() -> None:
    with pytest.raises(NothingToDrawError):
        figures.figure3(made_stages().assign(objects=0))


def figure_with_a_curve() -> Figure:
    with paper_style():
        figure = Figure(figsize=(3, 2))
        ax = figure.subplots()
        ax.plot([0, 1, 2], [0, 1, 0.5])
        ax.set_xlabel("Proposal IoU")
    return figure


def test_save_writes_png_and_pdf_with_the_same_bytes_each_time(tmp_path: Path):
    figure = figure_with_a_curve()
    engine = figure.get_layout_engine()
    first = save_figure(figure, tmp_path / "one" / "run-0.5")
    assert [path.name for path in first] == ["run-0.5.png", "run-0.5.pdf"]
    # The figure stays as it was.
    assert figure.get_layout_engine() is engine
    for again in (figure, figure_with_a_curve()):
        second = save_figure(again, tmp_path / "two" / "run-0.5")
        assert [path.read_bytes() for path in second] == [path.read_bytes() for path in first]
    with Image.open(first[0]) as image:
        assert image.size == (900, 600)
        assert min(image.info["dpi"]) >= 200
        assert "Software" not in image.info
    pdf = first[1].read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    # Type 3 fonts are refused by many publishers.
    assert b"/Type3" not in pdf
