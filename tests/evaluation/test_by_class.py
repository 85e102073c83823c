"""Metrics class by class against pycocotools' arrays; the confusion matrix one detection at a time."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.average_precision import precision_table
from rethink_heads.evaluation.by_class import (
    BACKGROUND,
    CLASS_METRICS,
    class_table,
    confusion_matrix,
    object_confusions,
    precision_recall,
)
from rethink_heads.evaluation.lrp import localization_recall_precision
from rethink_heads.evaluation.matching import AREAS, GroundTruth
from tests.evaluation.test_detection_errors import iou
from tests.made_detections import as_results, make_dataset, make_detections, untied

Data = tuple[pd.DataFrame, CocoDataset]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    dataset = make_dataset(tmp_path, images=25, seed=2)
    return untied(make_detections(dataset, 2, shake=0.07)), dataset


@pytest.fixture
def evaluated(data: Data) -> dict[str, Any]:
    """pycocotools' arrays: precision and scores (T, R, K, A, M), recall (T, K, A, M)."""
    frame, dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotations_path))
        evaluation = COCOeval(truth, truth.loadRes(as_results(frame, dataset)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def test_precision_and_recall_are_pycocotools(data: Data, evaluated: dict[str, Any]) -> None:
    table = class_table(*data, replicates=2)
    assert len(table) == 12
    for row in table.itertuples():
        cell = row.label, AREAS.index(row.size), -1
        precision = evaluated["precision"][(slice(None), slice(None), *cell)]
        expected = [precision.mean(), precision[0].mean(), precision[5].mean()]
        assert [row.ap, row.ap50, row.ap75] == pytest.approx(expected, abs=1e-12)
        recall = evaluated["recall"][(slice(None), *cell)].mean()
        assert row.recall == pytest.approx(recall, abs=1e-12)
    whole = table[table["size"] == "all"]
    assert whole["objects"].sum() == GroundTruth(data[1]).findable.sum()
    # The parts of LRP are nan where nothing is found.
    lrp = localization_recall_precision(*data, replicates=2)["value"]
    columns = ["olrp", "localization", "false_positives", "misses"]
    np.testing.assert_allclose(whole[columns].mean(), lrp, rtol=0, atol=1e-12)


def test_curves_are_pycocotools(data: Data, evaluated: dict[str, Any]) -> None:
    curves = precision_recall(*data, iou_thresholds=(0.5, 0.75))
    for (label, threshold), curve in curves.groupby(["label", "iou"]):
        number = {0.5: 0, 0.75: 5}[threshold]
        precision = evaluated["precision"][number, :, label, 0, -1]
        np.testing.assert_allclose(curve["precision"], precision, rtol=0, atol=1e-12)
        scores = evaluated["scores"][number, :, label, 0, -1]
        reached = curve["score"].notna().to_numpy()
        # At recall 0 pycocotools gives the score of the first detection, whether it counts or not.
        np.testing.assert_allclose(curve["score"][reached][1:], scores[reached][1:])
        assert (scores[~reached] == 0).all()


def test_correlation_is_that_of_the_true_positives(data: Data) -> None:
    _, dataset = data
    truth = GroundTruth(dataset)
    rows = np.flatnonzero(truth.findable)
    boxes = truth.boxes[rows]
    # Boxes cut to a share of the object, which is their IoU.
    share = np.linspace(0.55, 1, len(rows))
    perfect = pd.DataFrame(
        {
            "image_id": truth.image_ids[truth.images[rows]],
            "detector": "run",
            "head": "fc",
            "label": truth.labels[rows],
            "x1": boxes[:, 0],
            "y1": boxes[:, 1],
            "x2": boxes[:, 0] + boxes[:, 2] * share,
            "y2": boxes[:, 1] + boxes[:, 3],
            "score": 1 - share / 2,
        }
    )
    found = class_table(perfect, dataset, replicates=20)
    whole = found[found["size"] == "all"]
    np.testing.assert_allclose(whole["pcc"], -1, atol=1e-6)


def test_intervals_of_every_metric_and_the_mean_of_classes(data: Data) -> None:
    frame, dataset = data
    both = pd.concat([frame, make_detections(dataset, 7, head="conv")], ignore_index=True)
    table = class_table(both, dataset, replicates=200)
    whole = table[table["size"] == "all"]
    for metric in CLASS_METRICS:
        rows = whole.dropna(subset=[f"{metric}_low"])
        assert len(rows) == len(whole)
        assert (rows[f"{metric}_low"] <= rows[metric]).all()
        assert (rows[metric] <= rows[f"{metric}_high"]).all()
    mean = whole[whole["head"] == "fc"]["ap"].mean()
    expected = precision_table(frame, dataset, replicates=2).set_index("metric")["value"]["AP"]
    assert mean == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("least", [0.3, {0: 0.2, 1: 0.6, 2: 0.5}])
def test_confusion_one_detection_at_a_time(tmp_path: Path, least: float | dict[int, float]) -> None:
    dataset = make_dataset(tmp_path, images=25, seed=4, crowds=False)
    frame = untied(make_detections(dataset, 4))
    truth = GroundTruth(dataset)
    free = [
        (int(truth.image_ids[image]), int(label), box.tolist(), int(object_id))
        for image, label, box, object_id in zip(
            truth.images, truth.labels, truth.boxes, truth.ids, strict=True
        )
    ]
    score = {label: least if isinstance(least, float) else least[label] for label in range(3)}
    left = [row for row in frame.itertuples() if row.score >= score[row.label]]
    left.sort(key=lambda row: -row.score)
    expected: dict[tuple[int, int], int] = {}
    taken_for: dict[int, tuple[int, int]] = {}
    for same_class in (True, False):
        rest = []
        for row in left:
            box = [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1]
            near = [
                (iou(box, other), number)
                for number, (image, label, other, _) in enumerate(free)
                if image == row.image_id and (label == row.label or not same_class)
            ]
            overlap, number = max(near, default=(0.0, -1))
            if overlap >= 0.5:
                _, label, _, object_id = free.pop(number)
                pair = taken_for[object_id] = label, row.label
                expected[pair] = expected.get(pair, 0) + 1
            else:
                rest.append(row)
        left = rest
    for row in left:
        expected[BACKGROUND, row.label] = expected.get((BACKGROUND, row.label), 0) + 1
    for _, label, _, object_id in free:
        taken_for[object_id] = label, BACKGROUND
        expected[label, BACKGROUND] = expected.get((label, BACKGROUND), 0) + 1
    found = confusion_matrix(frame, dataset, least)
    pairs = found.set_index(["object_label", "detection_label"])["count"].to_dict()
    assert pairs == expected
    assert any(a != b and BACKGROUND not in (a, b) for a, b in expected)
    np.testing.assert_allclose(found.groupby("object_label")["share"].sum(), 1)
    own = object_confusions(frame, dataset, least)
    labels = own[["object_label", "detection_label"]].itertuples(index=False, name=None)
    assert dict(zip(own["object_id"], labels, strict=True)) == taken_for
    scores = own["detection_score"].dropna()
    assert len(scores) == (own["detection_label"] != BACKGROUND).sum()
    assert set(scores) <= set(frame["score"])


def test_confusion_is_at_the_thresholds_of_least_lrp(data: Data) -> None:
    table = class_table(*data, replicates=2)
    thresholds = table[table["size"] == "all"].set_index("label")["score_threshold"].to_dict()
    pd.testing.assert_frame_equal(confusion_matrix(*data), confusion_matrix(*data, thresholds))
