"""Correlations at each stage against scipy, and the laws they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from rethink_heads.errors import UserError
from rethink_heads.report.results import stage_tables
from rethink_heads.statistics import bootstrap
from rethink_heads.statistics.by_iou import pearson, spearman
from rethink_heads.statistics.stages import compare_stages, stage_correlation
from tests.frames import from_frames

FEW = {"replicates": 50}
KEYS = (("run", "fc"), ("run", "conv"))
ESTIMATES = ["pcc", "pcc_low", "pcc_high", "spearman", "spearman_low", "spearman_high"]


def boxes(
    seed: int = 0,
    images: int = 6,
    count: int = 40,
    keys: tuple[tuple[str, str], ...] = KEYS,
    stages: tuple[str, ...] = ("rpn", "detections"),
) -> pd.DataFrame:
    """Made-up boxes: scores that follow the IoU with noise, an offset an image, and ties."""
    generator = np.random.default_rng(seed)
    frames = []
    for image in range(images):
        offset = generator.normal(scale=0.2)
        for detector, head in keys:
            for stage in stages:
                object_id = 10 * image + generator.integers(-1, 3, count)
                iou = generator.random(count)
                noise = generator.normal(scale=0.3, size=count)
                frames.append(
                    pd.DataFrame(
                        {
                            "image_id": image,
                            "object_id": np.where(object_id < 10 * image, -1, object_id),
                            "class_name": np.array(["cat", "dog"])[object_id % 2],
                            "size": np.array(["small", "medium", "large"])[object_id % 3],
                            "detector": detector,
                            "head": head,
                            "stage": stage,
                            "score": (iou + offset + noise).round(1),
                            "iou": iou,
                            "regressed_iou": np.sqrt(iou),
                            "true_positive_iou": np.where(iou >= 0.5, iou, np.nan),
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)


def row(frame: pd.DataFrame, **equal: Any) -> pd.Series:
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.mark.parametrize("iou_range", [(0.0, 1.0), (0.5, 0.75)])
def test_values_are_scipys(iou_range: tuple[float, float]) -> None:
    stages = boxes()
    found = stage_correlation(stages, None, iou_range, **FEW)
    assert len(found) == 2 * 2 * 4
    for head in ("fc", "conv"):
        for stage in ("rpn", "detections"):
            for size in ("small", "medium", "large", "all"):
                chosen = stages[(stages["head"] == head) & (stages["stage"] == stage)]
                inside = (chosen["iou"] >= iou_range[0]) & (chosen["iou"] < iou_range[1])
                chosen = chosen[inside & (chosen["object_id"] >= 0)]
                chosen = chosen if size == "all" else chosen[chosen["size"] == size]
                iou, score = chosen["iou"], chosen["score"]
                of = row(found, head=head, stage=stage, size=size)
                assert of["pcc"] == pytest.approx(pearsonr(iou, score).statistic)
                assert of["spearman"] == pytest.approx(spearmanr(iou, score).statistic)
                assert (of["n"], of["objects"]) == (len(iou), chosen["object_id"].nunique())
                weights = chosen["image_id"].value_counts()
                has_interval = weights.sum() ** 2 / (weights**2).sum() >= bootstrap.FEWEST_IMAGES
                for name in ("pcc", "spearman"):
                    low, high = of[f"{name}_low"], of[f"{name}_high"]
                    assert low < of[name] < high if has_interval else np.isnan([low, high]).all()


def test_predefined_proposals_are_those_of_the_measurements(simulated: Any) -> None:
    every = stage_correlation(boxes(), simulated.measurements, **FEW)
    assert every["stage"].unique().tolist() == ["predefined", "rpn", "detections"]
    assert len(every) == 3 * 2 * 4
    assert stage_correlation(None, None).empty
    found = every[every["stage"] == "predefined"]
    pooled = pearson(simulated.measurements, replicates=50)
    ranks = spearman(simulated.measurements, replicates=50)
    assert found["pcc"].tolist() == pooled["pcc"].tolist()
    assert found["pcc_high"].tolist() == pooled["pcc_high"].tolist()
    assert found["spearman_low"].tolist() == ranks["spearman_low"].tolist()
    assert found["n"].tolist() == pooled["proposals"].tolist()


def test_measurements_without_rows_have_no_ranks(simulate: Any) -> None:
    measurements = from_frames(simulate(images=3).bins)
    found = stage_correlation(None, measurements, **FEW)
    assert found["spearman"].isna().all()
    assert np.isfinite(found["pcc"]).all()
    compared = compare_stages(None, measurements, *KEYS, **FEW)
    assert set(compared["statistic"]) == {"pcc"}


def test_a_head_that_found_nothing_is_compared_where_it_can_be(simulated: Any) -> None:
    """As final detections of a head whose scores are all below the threshold."""
    a, b = simulated.measurements.keys[:2]
    stages = boxes(keys=(a,), stages=("detections",))
    found = compare_stages(stages, simulated.measurements, a, b, **FEW)
    later = found[found["stage"] == "detections"]
    assert len(later) == 2 * 4
    assert (
        later[["value_b", "difference", "difference_low", "difference_high"]].isna().all(axis=None)
    )
    assert not later["excludes_zero"].any()
    assert row(found, stage="predefined", statistic="pcc", size="all")["value_b"] < 1
    tables = stage_tables(stages, simulated.measurements, [(a, b)], **FEW)
    assert tables["rank_level_comparisons"].empty
    assert set(tables["rank_levels"]["head"]) == {a[1]}


def test_a_size_without_boxes_has_no_correlation() -> None:
    stages = boxes()
    found = stage_correlation(stages[stages["size"] != "large"], **FEW)
    of = row(found, head="fc", stage="rpn", size="large")
    assert (of["n"], of["objects"]) == (0, 0)
    assert of[ESTIMATES].isna().all()


def test_comparison_is_the_paired_difference_of_the_values() -> None:
    stages = boxes()
    found = stage_correlation(stages, **FEW)
    compared = compare_stages(stages, None, *KEYS, **FEW)
    assert len(compared) == 2 * 2 * 4
    for one in compared.to_dict("records"):
        a, b = (
            row(found, head=head, stage=one["stage"], size=one["size"])[one["statistic"]]
            for head in ("fc", "conv")
        )
        assert (one["a"], one["b"]) == ("run/fc", "run/conv")
        assert (one["value_a"], one["value_b"]) == pytest.approx((a, b))
        assert one["difference"] == pytest.approx(a - b)
        assert one["difference_low"] <= one["difference"] <= one["difference_high"]
        assert one["excludes_zero"] == (one["difference_low"] > 0 or one["difference_high"] < 0)


def test_comparison_of_all_stages_and_of_a_wrong_name(simulated: Any) -> None:
    compared = compare_stages(boxes(), simulated.measurements, *KEYS, **FEW)
    assert set(compared["stage"]) == {"predefined", "rpn", "detections"}
    with pytest.raises(UserError, match=r"no boxes of run/double; there are those of run/conv, "):
        compare_stages(boxes(), None, ("run", "double"), ("run", "fc"))
    with pytest.raises(UserError, match="unknown statistic 'kendall'; there are pcc, spearman"):
        compare_stages(boxes(), None, *KEYS, statistics=["kendall"])
    with pytest.raises(UserError, match=r"must be multiples of 0\.05"):
        stage_correlation(boxes(), None, (0.0, 0.33))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_boxes_changes_nothing(seed: int, random: Any) -> None:
    stages = boxes(seed, images=3, count=12, keys=KEYS[:1], stages=("rpn",))
    order = list(range(len(stages)))
    random.shuffle(order)
    counts = {"replicates": 5}
    found = stage_correlation(stages, **counts)
    again = stage_correlation(stages.iloc[order], **counts)
    pd.testing.assert_frame_equal(found, again, check_exact=False, rtol=1e-9, atol=1e-12)
