"""A user's own detector: what is checked of it, how it is told from another, and measuring it from Python."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import OFFERS, HeadOutput, offers
from rethink_heads.detectors.checking import check_detector
from rethink_heads.detectors.class_mapping import MappedDetector, match_classes
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.detectors.opening import as_detector, model_name
from rethink_heads.detectors.shared_classes import share_classes
from rethink_heads.errors import UserError
from rethink_heads.measure.runner import measure
from tests.tiny_coco import write_coco


class Colours:
    """The scores of a box are those of its mean colour; it is given back as it is."""

    class_names: Any = ("red", "green")
    heads: Any = ("colour",)
    device = torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def extract(self, image: Tensor) -> Tensor:
        return image.float() / 255

    def pool(self, features: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        return {}

    def predict(self, features: Tensor, roi_features: Any, boxes: Tensor) -> dict[str, HeadOutput]:
        scores = self.layer(features.mean(dim=(1, 2)).expand(len(boxes), 3)).softmax(-1)
        return {"colour": HeadOutput(scores, boxes[:, None].expand(-1, 2, 4))}


def test_a_detector_that_keeps_to_the_protocol_passes_and_is_itself() -> None:
    detector = Colours()
    check_detector(detector)
    assert as_detector(detector) is detector
    assert not any(offers(detector, method) for method in OFFERS)


def changed(change: Callable[[HeadOutput], Any]) -> Callable[[Colours], None]:
    """Have ``predict`` answer with something else."""

    def apply(detector: Colours) -> None:
        predict = detector.predict
        detector.predict = lambda *args: {"colour": change(predict(*args)["colour"])}  # type: ignore[method-assign]

    return apply


def with_attribute(name: str, value: Any) -> Callable[[Colours], None]:
    return lambda detector: setattr(detector, name, value)


MISTAKES = {
    "`class_names` of mine is 'red'": with_attribute("class_names", "red"),
    "`heads` of mine is \\(\\)": with_attribute("heads", ()),
    "`pool` of mine gave .* where a dict of tensors": with_attribute("pool", lambda f, b: f),
    "`pool` of mine gave \\{box: shape \\(1, 3, 7, 7\\)\\} for 3 boxes": with_attribute(
        "pool", lambda f, b: {"box": torch.zeros(1, 3, 7, 7)}
    ),
    "`predict` of mine gave \\{other: ": with_attribute(
        "predict", lambda f, r, b: {"other": torch.zeros(1)}
    ),
    "where a HeadOutput is expected": changed(lambda output: output.scores),
    "gave scores of shape \\(3, 3\\), where the shape \\(3, 2\\) is expected: 3 boxes, 2 classes": changed(
        lambda out: HeadOutput(torch.cat([out.scores, out.scores[:, :1]], dim=1), out.boxes)
    ),
    "gave boxes of shape \\(3, 4\\), where the shape \\(3, 2, 4\\)": changed(
        lambda out: HeadOutput(out.scores, out.boxes[:, 0])
    ),
    "gave scores that are not finite": changed(
        lambda out: HeadOutput(out.scores * torch.nan, out.boxes)
    ),
    "scores outside 0 to 1; probabilities are expected": changed(
        lambda out: HeadOutput(out.scores.logit() - 5, out.boxes)
    ),
    "boxes outside the image or upside down": changed(
        lambda out: HeadOutput(out.scores, out.boxes * 2)
    ),
}


@pytest.mark.parametrize("says", MISTAKES)
def test_each_mistake_is_named(says: str) -> None:
    detector = Colours()
    MISTAKES[says](detector)
    with pytest.raises(UserError, match=says):
        check_detector(detector, "mine")


def test_what_is_no_detector() -> None:
    with pytest.raises(
        UserError, match="Linear is neither a detector of torchvision or detectron2"
    ):
        as_detector(nn.Linear(1, 1))


@given(place=st.integers(0, 7), bits=st.integers(1, 2**10))
def test_a_fingerprint_follows_every_weight(place: int, bits: int) -> None:
    first, second = Colours(), Colours()
    assert fingerprint(first) == fingerprint(second)
    values = [*second.layer.weight.data.flatten(), *second.layer.bias.data]
    with torch.no_grad():
        if place < 6:
            second.layer.weight.view(-1)[place] = values[place] + bits / 2**10
        else:
            second.layer.bias[place - 6] = values[place] + bits / 2**10
    assert fingerprint(first) != fingerprint(second)


def test_a_fingerprint_sees_through_a_mapping_and_types() -> None:
    detector = Colours()
    mapped = MappedDetector(detector, match_classes(("green",), detector.class_names))
    assert fingerprint(mapped) == fingerprint(detector)
    half = copy.deepcopy(detector)
    half.layer.bfloat16()
    assert fingerprint(half) != fingerprint(detector)
    module = nn.Linear(3, 2)
    module.load_state_dict(detector.layer.state_dict())
    assert fingerprint(module) == fingerprint(copy.deepcopy(module))


def test_a_detector_without_modules_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    detector = Colours()
    del detector.layer
    first = fingerprint(detector)
    assert "has no torch modules: whether its weights have changed" in caplog.text
    detector.fingerprint = "of its own"  # type: ignore[attr-defined]
    assert fingerprint(detector) == "of its own" != first


def test_measuring_from_python_needs_a_detector_and_data_alone(tmp_path: Path) -> None:
    write_coco(tmp_path, images=4)
    dataset = CocoDataset(tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    few = MeasuringConfig(grid_steps=3)
    passing = measure(Colours(), dataset, config=few)
    kept = measure(Colours(), dataset, config=few, folder=tmp_path / "kept")
    pd.testing.assert_frame_equal(passing.bins, kept.bins)
    assert passing.provenance == kept.provenance
    assert kept.provenance["weights"] == fingerprint(Colours())
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "bins.parquet",
        "rows.parquet",
        "maps.parquet",
    }


def test_shared_classes_say_what_they_left_out(tmp_path: Path) -> None:
    write_coco(tmp_path, images=4)
    dataset = CocoDataset(tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    detector = Colours()
    same = share_classes(detector, dataset)
    assert (same.detector, same.dataset, same.provenance) == (detector, dataset, {})
    detector.class_names = ("blue", "green")
    shared = share_classes(detector, dataset)
    assert shared.detector.class_names == shared.dataset.class_names == ("green",)
    assert shared.provenance["class mapping"] == '[["green", "green"]]'
    assert shared.provenance["annotations"] == dataset.fingerprint
    whole = share_classes(detector, dataset, {"red": "blue"})
    assert whole.detector.class_names == ("red", "green")
    assert whole.provenance == {"class mapping": '[["red", "blue"], ["green", "green"]]'}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("torchvision:fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"),
        ("detectron2:configs/COCO-Detection/r50.yaml", "r50"),
        ("python:my_package.module:make_detector", "module-make_detector"),
    ],
)
def test_names_of_models(model: str, name: str) -> None:
    assert model_name(model) == name
