"""Detections of a data set: what is kept, used again and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.detectors.base import Detections
from rethink_heads.errors import UserError
from rethink_heads.measure.detections import (
    DETECTION_COLUMNS,
    DETECTION_TYPES,
    detect_dataset,
    load_detections,
)
from tests.tiny_coco import CLASSES, write_coco

IMAGES = 4


class Counting:
    """Two boxes an image by head fc, worst first, none by head conv; counts its calls, and stops at one."""

    heads = ("fc", "conv")
    class_names = CLASSES
    device = torch.device("cpu")

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def detect(self, image: Tensor) -> dict[str, Detections]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        corner = float(image.sum() % 10)
        boxes = torch.tensor([[corner, 1, 30, 20], [2, corner, 40, 30.5]])
        found = Detections(boxes, torch.tensor([0.25, 0.75]), torch.tensor([1, 0]))
        return {"fc": found, "conv": Detections(boxes[:0], found.scores[:0], found.labels[:0])}


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    write_coco(tmp_path / "data", images=IMAGES)
    return CocoDataset(*resolve_split(str(tmp_path / "data"), "val"))


def detect(detector: Any, dataset: CocoDataset, folder: Path, weights: str = "a") -> pd.DataFrame:
    return detect_dataset(detector, dataset, "run", folder, {"weights": weights}, progress=False)


def test_rows_are_the_detectors(dataset: CocoDataset, tmp_path: Path) -> None:
    found = detect(Counting(), dataset, tmp_path / "kept")
    assert tuple(found.columns) == DETECTION_COLUMNS
    assert found.dtypes.astype(str).to_dict() == dict(DETECTION_TYPES)
    assert found["score"].tolist() == [0.75, 0.25] * IMAGES
    assert found["label"].tolist() == [0, 1] * IMAGES
    assert found["image_id"].tolist() == sorted([*dataset.image_ids] * 2)
    for index, image_id in enumerate(dataset.image_ids):
        best = found[(found["image_id"] == image_id) & (found["label"] == 0)].iloc[0]
        expected = Counting().detect(dataset[index].image)["fc"].boxes[1].tolist()
        assert best[["x1", "y1", "x2", "y2"]].tolist() == expected
    kept, provenance = load_detections(tmp_path / "kept")
    pd.testing.assert_frame_equal(kept, found)
    assert (provenance["weights"], provenance["images"]) == ("a", str(IMAGES))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["detections.parquet"]


def test_used_again_while_nothing_changed(
    dataset: CocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = detect(Counting(), dataset, tmp_path)
    again = Counting(stop_at=1)
    pd.testing.assert_frame_equal(detect(again, dataset, tmp_path), first)
    # Of a part of the images the file of all has the answer.
    part = detect(again, dataset.subset(2), tmp_path)
    assert set(part["image_id"]) == set(dataset.image_ids[:2])
    assert again.calls == 0
    other = Counting()
    detect(other, dataset, tmp_path, weights="b")
    assert other.calls == IMAGES
    assert "weights: a before, b now" in caplog.text


def test_nothing_found_is_a_frame_without_rows(dataset: CocoDataset, tmp_path: Path) -> None:
    detector = Counting()
    detector.detect = lambda image: {"conv": Counting().detect(image)["conv"]}  # type: ignore[method-assign]
    found = detect(detector, dataset, tmp_path)
    assert found.empty
    assert found.dtypes.astype(str).to_dict() == dict(DETECTION_TYPES)


def test_other_classes_are_refused(dataset: CocoDataset, tmp_path: Path) -> None:
    detector = Counting()
    detector.class_names = ("red", "blue")
    with pytest.raises(UserError, match="classes are not the data's"):
        detect(detector, dataset, tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_detections(tmp_path)
