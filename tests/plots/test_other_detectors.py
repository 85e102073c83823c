"""Every figure of many detectors from other frameworks: some with one head's name, and heads of any names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from rethink_heads.evaluation.measures import measured_tables
from rethink_heads.plots.detections import average_precision, detection_errors, reliability
from rethink_heads.plots.style import COLUMN_WIDTH, PAGE_WIDTH, series_of
from rethink_heads.statistics.stages import STAGES
from tests.made_detections import make_dataset
from tests.plots.drawn import RenderedFigure, detections_by, draw
from tests.plots.test_figures import MAKE, made_stages

Tables = dict[str, pd.DataFrame]
PAIRS = [
    ("fasterrcnn_resnet50_fpn", "fc"),
    ("faster_rcnn_R_50_FPN_1x", "fc"),
    ("maskrcnn_resnet50_fpn", "fc"),
    ("fasterrcnn_resnet50_fpn_v2", "conv-fc"),
    ("faster_rcnn_R_50_C4", "conv"),
    ("my_package.module:make_detector", "box"),
    ("tiny", "mean pooling"),
]
DETECTION_FIGURES = {
    "average_precision": lambda t: average_precision(t["ap"]),
    "detection_errors": lambda t: detection_errors(t["detection_errors"]),
    "reliability": lambda t: reliability(t["reliability"], t["calibration"]),
}
DRAWINGS: dict[str, Callable[[Tables], Figure]] = {**MAKE, **DETECTION_FIGURES}


def for_each(pairs: Sequence[tuple[str, str]], tables: Tables) -> Tables:
    """The made-up fc-head's rows for each detector and head."""
    fc_rows = {name: t[t["head"] == "fc"] for name, t in tables.items() if "head" in t}
    return {
        name: pd.concat([rows.assign(detector=d, head=h) for d, h in pairs], ignore_index=True)
        for name, rows in fc_rows.items()
    }


@pytest.fixture(scope="module")
def drawn(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RenderedFigure]:
    """Every figure, of the made-up fc-head's rows for each detector and head."""
    every = for_each(PAIRS, tables)
    dataset = make_dataset(tmp_path_factory.mktemp("boxes"))
    names = ("ap", "detection_errors", "calibration")
    found = detections_by(dataset, PAIRS)
    every |= measured_tables(names, found, dataset, PAIRS, replicates=5)
    every["stages"] = made_stages(tuple(PAIRS), STAGES)
    return {name: draw(make(every)) for name, make in DRAWINGS.items()}


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_are_whole_and_apart_and_panels_keep_their_height(
    drawn: dict[str, RenderedFigure], name: str
) -> None:
    """However high the legend."""
    assert drawn[name].misplaced() == []
    figure = drawn[name].figure
    assert figure.get_figwidth() <= PAGE_WIDTH
    heights = [ax.get_window_extent().height / figure.dpi for ax in figure.axes]
    assert min(heights) > 0.6
    if name in DETECTION_FIGURES:
        assert "95% interval" in {text.get_text() for text in drawn[name].texts}


@pytest.mark.parametrize("name", ["figure2", "correlations", "figure3", "average_precision"])
def test_every_detector_has_a_look_of_its_own(drawn: dict[str, RenderedFigure], name: str) -> None:
    series = series_of(pd.DataFrame(PAIRS, columns=["detector", "head"]))
    looks: dict[str, set[tuple[str, str, str]]] = {s.label: set() for s in series}
    for ax in drawn[name].figure.axes:
        for line in ax.get_lines():
            if line.get_label() in looks:
                look = (line.get_color(), line.get_marker(), to_hex(line.get_markerfacecolor()))
                looks[line.get_label()].add(look)
    assert all(len(found) == 1 for found in looks.values())
    assert len(set.union(*looks.values())) == len(PAIRS) == len(looks)


def test_every_detectors_bars_have_a_colour_and_hatch(drawn: dict[str, RenderedFigure]) -> None:
    bars = drawn["detection_errors"].figure.axes[0].patches
    kinds = {(to_hex(bar.get_edgecolor()), bar.get_hatch()) for bar in bars}
    assert len(kinds) == len(PAIRS)


def test_names_in_titles_break_after_punctuation(drawn: dict[str, RenderedFigure]) -> None:
    titles = [ax.get_title() for ax in drawn["cells"].figure.axes if ax.get_title()]
    named = [title for title in titles if "(" in title]
    assert len(titles) == len(PAIRS)
    assert len(named) == 3
    for title in named:
        lines = title.split("\n")
        assert "".join(lines[1:]) in {f"({detector})" for detector, _ in PAIRS}
        assert all(line[-1] in "_-.:)/" for line in lines[1:])
    assert np.mean([title.count("\n") for title in named]) >= 1


@pytest.mark.parametrize("name", ["figure2", "decay", "gain"])
def test_a_label_wider_than_a_column_goes_on_in_the_next_line(tables: Tables, name: str) -> None:
    names = [f"detector-{number}-with_a_very_long_name" * 3 for number in range(7)]
    every = for_each([(name, "double-reverse") for name in names], tables)
    # One panel, a column wide.
    every |= {key: t[t["size"] == "all"] for key, t in every.items() if "size" in t}
    found = draw(MAKE[name](every))
    assert found.figure.get_figwidth() == COLUMN_WIDTH
    assert found.misplaced() == []
    (legend,) = found.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    shown = [f"Double-Head-Reverse ({name[:39]}…)" for name in names]
    assert [label.replace("\n", "") for label in labels[:7]] == shown
    assert all(label.count("\n") == 1 for label in labels[:7])
