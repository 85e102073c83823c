"""Heads that are asked about a dataset's classes by the detector's own fast path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rethink_heads.config import load_preset
from rethink_heads.detectors.base import SupportsFastPath
from rethink_heads.detectors.classes.mapping import MappedDetector, match_classes
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.measure.responses import Responder
from rethink_heads.proposals import grid

CLASSES = ("red", "green", "blue")
BOX = torch.tensor([20.0, 30, 61, 75])


class Counted:
    """A fast path that notes the labels that it is asked about."""

    def __init__(self, fast_path: Any) -> None:
        self.fast_path, self.extract, self.labels = fast_path, fast_path.extract, []

    def __call__(self, features: Any, boxes: Tensor, label: int, memory_mb: int) -> Any:
        self.labels.append(label)
        return self.fast_path(features, boxes, label, memory_mb)


def detector_of() -> Any:
    detector = build_detector(load_preset("shapes-tiny", "fc"), CLASSES, pretrained=False).eval()
    predictor = detector.roi_heads.heads.branch("fc").predictor
    torch.manual_seed(0)
    torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
    torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
    return detector


def image() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("names", [("blue", "pink", "Red"), ("green", "blue", "red"), ("green",)])
@torch.inference_mode()
def test_it_answers_for_the_datasets_classes(names: tuple[str, ...]) -> None:
    detector: Any = detector_of()
    mapped = MappedDetector(detector, match_classes(names, CLASSES))
    respond = Responder(mapped, 64)
    assert respond.fast_path is not None
    boxes, features = grid(BOX, (96, 128), 5).boxes, detector.extract(image())
    ready = respond.extract(image())
    # The backbone is the inner fast path's, folded.
    assert not torch.equal(ready.pyramid["0"], features.pyramid["0"])
    torch.testing.assert_close(ready.pyramid["0"], features.pyramid["0"], rtol=1e-3, atol=1e-3)
    outputs = mapped.predict(features, mapped.pool(features, boxes), boxes)["fc"]
    for label in range(len(mapped.class_names)):
        scores, regressed = respond(features, boxes, label)["fc"]
        torch.testing.assert_close(scores, outputs.scores[:, label], rtol=0, atol=1e-5)
        torch.testing.assert_close(regressed, outputs.boxes[:, label], rtol=0, atol=1e-3)


@torch.inference_mode()
def test_it_asks_about_the_detectors_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    detector: Any = detector_of()
    counted = Counted(detector.fast_path(torch.float32))
    monkeypatch.setattr(detector, "fast_path", lambda dtype: counted)
    respond = Responder(MappedDetector(detector, match_classes(("blue", "red"), CLASSES)), 64)
    features = respond.extract(image())
    for label in (0, 1):
        respond(features, BOX[None], label)
    assert counted.labels == [2, 0]


def test_heads_that_are_not_asked_so_stay_without(monkeypatch: pytest.MonkeyPatch) -> None:
    detector: Any = detector_of()
    monkeypatch.setattr(detector, "fast_path", lambda dtype: None)
    mapped: Any = MappedDetector(detector, match_classes(("blue",), CLASSES))
    assert isinstance(mapped, SupportsFastPath)
    assert mapped.fast_path(torch.float32) is None
