"""Causes of lost AP: each definition once more, one detection at a time; fixed sets evaluated by pycocotools."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.causes import (
    BACKGROUND,
    CAUSES,
    CLASSIFICATION,
    DUPLICATES,
    LOCALIZATION,
    MISSES,
    RANKING,
    Faults,
    find_faults,
    object_causes,
)
from rethink_heads.evaluation.lost_precision import (
    lost_by_threshold,
)
from rethink_heads.evaluation.matching import THRESHOLDS, GroundTruth, HeadDetections
from tests.evaluation.test_detection_errors import distinct, iou
from tests.made_detections import as_dataset, head_of, make_dataset, make_detections

ALL = sum((RANKING, LOCALIZATION, CLASSIFICATION, DUPLICATES, BACKGROUND, MISSES))


def spread_out(folder: Path, images: int, seed: int) -> CocoDataset:
    """The same objects, none of which touches another: a replaced box is then near its own object alone."""
    content = json.loads(
        make_dataset(folder, images, seed, crowds=False).annotations_path.read_text()
    )
    for number, annotation in enumerate(content["annotations"]):
        annotation["bbox"][0] = 1000 * (number % 7)
        annotation["bbox"][1] = 1000 * (number // 7 % 7)
    for image in content["images"]:
        image["width"] = image["height"] = 8000
    return as_dataset(folder, content)


class ByTheRules:
    """The rules of the module's docstring at one threshold, one detection and one object at a time."""

    def __init__(self, head: HeadDetections, truth: GroundTruth, threshold: float) -> None:
        self.head, self.truth = head, truth
        count = len(head.scores)
        loose, matched = self._match(0.5), self._match(threshold)
        objects = [self._object(d, loose[d]) for d in range(count)]
        ious = [self._iou(d, objects[d]) if objects[d] >= 0 else 0.0 for d in range(count)]
        self.causes, self.claims = [0] * count, [False] * count
        rivals: dict[int, list[tuple[bool, float, int]]] = {}
        for d in range(count):
            obj, overlap = objects[d], ious[d]
            if matched[d] >= 0 or obj < 0 or obj in matched:
                continue
            same = bool(head.labels[d] == truth.labels[obj])
            if same or overlap >= 0.5:
                key = (not (same and overlap >= 0.5), -float(head.scores[d]), d)
                rivals.setdefault(obj, []).append(key)
        claimants = {obj: min(those)[-1] for obj, those in rivals.items()}
        for d in range(count):
            obj, overlap = objects[d], ious[d]
            if matched[d] >= 0:
                continue
            if obj < 0:
                self.causes[d] = BACKGROUND
                continue
            same = bool(head.labels[d] == truth.labels[obj])
            self.claims[d] = claimants.get(obj) == d
            far = overlap < (threshold if self.claims[d] else 0.5)
            cause = LOCALIZATION * far + CLASSIFICATION * (not same)
            self.causes[d] = cause or DUPLICATES
        self.missed = [
            obj not in matched and obj not in claimants for obj in range(len(truth.labels))
        ]
        self.object_causes = [MISSES * missed for missed in self.missed]
        for d in range(count):
            if self.causes[d] and objects[d] >= 0:
                self.object_causes[objects[d]] |= self.causes[d]
            before = (head.labels == head.labels[d]) & (head.scores > head.scores[d])
            if matched[d] >= 0 and any(self.causes[each] for each in np.flatnonzero(before)):
                self.object_causes[matched[d]] |= RANKING

    def _iou(self, d: int, obj: int) -> float:
        return iou(self.head.boxes[d].tolist(), self.truth.boxes[obj].tolist())

    def _near(self, d: int) -> list[int]:
        return [o for o, image in enumerate(self.truth.images) if image == self.head.images[d]]

    def _match(self, threshold: float) -> list[int]:
        """The object of each detection, -1 for none; detections are by image and falling score."""
        taken: list[int] = []
        for d in range(len(self.head.scores)):
            free = [
                (self._iou(d, o), o)
                for o in self._near(d)
                if self.truth.labels[o] == self.head.labels[d] and o not in taken
            ]
            best = max(free, default=(0.0, -1))
            taken.append(best[1] if best[0] >= threshold else -1)
        return taken

    def _object(self, d: int, loose: int) -> int:
        if loose >= 0:
            return loose
        near = [(self._iou(d, o), o) for o in self._near(d)]
        own = [
            pair
            for pair in near
            if pair[0] >= 0.5 and self.truth.labels[pair[1]] == self.head.labels[d]
        ]
        overlap, obj = max(own or near, default=(0.0, -1))
        return obj if overlap >= 0.1 else -1


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_rules_one_by_one(tmp_path: Path, seed: int) -> None:
    dataset = make_dataset(tmp_path, images=14, seed=seed, crowds=False)
    frame = distinct(make_detections(dataset, seed, shake=0.15), seed)
    truth = GroundTruth(dataset)
    head = head_of(frame, truth)
    seen = set()
    for faults, threshold in zip(find_faults(head, truth), THRESHOLDS, strict=True):
        expected = ByTheRules(head, truth, float(threshold))
        assert faults.causes.tolist() == expected.causes
        assert faults.claims.tolist() == expected.claims
        assert faults.missed.tolist() == expected.missed
        assert object_causes(faults, head).tolist() == expected.object_causes
        seen |= {
            (cause, claim) for cause, claim in zip(expected.causes, expected.claims, strict=True)
        }
    assert len(seen) == 9


def fixed_results(
    fixed: int, faults: Faults, head: HeadDetections, truth: GroundTruth, ids: list[int]
) -> list[dict[str, Any]]:
    """A fixed set in COCO's result format."""
    results = []
    for d, score in enumerate(head.scores.tolist()):
        cause, label, box = int(faults.causes[d]), head.labels[d], head.boxes[d]
        is_true = bool(faults.true[d])
        if cause and not cause & ~fixed:
            if not faults.claims[d]:
                continue
            obj, is_true = faults.objects[d], True
            label = truth.labels[obj]
            box = truth.boxes[obj] if cause & LOCALIZATION else box
        if fixed & RANKING and is_true:
            score += 1
        results.append(result(truth, int(head.images[d]), ids[label], box, score))
    if fixed & MISSES:
        for obj in np.flatnonzero(faults.missed).tolist():
            label = ids[truth.labels[obj]]
            results.append(result(truth, int(truth.images[obj]), label, truth.boxes[obj], 3.0))
    return results


def result(
    truth: GroundTruth, image: int, category: int, box: np.ndarray, score: float
) -> dict[str, Any]:
    found = {"image_id": int(truth.image_ids[image]), "category_id": category}
    return {**found, "bbox": box.tolist(), "score": score}


def coco_precision(path: Path, results: list[dict[str, Any]], threshold: float) -> float:
    """pycocotools' AP at one IoU threshold."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([threshold])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("number", [2, 5, 7])
def test_every_mended_set_has_pycocotools_ap(tmp_path: Path, number: int) -> None:
    dataset = spread_out(tmp_path, 12, number)
    frame = distinct(make_detections(dataset, number, shake=0.12), number)
    truth = GroundTruth(dataset)
    head = head_of(frame, truth)
    faults = find_faults(head, truth)[number]
    threshold = float(THRESHOLDS[number])
    ap = [
        coco_precision(
            dataset.annotations_path,
            fixed_results(fixed, faults, head, truth, dataset.category_ids),
            threshold,
        )
        for fixed in range(64)
    ]
    assert ap[ALL] == pytest.approx(1.0, abs=1e-12)
    # Of three rankings the last is fixed: it comes after each other cause in three of four orders.
    shares, rankings = np.zeros(6), (0, 6, 7)
    orders = list(itertools.permutations(range(8)))
    for order in orders:
        fixed = 0
        last = max(order.index(each) for each in rankings)
        for place, number in enumerate(order):
            cause = 0 if number in rankings else number
            if cause or place == last:
                shares[cause] += ap[fixed | 1 << cause] - ap[fixed]
                fixed |= 1 << cause
    table = lost_by_threshold(frame, dataset, replicates=2)
    table = table[np.isclose(table["iou"], threshold)]
    assert table["cause"].tolist() == list(CAUSES)
    np.testing.assert_allclose(table["oracle"], [ap[1 << c] for c in range(6)], rtol=0, atol=1e-12)
    np.testing.assert_allclose(table["share"], shares / len(orders), rtol=0, atol=1e-12)
    # Each cause is there, so that each fix is tried.
    assert (table["share"] > 1e-4).all()
