"""Classes that a dataset leaves out count nowhere: as if the file did not have them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import precision_table
from rethink_heads.evaluation.calibration import calibration_errors, reliability
from rethink_heads.evaluation.errors import detection_errors
from tests.made_detections import (
    as_dataset,
    make_dataset,
    make_detections,
)

KEPT = ("cat", "owl")


@pytest.fixture
def chosen(tmp_path: Path) -> CocoDataset:
    return make_dataset(tmp_path / "whole", images=12).with_classes(KEPT)


@pytest.fixture
def reference(tmp_path: Path, chosen: CocoDataset) -> CocoDataset:
    """A file of the kept classes alone."""
    content = json.loads(chosen.annotations_path.read_text())
    content["categories"] = [c for c in content["categories"] if c["name"] in KEPT]
    ids = {c["id"] for c in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in ids]
    return as_dataset(tmp_path / "reference", content)


@pytest.fixture
def found(reference: CocoDataset) -> pd.DataFrame:
    return make_detections(reference, 1, shake=0.15)


def test_every_statistic_is_that_of_a_file_without_them(
    chosen: CocoDataset, reference: CocoDataset, found: pd.DataFrame
) -> None:
    for statistic in (precision_table, detection_errors, calibration_errors, reliability):
        ours, theirs = (statistic(found, data, replicates=9) for data in (chosen, reference))
        pd.testing.assert_frame_equal(ours, theirs)
        assert ours.select_dtypes("float").notna().any(axis=None), statistic


def test_detections_of_left_out_classes_are_refused(
    chosen: CocoDataset, found: pd.DataFrame
) -> None:
    strange = found.assign(label=2)
    with pytest.raises(UserError, match=r"labels from 0 to 2, but .* has 2 classes, 0 to 1"):
        precision_table(strange, chosen, replicates=3)
