"""Laws of the shares of lost AP: they add up, and hang on nothing but the order of scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.average_precision import precision_table
from rethink_heads.evaluation.causes import CAUSES
from rethink_heads.evaluation.lost_precision import (
    exchange_rate,
    exchange_rate_of,
    lost_by_class,
    lost_by_threshold,
    lost_precision,
    lost_precision_of,
)
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.statistics.bootstrap import ImageBootstrap
from tests.evaluation.test_detection_errors import distinct
from tests.made_detections import as_dataset, make_dataset, make_detections


@pytest.fixture
def crowded(tmp_path: Path) -> tuple[pd.DataFrame, CocoDataset]:
    """Two heads' detections with equal scores, and objects with crowds among them."""
    dataset = make_dataset(tmp_path, images=25, seed=5)
    frames = [
        make_detections(dataset, number, head=head, shake=shake)
        for number, (head, shake) in enumerate((("fc", 0.2), ("conv", 0.05)))
    ]
    return pd.concat(frames, ignore_index=True), dataset


def test_of_one_image_there_are_shares_without_intervals(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=4).subset(1)
    # A warning of NumPy's would be an error.
    shares = lost_precision(make_detections(dataset), dataset, replicates=20)
    assert shares["share"].notna().all()
    assert shares[["share_low", "share_high", "oracle_low", "oracle_high"]].isna().all(axis=None)


def test_shares_add_up_to_what_ap_lacks(crowded: tuple[pd.DataFrame, CocoDataset]) -> None:
    ap = precision_table(*crowded, replicates=2).set_index(["head", "metric"])["value"]
    shares = lost_precision(*crowded, replicates=2)
    assert (shares["share"] > -1e-12).all()
    by_threshold = lost_by_threshold(*crowded, replicates=2)
    steps = exchange_rate(*crowded, replicates=2).set_index(["head", "step"])["ap"]
    for head in ("fc", "conv"):
        lost = shares.set_index(["head", "cause"]).loc[head]
        assert lost["share"].sum() == pytest.approx(1 - ap[head, "AP"], abs=1e-9)
        assert (lost["oracle"] >= ap[head, "AP"] - 1e-12).all()
        each = by_threshold[by_threshold["head"] == head].groupby("iou")["share"].sum()
        assert each[0.5] == pytest.approx(1 - ap[head, "AP50"], abs=1e-9)
        assert each[0.75] == pytest.approx(1 - ap[head, "AP75"], abs=1e-9)
        assert steps[head, 0.0] == pytest.approx(ap[head, "AP"], abs=1e-12)
        assert steps[head, 1.0] == pytest.approx(lost.loc["ranking", "oracle"], abs=1e-12)
    by_class = lost_by_class(*crowded, replicates=2)
    means = by_class.groupby(["head", "cause"])["share"].mean()
    expected = shares.set_index(["head", "cause"])["share"].sort_index()
    pd.testing.assert_series_equal(means, expected, rtol=0, atol=1e-12)


def test_ground_truth_as_detections_loses_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    truth = GroundTruth(dataset)
    rows = np.flatnonzero(truth.findable)
    boxes = truth.boxes[rows]
    frame = pd.DataFrame(
        {
            "image_id": truth.image_ids[truth.images[rows]],
            "detector": "run",
            "head": "fc",
            "label": truth.labels[rows],
            "x1": boxes[:, 0],
            "y1": boxes[:, 1],
            "x2": boxes[:, 0] + boxes[:, 2],
            "y2": boxes[:, 1] + boxes[:, 3],
            "score": np.linspace(0.9, 0.1, len(rows)),
        }
    )
    found = lost_precision(frame, dataset, replicates=2)
    np.testing.assert_allclose(found["share"], 0, atol=1e-12)
    np.testing.assert_allclose(found["oracle"], 1, atol=1e-12)
    assert (found["count"] == 0).all()


def measure_nothing(truth: GroundTruth) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares, and AP by step, of a head that found nothing."""
    columns = ["image_id", "label", "score", "x1", "y1", "x2", "y2", "detector", "head"]
    head = truth.detections_of(pd.DataFrame(columns=columns), ("run", "fc"))
    bootstrap = ImageBootstrap(truth.image_ids, 10)
    shares, steps = (
        measure(head, truth, bootstrap).rows(("run", "fc"))
        for measure in (lost_precision_of, exchange_rate_of)
    )
    return shares.set_index("cause"), steps


def test_who_finds_nothing_misses_everything(tmp_path: Path) -> None:
    shares, steps = measure_nothing(GroundTruth(make_dataset(tmp_path)))
    assert shares["share"].to_dict() == pytest.approx(
        {cause: float(cause == "misses") for cause in CAUSES}
    )
    assert (steps["ap"] == 0).all()
    assert steps["pcc"].isna().all()


def test_without_objects_there_is_no_precision_to_lose(tmp_path: Path) -> None:
    truth = GroundTruth(make_dataset(tmp_path))
    truth.crowd[:] = True
    shares, steps = measure_nothing(truth)
    assert shares[["share", "share_low", "oracle"]].isna().all(axis=None)
    assert steps["ap"].isna().all()


def relabelled(dataset: CocoDataset, frame: pd.DataFrame) -> tuple[pd.DataFrame, CocoDataset]:
    """Images numbered from the last to the first, classes in the reverse order, rows of the frame shuffled."""
    content = json.loads(dataset.annotations_path.read_text())
    last, classes = max(dataset.image_ids) + 1, len(dataset.category_ids)
    turned = dict(zip(dataset.category_ids, reversed(dataset.category_ids), strict=True))
    for image in content["images"]:
        image["id"] = last - image["id"]
    for annotation in content["annotations"]:
        annotation["image_id"] = last - annotation["image_id"]
        annotation["category_id"] = turned[annotation["category_id"]]
    folder = dataset.annotations_path.parent / "turned"
    folder.mkdir()
    frame = frame.assign(image_id=last - frame["image_id"], label=classes - 1 - frame["label"])
    return frame.sample(frac=1, random_state=0), as_dataset(folder, content)


def test_names_and_scales_change_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=25, seed=3)
    frame = distinct(make_detections(dataset, 3), 3)
    expected = lost_precision(frame, dataset, replicates=2)["share"]
    turned, other = relabelled(dataset, frame)
    found = lost_precision(turned, other, replicates=2)["share"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    cubed = frame.assign(score=frame["score"].astype(float) ** 3)
    np.testing.assert_array_equal(lost_precision(cubed, dataset, replicates=2)["share"], expected)


def test_the_order_of_equal_scores_of_different_images_changes_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=25, seed=3)
    frame = make_detections(dataset, 3)
    # A score is there once an image at most.
    frame["score"] = 1 - frame.groupby("image_id").cumcount() / 20
    expected = lost_precision(frame, dataset, replicates=2)["share"]
    shuffled = frame.sample(frac=1, random_state=1)
    np.testing.assert_array_equal(
        lost_precision(shuffled, dataset, replicates=2)["share"], expected
    )


def test_of_a_class_an_interval_takes_images_with_the_cause_in_it(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=60, seed=8, crowds=False)
    found = dataset.annotated
    generator = np.random.default_rng(8)
    rows = [
        (dataset.image_ids[image], label, *corner, *(corner + side), score)
        for image, label, corner, side, score in zip(
            found.images,
            found.labels,
            found.boxes[:, :2],
            found.boxes[:, 2:],
            generator.random(len(found.images)),
            strict=True,
        )
    ]
    # The objects of the first class twice in one image, too few; something with no object in all.
    twice = [row for row in rows if row[0] == 1 and row[1] == 0]
    rows += [(*row[:6], 1.0) for row in twice]
    rows += [(image, 0, 293.0, 293.0, 299.0, 299.0, 0.95) for image in dataset.image_ids]
    columns = ["image_id", "label", "x1", "y1", "x2", "y2", "score"]
    frame = pd.DataFrame(rows, columns=columns).assign(detector="run", head="fc")
    shares = lost_by_class(frame, dataset, replicates=50).set_index(["label", "cause"])
    assert twice
    assert shares.loc[(0, "duplicates"), "share"] > 0
    assert np.isnan(shares.loc[(0, "duplicates"), "share_low"])
    assert shares.loc[(0, "background"), "share_low"] > 0
    assert np.isnan(shares.loc[(1, "background"), "share_low"])
