"""TIDE's errors against its rules written down a second time, and against hotcoco's own split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.errors import (
    ERRORS,
    NO_ERROR,
    detection_errors,
    error_kinds,
)
from rethink_heads.evaluation.matching import GroundTruth
from tests.made_detections import head_of, hotcoco_evaluation, make_dataset, make_detections

Box = list[float]
RECALLS = np.linspace(0, 1, 101)


def iou(a: Box, b: Box) -> float:
    """Boxes x, y, width, height."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(across, 0) * max(down, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def ap(hits: list[tuple[float, bool]], objects: int) -> float:
    """101-point average precision of (score, hit)."""
    if not objects:
        return 0.0
    ranked = sorted(hits, key=lambda one: -one[0])
    true = np.cumsum([hit for _, hit in ranked])
    precision = true / np.arange(1, len(true) + 1)
    return float(np.mean([max(precision[true / objects >= r], default=0.0) for r in RECALLS]))


class BruteForce:
    """TIDE's rules, one detection and one object at a time, without crowds."""

    def __init__(self, frame: pd.DataFrame, truth: GroundTruth, threshold: float) -> None:
        self.threshold = threshold
        self.objects = [
            {"image": int(truth.image_ids[image]), "label": int(label), "box": box.tolist()}
            for image, label, box in zip(truth.images, truth.labels, truth.boxes, strict=True)
        ]
        self.found: list[dict[str, Any]] = [
            {
                "image": r.image_id,
                "label": r.label,
                "score": r.score,
                "box": [r.x1, r.y1, r.x2 - r.x1, r.y2 - r.y1],
            }
            for r in frame.itertuples()
        ]
        for one in self.found:
            self._match(one)
        for one in self.found:
            one["kind"], one["target"] = ("", None) if one["hit"] else self._kind(one)

    def _near(self, one: dict[str, Any]) -> list[tuple[float, dict[str, Any]]]:
        return [(iou(one["box"], o["box"]), o) for o in self.objects if o["image"] == one["image"]]

    def _match(self, one: dict[str, Any]) -> None:
        free = [
            (overlap, other)
            for overlap, other in self._near(one)
            if other["label"] == one["label"] and "by" not in other and overlap >= self.threshold
        ]
        one["hit"] = bool(free)
        if free:
            max(free, key=lambda pair: pair[0])[1]["by"] = one

    def _kind(self, one: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        near = self._near(one)
        own = [pair for pair in near if pair[1]["label"] == one["label"]]
        others = [pair for pair in near if pair[1]["label"] != one["label"]]
        best = max(own, key=lambda pair: pair[0], default=(0.0, None))
        other = max(others, key=lambda pair: pair[0], default=(0.0, None))
        if 0.1 <= best[0] <= self.threshold:
            return "loc", best[1]
        if other[0] >= self.threshold:
            return "cls", other[1]
        if any(overlap >= self.threshold and "by" in obj for overlap, obj in own):
            return "dupe", None
        if max(best[0], other[0]) <= 0.1:
            return "bkg", None
        return "both", None

    def counts(self) -> list[int]:
        kinds = [one["kind"] for one in self.found]
        targets = [id(one["target"]) for one in self.found]
        unmatched = [obj for obj in self.objects if "by" not in obj]
        missed = sum(id(obj) not in targets for obj in unmatched)
        counts = [kinds.count(kind) for kind in ERRORS[:5]]
        return [*counts, missed, sum(kind != "" for kind in kinds), len(unmatched)]

    def gains(self) -> list[float]:
        base = self._mean()
        return [self._mean(error) - base for error in ERRORS]

    def _mean(self, fixed: str = "") -> float:
        values = []
        targets = [id(one["target"]) for one in self.found]
        for label in sorted({obj["label"] for obj in self.objects}):
            hits = []
            for one in self.found:
                if fixed == "fp" and not one["hit"]:
                    continue
                if one["kind"] != fixed or not fixed:
                    hits.append((one["label"], one["score"], one["hit"]))
                elif fixed in ("cls", "loc") and self._is_best(one):
                    hits.append((one["target"]["label"], one["score"], True))
            objects = [obj for obj in self.objects if obj["label"] == label]
            if fixed == "miss":
                objects = [obj for obj in objects if "by" in obj or id(obj) in targets]
            if fixed == "fn":
                objects = [obj for obj in objects if "by" in obj]
            values.append(ap([(s, hit) for of, s, hit in hits if of == label], len(objects)))
        return float(np.mean(values))

    def _is_best(self, one: dict[str, Any]) -> bool:
        rivals = [other for other in self.found if other["target"] is one["target"]]
        return "by" not in one["target"] and max(rivals, key=lambda r: r["score"]) is one


def distinct(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Scores without ties, whose order no rule defines."""
    return frame.assign(
        score=frame["score"] + np.random.default_rng(seed).uniform(0, 1e-4, len(frame))
    )


@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_rules_one_by_one(tmp_path: Path, seed: int, threshold: float) -> None:
    dataset = make_dataset(tmp_path, images=14, seed=seed, crowds=False)
    frame = distinct(make_detections(dataset, seed, shake=0.2), seed)
    frame = frame.sort_values("score", ascending=False, ignore_index=True)
    expected = BruteForce(frame, GroundTruth(dataset), threshold)
    found = detection_errors(frame, dataset, iou_threshold=threshold, replicates=3)
    assert found["error"].tolist() == list(ERRORS)
    assert found["count"].tolist() == expected.counts()
    np.testing.assert_allclose(found["delta_ap"], expected.gains(), rtol=0, atol=1e-12)
    assert (found["delta_ap"] > 1e-4).sum() >= 5


@pytest.mark.parametrize("seed", range(2))
def test_equal_to_hotcoco(tmp_path: Path, seed: int) -> None:
    dataset = make_dataset(tmp_path, images=20, seed=seed, crowds=False)
    compare_with_hotcoco(distinct(make_detections(dataset, seed), seed), dataset)


def test_equal_to_hotcoco_on_real_annotations(shared_data: Path) -> None:
    annotations = sorted(shared_data.glob("bccd/annotations/instances_test*.json"))[0]
    dataset = CocoDataset(annotations, shared_data / "bccd" / "images")
    compare_with_hotcoco(distinct(make_detections(dataset, 2), 2), dataset)


def compare_with_hotcoco(frame: pd.DataFrame, dataset: CocoDataset) -> None:
    evaluation = hotcoco_evaluation(frame, dataset)
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    ours = detection_errors(frame, dataset, replicates=2).set_index("error")
    names = {error: error.upper() if len(error) == 2 else error.capitalize() for error in ERRORS}
    for error, name in names.items():
        assert ours.loc[error, "delta_ap"] == pytest.approx(theirs["delta_ap"][name], abs=1e-12)
        assert ours.loc[error, "count"] == theirs["counts"].get(name, ours.loc[error, "count"])


def test_detections_of_crowds_are_no_errors(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=20)
    truth = GroundTruth(dataset)
    assert truth.crowd.any()
    boxes = truth.boxes[truth.crowd]
    # The inner half of each crowd's box, of its class.
    frame = pd.DataFrame(
        {
            "image_id": truth.image_ids[truth.images[truth.crowd]],
            "detector": "run",
            "head": "fc",
            "label": truth.labels[truth.crowd],
            "x1": boxes[:, 0] + boxes[:, 2] / 4,
            "y1": boxes[:, 1],
            "x2": boxes[:, 0] + boxes[:, 2] * 3 / 4,
            "y2": boxes[:, 1] + boxes[:, 3],
            "score": 0.9,
        }
    )
    errors = error_kinds(head_of(frame, truth), truth)
    # But where one happens to lie on an object of its class, or its class has a found object there.
    assert (errors.kinds == NO_ERROR).all()
    assert len(errors.kinds) == len(frame)
    assert errors.unmatched.sum() >= (~truth.crowd).sum() - len(frame)


def test_perfect_detections_have_no_errors(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, crowds=False)
    truth = GroundTruth(dataset)
    boxes = truth.boxes
    frame = pd.DataFrame(
        {
            "image_id": truth.image_ids[truth.images],
            "detector": "run",
            "head": "fc",
            "label": truth.labels,
            "x1": boxes[:, 0],
            "y1": boxes[:, 1],
            "x2": boxes[:, 0] + boxes[:, 2],
            "y2": boxes[:, 1] + boxes[:, 3],
            "score": 0.9,
        }
    )
    found = detection_errors(frame, dataset, replicates=10)
    assert (found[["delta_ap", "count"]] == 0).all(axis=None)
    # Nothing varies between images, which says nothing of others.
    assert found[["delta_ap_low", "delta_ap_high"]].isna().all(axis=None)
    assert found.set_index("error").loc["fn", "count"] == 0
