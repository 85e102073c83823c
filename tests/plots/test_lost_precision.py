"""Figures of lost average precision: what they draw, that it can be read in grey, and that nothing is cut off."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from rethink_heads.evaluation.ladder import recall_ladder
from rethink_heads.evaluation.lost_precision import exchange_rate, lost_by_threshold, lost_precision
from rethink_heads.evaluation.swaps import swap_matrix
from rethink_heads.plots import lost_precision as figures
from rethink_heads.plots.style import NothingToDrawError
from tests.made_candidates import crowded_dataset, make_candidates
from tests.made_detections import make_dataset
from tests.plots.drawn import detections_by, draw

Tables = dict[str, pd.DataFrame]
# In linear light, of red, green and blue.
LUMINANCE = (0.2126, 0.7152, 0.0722)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Two heads' shares and exchange rates, three heads' ladder and swaps."""
    dataset = make_dataset(tmp_path_factory.mktemp("boxes"))
    found = detections_by(dataset, [("run", "fc"), ("run", "conv")])
    crowded = crowded_dataset(tmp_path_factory.mktemp("crowded"))
    candidates = make_candidates(crowded)
    return {
        "lost": lost_precision(found, dataset, replicates=20),
        "by_threshold": lost_by_threshold(found, dataset, replicates=20),
        "exchange_rate": exchange_rate(found, dataset, replicates=20),
        "ladder": recall_ladder(candidates, crowded, replicates=20),
        "swaps": swap_matrix(candidates, crowded, replicates=20),
    }


def renamed(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The rows of fc-head as those of detectors of these names."""
    own = frame[frame["head"] == "fc"]
    own = own[own["detector"] == own["detector"].iloc[0]]
    return pd.concat([own.assign(detector=name) for name in names], ignore_index=True)


def all_figures(tables: Tables) -> dict[str, Figure]:
    return {
        "shares": figures.shares(tables["by_threshold"], tables["lost"]),
        "exchange_rate": figures.exchange_rate(tables["exchange_rate"]),
        "recall_ladder": figures.recall_ladder(tables["ladder"]),
        "swaps": figures.swaps(tables["swaps"]),
    }


def swaps_of(heads: int) -> pd.DataFrame:
    names = [f"run/head {number}" for number in range(heads)]
    rows = [
        {"scores": a, "boxes": b, "metric": "AP", "value": 0.3 + 0.01 * place}
        for place, (a, b) in enumerate((a, b) for a in names for b in names)
    ]
    return pd.DataFrame(rows).assign(
        value_low=lambda frame: frame["value"] - 0.05,
        value_high=lambda frame: frame["value"] + 0.05,
    )


def test_texts_are_whole_and_apart(tables: Tables) -> None:
    for name, figure in all_figures(tables).items():
        drawn = draw(figure)
        assert drawn.misplaced() == [], name
        assert drawn.texts_below(), name
    names = [f"a detector with the number {number}" for number in range(6)]
    for some in (names[:1], names[:5], names):
        many = {key: renamed(tables[key], some) for key in tables if key != "swaps"}
        many["swaps"] = swaps_of(len(some) + 2)
        for name, figure in all_figures(many).items():
            assert draw(figure).misplaced() == [], (name, len(some))


def test_bars_are_the_shares_and_add_up_to_100(tables: Tables) -> None:
    first = figures.shares(tables["by_threshold"], tables["lost"]).axes[0]
    fc = tables["lost"][tables["lost"]["head"] == "fc"].set_index("cause")["share"]
    at_most = tables["by_threshold"].query("head == 'fc' and iou == 0.95").set_index("cause")
    heights = np.array([bar.get_height() for bar in first.patches]).reshape(7, 11)
    np.testing.assert_allclose(heights[0], 100 - heights[1:].sum(axis=0))
    for row, cause in enumerate(figures.CAUSE_LABELS, start=1):
        assert heights[row, 0] == pytest.approx(100 * fc[cause], abs=1e-9)
        assert heights[row, -1] == pytest.approx(100 * at_most.loc[cause, "share"], abs=1e-9)


def test_neighbours_differ_in_grey() -> None:
    """By their luminance, or by one of them being hatched; and no two causes look the same."""
    greys = [
        float(np.dot(LUMINANCE, np.power(to_rgb(colour), 2.2)))
        for colour in figures.CAUSE_COLOURS.values()
    ]
    hatches = [figures.HATCHES.get(cause) for cause in figures.CAUSE_COLOURS]
    for (grey, hatch), (other, its) in pairwise(zip(greys, hatches, strict=True)):
        assert hatch != its or abs(grey - other) > 0.1
    hatched = [hatch for hatch in hatches if hatch]
    assert len(set(hatched)) == len(hatched)


def test_the_detectors_own_ranking_is_circled(tables: Tables) -> None:
    _, right = figures.exchange_rate(tables["exchange_rate"]).axes
    circles = [line for line in right.lines if line.get_markersize() == figures.OWN_RANKING]
    own = tables["exchange_rate"].query("step == 0").set_index("head")
    found = sorted((float(c.get_xdata()[0]), float(c.get_ydata()[0])) for c in circles)
    expected = sorted((own.loc[head, "pcc"], 100 * own.loc[head, "ap"]) for head in ("fc", "conv"))
    np.testing.assert_allclose(found, expected)


def test_cells_of_swaps_have_their_values_and_intervals(tables: Tables) -> None:
    drawn = draw(figures.swaps(tables["swaps"]))
    rows = tables["swaps"].query("metric == 'AP'")
    shown = [text.get_text() for text in drawn.figure.axes[0].texts]
    assert len(shown) == len(rows) == 9
    for row in rows.itertuples():
        ends = f"[{100 * row.value_low:.1f}, {100 * row.value_high:.1f}]"
        assert f"{100 * row.value:.1f}\n{ends}" in shown
    # Without draws there are none, and of many heads there is no room for them.
    without = swaps_of(2).assign(value_low=np.nan, value_high=np.nan)
    for frame in (without, swaps_of(figures.MOST_WITH_ENDS + 1)):
        texts = draw(figures.swaps(frame)).figure.axes[0].texts
        assert texts[0].get_text() == "30.0"


def test_figures_without_intervals_are_drawn(tables: Tables) -> None:
    plain = {
        name: frame.assign(
            **{column: np.nan for column in frame if column.endswith(("_low", "_high"))}
        )
        for name, frame in tables.items()
    }
    for name, figure in all_figures(plain).items():
        assert draw(figure).misplaced() == [], name


def test_nothing_to_draw(tables: Tables) -> None:
    nothing = {name: frame.iloc[:0] for name, frame in tables.items()}
    for draw_it in (
        lambda: figures.shares(nothing["by_threshold"], nothing["lost"]),
        lambda: figures.exchange_rate(nothing["exchange_rate"]),
        lambda: figures.recall_ladder(nothing["ladder"]),
        lambda: figures.swaps(nothing["swaps"]),
    ):
        with pytest.raises(NothingToDrawError):
            draw_it()
