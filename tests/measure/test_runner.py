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

from rethink_heads.config import Config, MeasuringConfig, ModelConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.responses import chunk_size
from rethink_heads.measure.runner import measure
from rethink_heads.proposals import grid
from tests.measure.conftest import IMAGES, ToyDetector

STEPS = 5
CONFIG = MeasuringConfig(grid_steps=STEPS, rows_per_bin=3)
FRAMES = ("bins", "rows", "maps")
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


def assert_equal(
    first: Measurements, second: Measurements, frames: tuple[str, ...] = FRAMES
) -> None:
    """Equal to the bit."""
    for name in frames:
        pd.testing.assert_frame_equal(
            getattr(first, name), getattr(second, name), check_exact=True, obj=name
        )


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
    bins = measured.bins.set_index(key)
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

    rows = measured.rows
    assert (rows.groupby(key).size() == counts.clip(upper=3)).all()
    assert rows.groupby(key)["weight"].sum().to_dict() == pytest.approx(counts.to_dict())
    by_object = {name: group[VALUES].to_numpy() for name, group in raw.groupby(key)}
    for name, group in rows.groupby(key):
        distance = np.abs(group[VALUES].to_numpy()[:, None] - by_object[name][None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-4


def test_heads_share_proposals(run: Any):
    rows = run().rows
    ious = [group["iou"].to_numpy() for _, group in rows.groupby("head")]
    assert len(ious) == 3
    assert all(np.array_equal(ious[0], other) for other in ious[1:])


def test_maps_of_every_object_head_and_branch(run: Any):
    maps = run().maps
    lengths = maps.groupby("kind")["values"].agg(lambda v: sorted({len(a) for a in v}))
    assert lengths.to_dict() == {
        "cell_iou": [9],
        "cell_score": [9],
        "displacement_score": [21 * 21],
        "spatial_correlation": [81],
        "weight_correlation": [81],
    }
    heads = maps.groupby("kind")["head"].agg(lambda v: sorted(set(v))).to_dict()
    assert heads["spatial_correlation"] == ["conv", "fc"]
    assert heads["cell_score"] == ["conv", "double", "fc"]
    assert heads["weight_correlation"] == ["fc"]
    assert maps.groupby("kind").size().to_dict() == {
        "cell_iou": 15,
        "cell_score": 15,
        "displacement_score": 15,
        "spatial_correlation": 10,
        "weight_correlation": 1,
    }
    of_weights = maps[maps["kind"] == "weight_correlation"].iloc[0]
    assert (of_weights["image_id"], of_weights["object_id"]) == (-1, -1)


def test_order_of_the_images_does_not_matter(
    run: Any, reversed_dataset: CocoDataset, tmp_path: Path
):
    config = CONFIG.model_copy(update={"objects_per_image": 1, "proposals_per_object": 200})
    first = run(config=config)
    second = run(config=config, dataset=reversed_dataset, folder=tmp_path / "other")
    assert_equal(first, second)
    assert len(first.objects) == 2


def test_chunks_do_not_matter(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = run()
    monkeypatch.setattr("rethink_heads.measure.responses.MAX_CHUNK_CPU", 7)
    chunked = run(folder=tmp_path / "chunked")
    pd.testing.assert_frame_equal(whole.bins[COUNTS], chunked.bins[COUNTS], check_exact=True)
    pd.testing.assert_frame_equal(whole.bins, chunked.bins, rtol=1e-5, atol=1e-4)
    pd.testing.assert_frame_equal(
        whole.rows.drop(columns=VALUES), chunked.rows.drop(columns=VALUES), check_exact=True
    )
    for kind, group in whole.maps.groupby("kind"):
        other = chunked.maps[chunked.maps["kind"] == kind]
        np.testing.assert_allclose(
            np.stack(group["values"]), np.stack(other["values"]), atol=1e-5, equal_nan=True
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
    pd.testing.assert_series_equal(full.bins["n"], some.bins["n"], check_exact=True)
    of_object = some.bins.groupby(["head", "object_id"])[["n", "measured"]].sum()
    pd.testing.assert_series_equal(
        of_object["measured"], of_object["n"].clip(upper=100), check_names=False
    )
    assert (some.bins["measured"] >= some.bins["n"].clip(upper=2)).all()
    key = ["head", "object_id", "bin"]
    # One row of covariances for each bin that was not measured whole, and no other.
    drawn = some.bins[some.bins["measured"] < some.bins["n"]]
    assert len(full.sampling) == 0 < len(drawn)
    pd.testing.assert_frame_equal(some.sampling[key], drawn[key].reset_index(drop=True))
    assert np.isfinite(some.sampling.filter(like="cov_").to_numpy()).all()
    weights = some.rows.groupby(key)["weight"].sum()
    np.testing.assert_allclose(weights, full.bins.set_index(key)["n"].loc[weights.index])


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
    assert sorted(p.name for p in parts.iterdir()) == ["3", "7", "provenance.json", "threads.json"]
    (parts / ".12-killed").mkdir()  # what a killed process leaves
    (parts / ".12-killed" / "bins.parquet").write_bytes(b"half")

    toy_detector.extracted = 0
    resumed = run()
    assert extracted_before == 2  # images with objects
    assert toy_detector.extracted == 1
    assert_equal(resumed, whole)
    assert_equal(Measurements.load(tmp_path / "measurements"), whole)
    files = sorted(p.name for p in (tmp_path / "measurements").iterdir())
    assert files == ["bins.parquet", "maps.parquet", "rows.parquet", "sampling.parquet"]


def test_complete_measurements_are_reused(run: Any, toy_detector: Any):
    first = run()
    toy_detector.extracted = 0
    again = run(config=CONFIG.model_copy(update={"memory_mb": 3}))
    assert toy_detector.extracted == 0
    assert_equal(first, again)
    assert again.provenance == first.provenance
    assert first.provenance["weights"] == "a"
    assert first.provenance["seed"] == "0"


def test_other_provenance_starts_over(
    run: Any,
    toy_detector: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    old = run()
    with monkeypatch.context() as patch:
        patch.setattr(
            type(toy_detector), "extract", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
            run(provenance={"weights": "b"}, seed=4)
    assert "seed: 0 before, 4 now; weights: a before, b now" in caplog.text
    # The old ones stay until the new ones are complete.
    assert_equal(Measurements.load(tmp_path / "measurements"), old)
    new = run(provenance={"weights": "b"}, seed=4)
    assert new.provenance["weights"] == "b"
    assert not new.rows["iou"].equals(old.rows["iou"])


def test_parts_of_another_setting_are_not_mixed_in(run: Any, toy_detector: Any, tmp_path: Path):
    with interrupted_at_the_last_image(toy_detector):
        run(seed=1)
    assert_equal(run(), run(folder=tmp_path / "fresh"))


@pytest.mark.parametrize("damaged", ["rows.parquet", "maps.parquet"])
def test_damaged_measurements_are_made_again(run: Any, tmp_path: Path, damaged: str):
    first = run()
    path = tmp_path / "measurements" / damaged
    path.write_bytes(path.read_bytes()[:100])
    assert_equal(run(), first)


def test_full_disk_leaves_nothing_half_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import pyarrow.parquet

    write, written = pyarrow.parquet.write_table, []

    def full(table: Any, where: Any, *rest: Any, **keywords: Any) -> None:
        written.append(where)
        if len(written) == 6:  # in the second image
            Path(where).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, where, *rest, **keywords)

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(UserError, match="No space left on device"):
        run()
    parts = tmp_path / "measurements" / "parts"
    assert sorted(p.name for p in parts.iterdir()) == ["7", "provenance.json", "threads.json"]
    assert len(list((parts / "7").iterdir())) == 4


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


def test_our_detector(toy_dataset: CocoDataset, tmp_path: Path):
    """A Double-Head with every reading, random weights: the same counts, each value as if alone."""
    torch.manual_seed(0)
    model = ModelConfig(
        backbone="tiny",
        pretrained=False,
        norm="batch",
        fpn_channels=16,
        fc_width=32,
        conv_width=32,
        conv_bottleneck=16,
        conv_blocks=1,
        min_size=96,
        max_size=160,
    )
    config = Config(preset="test", head="double-ext", model=model)
    detector = build_detector(config, toy_dataset.class_names)  # in training mode
    measuring = MeasuringConfig(grid_steps=3, rows_per_bin=2)
    measured = measure(
        detector, toy_dataset, "ours", measuring, 0, tmp_path / "m", {}, progress=False
    )
    assert measured.heads == ("conv", "double", "double-ext", "fc")
    raw = raw_rows(detector, toy_dataset, steps=3)
    key = ["head", "image_id", "object_id", "bin"]
    bins = measured.bins.set_index(key)
    assert bins["n"].to_dict() == raw.groupby(key).size().to_dict()
    for value in VALUES:
        expected = raw.groupby(key)[value].sum()
        np.testing.assert_allclose(
            bins.loc[expected.index, f"sum_{value}"], expected, rtol=1e-4, atol=1e-4
        )
    assert set(VALUE_COLUMNS) <= set(measured.bins.columns)
    assert np.isfinite(measured.bins[list(VALUE_COLUMNS)]).all(axis=None)


def test_a_run_under_another_name_is_not_measured_again(
    run: Any, toy_detector: Any, tmp_path: Path
) -> None:
    first = run()
    extracted = toy_detector.extracted
    renamed = run(detector_name="renamed")
    assert toy_detector.extracted == extracted
    assert renamed.detectors == ("renamed",)
    assert renamed.provenance == first.provenance
    run(detector_name="renamed", folder=tmp_path / "fresh")
    for name in ("bins", "rows", "maps", "sampling"):
        files = [tmp_path / each / f"{name}.parquet" for each in ("measurements", "fresh")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_an_interrupted_run_goes_on_under_another_name(
    run: Any, toy_detector: Any, tmp_path: Path
) -> None:
    with interrupted_at_the_last_image(toy_detector):
        run()
    toy_detector.extracted = 0
    resumed = run(detector_name="renamed")
    assert toy_detector.extracted == 1
    assert_equal(resumed, run(detector_name="renamed", folder=tmp_path / "fresh"))


def test_an_image_that_was_replaced_is_measured_again(
    run: Any, toy_dataset: CocoDataset, caplog: pytest.LogCaptureFixture
) -> None:
    first = run()
    path = toy_dataset.images_path / "7.png"
    with Image.open(path) as image:
        ImageOps.invert(image).save(path)
    second = run(dataset=CocoDataset(toy_dataset.annotations_path, toy_dataset.images_path))
    assert "is of another setting and is made again (image files: " in caplog.text
    assert not first.bins.equals(second.bins)


def test_two_commands_at_once_measure_once(run: Any, tmp_path: Path) -> None:
    detectors = [ToyDetector(), ToyDetector()]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda detector: run(detector=detector), detectors))
    # One of the images has no objects.
    assert sorted(each.extracted for each in detectors) == [0, len(IMAGES) - 1]
    assert_equal(*found)
    assert not [*tmp_path.rglob("parts"), *tmp_path.rglob(".*")]
