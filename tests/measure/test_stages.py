"""RPN's proposals and final detections matched to objects: against loops and pycocotools, and reused."""

from __future__ import annotations

import io
import math
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import Detections
from rethink_heads.measure.detections import detect_dataset, measure_stages
from rethink_heads.measure.stage_boxes import (
    STAGE_COLUMNS,
    UNMATCHED,
    ious_with,
    load_stages,
    most_overlapping,
    true_positives,
)
from rethink_heads.measure.store import size_name
from rethink_heads.proposals import grid

NUMBERS = ["score", "iou", "regressed_iou"]


class ProposingDetector:
    """A toy detector with proposals, boxes near each object and noise, and with detections."""

    def __init__(self, toy: Any, dataset: CocoDataset) -> None:
        self._toy, self.proposed = toy, 0
        self._boxes = {}
        for sample in (dataset[index] for index in range(len(dataset))):
            generator = torch.Generator().manual_seed(sample.image_id)
            height, width = sample.image.shape[1:]
            near = [
                grid(box, (height, width), 5).boxes[
                    torch.randint(0, 500, (30,), generator=generator)
                ]
                for box in sample.boxes
            ]
            corners = torch.rand(20, 2, 2, generator=generator).sort(dim=1).values
            noise = (corners * torch.tensor([width, height])).flatten(1)
            self._boxes[self._key(sample.image)] = torch.cat([*near, noise])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._toy, name)

    def _key(self, image: Tensor) -> tuple[int, ...]:
        return tuple(image.shape)

    def propose(self, image: Tensor) -> tuple[Any, Tensor]:
        self.proposed += 1
        return self.extract(image), self._boxes[self._key(image)]

    def detect(self, image: Tensor) -> dict[str, Detections]:
        boxes = self._boxes[self._key(image)]
        features = self.extract(image)
        outputs = self.predict(features, self.pool(features, boxes), boxes)
        found = {}
        for head, output in outputs.items():
            scores, labels = output.scores.max(dim=1)
            regressed = output.boxes[torch.arange(len(boxes)), labels]
            kept = batched_nms(regressed, scores, labels, 0.6)
            found[head] = Detections(regressed[kept], scores[kept], labels[kept])
        return found


@pytest.fixture
def detector(toy_detector: Any, toy_dataset: CocoDataset) -> ProposingDetector:
    return ProposingDetector(toy_detector, toy_dataset)


@pytest.fixture
def run(detector: ProposingDetector, toy_dataset: CocoDataset, tmp_path: Path) -> Any:
    """Measure the toy's stages; keyword arguments replace the defaults."""

    def measured(**changes: Any) -> pd.DataFrame:
        arguments: dict[str, Any] = {
            "detector": detector,
            "dataset": toy_dataset,
            "detector_name": "toy",
            "folder": tmp_path / "measurements",
            "provenance": {"weights": "a"},
            "progress": False,
        }
        return measure_stages(**{**arguments, **changes})

    return measured


def iou(a: list[float], b: list[float]) -> float:
    return float(box_iou(torch.tensor([a]).double(), torch.tensor([b]).double()))


def proposals_by_hand(detector: Any, dataset: CocoDataset) -> pd.DataFrame:
    """One proposal at a time."""
    rows = []
    for sample in (dataset[index] for index in range(len(dataset))):
        features, proposals = detector.propose(sample.image)
        for proposal in proposals:
            ious = [iou(proposal.tolist(), box.tolist()) for box in sample.boxes]
            if max(ious, default=0.0) <= 0:
                continue
            best = ious.index(max(ious))
            label = int(sample.labels[best])
            boxes = proposal[None]
            for head, output in detector.predict(
                features, detector.pool(features, boxes), boxes
            ).items():
                regressed = output.boxes[0, label].tolist()
                rows.append(
                    {
                        "image_id": sample.image_id,
                        "object_id": int(sample.object_ids[best]),
                        "class_name": dataset.class_names[label],
                        "size": size_name(float(sample.areas[best])),
                        "head": head,
                        "score": float(output.scores[0, label]),
                        "iou": ious[best],
                        "regressed_iou": iou(regressed, sample.boxes[best].tolist()),
                    }
                )
    return pd.DataFrame(rows)


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    columns = ["image_id", "object_id", "class_name", "size", "head"]
    rounded = frame[[*columns, *NUMBERS]].round({name: 5 for name in NUMBERS})
    return rounded.sort_values([*columns, *NUMBERS], ignore_index=True)


def test_proposals_equal_a_loop(run: Any, detector: Any, toy_dataset: CocoDataset) -> None:
    stages = run()
    assert tuple(stages.columns) == STAGE_COLUMNS
    found = stages[stages["stage"] == "rpn"]
    expected = proposals_by_hand(detector, toy_dataset)
    assert len(found) == len(expected) > 400
    for name in ("image_id", "object_id", "class_name", "size", "head"):
        assert ordered(found)[name].tolist() == ordered(expected)[name].tolist()
    left, right = ordered(found)[NUMBERS], ordered(expected)[NUMBERS]
    np.testing.assert_allclose(left, right, atol=2e-5)
    assert found["true_positive_iou"].isna().all()
    assert set(found["size"]) == {"small", "medium", "large"}


def test_detections_equal_a_loop(run: Any, detector: Any, toy_dataset: CocoDataset) -> None:
    stages = run()
    stages = stages[stages["stage"] == "detections"]
    matched = positive = 0
    for sample in (toy_dataset[index] for index in range(len(toy_dataset))):
        for head, found in detector.detect(sample.image).items():
            rows = stages[(stages["image_id"] == sample.image_id) & (stages["head"] == head)]
            assert rows["score"].tolist() == pytest.approx(found.scores.tolist())
            taken: set[int] = set()
            order = zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
            for (box, label), row in zip(order, rows.to_dict("records"), strict=True):
                ious = [
                    iou(box, other.tolist()) if int(own) == label else 0.0
                    for other, own in zip(sample.boxes, sample.labels, strict=True)
                ]
                best = max(ious, default=0.0)
                assert row["class_name"] == toy_dataset.class_names[label]
                assert row["iou"] == row["regressed_iou"] == pytest.approx(best, abs=1e-6)
                if best > 0:
                    number = ious.index(best)
                    assert row["object_id"] == int(sample.object_ids[number])
                    assert row["size"] == size_name(float(sample.areas[number]))
                    matched += 1
                else:
                    assert (row["object_id"], row["size"]) == (-1, "")
                free = {
                    number: value
                    for number, value in enumerate(ious)
                    if value >= 0.5 and number not in taken
                }
                if free:
                    number = max(free, key=lambda key: free[key])
                    taken.add(number)
                    assert row["true_positive_iou"] == pytest.approx(free[number], abs=1e-6)
                    positive += 1
                else:
                    assert math.isnan(row["true_positive_iou"])
    assert 0 < positive < matched < len(stages)


def test_the_kept_frame_is_read_again(run: Any, detector: Any, tmp_path: Path) -> None:
    first = run()
    proposed = detector.proposed
    again = run()
    assert detector.proposed == proposed
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    loaded, provenance = load_stages(tmp_path / "measurements")
    pd.testing.assert_frame_equal(first, loaded, check_exact=True)
    assert provenance["weights"] == "a"
    assert set(loaded["detector"]) == {"toy"}
    assert "detector" not in provenance


def test_detections_that_are_there_are_not_made_again(
    run: Any, detector: Any, toy_dataset: CocoDataset, tmp_path: Path
) -> None:
    folder = tmp_path / "measurements"
    detect_dataset(detector, toy_dataset, "toy", folder, {"weights": "a"}, progress=False)

    def fail(image: Tensor) -> None:
        raise AssertionError("detected twice")

    detector.detect = fail
    assert (run()["stage"] == "detections").any()


def test_images_without_objects_or_detections(
    detector: Any, one_empty_image: CocoDataset, run: Any
) -> None:
    stages = run(dataset=one_empty_image)
    rpn = stages[stages["stage"] == "rpn"]
    assert set(rpn["image_id"]) == {7}
    empty_image = stages[stages["image_id"] == 3]
    assert (empty_image["object_id"] == -1).all()
    nothing = {head: Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
               for head in detector.heads}  # fmt: skip
    detector.detect = lambda image: nothing
    stages = run(dataset=one_empty_image, provenance={"weights": "c"})
    assert set(stages["stage"]) == {"rpn"}
    detector.propose = lambda image: (detector.extract(image), torch.zeros(0, 4))
    stages = run(dataset=one_empty_image, provenance={"weights": "d"})
    assert stages.empty
    assert tuple(stages.columns) == STAGE_COLUMNS


def boxes_on_a_grid(generator: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Boxes with corners at multiples of 4 px: many overlap, and many IoUs are equal."""
    corner = generator.integers(0, 6, (count, 2)) * 4.0
    size = generator.integers(2, 6, (count, 2)) * 4.0
    return np.concatenate([corner, corner + size], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_most_overlapping_equals_a_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    boxes, objects = boxes_on_a_grid(generator, 30), boxes_on_a_grid(generator, 4)
    index, found = most_overlapping(ious_with(boxes, objects))
    for row, box in enumerate(boxes.tolist()):
        best, expected = UNMATCHED, 0.0
        for number, other in enumerate(objects.tolist()):
            if iou(box, other) > expected + 1e-12:
                best, expected = number, iou(box, other)
        assert index[row] == best
        assert found[row] == pytest.approx(expected, abs=1e-12)


def test_without_objects_or_boxes_nothing_is_matched() -> None:
    index, found = most_overlapping(np.zeros((3, 0)))
    assert index.tolist() == [UNMATCHED] * 3
    assert found.tolist() == [0.0] * 3
    assert true_positives(np.zeros((2, 0))).tolist() == [UNMATCHED] * 2
    assert len(most_overlapping(np.zeros((0, 2)))[0]) == 0


def records(boxes: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Boxes as COCO has them."""
    sides = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
    return [{"image_id": 1, "category_id": 1, "bbox": box} for box in sides]


@pytest.mark.parametrize("seed", range(20))
def test_true_positives_are_pycocotools(seed: int) -> None:
    """Detections and objects of one class on a grid, where IoUs are often equal."""
    generator = np.random.default_rng(seed)
    objects, boxes = boxes_on_a_grid(generator, 6), boxes_on_a_grid(generator, 25)
    scores = np.sort(generator.random(25))[::-1]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            each | {"id": number, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0}
            for number, each in enumerate(records(objects), 1)
        ],
    }
    pairs = zip(records(boxes), scores.tolist(), strict=True)
    results = [each | {"score": score} for each, score in pairs]
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
    matched = evaluation.evalImgs[0]["dtMatches"][0].astype(int)  # IoU 0.5, all areas
    found = true_positives(ious_with(boxes, objects))
    assert (found + 1).tolist() == matched.tolist()
    assert (found >= 0).any()
