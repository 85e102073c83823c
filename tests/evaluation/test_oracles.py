"""Derivatives of AP by the weight of images, against the area of weighted detections and against the bootstrap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rethink_heads.evaluation.average_precision import (
    Ranking,
    precision_at_recalls,
    precision_table,
)
from rethink_heads.evaluation.causes import CAUSES
from rethink_heads.evaluation.lost_precision import (
    exchange_rate,
    lost_by_threshold,
    lost_precision,
)
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.evaluation.oracles import (
    LEFT_OUT_DRAWS,
    LEFT_OUT_THRESHOLDS,
    analyse,
    precision_and_derivatives,
)
from rethink_heads.statistics.bootstrap import ImagesLeftOut
from tests.made_detections import as_dataset, make_dataset, make_detections


def area(true: np.ndarray, there: np.ndarray, weights: np.ndarray, objects: float) -> float:
    """Area under the best precision at each recall or above it, one weighted detection after another."""
    found = seen = 0.0
    points = []
    for hit, here, weight in zip(true, there, weights, strict=True):
        found, seen = found + weight * hit, seen + weight * here
        points.append((weight * hit / objects, found / seen if hit else 0.0))
    best = [max(p for _, p in points[k:]) for k in range(len(points))]
    return sum(width * p for (width, _), p in zip(points, best, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_derivatives_are_those_of_the_area(seed: int) -> None:
    generator = np.random.default_rng(seed)
    there = generator.random((3, 30)) < 0.8
    true = there & (generator.random((3, 30)) < 0.5)
    objects = 20
    values, slopes, areas = precision_and_derivatives(true, there, objects)
    ranking = Ranking(np.arange(30), true, there, np.arange(20), np.ones((3, 20), bool))
    expected = precision_at_recalls(ranking).mean(axis=1)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    for setting in range(3):
        flags = true[setting], there[setting]
        assert areas[setting] == pytest.approx(area(*flags, np.ones(30), objects), abs=1e-12)
        # Equal precisions are peaks alike, of which the last would be lifted: no derivative from both sides.
        precision = (flags[0].cumsum() / np.maximum(flags[1].cumsum(), 1))[flags[0]]
        if len(np.unique(precision)) < len(precision):
            continue
        for place in range(30):
            ends = []
            for change in (1e-6, -1e-6):
                weights = np.ones(30)
                weights[place] += change
                ends.append(area(*flags, weights, objects))
            slope = (ends[0] - ends[1]) / 2e-6
            assert slopes[setting, place] == pytest.approx(slope, abs=1e-6)


def test_intervals_are_as_wide_as_the_bootstraps(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=150, seed=4)
    frame = make_detections(dataset, 4)
    by_bootstrap = precision_table(frame, dataset, replicates=1500).iloc[0]
    ours = exchange_rate(frame, dataset, replicates=1500).iloc[0]
    widths = (
        ours["ap_high"] - ours["ap_low"],
        by_bootstrap["value_high"] - by_bootstrap["value_low"],
    )
    assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_draws_that_leave_images_out_are_analyses_of_the_others(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "all", images=30, seed=6)
    frame = make_detections(dataset, 6, shake=0.15)
    truth = GroundTruth(dataset, frame)
    lost = analyse(truth.detections_of(frame, ("run", "fc")), truth)
    exact, first_order = lost.left_out
    counts = ImagesLeftOut(truth.image_ids, LEFT_OUT_DRAWS).counts
    for draw in (0, 1):
        there = truth.image_ids[counts[draw] > 0]
        content = json.loads(dataset.annotations_path.read_text())
        for name, column in (("images", "id"), ("annotations", "image_id")):
            content[name] = [each for each in content[name] if each[column] in there]
        others = as_dataset(tmp_path / str(draw), content)
        rows = lost_by_threshold(frame[frame["image_id"].isin(there)], others, replicates=2)
        thresholds = np.unique(rows["iou"])[LEFT_OUT_THRESHOLDS]
        means = rows[rows["iou"].isin(thresholds)].groupby("cause")[["share", "oracle"]].mean()
        expected = means.loc[list(CAUSES)].to_numpy().T.ravel()
        np.testing.assert_allclose(exact[draw, 1:], expected, rtol=0, atol=1e-9)
    for one, other in zip(exact.T, first_order.T, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.8
    assert (lost.stretch > 0.9).all()


def test_draws_without_any_object_leave_the_intervals_as_they_are(tmp_path: Path) -> None:
    """Objects in one image, detections of nothing in all of them."""
    dataset = make_dataset(tmp_path / "all", images=30, seed=6)
    content = json.loads(dataset.annotations_path.read_text())
    first = content["annotations"][0]["image_id"]
    kept = [each for each in content["annotations"] if each["image_id"] == first]
    few = as_dataset(tmp_path / "few", content | {"annotations": kept})
    frame = make_detections(dataset, 6)
    truth = GroundTruth(few, frame)
    lost = analyse(truth.detections_of(frame, ("run", "fc")), truth)
    exact, _ = lost.left_out
    assert np.isnan(exact).any()
    assert np.isfinite(exact).any()
    assert np.isfinite(lost.stretch).all()
    shares = lost_precision(frame, few, replicates=50).set_index("cause")
    assert shares.loc["background", "share_low"] < shares.loc["background", "share_high"]
