"""The runner against a loop over single proposals, and what interruptions leave behind."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.ops import box_iou

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.measure.responses import chunk_size
from rethink_heads.measure.runner import measure
from rethink_heads.measure.store import Measurements
from rethink_heads.proposals import grid
from tests.measure.conftest import IMAGES, ToyDetector, assert_same

STEPS = 5
CONFIG = MeasuringConfig(grid_steps=STEPS, rows_per_bin=3)
COUNTS = ["n", "measured"]
VALUES = ["iou", "score", "regressed_iou", "dx", "dy", "dw", "dh"]


@pytest.fixture
def run(toy_detector: Any, toy_dataset: CocoDataset, tmp_path: Path) -> Any:
    """Measure the toys; keyword arguments replace the defaults."""

    def measured(**changes: Any) -> Measurements:
        arguments = {
            "detector": toy_detector,
            "dataset": toy_dataset,
            "detector_name": "toy",
            "config": CONFIG,
            "seed": 0,
            "folder": tmp_path / "measurements",
            "provenance": {"weights": "a"},
            "progress": False,
        }
        return measure(**{**arguments, **changes})

    return measured


def bins_of(measured: Measurements) -> pd.DataFrame:
    """The frame of bins by head, image, object and bin."""
    return measured.to_frame().set_index(["head", "image_id", "object_id", "bin"])


def rows_of(measured: Measurements) -> pd.DataFrame:
    """The sampled proposals of all heads with the ids of their objects."""
    frames = []
    for key in measured.keys:
        rows = pd.DataFrame(measured.rows(key))
        ids = measured.objects[["image_id", "object_id"]].iloc[rows["object"]]
        frames.append(rows.assign(head=key[1]).join(ids.reset_index(drop=True)))
    return pd.concat(frames, ignore_index=True)


def raw_rows(detector: Any, dataset: CocoDataset, steps: int = STEPS) -> pd.DataFrame:
    """Every proposal of every object and head, one at a time, in plain float64 arithmetic."""
    rows = []
    with torch.inference_mode():
        for sample in (dataset[i] for i in range(len(dataset))):
            features = detector.extract(sample.image)
            for box, label, object_id in zip(
                sample.boxes, sample.labels.tolist(), sample.object_ids.tolist(), strict=True
            ):
                x1, y1, x2, y2 = box.double().tolist()
                for proposal in grid(box, tuple(sample.image.shape[1:]), steps).boxes:
                    proposal = proposal[None]
                    iou = box_iou(proposal.double(), box[None].double()).item()
                    pooled = detector.pool(features, proposal)
                    for head, output in detector.predict(features, pooled, proposal).items():
                        left, top, right, bottom = output.boxes[0, label].double().tolist()
                        rows.append(
                            {
                                "image_id": sample.image_id,
                                "object_id": object_id,
                                "head": head,
                                "bin": min(int(iou * 20), 19),
                                "iou": iou,
                                "score": output.scores[0, label].item(),
                                "regressed_iou": box_iou(
                                    output.boxes[0, label][None].double(), box[None].double()
                                ).item(),
                                "dx": (left + right - x1 - x2) / 2 / (x2 - x1),
                                "dy": (top + bottom - y1 - y2) / 2 / (y2 - y1),
                                "dw": math.log(max((right - left) / (x2 - x1), 16 / 1000)),
                                "dh": math.log(max((bottom - top) / (y2 - y1), 16 / 1000)),
                            }
                        )
    return pd.DataFrame(rows)


def test_counts_moments_and_rows_equal_a_loop(
    run: Any, toy_detector: Any, toy_dataset: CocoDataset
):
    measured = run()
    raw = raw_rows(toy_detector, toy_dataset)
    key = ["head", "image_id", "object_id", "bin"]
    assert len(measured.objects) == 5
    assert set(measured.objects["size"]) == {"small", "medium", "large"}

    groups = raw.groupby(key)
    bins = bins_of(measured)
    assert set(bins.index) == set(groups.groups)
    counts = groups.size()
    for column in COUNTS:
        assert bins[column].to_dict() == counts.to_dict()
    for value in VALUES:
        for column, power in ((f"sum_{value}", 1), (f"sum_{value}_{value}", 2)):
            expected = (raw[value] ** power).groupby([raw[k] for k in key]).sum()
            found = bins.loc[expected.index, column]
            # single precision in the toy, other sums in float64
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4, err_msg=column)
    product = (raw["iou"] * raw["score"]).groupby([raw[k] for k in key]).sum()
    np.testing.assert_allclose(bins.loc[product.index, "sum_iou_score"], product, rtol=1e-5)

    rows = rows_of(measured)
    assert (rows.groupby(key).size() == counts.clip(upper=3)).all()
    assert rows.groupby(key)["weight"].sum().to_dict() == pytest.approx(counts.to_dict())
    sampled = ["iou", "score"]
    by_object = {name: group[sampled].to_numpy() for name, group in raw.groupby(key)}
    for name, group in rows.groupby(key):
        distance = np.abs(group[sampled].to_numpy()[:, None] - by_object[name][None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-4


def test_heads_share_proposals(run: Any):
    measured = run()
    ious = [measured.rows(key)["iou"] for key in measured.keys]
    assert len(ious) == 3
    assert all(np.array_equal(ious[0], other) for other in ious[1:])


@pytest.mark.parametrize("drawn", [None, 60])
def test_the_boxes_of_sampled_proposals_can_be_made_again(
    run: Any, toy_dataset: CocoDataset, drawn: int | None
) -> None:
    measured = run(config=CONFIG.model_copy(update={"proposals_per_object": drawn}))
    rows = pd.DataFrame(measured.rows(("toy", "fc")))
    for number, ids in enumerate(measured.objects.itertuples()):
        sample = toy_dataset[toy_dataset.image_ids.index(ids.image_id)]
        box = sample.boxes[sample.object_ids.tolist().index(ids.object_id)]
        proposals = grid(box, tuple(sample.image.shape[1:]), STEPS)
        own = rows[rows["object"] == number]
        np.testing.assert_array_equal(proposals.ious[own["proposal"].tolist()], own["iou"])
        assert own["proposal"].is_unique


def test_maps_of_every_object_head_and_branch(run: Any):
    measured = run()
    branches, heads = ("conv", "fc"), ("conv", "double", "fc")
    for kind, names, width in (
        ("cell_iou", heads, 9),
        ("cell_score", heads, 9),
        ("displacement_score", heads, 21 * 21),
        ("spatial_correlation", branches, 81),
    ):
        assert measured.map_keys(kind) == tuple(("toy", name) for name in names)
        for key in measured.map_keys(kind):
            maps = measured.maps(key, kind)
            assert maps.shape == (5, width)
            assert np.isfinite(maps).any(axis=1).all()
    assert measured.map_keys("weight_correlation") == (("toy", "fc"),)
    assert measured.weights(("toy", "fc"), "weight_correlation").shape == (81,)
    assert measured.weights(("toy", "conv"), "weight_correlation") is None


def test_order_of_the_images_does_not_matter(
    run: Any, reversed_dataset: CocoDataset, tmp_path: Path
):
    config = CONFIG.model_copy(update={"objects_per_image": 1, "proposals_per_object": 200})
    first = run(config=config)
    second = run(config=config, dataset=reversed_dataset, folder=tmp_path / "other")
    assert_same(first, second)
    assert len(first.objects) == 2


def test_chunks_do_not_matter(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = run()
    monkeypatch.setattr("rethink_heads.measure.responses.MAX_CHUNK_CPU", 7)
    chunked = run(folder=tmp_path / "chunked")
    bins, others = bins_of(whole), bins_of(chunked)
    pd.testing.assert_frame_equal(bins[COUNTS], others[COUNTS], check_exact=True)
    pd.testing.assert_frame_equal(bins, others, rtol=1e-5, atol=1e-4)
    for key in whole.keys:
        rows, other = whole.rows(key), chunked.rows(key)
        for field in ("object", "bin", "weight", "iou"):
            np.testing.assert_array_equal(rows[field], other[field])
        for kind in ("displacement_score", "cell_score", "cell_iou"):
            np.testing.assert_allclose(
                whole.maps(key, kind), chunked.maps(key, kind), atol=1e-5, equal_nan=True
            )


def test_chunk_size_follows_the_memory():
    features = {"fc": torch.zeros(1, 256, 7, 7), "conv": torch.zeros(1, 256, 7, 7)}
    bytes_per_roi = 2 * 256 * 49 * 4
    assert chunk_size(features, 1) == 1
    assert chunk_size(features, 100) * bytes_per_roi <= 100 * 2**20
    assert chunk_size(features, 10**6) == 128


def test_stratified_proposals_keep_the_exact_counts(run: Any, tmp_path: Path):
    full = run()
    config = CONFIG.model_copy(update={"proposals_per_object": 100})
    some = run(config=config, folder=tmp_path / "some")
    whole, drawn = bins_of(full), bins_of(some)
    pd.testing.assert_series_equal(whole["n"], drawn["n"], check_exact=True)
    by_object = drawn.groupby(["head", "object_id"])[["n", "measured"]].sum()
    pd.testing.assert_series_equal(
        by_object["measured"], by_object["n"].clip(upper=100), check_names=False
    )
    assert (drawn["measured"] >= drawn["n"].clip(upper=2)).all()
    for key in some.keys:
        assert full.sampling(key) is None
        # Covariances of each bin that was not measured whole, and of no other.
        moments, covariances = some.moments(key), some.sampling(key)
        assert np.isfinite(covariances).all()
        np.testing.assert_array_equal(covariances.any(axis=2), moments[..., 1] < moments[..., 0])
    weights = rows_of(some).groupby(["head", "image_id", "object_id", "bin"])["weight"].sum()
    np.testing.assert_allclose(weights, whole["n"].loc[weights.index])


@contextlib.contextmanager
def interrupted_at_the_last_image(detector: ToyDetector) -> Iterator[None]:
    """What runs within is stopped as Ctrl-C does it, when a head is asked about the last image."""
    predict = type(detector).predict

    def interrupt(self: Any, features: Any, *rest: Any) -> Any:
        if features[1] == (110, 120):
            raise KeyboardInterrupt
        return predict(self, features, *rest)

    with (
        patch.object(type(detector), "predict", interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        yield


def test_resumed_equals_uninterrupted(run: Any, toy_detector: Any, tmp_path: Path):
    whole = run(folder=tmp_path / "whole")
    extracted_before = toy_detector.extracted
    with interrupted_at_the_last_image(toy_detector):
        run()
    parts = tmp_path / "measurements" / "parts"
    assert sorted(p.name for p in parts.iterdir()) == ["3", "7", "begun.json"]
    (parts / ".12-killed").write_bytes(b"half")  # what a killed process leaves

    toy_detector.extracted = 0
    resumed = run()
    assert extracted_before == 2  # images with objects
    assert toy_detector.extracted == 1
    assert_same(resumed, whole)
    assert_same(Measurements.load(tmp_path / "measurements"), whole)
    left = {p.name for p in (tmp_path / "measurements").iterdir() if p.suffix != ".npy"}
    assert left == {"meta.json", "objects.parquet"}


def test_other_provenance_starts_over(
    run: Any,
    toy_detector: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    kept = run()
    old = kept.copy()
    with monkeypatch.context() as patch:
        patch.setattr(
            type(toy_detector), "extract", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
            run(provenance={"weights": "b"}, seed=4)
    assert "seed: 0 before, 4 now; weights: a before, b now" in caplog.text
    # The old ones stay until the new ones are complete.
    assert_same(Measurements.load(tmp_path / "measurements"), old)
    new = run(provenance={"weights": "b"}, seed=4)
    assert new.provenance["weights"] == "b"
    assert not rows_of(new)["iou"].equals(rows_of(old)["iou"])
    # Of what was loaded before, the files are no more.
    with pytest.raises(UserError, match="its content is not what was written"):
        kept.rows(("toy", "fc"))


def test_parts_of_another_setting_are_not_mixed_in(run: Any, toy_detector: Any, tmp_path: Path):
    with interrupted_at_the_last_image(toy_detector):
        run(seed=1)
    assert_same(run(), run(folder=tmp_path / "fresh"))


@pytest.mark.parametrize("damaged", ["rows-1.npy", "moments-0.npy", "meta.json"])
def test_damaged_measurements_are_made_again(run: Any, tmp_path: Path, damaged: str):
    first = run()
    path = tmp_path / "measurements" / damaged
    path.write_bytes(path.read_bytes()[:100])
    assert_same(run(), first)


def test_full_disk_leaves_nothing_half_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save, written = np.savez, []

    def full(stream: Any, **arrays: Any) -> None:
        written.append(stream)
        if len(written) == 2:  # in the second image
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(stream, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        run()
    parts = tmp_path / "measurements" / "parts"
    assert sorted(p.name for p in parts.iterdir()) == ["7", "begun.json"]


def test_no_objects_is_an_error(run: Any, one_empty_image: CocoDataset):
    config = CONFIG.model_copy(update={"images": 1})
    with pytest.raises(UserError, match="no objects to measure in the first 1 images"):
        run(dataset=one_empty_image, config=config)


def test_classes_are_checked_first(run: Any, toy_detector: Any, tmp_path: Path):
    toy_detector.class_names = ("disc", "square", "star")
    with pytest.raises(UserError, match="only the data has ring; only the detector has star"):
        run()
    assert not (tmp_path / "measurements").exists()


def test_progress_lines(run: Any, capsys: pytest.CaptureFixture[str]):
    run(progress=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith("measuring toy: 3/3 images (100%), 5 objects, ")


def test_a_run_under_another_name_or_memory_is_not_measured_again(
    run: Any, toy_detector: Any, tmp_path: Path
) -> None:
    first = run()
    extracted = toy_detector.extracted
    renamed = run(detector_name="renamed", config=CONFIG.model_copy(update={"memory_mb": 3}))
    assert toy_detector.extracted == extracted
    assert renamed.detectors == ("renamed",)
    assert renamed.provenance == first.provenance
    assert (first.provenance["weights"], first.provenance["seed"]) == ("a", "0")
    assert_same(renamed, run(detector_name="renamed", folder=tmp_path / "fresh"))
    files = [sorted((tmp_path / each).iterdir()) for each in ("measurements", "fresh")]
    for path, other in zip(*files, strict=True):
        assert path.name == other.name
        assert path.read_bytes() == other.read_bytes()


def test_an_interrupted_run_goes_on_under_another_name(
    run: Any, toy_detector: Any, tmp_path: Path
) -> None:
    with interrupted_at_the_last_image(toy_detector):
        run()
    toy_detector.extracted = 0
    resumed = run(detector_name="renamed")
    assert toy_detector.extracted == 1
    assert_same(resumed, run(detector_name="renamed", folder=tmp_path / "fresh"))


def test_an_image_that_was_replaced_is_measured_again(
    run: Any, toy_dataset: CocoDataset, caplog: pytest.LogCaptureFixture
) -> None:
    first = np.array(run().moments(("toy", "fc")))
    path = toy_dataset.images_path / "7.png"
    with Image.open(path) as image:
        ImageOps.invert(image).save(path)
    second = run(dataset=CocoDataset(toy_dataset.annotations_path, toy_dataset.images_path))
    assert "is of another setting and is made again (image files: " in caplog.text
    assert not np.array_equal(first, second.moments(("toy", "fc")))


def test_two_commands_at_once_measure_once(run: Any, tmp_path: Path) -> None:
    detectors = [ToyDetector(), ToyDetector()]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda detector: run(detector=detector), detectors))
    # One of the images has no objects.
    assert sorted(each.extracted for each in detectors) == [0, len(IMAGES) - 1]
    assert_same(*found)
    assert not [*tmp_path.rglob("parts"), *tmp_path.rglob(".*")]
