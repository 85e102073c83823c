"""On a GPU: training in each precision, measuring, sampling and the fast path, against the same on the CPU.

Skipped where there is none. ``RETHINK_HEADS_TEST_DEVICE=cpu`` runs them on the CPU, which tries the tests themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import load_detector
from rethink_heads.fastpath.conv import fold_norms
from rethink_heads.fastpath.fc import FastFC
from rethink_heads.fastpath.pooling import RoIAlignRule, level_rois, pool
from rethink_heads.machine import whole_float32
from rethink_heads.measure.responses import Responder
from rethink_heads.measure.runner import measure
from rethink_heads.runs import Run
from rethink_heads.statistics.by_iou import pearson
from rethink_heads.training.train import train
from tests.command_line import call_json, untrained_run
from tests.detectors.small_rcnn import small_detector
from tests.fastpath.rois import boxes_of_all_levels, by_operator, image
from tests.fastpath.test_responses import (
    BFLOAT16_BOX_ERROR,
    BFLOAT16_SCORE_ERROR,
    SIDES,
    Responses,
    assert_equal,
)
from tests.tiny_coco import write_coco
from tests.training.exact_training import nothing_by_chance
from tests.training.recorded import recording, tiny_config, weights

DEVICE = os.environ.get("RETHINK_HEADS_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"
)
PRECISIONS = ["32-true", "bf16-mixed"] + ["16-mixed"] * (DEVICE == "cuda")
# Of losses under autocast, whose numbers have eleven or eight bits.
LOSS_ERRORS = {"32-true": 1e-4, "bf16-mixed": 0.05, "16-mixed": 0.02}


@pytest.fixture(autouse=True)
def all_bits() -> Iterator[None]:
    """Convolutions of float32 with all their bits, as measuring has them."""
    with whole_float32():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_coco(folder, split, 4)
    return folder


def test_a_run_is_trained_in_each_precision(data: Path, tmp_path: Path) -> None:
    """Six iterations in all, the losses near those of the CPU in float32, no step left out by chance."""
    losses = {}
    asked = [("32-true", "cpu"), *((each, DEVICE) for each in PRECISIONS)]
    for number, (precision, device) in enumerate(asked):
        config = tiny_config(data, "double-ext", f"training.precision={precision}")
        run = Run.create(tmp_path / str(number), config)
        with nothing_by_chance(), recording() as record:
            train(config, run, device)
        assert record.iterations == list(range(6))
        assert all(torch.isfinite(value).all() for value in weights(run).values())
        assert {value.dtype for value in weights(run).values()} <= {torch.float32, torch.int64}
        losses[precision, device] = record.losses[0]
    for (precision, _), loss in losses.items():
        assert loss == pytest.approx(losses["32-true", "cpu"], rel=LOSS_ERRORS[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_interrupted_training_goes_on(precision: str, data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, "double-ext", f"training.precision={precision}")
    run = Run.create(tmp_path / "run", config)
    with recording(stop_at=3), pytest.raises(KeyboardInterrupt):
        train(config, run, DEVICE)
    with recording() as record:
        train(config, run, DEVICE)
    assert record.iterations == [2, 3, 4, 5]
    # What was trained on a GPU is opened on a CPU.
    assert load_detector(run.detector_path).device.type == "cpu"


def on_both(head: str, **settings: object) -> tuple[RCNN, RCNN]:
    """The same detector on the CPU and on the device."""
    return small_detector(head, **SIDES, **settings), small_detector(head, **SIDES, **settings).to(
        DEVICE
    )


def plainly(detector: RCNN, boxes: Tensor, label: int = 1) -> Responses:
    """By ``pool`` and ``predict``."""
    boxes = boxes.to(detector.device)
    features = detector.extract(image())
    outputs = detector.predict(features, detector.pool(features, boxes), boxes)
    return {
        head: (out.scores[:, label].cpu(), out.boxes[:, label].cpu())
        for head, out in outputs.items()
    }


@pytest.mark.parametrize("settings", [{}, {"non_local": True}, {"sampling_ratio": 0}], ids=str)
@torch.inference_mode()
def test_all_ways_answer_as_the_cpu_does(settings: dict[str, object]) -> None:
    on_cpu, on_device = on_both("double-ext", **settings)
    boxes = boxes_of_all_levels()
    expected = plainly(on_cpu, boxes)
    assert_equal(plainly(on_device, boxes), expected)
    for memory_mb in (5, 512):
        responder = Responder(on_device, memory_mb)
        assert_equal(responder(responder.extract(image()), boxes, 1), expected)


@torch.inference_mode()
def test_fc6_by_factors_answers_alike() -> None:
    """It is not taken on a GPU until it is measured there, but must be right."""
    on_cpu, on_device = on_both("double-fc")
    boxes = boxes_of_all_levels()
    responder = Responder(on_device, 512)
    with (
        mock.patch.object(FastFC, "_factors_pay", return_value=True),
        mock.patch.object(
            FastFC, "_by_factors", autospec=True, side_effect=FastFC._by_factors
        ) as by_factors,
    ):
        found = responder(responder.extract(image()), boxes, 1)
    assert by_factors.called
    assert_equal(found, plainly(on_cpu, boxes))


@torch.inference_mode()
def test_convolutions_by_frequency_answer_alike() -> None:
    on_cpu, on_device = on_both("double-conv")
    boxes = boxes_of_all_levels()
    with mock.patch("rethink_heads.fastpath.conv._pays", return_value=True):
        responder = Responder(on_device, 512)
    assert_equal(responder(responder.extract(image()), boxes, 1), plainly(on_cpu, boxes))


@torch.inference_mode()
def test_bfloat16_is_close() -> None:
    on_cpu, on_device = on_both("double-ext")
    boxes = boxes_of_all_levels()
    responder = Responder(on_device, 512, "bfloat16")
    found = responder(responder.extract(image()), boxes, 1)
    assert_equal(found, plainly(on_cpu, boxes), BFLOAT16_SCORE_ERROR, BFLOAT16_BOX_ERROR)
    # Without a way of its own autocast takes the heads.
    responder.fast_path = None
    found = responder(responder.extract(image()), boxes, 1)
    assert_equal(found, plainly(on_cpu, boxes), BFLOAT16_SCORE_ERROR, BFLOAT16_BOX_ERROR)


@pytest.mark.parametrize("ratio", [0, 2])
def test_pooling_by_factors_is_the_operators(ratio: int) -> None:
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(8, 30, 43, generator=generator).to(DEVICE)
    rois, rule = boxes_of_all_levels().to(DEVICE), RoIAlignRule(7, ratio)
    found = pool(level_rois(feature_map, rois, 0.25, rule, torch.float32))
    expected = by_operator(feature_map[None], rois, 0.25, rule)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_folded_normalisation_stays_on_the_device() -> None:
    _, detector = on_both("fc")
    folded = fold_norms(detector.backbone)
    x = torch.rand(1, 3, 96, 128, device=DEVICE)
    for level, expected in detector.backbone(x).items():
        found = folded(x)[level]
        assert found.device == expected.device
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_detections_are_the_cpus() -> None:
    on_cpu, on_device = on_both("double-ext")
    for head, expected in on_cpu.detect(image()).items():
        found = on_device.detect(image())[head]
        assert len(found.boxes) == len(expected.boxes) > 0
        torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("proposals", [None, 40], ids=["all", "sampled"])
def test_measurements_are_the_cpus(proposals: int | None, data: Path) -> None:
    """The same objects and the same drawn proposals, whose moments differ by rounding."""
    config = tiny_config(
        data, "double-ext", "measuring.grid_steps=5", f"measuring.proposals_per_object={proposals}"
    )
    dataset = CocoDataset(*split_paths(config.data, "test"))
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        detector = build_detector(config, dataset.class_names).eval().to(device)
        measured = measure(detector, dataset, "run", config.measuring, 0, progress=False)
        found.append(measured)
    for key in found[0].keys:
        expected, other = (np.asarray(each.moments(key)) for each in found)
        np.testing.assert_allclose(other, expected, rtol=1e-3, atol=1e-3)
    first, second = (pearson(each, replicates=0)["pcc"].to_numpy() for each in found)
    np.testing.assert_allclose(second, first, atol=1e-3)


@pytest.mark.usefixtures("tables_only")
def test_commands_run_on_the_device(data: Path, tmp_path: Path) -> None:
    """Scores, boxes, maps by position, final detections."""
    run = untrained_run(tmp_path / "run", tiny_config(data, "double-ext", "measuring.grid_steps=3"))
    for command in (["correlate", "--stage", "all"], ["regress"], ["sensitivity"], ["evaluate"]):
        tables = call_json(*command, "--run", run.path, "--device", DEVICE)["tables"]
        assert all(tables.values())
