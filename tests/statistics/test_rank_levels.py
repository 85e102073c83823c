"""Rank correlation within images and within classes, against scipy in loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ConstantInputWarning, spearmanr

from rethink_heads.errors import UserError
from rethink_heads.statistics.ranks import (
    FEWEST_BOXES,
    compare_levels,
    level_correlation,
)
from tests.statistics.test_stages import KEYS, boxes, row

IOU = {"rpn": "regressed_iou", "detections": "true_positive_iou"}


def mean_by(stages: pd.DataFrame, column: str, head: str, stage: str) -> tuple[float, int, int]:
    """Mean of the groups' correlations, how many have one, and the number of positive boxes."""
    values, positives = [], 0
    for group in stages[column].unique():
        iou, score = [], []
        for one in stages.to_dict("records"):
            # Not a number is no positive either.
            positive = one[IOU[stage]] >= 0.5
            if positive and (one["head"], one["stage"], one[column]) == (head, stage, group):
                iou.append(one[IOU[stage]])
                score.append(one["score"])
        positives += len(iou)
        if len(iou) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            value = spearmanr(iou, score).statistic
        if np.isfinite(value):
            values.append(value)
    return float(np.mean(values)), len(values), positives


def matched(**options: Any) -> pd.DataFrame:
    stages = boxes(**options)
    return stages[stages["object_id"] >= 0].reset_index(drop=True)


@pytest.mark.parametrize("count", [20, 5])
def test_values_are_means_of_scipys(count: int) -> None:
    """With five boxes an image some images have none, one or equal positives."""
    stages = matched(images=10, count=count)
    found = level_correlation(stages, replicates=10)
    assert len(found) == 2 * 3
    for level, column, stage in (
        ("image", "image_id", "rpn"),
        ("image", "image_id", "detections"),
        ("class", "class_name", "detections"),
    ):
        for head in ("fc", "conv"):
            value, groups, positives = mean_by(stages, column, head, stage)
            of = row(found, level=level, stage=stage, head=head)
            assert of["spearman"] == pytest.approx(value)
            assert (of["groups"], of["boxes"]) == (groups, positives)
            # Of so few boxes a class there is no interval.
            ends = of[["spearman_low", "spearman_high"]].astype(float)
            has_interval = level == "image" or positives >= FEWEST_BOXES * groups
            assert np.isfinite(ends).all() == has_interval
            assert (
                not has_interval
                or -1 <= ends["spearman_low"] < of["spearman"] < ends["spearman_high"] <= 1
            )
    if count == 5:
        images = row(found, level="image", stage="detections", head="fc")["groups"]
        assert images < stages["image_id"].nunique()


def test_class_level_interval_is_about_that_of_ranking_drawn_images_anew(
    interval_by_hand: Callable[..., tuple[float, float]],
) -> None:
    stages = matched(keys=(("run", "fc"),), stages=("detections",), images=40, count=60)
    images = np.sort(stages["image_id"].unique())
    draws = np.random.default_rng(0).integers(0, len(images), size=(200, len(images)))
    replicates = []
    for draw in draws:
        drawn = pd.concat([stages[stages["image_id"] == images[place]] for place in draw])
        replicates.append(mean_by(drawn, "class_name", "fc", "detections")[0])
    found = row(level_correlation(stages, replicates=200), level="class")
    positive = stages[stages["true_positive_iou"] >= 0.5]
    weights = positive["image_id"].value_counts().to_list()
    expected = interval_by_hand(replicates, found["spearman"], weights, is_correlation=True)
    assert found["boxes"] >= FEWEST_BOXES * found["groups"]
    width = expected[1] - expected[0]
    assert (found["spearman_low"], found["spearman_high"]) == pytest.approx(
        expected, abs=width / 20
    )


def test_a_perfect_ranking_is_one_and_a_reversed_one_minus_one() -> None:
    stages = matched()
    for sign in (1, -1):
        scores = np.where(
            stages["stage"] == "rpn", stages["regressed_iou"], stages["true_positive_iou"]
        )
        found = level_correlation(stages.assign(score=sign * scores), replicates=5)
        assert found["spearman"].tolist() == pytest.approx([sign] * 6)


def test_without_positives_there_is_no_correlation() -> None:
    stages = matched().assign(true_positive_iou=np.nan, regressed_iou=0.2)
    found = level_correlation(stages, replicates=5)
    assert found[["spearman", "spearman_low", "spearman_high"]].isna().all(axis=None)
    assert (found[["groups", "boxes"]] == 0).all(axis=None)


def test_comparison_is_the_paired_difference() -> None:
    stages = matched()
    found = level_correlation(stages, replicates=10)
    compared = compare_levels(stages, *KEYS, replicates=10)
    for one in compared.to_dict("records"):
        a, b = (
            row(found, head=head, level=one["level"], stage=one["stage"])["spearman"]
            for head in ("fc", "conv")
        )
        assert one["difference"] == pytest.approx(a - b)
        assert (
            one["level"] == "class"
            or one["difference_low"] <= one["difference"] <= one["difference_high"]
        )
    own = stages[stages["head"] == "fc"]
    twin = pd.concat([own, own.assign(head="conv")], ignore_index=True)
    same = compare_levels(twin, *KEYS, replicates=10)
    assert (same["difference"] == 0).all()
    assert not same["excludes_zero"].any()
    with pytest.raises(UserError, match=r"no boxes of run/double; there are those of run/conv, "):
        compare_levels(stages, ("run", "double"), ("run", "fc"))


@settings(max_examples=4, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([np.exp, np.arctan, lambda x: x**3 + x]),
    st.randoms(use_true_random=False),
)
def test_neither_order_nor_a_rising_change_of_scores_matters(
    seed: int, rising: Callable[[Any], Any], random: Any
) -> None:
    stages = matched(seed=seed, images=4, count=10)
    order = list(range(len(stages)))
    random.shuffle(order)
    changed = stages.iloc[order].assign(score=lambda frame: rising(frame["score"]))
    pd.testing.assert_frame_equal(
        level_correlation(stages, replicates=5),
        level_correlation(changed, replicates=5),
        check_exact=False,
        atol=1e-12,
    )
