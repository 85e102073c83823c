"""Candidates against a loop over proposals and classes; detections of them against the detectors' own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import Detector
from rethink_heads.detectors.classes import SharedClasses, share_classes
from rethink_heads.detectors.torchvision.adapter import TorchvisionDetector
from rethink_heads.errors import UserError
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.evaluation.swaps import swapped_detections
from rethink_heads.files import read_parquet, write_parquet
from rethink_heads.measure.by_image import rename_detector
from rethink_heads.measure.candidate_runner import measure_candidates
from rethink_heads.measure.candidates import LEAST_IOU, Candidates, load_candidates
from rethink_heads.suppression import Suppression
from tests.detectors.small_rcnn import small_detector
from tests.detectors.torchvision.small_models import small_model
from tests.measure.conftest import CLASSES, ToyDetector

ARRAYS = ("images", "proposals", "labels", "proposal_boxes")


class ProposingToy(ToyDetector):
    """The toy with proposals about its image's middle, some beyond, and a rule of its own."""

    def __init__(self, seed: int = 0, count: int = 25) -> None:
        super().__init__()
        self.seed, self.count, self.proposed = seed, count, 0
        self.suppression = Suppression(score_threshold=0.3)
        self.cls = {name: each + 0.3 * seed for name, each in self.cls.items()}

    def propose(self, image: Tensor) -> tuple[Any, Tensor]:
        self.proposed += 1
        generator = torch.Generator().manual_seed(self.seed + image.shape[1])
        size = torch.tensor([image.shape[2], image.shape[1]])
        corners = torch.rand(self.count, 2, 2, generator=generator).sort(dim=1).values * size
        return self.extract(image), corners.flatten(1)


def shared(detector: Detector, dataset: CocoDataset) -> SharedClasses:
    return share_classes(detector, dataset)


def measured(folder: Path, dataset: CocoDataset, **detectors: Any) -> Candidates:
    subjects = {name: shared(each, dataset) for name, each in detectors.items()}
    provenance = {name: {"weights": str(each.seed)} for name, each in detectors.items()}
    return measure_candidates(subjects, folder, provenance, progress=False)


def assert_same(found: Candidates, expected: Candidates) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    for name in ("ranks", "scores", "boxes"):
        theirs = getattr(expected, name)
        assert getattr(found, name).keys() == theirs.keys()
        for key, values in theirs.items():
            np.testing.assert_array_equal(getattr(found, name)[key], values, strict=True)


@pytest.mark.parametrize("count", [1, 2])
def test_kept_is_what_may_be_detected_or_find_an_object(
    toy_dataset: CocoDataset, tmp_path: Path, count: int
) -> None:
    """One proposal at a time."""
    detectors = {"b": ProposingToy(), "a": ProposingToy(7, 10)}
    detectors = dict(list(detectors.items())[:count])
    found = measured(tmp_path, toy_dataset, **detectors)
    assert found.keys == tuple(
        (name, head) for name in detectors for head in ("fc", "conv", "double")
    )
    rows = []
    for index in np.argsort(toy_dataset.image_ids):
        sample = toy_dataset[int(index)]
        proposed = {name: each.propose(sample.image)[1] for name, each in detectors.items()}
        proposals = torch.cat(list(proposed.values()))
        owners = [(name, rank) for name, own in proposed.items() for rank in range(len(own))]
        for number, box in enumerate(proposals):
            outputs = {}
            for name, each in detectors.items():
                features = each.extract(sample.image)
                pooled = each.pool(features, box[None])
                for head, output in each.predict(features, pooled, box[None]).items():
                    outputs[name, head] = output
            for label in range(len(CLASSES)):
                objects = sample.boxes[sample.labels == label]
                near = [box, *(output.boxes[0, label] for output in outputs.values())]
                overlaps = len(objects) and float(box_iou(torch.stack(near), objects).max())
                scores = [float(output.scores[0, label]) for output in outputs.values()]
                if max(scores) > 0.3 or overlaps >= LEAST_IOU:
                    regressed = [output.boxes[0, label].tolist() for output in outputs.values()]
                    rows.append(
                        (
                            sample.image_id,
                            number,
                            label,
                            owners[number],
                            box.tolist(),
                            scores,
                            regressed,
                        )
                    )
    images, numbers, labels, owner, boxes, scores, regressed = zip(*rows, strict=True)
    assert 20 < len(rows) < len(CLASSES) * 3 * 25 * count
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.proposals, numbers)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.proposal_boxes, np.array(boxes), rtol=1e-6)
    for name, ranks in found.ranks.items():
        assert ranks.tolist() == [rank if whose == name else -1 for whose, rank in owner]
    for place, key in enumerate(found.keys):
        np.testing.assert_allclose(found.scores[key], np.array(scores)[:, place], rtol=1e-4)
        np.testing.assert_allclose(
            found.boxes[key], np.array(regressed)[:, place], rtol=1e-4, atol=1e-3
        )


def test_the_same_is_read_again_under_any_name_and_anything_else_is_asked_again(
    toy_dataset: CocoDataset, tmp_path: Path
) -> None:
    first = measured(tmp_path, toy_dataset, one=ProposingToy())
    other = ProposingToy()
    found = measured(tmp_path, toy_dataset, renamed=other)
    assert other.proposed == 0
    assert found.keys == tuple(("renamed", head) for _, head in first.keys)
    assert_same(load_candidates(tmp_path), first)
    assert load_candidates(tmp_path).sources == first.sources
    other.suppression = dataclasses.replace(other.suppression, nms_iou=0.3)
    assert measured(tmp_path, toy_dataset, one=other).rule("one").nms_iou == 0.3
    assert other.proposed == len(toy_dataset)


def test_other_files_of_the_folder_may_be_renamed(toy_dataset: CocoDataset, tmp_path: Path) -> None:
    first = measured(tmp_path, toy_dataset, one=ProposingToy())
    frame = pd.DataFrame({"detector": ["before"]})
    write_parquet(frame, tmp_path / "detections.parquet", {})
    rename_detector(tmp_path, "now")
    assert read_parquet(tmp_path / "detections.parquet")[0]["detector"].tolist() == ["now"]
    assert_same(load_candidates(tmp_path), first)


def test_what_cannot_be_asked_is_told(
    toy_detector: ToyDetector, toy_dataset: CocoDataset, tmp_path: Path
) -> None:
    subjects = {"toy": shared(toy_detector, toy_dataset)}  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"toy cannot be asked .*it has no `propose`"):
        measure_candidates(subjects, tmp_path, {"toy": {}})
    with pytest.raises(UserError, match="no detector to ask"):
        measure_candidates({}, tmp_path)
    subjects = {
        "one": shared(ProposingToy(), toy_dataset),  # type: ignore[arg-type]
        "two": shared(ProposingToy(), toy_dataset.subset(2)),  # type: ignore[arg-type]
    }
    with pytest.raises(UserError, match="two has other images or classes than one"):
        measure_candidates(subjects, tmp_path, {"one": {}, "two": {}})
    found = measured(tmp_path / "there", toy_dataset, one=ProposingToy())
    with pytest.raises(UserError, match="no proposals of two; there are those of one"):
        found.proposed_by("two")
    path = tmp_path / "there" / "candidates.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(UserError, match="holds no candidates; delete it"):
        load_candidates(tmp_path / "there")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot read .*candidates\.parquet as Parquet"):
        load_candidates(tmp_path / "there")


def test_images_without_proposals_have_no_candidates(
    toy_dataset: CocoDataset, tmp_path: Path
) -> None:
    found = measured(tmp_path, toy_dataset, one=ProposingToy(count=0))
    assert len(found.images) == 0
    assert found.boxes["one", "fc"].shape == (0, 4)


def test_a_detector_without_a_rule_has_torchvisions(
    toy_dataset: CocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = ProposingToy()
    del detector.suppression
    assert measured(tmp_path, toy_dataset, one=detector).rule("one") == Suppression()
    assert "one: it has no `suppression`" in caplog.text


def detected(detector: Any, dataset: CocoDataset, head: str) -> pd.DataFrame:
    rows = []
    for index in np.argsort(dataset.image_ids):
        sample = dataset[int(index)]
        with torch.inference_mode():
            found = detector.detect(sample.image)[head]
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            rows.append((sample.image_id, int(label), float(score), *box.tolist()))
    return pd.DataFrame(rows, columns=["image", "label", "score", "x1", "y1", "x2", "y2"])


@pytest.mark.parametrize("kind", ["ours", "torchvision"])
def test_a_swap_of_a_head_with_itself_has_the_detectors_own_detections(
    toy_dataset: CocoDataset, tmp_path: Path, kind: str
) -> None:
    detector: Any
    if kind == "torchvision":
        detector = TorchvisionDetector(small_model(), CLASSES)
    else:
        detector = small_detector("double-ext", rpn_proposals_test=60)
        detector.class_names = CLASSES
    other = ProposingToy(3)
    subjects = {
        name: shared(each, toy_dataset) for name, each in (("it", detector), ("toy", other))
    }
    found = measure_candidates(subjects, tmp_path, {"it": {}, "toy": {}}, progress=False)
    truth = GroundTruth(toy_dataset)
    for head in detector.heads:
        key = "it", head
        own = swapped_detections(found.proposed_by("it"), truth, key, key)
        expected = detected(detector, toy_dataset, head)
        assert len(expected) > 30
        np.testing.assert_array_equal(truth.image_ids[own.images], expected["image"])
        np.testing.assert_array_equal(own.labels, expected["label"])
        np.testing.assert_allclose(own.scores, expected["score"], rtol=1e-4)
        corners = np.column_stack([own.boxes[:, :2], own.boxes[:, :2] + own.boxes[:, 2:]])
        np.testing.assert_allclose(corners, expected[["x1", "y1", "x2", "y2"]], atol=1e-2)
