"""A user's own detector: what is checked of it, how it is told from another, and measuring it from Python."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import CAPABILITIES, supports
from rethink_heads.detectors.checking import check_detector
from rethink_heads.detectors.external import as_detector, model_name
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.errors import UserError
from rethink_heads.measure.runner import measure
from tests.detectors.colours import Colours
from tests.tiny_coco import write_coco


def test_a_detector_that_keeps_to_the_protocol_passes_and_is_itself() -> None:
    detector = Colours()
    check_detector(detector)
    assert as_detector(detector) is detector
    assert not any(supports(detector, method) for method in CAPABILITIES)


def test_what_is_no_detector() -> None:
    with pytest.raises(
        UserError, match="Linear is neither a detector of torchvision or detectron2"
    ):
        as_detector(nn.Linear(1, 1))


def test_measuring_from_python_needs_a_detector_and_data_alone(tmp_path: Path) -> None:
    write_coco(tmp_path, images=4)
    dataset = CocoDataset(tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    few = MeasuringConfig(grid_steps=3)
    passing = measure(Colours(), dataset, config=few)
    kept = measure(Colours(), dataset, config=few, folder=tmp_path / "kept")
    pd.testing.assert_frame_equal(passing.to_frame(), kept.to_frame())
    assert passing.provenance == kept.provenance
    assert kept.provenance["weights"] == fingerprint(Colours())
    assert not (tmp_path / "kept" / "parts").exists()


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
