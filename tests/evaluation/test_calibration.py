"""Calibration against loops over detections, and against hotcoco's expected calibration error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.calibration import (
    CALIBRATION_ERRORS,
    calibration_errors,
    reliability,
    scored_detections,
)
from rethink_heads.evaluation.matching import GroundTruth
from tests.evaluation.test_detection_errors import iou
from tests.made_detections import head_of, hotcoco_evaluation, make_dataset, make_detections


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    return make_dataset(tmp_path, images=16)


def matched_by_hand(frame: pd.DataFrame, dataset: CocoDataset) -> list[tuple[int, float, float]]:
    """(label, score, IoU with the matched object or 0), one image at a time, best score first; without crowds."""
    truth = GroundTruth(dataset)
    rows = []
    for image_id in sorted(set(frame["image_id"])):
        here = frame[frame["image_id"] == image_id].sort_values(
            "score", ascending=False, kind="stable"
        )
        in_image = np.flatnonzero(truth.image_ids[truth.images] == image_id).tolist()
        for row in here.itertuples():
            box = [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1]
            free = [
                (iou(box, truth.boxes[g].tolist()), g)
                for g in in_image
                if truth.labels[g] == row.label
            ]
            overlap, best = max(free, default=(0.0, -1))
            if overlap >= 0.5:
                in_image.remove(best)
            rows.append((row.label, row.score, overlap if overlap >= 0.5 else 0.0))
    return rows


def gap(rows: list[tuple[float, float]], bins: int) -> float:
    """Expected difference of score and target over bins that are open below."""
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [r for r in rows if low < r[0] <= high or (number == 0 and r[0] == 0)]
        total += abs(sum(score - target for score, target in inside))
    return total / len(rows)


def test_errors_by_hand(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=16, crowds=False)
    frame = make_detections(dataset)
    # Away from the bins' edges, where rounding would decide.
    frame["score"] += 0.0013
    rows = matched_by_hand(frame, dataset)
    found = calibration_errors(frame, dataset, replicates=50).set_index("error")
    assert list(found.index) == list(CALIBRATION_ERRORS)
    hits = [(score, float(overlap > 0)) for _, score, overlap in rows]
    assert found.loc["d_ece", "value"] == pytest.approx(gap(hits, 10), abs=1e-12)
    class_errors = [
        gap([(score, overlap) for of, score, overlap in rows if of == label], 25)
        for label in sorted({label for label, *_ in rows})
    ]
    assert found.loc["laece", "value"] == pytest.approx(np.mean(class_errors), abs=1e-12)
    signed = np.mean([score - hit for score, hit in hits])
    assert found.loc["overconfidence", "value"] == pytest.approx(signed, abs=1e-12)
    assert (found["detections"] == len(rows)).all()
    assert (found["value_low"] < found["value_high"]).all()


def test_d_ece_is_hotcocos(dataset: CocoDataset) -> None:
    frame = make_detections(dataset)
    frame["score"] += 0.0013
    evaluation = hotcoco_evaluation(frame, dataset)
    evaluation.evaluate()
    theirs = evaluation.calibration(n_bins=10, iou_threshold=0.5)
    found = calibration_errors(frame, dataset, replicates=2).set_index("error")
    assert found.loc["d_ece", "value"] == pytest.approx(theirs["ece"], abs=1e-12)
    curve = reliability(frame, dataset, replicates=2)
    for row, expected in zip(curve.itertuples(), theirs["bins"], strict=True):
        assert row.count == expected["count"]
        if expected["count"]:
            assert row.precision == pytest.approx(expected["avg_accuracy"])
            assert row.mean_score == pytest.approx(expected["avg_confidence"])


def test_reliability_by_hand(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=16, crowds=False)
    frame = make_detections(dataset)
    rows = matched_by_hand(frame, dataset)
    found = reliability(frame, dataset, bins=5, replicates=30)
    assert found["count"].sum() == len(rows)
    for row in found.itertuples():
        inside = [r for r in rows if row.score_low < r[1] <= row.score_high]
        assert row.count == len(inside)
        if inside:
            overlaps = [overlap for *_, overlap in inside]
            assert row.iou == pytest.approx(np.mean(overlaps))
            hits = [overlap for overlap in overlaps if overlap]
            assert row.precision == pytest.approx(len(hits) / len(inside))
            assert row.hit_iou == pytest.approx(np.mean(hits) if hits else np.nan, nan_ok=True)
            assert np.isnan(row.iou_low) or row.iou_low <= row.iou <= row.iou_high


def test_scores_that_are_the_iou_are_calibrated(dataset: CocoDataset) -> None:
    frame = make_detections(dataset)
    truth = GroundTruth(dataset)
    scored = scored_detections(head_of(frame, truth), truth, 0.5)
    rows = pd.DataFrame(scored.columns[:, 1:], columns=["score", "hit", "iou"])
    rows = rows.assign(image_id=truth.image_ids[scored.images], label=scored.labels)
    hits = rows[rows["hit"] > 0]
    assert len(hits) > 20
    # The same detections, with their IoU for a score: within an image they are matched alike.
    keys = frame.reset_index().merge(hits[["image_id", "label", "score", "iou"]])
    exact = frame.loc[keys["index"]].assign(score=keys["iou"].to_numpy()).reset_index(drop=True)
    found = calibration_errors(exact, dataset, replicates=2).set_index("error")["value"]
    assert found["laece"] < 0.05
    # Every one of them is right, so that a score below 1 is too modest.
    assert found["overconfidence"] == pytest.approx(exact["score"].mean() - 1, abs=0.05)
