"""Average precision's table and intervals against pycocotools, on the data and on data with images repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.results import DETECTION_TYPES
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import (
    AP_NAMES,
    precision_table,
    resampled_precision,
)
from rethink_heads.evaluation.calibration import calibration_errors
from rethink_heads.evaluation.errors import detection_errors
from rethink_heads.evaluation.matching import GroundTruth, box_ious, match_detections
from rethink_heads.statistics.bootstrap import ImageBootstrap
from tests.made_detections import (
    as_dataset,
    as_results,
    head_of,
    make_dataset,
    make_detections,
    pycocotools_precision,
    untied,
)


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    return make_dataset(tmp_path)


def values_of(table: pd.DataFrame, head: str = "fc") -> dict[str, float]:
    return table[table["head"] == head].set_index("metric")["value"].to_dict()


@pytest.mark.parametrize("seed", range(3))
def test_values_are_pycocotools_to_the_last_digit(tmp_path: Path, seed: int) -> None:
    dataset = make_dataset(tmp_path, images=12, seed=seed)
    found = make_detections(dataset, seed)
    expected = pycocotools_precision(dataset.annotations_path, as_results(found, dataset))
    table = precision_table(found, dataset, replicates=3)
    np.testing.assert_array_equal([*values_of(table).values()], [*expected.values()])
    assert list(table["metric"]) == list(AP_NAMES)
    assert 0.1 < expected["AP"] < 0.9


def test_values_are_pycocotools_on_real_annotations(shared_data: Path) -> None:
    annotations = sorted(shared_data.glob("coco-sample/annotations/instances_val*.json"))[0]
    images = annotations.parents[1] / annotations.stem.removeprefix("instances_")
    dataset = CocoDataset(annotations, images)
    found = make_detections(dataset, 1)
    results = as_results(found, dataset)
    image_ids = sorted(dataset.image_ids)
    assert (dataset.box_counts.degenerate, dataset.box_counts.outside) == (0, 0)
    expected = pycocotools_precision(annotations, results, image_ids)
    table = precision_table(found, dataset, replicates=5)
    np.testing.assert_array_equal([*values_of(table).values()], [*expected.values()])


@pytest.mark.parametrize("seed", range(3))
def test_a_replicate_is_pycocotools_on_repeated_images(tmp_path: Path, seed: int) -> None:
    dataset = make_dataset(tmp_path / "once", images=8, seed=seed)
    found = untied(make_detections(dataset, seed))
    truth = GroundTruth(dataset)
    bootstrap = ImageBootstrap(truth.image_ids, 3, seed)
    resampled = resampled_precision(head_of(found, truth), truth, bootstrap)
    content = json.loads(dataset.annotations_path.read_text())
    for number, weights in enumerate(bootstrap.weights.astype(int)):
        repeated = as_dataset(tmp_path / f"again-{number}", _repeated(content, weights))
        copies = pd.concat(
            [
                found[found["image_id"] == i + 1].assign(image_id=100 * (i + 1) + copy)
                for i, weight in enumerate(weights)
                for copy in range(weight)
            ],
            ignore_index=True,
        )
        results = as_results(copies, repeated)
        expected = pycocotools_precision(repeated.annotations_path, results)
        np.testing.assert_allclose(
            resampled.replicates[number], [*expected.values()], rtol=0, atol=1e-12
        )


def _repeated(content: dict[str, list[dict[str, int]]], weights: np.ndarray) -> dict[str, object]:
    images, annotations = [], []
    for image, weight in zip(content["images"], weights, strict=True):
        for copy in range(weight):
            image_id = 100 * image["id"] + copy
            images.append({**image, "id": image_id, "file_name": f"{image_id}.png"})
            for record in content["annotations"]:
                if record["image_id"] == image["id"]:
                    new = {"id": len(annotations) + 1, "image_id": image_id}
                    annotations.append({**record, **new})
    return {**content, "images": images, "annotations": annotations}


def test_intervals_hold_the_value_and_depend_on_the_seed(dataset: CocoDataset) -> None:
    found = make_detections(dataset)
    table = precision_table(found, dataset, replicates=200, seed=1)
    assert (table["value_low"] < table["value"]).all()
    assert (table["value"] < table["value_high"]).all()
    again = precision_table(found, dataset, replicates=200, seed=1)
    pd.testing.assert_frame_equal(table, again)
    other = precision_table(found, dataset, replicates=200, seed=2)
    assert not np.allclose(table["value_low"], other["value_low"])
    assert table["images"].tolist()[0] == len(dataset)


def test_what_is_not_there_has_no_precision(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, crowds=False)
    content = json.loads(dataset.annotations_path.read_text())
    small = [r for r in content["annotations"] if r["area"] < 1000]
    dataset = as_dataset(tmp_path / "small", {**content, "annotations": small})
    table = precision_table(make_detections(dataset), dataset, replicates=20)
    values = table.set_index("metric")
    assert values["value"].notna().tolist() == [True, True, True, True, False, False]
    assert values.loc["APl", ["value_low", "value_high"]].isna().all()


@pytest.mark.parametrize("first", [2**53 + 1, 1_700_000_000_000_000_000])
def test_ids_of_any_size(tmp_path: Path, first: int) -> None:
    """Larger than a float has room for."""
    small = make_dataset(tmp_path / "small", images=8)
    found = make_detections(small)
    content = json.loads(small.annotations_path.read_text())
    for image in content["images"]:
        image["id"] += first
    for record in content["annotations"]:
        record |= {"id": record["id"] + first, "image_id": record["image_id"] + first}
    large = as_dataset(tmp_path / "large", content)
    moved = found.assign(image_id=found["image_id"] + first)
    for table in (precision_table, detection_errors, calibration_errors):
        pd.testing.assert_frame_equal(
            table(moved, large, replicates=20), table(found, small, replicates=20)
        )


def test_a_subset_is_evaluated_by_its_own_images(dataset: CocoDataset) -> None:
    few = dataset.subset(5)
    found = make_detections(few)
    expected = pycocotools_precision(
        dataset.annotations_path, as_results(found, few), list(few.image_ids)
    )
    table = precision_table(found, few, replicates=3)
    np.testing.assert_array_equal([*values_of(table).values()], [*expected.values()])
    with pytest.raises(
        UserError, match=r"images with detections are not among the 5 of .*first: 6"
    ):
        precision_table(make_detections(dataset), few)


def test_images_without_any_object_have_no_precision(tmp_path: Path) -> None:
    """The set's last image has none."""
    whole = make_dataset(tmp_path, images=3)
    content = json.loads(whole.annotations_path.read_text())
    content["images"].reverse()
    dataset = as_dataset(tmp_path / "turned", content).subset(1)
    found = make_detections(whole)
    table = precision_table(found[found["image_id"] == 3], dataset, replicates=5)
    assert len(table) == len(AP_NAMES)
    assert table[["value", "value_low", "value_high"]].isna().all(axis=None)


def test_boxes_that_are_the_objects_pass_every_threshold(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=6, crowds=False)
    truth = GroundTruth(dataset)
    corners = np.hstack([truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]])
    frame = pd.DataFrame(corners, columns=["x1", "y1", "x2", "y2"]).assign(
        image_id=truth.image_ids[truth.images], label=truth.labels, score=0.5
    )
    # Of what rounding of the corners leaves of them.
    ious = box_ious(np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), truth.boxes)
    head = head_of(frame.assign(detector="run", head="fc").astype(DETECTION_TYPES), truth)
    found = match_detections(truth, head, np.array([1.0]), sizes=1)
    assert found.true[0, 0].sum() == (ious >= 1 - 1e-10).sum() == len(frame)
