"""Average precision of a detector's final detections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.detectors.base import Detections
from rethink_heads.evaluation.measures import evaluate


class FromAnnotations:
    """Finds every object exactly (head ``all``), or those of the images after the first (``most``)."""

    heads, class_names = ("all", "most"), ("red", "green")
    device = torch.device("cpu")

    def __init__(self, dataset: CocoDataset) -> None:
        self.samples = [dataset[index] for index in range(len(dataset))]

    def detect(self, image: Tensor) -> dict[str, Detections]:
        (sample,) = (s for s in self.samples if torch.equal(s.image, image))
        ones = torch.ones(len(sample.boxes))
        found = Detections(sample.boxes, ones, sample.labels)
        first = sample.image_id == 1
        nothing = Detections(sample.boxes[:0], ones[:0], sample.labels[:0])
        return {"all": found, "most": nothing if first else found}


def test_average_precision_by_head(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = CocoDataset(*resolve_split(str(data), "val"))
    found = evaluate(FromAnnotations(dataset), dataset)
    assert found["all"]["AP"] == found["all"]["AP50"] == pytest.approx(1.0)
    # One of two objects of a class is missed: precision 1 up to a recall of a half, 51 of 101 points.
    assert found["most"]["AP"] == pytest.approx((1.0 + 51 / 101) / 2)
    assert capsys.readouterr().out == ""


def test_a_subset_is_judged_by_its_own_images(data: Path) -> None:
    dataset = CocoDataset(*resolve_split(str(data), "val")).subset(2)
    found = evaluate(FromAnnotations(dataset), dataset, progress=False)
    assert found["all"]["AP"] == pytest.approx(1.0)
    assert found["most"]["AP"] == pytest.approx(0.5)


def test_boxes_that_the_dataset_leaves_out_are_not_missed(data: Path, tmp_path: Path) -> None:
    annotations, images = resolve_split(str(data), "val")
    content = json.loads(annotations.read_text())
    for object_id, box in ((97, [5, 5, 0, 0]), (98, [500, 5, 20, 20])):
        content["annotations"].append({**content["annotations"][0], "id": object_id, "bbox": box})
    (tmp_path / "more.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path / "more.json", images)
    assert (dataset.box_counts.degenerate, dataset.box_counts.outside) == (1, 1)
    found = evaluate(FromAnnotations(dataset), dataset, progress=False)
    assert found["all"]["AP"] == pytest.approx(1.0)
