from __future__ import annotations

from itertools import combinations
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from rethink_heads.plots.layout import new_axes
from rethink_heads.plots.style import (
    HEAD_COLOURS,
    HEAD_MARKERS,
    Series,
    naming_detectors,
    paper_style,
    series_of,
    sizes_in,
)


def frame(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["detector", "head"])


# What colours become to red-green blind eyes, in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
VISIONS = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    ),
    "protanopia": np.array(
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    ),
}


def lab(colour: str, vision: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = (vision @ linear).clip(0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt((to_xyz @ seen) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_heads_can_be_told_apart_by_colour(vision: str):
    for one, other in combinations(HEAD_COLOURS.values(), 2):
        difference = lab(one, VISIONS[vision]) - lab(other, VISIONS[vision])
        assert np.linalg.norm(difference) > 15, (one, other)


def test_a_head_looks_the_same_whichever_others_are_there():
    alone = {s.head: s for s in series_of(frame(("d", "conv")))}
    together = {s.head: s for s in series_of(frame(("d", "fc"), ("d", "conv"), ("d", "double")))}
    assert alone["conv"] == together["conv"]
    assert alone["conv"].look.colour == HEAD_COLOURS["conv"]


@pytest.mark.parametrize(
    ("pairs", "labels"),
    [
        # In the paper's order, then as they are called.
        (
            ["d mine", "d double-ext", "d conv", "d double", "d fc"],
            ["fc-head", "conv-head", "Double-Head", "Double-Head-Ext", "mine"],
        ),
        (["d box", "d tiny", "d conv-fc", "d fc"], ["fc-head", "conv-fc-head", "box head", "tiny"]),
        # The detector only where several have the head.
        (["a fc", "b conv"], ["fc-head", "conv-head"]),
        (["a fc", "b conv", "c fc"], ["fc-head (a)", "fc-head (c)", "conv-head"]),
    ],
)
def test_labels_of_series(pairs: list[str], labels: list[str]):
    series = series_of(frame(*(tuple(pair.split()) for pair in pairs)))
    assert [s.label for s in series] == labels
    assert [s.named for s in series] == ["(" in label for label in labels]


def test_labels_name_every_detector_where_detectors_are_compared():
    apart = frame(("mine", "fc"), ("theirs", "conv"))
    files = frame(("old", "detections"), ("new", "detections"), ("run", "fc"))
    with naming_detectors():
        inside = series_of(apart)
        # Files are called by their names alone.
        assert [one.label for one in series_of(files)] == ["fc-head (run)", "new", "old"]
    assert [series.label for series in inside] == ["fc-head (mine)", "conv-head (theirs)"]
    assert all(series.named for series in inside)
    assert [series.label for series in series_of(apart)] == ["fc-head", "conv-head"]


def test_heads_of_one_name_differ_in_line_and_marker_fill():
    first, second = series_of(frame(("a", "fc"), ("b", "fc")))
    assert first.look.colour == second.look.colour
    assert first.look.line_style != second.look.line_style
    assert first.look.marker_face != second.look.marker_face


def test_a_detector_has_one_line_style_and_heads_apart_are_solid():
    pairs = [("a", "fc"), ("b", "conv"), ("c", "fc"), ("c", "conv")]
    styles = {(s.detector, s.head): s.look.line_style for s in series_of(frame(*pairs))}
    assert styles["a", "fc"] == styles["b", "conv"] == "-"
    assert styles["c", "fc"] == styles["c", "conv"] != "-"


def look(series: Series) -> tuple[Any, ...]:
    """What tells dots apart, and bars but for the marker."""
    return series.look.colour, series.look.marker, series.look.hollow


def test_kinds_of_other_frameworks_have_looks_of_their_own():
    looks = [
        s.look for s in series_of(frame(*(("d", h) for h in ("box", "tiny", "conv-fc", "fc"))))
    ]
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == 4


@pytest.mark.parametrize("count", [3, 5, 11, 25])
def test_many_detectors_of_one_head_have_colours_and_markers_of_their_own(count: int):
    series = series_of(frame(*((f"run {i:02}", "conv") for i in range(count))))
    assert [s.detector for s in series] == [f"run {i:02}" for i in range(count)]
    assert (series[0].look.colour, series[0].look.marker) == (
        HEAD_COLOURS["conv"],
        HEAD_MARKERS["conv"],
    )
    assert len({look(s) for s in series}) == min(count, 22)
    assert len({(look(s), str(s.look.line_style)) for s in series}) == count
    first = series[:11]
    assert len({s.look.colour for s in first}) == len({s.look.marker for s in first}) == len(first)
    assert all(s.label == f"conv-head ({s.detector})" for s in series)


def test_many_detectors_of_one_head_among_others_have_shades_of_its_colour():
    pairs = [(name, "fc") for name in "abcdef"] + [("c", "conv"), ("g", "double-reverse")]
    series = series_of(frame(*pairs))
    fc = [s for s in series if s.head == "fc"]
    assert len({look(s) for s in fc}) == len({(s.look.colour, s.look.hollow) for s in fc}) == 6
    assert {s.look.marker for s in fc} == {HEAD_MARKERS["fc"]}
    assert [s.look.colour for s in fc[:2]] == [HEAD_COLOURS["fc"]] * 2
    dark, light = lab(fc[2].look.colour, np.eye(3)), lab(fc[4].look.colour, np.eye(3))
    assert dark[0] + 15 < lab(HEAD_COLOURS["fc"], np.eye(3))[0] < light[0] - 15
    (conv,) = [s for s in series if s.head == "conv"]
    assert conv.look.line_style == fc[2].look.line_style


def test_shades_of_black_are_grey():
    series = series_of(frame(*((name, "double-reverse") for name in "abcdef"), ("a", "fc")))
    blacks = [s for s in series if s.head == "double-reverse"]
    assert len({(s.look.colour, s.look.hollow) for s in blacks}) == 6
    assert [blacks[i].look.colour for i in (0, 2, 4)] == ["#000000", "#4c4c4c", "#808080"]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.text("xyz", min_size=1, max_size=2)), min_size=1)
)
def test_heads_of_any_name_are_drawn_apart(pairs: list[tuple[str, str]]):
    series = series_of(frame(*pairs))
    assert sorted((s.detector, s.head) for s in series) == sorted(set(pairs))
    for head in {head for _, head in pairs}:
        looks = [look(s) for s in series if s.head == head]
        assert len(set(looks)) == len(looks)
    assert len({s.label for s in series}) == len(series)


def test_no_rows_give_no_series():
    assert series_of(pd.DataFrame(), frame()) == []


def test_sizes_without_objects_are_left_out():
    sizes = pd.DataFrame({"size": ["all", "small", "large"], "objects": [3, 3, 0]})
    assert sizes_in(sizes) == ["small", "all"]
    assert sizes_in(pd.DataFrame()) == []


def test_the_style_does_not_leak():
    before = dict(mpl.rcParams)
    plt.close(new_axes().figure)
    with pytest.raises(RuntimeError), paper_style():
        raise RuntimeError
    assert dict(mpl.rcParams) == before


def test_new_axes_keep_the_style_when_drawn_outside_it():
    ax = new_axes()
    ax.figure.canvas.draw()
    tick = ax.xaxis.get_major_ticks()[0]
    assert tick.label1.get_fontname() == "STIXGeneral"
    assert tick.label1.get_fontsize() == 8
    assert to_rgb(tick.tick1line.get_color()) == to_rgb("#222222")
    mpl.pyplot.close(ax.figure)
