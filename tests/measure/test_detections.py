"""Detections of a data set: what is kept and used again; an answer that is wrong names detector and image."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.detectors.base import Detections, HeadOutput
from rethink_heads.detectors.classes import share_classes
from rethink_heads.errors import UserError
from rethink_heads.measure.detections import (
    DETECTION_COLUMNS,
    DETECTION_TYPES,
    detect_dataset,
    load_detections,
    measure_stages,
)
from rethink_heads.measure.runner import measure
from tests.tiny_coco import CLASSES, write_coco

BOXES = torch.tensor([[2.0, 3, 30, 20], [4, 5, 40, 30]])
LAST = 4


class Own:
    """Answers as it should on all images but the last, where one of its methods gives something else."""

    heads, class_names, device = ("box",), CLASSES, torch.device("cpu")

    def __init__(self, method: str, change: Callable[[Any], Any]) -> None:
        self.method, self.change, self.seen = method, change, 0

    def _answer(self, method: str, answer: Any) -> Any:
        is_wrong = method == self.method and self.seen == LAST
        return self.change(answer) if is_wrong else answer

    def extract(self, image: Tensor) -> Tensor:
        self.seen += 1
        return image

    def pool(self, features: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        return {"box": torch.ones(len(boxes), 2, 3, 3)}

    def predict(self, features: Tensor, pooled: Any, boxes: Tensor) -> dict[str, HeadOutput]:
        scores = boxes[:, :1].expand(-1, len(CLASSES)) / 100
        by_class = boxes[:, None].expand(-1, len(CLASSES), 4)
        return {"box": self._answer("predict", HeadOutput(scores, by_class))}

    def propose(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.extract(image), self._answer("propose", BOXES)

    def detect(self, image: Tensor) -> dict[str, Detections]:
        self.extract(image)
        found = Detections(BOXES, torch.tensor([0.9, 0.5]), torch.tensor([0, 1]))
        return {"box": self._answer("detect", found)}

    def output_maps(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"box": self._answer("output_maps", pooled["box"])}


class OnlyProposing(Own):
    detect = None  # type: ignore[assignment]


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    write_coco(tmp_path / "data", images=LAST)
    return CocoDataset(*resolve_split(str(tmp_path / "data"), "val"))


def detect(detector: Any, dataset: CocoDataset, folder: Path, weights: str = "a") -> pd.DataFrame:
    return detect_dataset(detector, dataset, "own", folder, {"weights": weights}, progress=False)


def stages(detector: Any, dataset: CocoDataset, folder: Path) -> Any:
    return measure_stages(detector, dataset, "own", folder, {"weights": "a"}, progress=False)


def grid(detector: Any, dataset: CocoDataset, folder: Path) -> Any:
    config = MeasuringConfig(grid_steps=3)
    return measure(detector, dataset, "own", config, 0, folder, {"weights": "a"}, progress=False)


def first_value(place: str, value: float) -> Callable[[Any], Any]:
    def change(answer: Any) -> Any:
        values = {name: each.clone() for name, each in vars(answer).items()}
        values[place].reshape(-1)[0] = value
        return type(answer)(**values)

    return change


def leave(_: Any) -> None:
    sys.exit(3)


def fail(_: Any) -> None:
    raise IndexError("no such\nlevel")


NAN = math.nan
# What an answer may be stands in detectors/test_answers, one after the other; here each run looks at its own.
WRONG: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "`detect` (box) gave scores that are not finite numbers": (
        detect, "detect", first_value("scores", NAN)),
    "`detect` (box) gave boxes that end before they begin; x1, y1, x2, y2": (
        detect, "detect", lambda found: Detections(found.boxes.flip(1), found.scores, found.labels)),
    "`propose` gave boxes that are not finite numbers": (
        stages, "propose", lambda boxes: boxes * NAN),
    "`predict` (box) gave scores that are not finite numbers": (
        stages, "predict", first_value("scores", NAN)),
    "`predict` (box) gave boxes that are not finite numbers": (
        grid, "predict", first_value("boxes", math.inf)),
    "the detector gave a map by RoI position with values that are not finite": (
        grid, "output_maps", lambda maps: maps * NAN),
}  # fmt: skip


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_answer_names_detector_and_image(
    says: str, dataset: CocoDataset, tmp_path: Path
) -> None:
    run, method, change = WRONG[says]
    detector = (OnlyProposing if run is stages else Own)(method, change)
    with pytest.raises(UserError) as raised:
        run(detector, dataset, tmp_path / "kept")
    said = str(raised.value)
    assert said.startswith(f"own on image {dataset.image_ids[-1]}: {says}")
    assert "train" not in said.replace("its training diverged", "")
    assert not list((tmp_path / "kept").glob("*.parquet"))


@pytest.mark.parametrize("change", [leave, fail])
def test_what_the_users_code_raises_names_detector_image_and_line(
    change: Any, dataset: CocoDataset, tmp_path: Path
) -> None:
    line = change.__code__.co_firstlineno + 1
    for run, method in ((detect, "detect"), (stages, "propose"), (grid, "predict")):
        kind = OnlyProposing if run is stages else Own
        says = rf"^own failed on image {dataset.image_ids[-1]}: \w+: .*\({__file__}, line {line}\)$"
        with pytest.raises(UserError, match=says):
            run(kind(method, change), dataset, tmp_path / method)


def test_an_interruption_is_none_of_the_users_mistakes(
    dataset: CocoDataset, tmp_path: Path
) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect(Own("detect", interrupt), dataset, tmp_path / "kept")


def test_a_label_out_of_range_is_told_through_a_class_map(
    dataset: CocoDataset, tmp_path: Path
) -> None:
    detector = Own("detect", first_value("labels", -1))
    detector.class_names = ("blue", *CLASSES)  # type: ignore[assignment]
    shared = share_classes(detector, dataset)
    says = "own on image .*: `detect` .* gave the label -1, where 0 to 2 are expected: 3 classes"
    with pytest.raises(UserError, match=says):
        detect(shared.detector, shared.dataset, tmp_path / "kept")


def test_answers_that_require_gradients_are_taken(dataset: CocoDataset, tmp_path: Path) -> None:
    def learned(found: Detections) -> Detections:
        with torch.inference_mode(False):
            boxes = torch.nn.Parameter(BOXES.clone())
            return Detections(boxes, torch.nn.Parameter(torch.tensor([0.75, 0.5])), found.labels)

    found = detect(Own("detect", learned), dataset, tmp_path / "kept")
    assert found["score"].max() == pytest.approx(0.9)
    assert (found["score"] == 0.75).sum() == 1


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


def test_rows_are_the_detectors(dataset: CocoDataset, tmp_path: Path) -> None:
    found = detect(Counting(), dataset, tmp_path / "kept")
    assert tuple(found.columns) == DETECTION_COLUMNS
    assert found.dtypes.astype(str).to_dict() == dict(DETECTION_TYPES)
    assert found["score"].tolist() == [0.75, 0.25] * LAST
    assert found["label"].tolist() == [0, 1] * LAST
    assert found["image_id"].tolist() == sorted([*dataset.image_ids] * 2)
    for index, image_id in enumerate(dataset.image_ids):
        best = found[(found["image_id"] == image_id) & (found["label"] == 0)].iloc[0]
        expected = Counting().detect(dataset[index].image)["fc"].boxes[1].tolist()
        assert best[["x1", "y1", "x2", "y2"]].tolist() == expected
    kept, provenance = load_detections(tmp_path / "kept")
    pd.testing.assert_frame_equal(kept, found)
    assert (provenance["weights"], provenance["images"]) == ("a", str(LAST))
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
    assert other.calls == LAST
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
