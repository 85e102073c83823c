"""Figures of detections: what they draw, and that nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from rethink_heads.evaluation.measures import measured_tables
from rethink_heads.plots.detections import average_precision, detection_errors, reliability
from rethink_heads.plots.style import HEAD_COLOURS, NothingToDrawError
from tests.made_detections import make_dataset, make_detections
from tests.plots.drawn import detections_by, draw

KEYS = [("run", "fc"), ("run", "conv")]
NAMES = ("ap", "detection_errors", "calibration")
Tables = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    dataset = make_dataset(tmp_path_factory.mktemp("boxes"))
    return measured_tables(NAMES, detections_by(dataset, KEYS), dataset, KEYS, replicates=20)


def figures(tables: Tables) -> dict[str, Figure]:
    return {
        "average_precision": average_precision(tables["ap"]),
        "detection_errors": detection_errors(tables["detection_errors"]),
        "reliability": reliability(tables["reliability"], tables["calibration"]),
    }


def test_bars_are_the_gains_in_points(two: Tables) -> None:
    table = two["detection_errors"]
    main, special = detection_errors(table).axes
    fc = table[table["head"] == "fc"].set_index("error")["delta_ap"] * 100
    heights = [bar.get_height() for bar in main.patches]
    np.testing.assert_allclose(heights[:6], fc[["cls", "loc", "both", "dupe", "bkg", "miss"]])
    np.testing.assert_allclose([b.get_height() for b in special.patches][:2], fc[["fp", "fn"]])
    assert main.patches[0].get_facecolor() == to_rgba(HEAD_COLOURS["fc"])
    assert main.patches[6].get_facecolor() == to_rgba(HEAD_COLOURS["conv"])


def test_curves_are_the_bins_that_have_detections(two: Tables) -> None:
    precision, iou, _ = reliability(two["reliability"], two["calibration"]).axes
    rows = two["reliability"]
    rows = rows[(rows["head"] == "fc") & (rows["count"] > 0)].sort_values("mean_score")
    for ax, column in ((precision, "precision"), (iou, "iou")):
        (line,) = (line for line in ax.lines if line.get_label() == "fc-head")
        np.testing.assert_allclose(line.get_xdata(), rows["mean_score"])
        np.testing.assert_allclose(line.get_ydata(), rows[column])


def test_nothing_to_draw(two: Tables) -> None:
    for draw_it in (average_precision, detection_errors):
        with pytest.raises(NothingToDrawError):
            draw_it(two["ap"].iloc[:0])
    undefined = two["ap"].assign(value=np.nan)
    with pytest.raises(NothingToDrawError, match="no average precision"):
        average_precision(undefined)


def test_a_head_without_detections_has_precision_zero(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    found = make_detections(dataset)
    keys = ("run", "fc"), ("run", "none")
    tables = measured_tables(NAMES, found, dataset, keys, pairs=[keys], replicates=20)
    ap = tables["ap"].set_index(["head", "metric"])["value"]
    assert ap["none"].tolist() == [0.0] * 6
    errors = tables["detection_errors"].set_index(["head", "error"])
    assert errors.loc[("none", "fp"), "count"] == 0
    assert errors.loc[("none", "fn"), "count"] == errors.loc[("none", "miss"), "count"] > 0
    assert tables["calibration"].set_index("head").loc["none", "value"].isna().all()
    difference = tables["ap_comparisons"].set_index("metric")["difference"]
    assert difference["AP"] == pytest.approx(ap["fc", "AP"])
    for figure in figures(tables).values():
        assert draw(figure).misplaced() == []
