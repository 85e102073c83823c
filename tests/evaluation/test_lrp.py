"""oLRP against its definition, one threshold and one detection at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rethink_heads.evaluation.lrp import (
    LRP_PARTS,
    RankedDetections,
    localization_recall_precision,
    optimal_lrp,
)
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.statistics.bootstrap import ImageBootstrap
from tests.evaluation.test_detection_errors import iou
from tests.made_detections import make_dataset, make_detections, untied


def greedy(frame: pd.DataFrame, objects: list[dict], threshold: float) -> list[float]:
    """IoU with its object of each detection of one class, by falling score, 0 for a false positive."""
    taken: set[int] = set()
    found = []
    for row in frame.sort_values("score", ascending=False).itertuples():
        box = [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1]
        near = [
            (iou(box, other["box"]), number)
            for number, other in enumerate(objects)
            if other["image"] == row.image_id and number not in taken
        ]
        best, number = max(near, default=(0.0, -1))
        if best >= threshold:
            taken.add(number)
        found.append(best if best >= threshold else 0.0)
    return found


def lrp_by_definition(
    frame: pd.DataFrame, objects: list[dict], threshold: float
) -> tuple[float, ...]:
    """The least LRP over all score thresholds, with its parts."""
    candidates = [(1.0, float("nan"), float("nan"), 1.0)]
    for least in sorted(set(frame["score"])):
        above = frame[frame["score"] >= least]
        ious = [overlap for overlap in greedy(above, objects, threshold) if overlap]
        true, false = len(ious), len(above) - len(ious)
        missed = len(objects) - true
        error = sum(1 - overlap for overlap in ious)
        total = (error / (1 - threshold) + false + missed) / (true + false + missed)
        mean_error = error / true if true else float("nan")
        candidates.append((total, mean_error, false / len(above), missed / len(objects)))
    return min(candidates, key=lambda one: one[0])


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_definition(tmp_path: Path, seed: int, threshold: float) -> None:
    dataset = make_dataset(tmp_path, images=12, seed=seed, crowds=False)
    frame = untied(make_detections(dataset, seed))
    truth = GroundTruth(dataset)
    expected = []
    for label in np.unique(truth.labels).tolist():
        objects = [
            {"image": truth.image_ids[image], "box": box.tolist()}
            for image, box in zip(
                truth.images[truth.labels == label], truth.boxes[truth.labels == label], strict=True
            )
        ]
        in_class = frame[frame["label"] == label]
        expected.append(lrp_by_definition(in_class, objects, threshold))
    found = localization_recall_precision(frame, dataset, iou_threshold=threshold, replicates=2)
    assert found["part"].tolist() == list(LRP_PARTS)
    np.testing.assert_allclose(found["value"], np.nanmean(expected, axis=0), rtol=0, atol=1e-9)


def test_a_draw_counts_as_copies_of_its_images() -> None:
    generator = np.random.default_rng(0)
    images, count = 6, 40
    bootstrap = ImageBootstrap(range(images), 5, 1)
    # Some scores are equal.
    one = RankedDetections(
        generator.integers(0, images, count),
        np.sort(generator.random(count).round(1))[::-1],
        generator.random(count) < 0.6,
        generator.uniform(0.5, 1, count),
        np.repeat(np.arange(images), 7),
    )
    values, thresholds = optimal_lrp(one, bootstrap.weights.T.astype(np.float32), 0.5)
    once = np.ones((1000, 1), np.float32)
    for drawn, value, threshold in zip(bootstrap.weights, values, thresholds, strict=True):
        copies = np.repeat(np.arange(count), drawn[one.images].astype(int))
        objects = np.repeat(one.object_images, drawn[one.object_images].astype(int))
        copied = RankedDetections(
            one.images[copies], one.scores[copies], one.true[copies], one.ious[copies], objects
        )
        expected, its_threshold = optimal_lrp(copied, once, 0.5)
        np.testing.assert_allclose(value, expected[0], rtol=0, atol=1e-12)
        assert threshold == its_threshold[0]


def test_nothing_found_is_an_error_of_one() -> None:
    none = np.zeros(0, np.int64)
    one = RankedDetections(none, np.zeros(0), none > 0, np.zeros(0), np.array([0, 0, 1]))
    values, threshold = optimal_lrp(one, np.array([[1, 0], [1, 0]], np.float32), 0.5)
    np.testing.assert_array_equal(values[0], [1, np.nan, np.nan, 1])
    assert np.isnan(values[1]).all()
    assert np.isnan(threshold).all()
