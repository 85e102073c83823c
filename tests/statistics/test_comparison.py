"""Paired comparisons: right values, shared objects, and differences that are there or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats

from rethink_heads.errors import UserError
from rethink_heads.statistics.by_iou import pearson, score_by_iou, spearman
from rethink_heads.statistics.comparison import STATISTICS, compare, compared_pairs
from tests.frames import from_frames

A, B = ("run", "fc"), ("run", "conv")
ON_BINS = [name for name in STATISTICS if name != "spatial_correlation"]


@pytest.mark.parametrize("statistic", ON_BINS)
def test_swapping_the_sides_turns_the_difference_round(simulated: Any, statistic: str) -> None:
    there = compare(simulated.measurements, statistic, A, B, replicates=80)
    back = compare(simulated.measurements, statistic, B, A, replicates=80)
    assert there["size"].tolist() == ["small", "medium", "large", "all"]
    assert there["a"].tolist() == back["b"].tolist() == ["run/fc"] * 4
    np.testing.assert_allclose(there["difference"], there["value_a"] - there["value_b"])
    for first, second in (("value_a", "value_b"), ("objects", "objects")):
        np.testing.assert_array_equal(there[first], back[second])
    for first, second in (
        ("difference", "difference"),
        ("difference_low", "difference_high"),
        ("difference_high", "difference_low"),
    ):
        np.testing.assert_allclose(there[first], -back[second], atol=1e-9)
    assert there["excludes_zero"].tolist() == back["excludes_zero"].tolist()
    assert (there["difference_low"] <= there["difference_high"]).all()


def test_values_are_those_of_the_statistics_alone(simulated: Any) -> None:
    m = simulated.measurements
    alone = pearson(m, (0.5, 1.0), replicates=5).set_index(["head", "size"])
    for statistic in ("pcc", "object_pcc"):
        frame = compare(m, statistic, A, B, iou_range=(0.5, 1.0), replicates=5)
        for _, row in frame.iterrows():
            assert row["value_a"] == pytest.approx(alone.loc[("fc", row["size"]), statistic])
            assert row["value_b"] == pytest.approx(alone.loc[("conv", row["size"]), statistic])
            assert row["objects"] == alone.loc[("fc", row["size"]), "objects"]
    ranks = spearman(m, replicates=5).set_index(["head", "size"])["spearman"]
    frame = compare(m, "spearman", A, B, replicates=5)
    assert frame["value_a"].tolist() == [ranks["fc", size] for size in frame["size"]]
    raw = simulated.of("conv")
    for name, column, expected in (
        ("regressed_iou", "regressed_iou", raw["regressed_iou"].mean()),
        ("regressed_iou_std", "regressed_iou", raw["regressed_iou"].std(ddof=0)),
        ("score_std", "score", raw["score"].std(ddof=0)),
        ("gain", "regressed_iou", (raw["regressed_iou"] - raw["iou"]).mean()),
        ("rms_dw", "dw", np.sqrt((raw["dw"] ** 2).mean())),
    ):
        assert column in raw
        frame = compare(m, name, A, B, replicates=5)
        assert frame["value_b"].iloc[-1] == pytest.approx(expected)


def test_bin_by_bin(simulated: Any) -> None:
    m = simulated.measurements
    frame = compare(m, "score_std", A, B, by_bin=True, replicates=30)
    assert len(frame) == 4 * 20
    curve = score_by_iou(m, replicates=5)
    for column, head in (("value_a", "fc"), ("value_b", "conv")):
        alone = curve[curve["head"] == head]
        np.testing.assert_allclose(frame[column], alone["std"], equal_nan=True)
        np.testing.assert_array_equal(frame["objects"], alone["objects"])
    empty = frame[frame["objects"] == 0]
    assert empty["difference"].isna().all()
    assert not empty["excludes_zero"].any()


def test_a_true_difference_excludes_zero_and_is_sharper_than_its_sides(
    simulate: Callable[..., Any],
) -> None:
    """A shift of 0.05 in the score: far less than images differ by, but the same in each."""
    shifted = simulate(images=25, shift=0.05, seed=3).measurements
    overall = compare(shifted, "score", B, A, replicates=400).iloc[-1]
    assert overall["difference"] == pytest.approx(0.05, abs=0.01)
    assert overall["difference_low"] < 0.05 < overall["difference_high"]
    assert overall["excludes_zero"]
    mean = compare(shifted, "regressed_iou", B, A, replicates=400)
    assert mean["excludes_zero"].all()
    curve = score_by_iou(shifted, replicates=400)
    one = curve[(curve["head"] == "fc") & (curve["size"] == "all") & (curve["bin"] == 19)].iloc[0]
    assert overall["difference_high"] - overall["difference_low"] < 0.2 * (
        one["mean_high"] - one["mean_low"]
    )


def test_without_a_difference_zero_is_mostly_inside(simulate: Callable[..., Any]) -> None:
    """Heads swapped in each image at random have no difference: 95% intervals hold zero.

    Of 40 swaps 2 are expected to miss; more than 6 do so with a chance of one in a hundred even if
    intervals from 30 images hold only 93%.
    """
    bins = simulate(images=30, objects=2, proposals=20).bins
    generator = np.random.default_rng(0)
    images = bins["image_id"].unique()
    other = bins["head"].map({"fc": "conv", "conv": "fc"})
    misses = 0
    for _ in range(40):
        swapped = bins["image_id"].isin(images[generator.random(len(images)) < 0.5])
        alike = from_frames(bins.assign(head=bins["head"].where(~swapped, other)))
        misses += bool(compare(alike, "score", A, B, replicates=200)["excludes_zero"].iloc[-1])
    assert misses <= 6


def test_a_head_less_itself_is_zero(simulated: Any) -> None:
    frame = compare(simulated.measurements, "pcc", A, A, replicates=20)
    assert (frame["difference"] == 0).all()
    assert frame[["difference_low", "difference_high"]].isna().all(axis=None)
    assert not frame["excludes_zero"].any()


def test_only_objects_that_both_sides_have_count(simulate: Callable[..., Any]) -> None:
    whole = simulate(keys=(("one", "fc"), ("two", "fc")))
    bins, rows = whole.bins, whole.rows
    lost = ((bins["detector"] == "two") & (bins["image_id"] == 12)) | (
        (bins["detector"] == "one") & (bins["object_id"] == 1500)
    )
    partial = from_frames(bins[~lost], rows)
    a, b = ("one", "fc"), ("two", "fc")
    row = compare(partial, "pcc", a, b, replicates=20).iloc[-1]
    assert row["objects"] == 24 - 3 - 1
    raw = whole.of("fc", detector="one")
    raw = raw[(raw["image_id"] != 12) & (raw["object_id"] != 1500)]
    expected = scipy.stats.pearsonr(raw["iou"], raw["score"]).statistic
    assert row["value_a"] == pytest.approx(expected)
    apart = from_frames(
        bins[(bins["detector"] == "one") == (bins["image_id"] < 14)].reset_index(drop=True)
    )
    with pytest.raises(UserError, match="measured on different objects"):
        compare(apart, "pcc", a, b)


@pytest.mark.parametrize(
    ("statistic", "b", "options", "message"),
    [
        ("pcc", ("run", "double"), {}, "no measurements of run/double; .*run/conv, run/fc"),
        ("spatial_correlation", B, {}, "no spatial_correlation measurements of run/fc; .*nothing"),
        ("auc", B, {}, "unknown statistic 'auc'; there are pcc"),
        ("spearman", B, {"by_bin": True}, "'spearman' cannot be compared bin by bin"),
        ("score", B, {"iou_range": (0.0, 0.33)}, "multiples of 0.05"),
    ],
)
def test_what_cannot_be_compared_is_said(
    simulated: Any, statistic: str, b: tuple[str, str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compare(simulated.measurements, statistic, A, b, **options)


FOUR = [("run", head) for head in ("fc", "conv", "double", "double-ext")]


@pytest.mark.parametrize(
    ("keys", "what", "expected"),
    [
        # Double-Head classifies with its fc-head and regresses with its conv-head.
        (FOUR, "pcc", ["fc-conv", "fc-double-ext", "conv-double-ext"]),
        (FOUR, "regressed_iou", ["fc-conv"]),
        (FOUR[::-1], "cell_iou", ["fc-conv"]),
        (FOUR[:1], "pcc", []),
    ],
)
def test_heads_of_a_detector_are_compared_where_they_differ(
    keys: list[tuple[str, str]], what: str, expected: list[str]
) -> None:
    pairs = compared_pairs(keys, what)
    assert [f"{a[1]}-{b[1]}" for a, b in pairs] == expected
    assert len(compared_pairs(keys)) == len(keys) * (len(keys) - 1) / 2


def test_detectors_are_compared_head_by_head() -> None:
    apart = [("y", "conv"), ("x", "fc")]
    assert compared_pairs(apart) == [(("x", "fc"), ("y", "conv"))]
    two = [(name, head) for name in "xy" for head in ("fc", "conv")]
    within = [((name, "fc"), (name, "conv")) for name in "xy"]
    assert compared_pairs(two) == [*within, *((("x", h), ("y", h)) for h in ("fc", "conv"))]
    # One head has its namesake to be compared with.
    some = [("x", "fc"), ("y", "fc"), ("y", "conv")]
    assert compared_pairs(some) == [(("y", "fc"), ("y", "conv")), (("x", "fc"), ("y", "fc"))]
    # A double head is compared with a single one as a whole, too, whose head is but one of its branches.
    ext = [("x", "fc"), *(("y", head) for head in ("fc", "conv", "double-ext"))]
    across = [(("x", "fc"), ("y", "fc")), (("x", "fc"), ("y", "double-ext"))]
    assert compared_pairs(ext)[3:] == across
    other = [("mine", "mean"), ("x", "fc")]
    assert compared_pairs(other) == [tuple(other)]
    many = [(name, "fc") for name in "abcdef"]
    assert compared_pairs(many) == [(("a", "fc"), (name, "fc")) for name in "bcdef"]
