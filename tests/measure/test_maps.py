"""Spatial maps against loops over pairs of cells or boxes; what a detector's maps do not allow is left out and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.measure.responses import (
    DISPLACEMENT_STEPS,
    Responder,
    cell_responses,
    displacement_scores,
    output_correlations,
    spatial_correlation,
    weight_correlations,
)
from rethink_heads.measure.runner import measure
from rethink_heads.measure.store import Measurements

LABEL = 2
SIZE = (48, 64)
BOX = torch.tensor([10.0, 8.0, 30.0, 24.0])


@pytest.fixture
def features(toy_detector: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return toy_detector.extract(torch.randint(0, 256, (3, *SIZE), generator=generator).byte())


def cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    norms = sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist())
    return dot / norms**0.5 if norms else 0.0


def loop_correlation(output_map: Tensor) -> Tensor:
    _, rows, columns = output_map.shape
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    return torch.tensor(
        [[cosine(output_map[:, a, b], output_map[:, c, d]) for c, d in cells] for a, b in cells],
        dtype=torch.float64,
    )


def test_spatial_correlation_equals_a_loop_over_pairs():
    maps = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    found = spatial_correlation(maps)
    assert found.shape == (3, 16, 16)
    for index in range(3):
        torch.testing.assert_close(found[index], loop_correlation(maps[index]), rtol=0, atol=1e-12)


def test_zero_cells_have_no_similarity_even_with_themselves():
    maps = torch.rand(1, 5, 3, 3, generator=torch.Generator().manual_seed(2))
    maps[0, :, 1, 2] = 0
    found = spatial_correlation(maps)[0]
    assert found[5].eq(0).all()
    assert found[:, 5].eq(0).all()
    kept = [i for i in range(9) if i != 5]
    torch.testing.assert_close(found[kept, kept], torch.ones(8, dtype=torch.float64))


def test_spatial_correlation_does_not_depend_on_scale():
    maps = torch.rand(1, 5, 3, 3, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(spatial_correlation(maps * 1e-30), spatial_correlation(maps))


def test_correlations_of_output_and_weights(toy_detector: Any, features: Any):
    exact = toy_detector.pool(features, BOX[None])
    found = output_correlations(toy_detector, exact)
    assert set(found) == {"fc", "conv"}
    for branch, output_map in toy_detector.output_maps(exact).items():
        torch.testing.assert_close(
            found[branch], loop_correlation(output_map[0]), rtol=0, atol=1e-12
        )
    by_branch = weight_correlations(toy_detector)
    assert set(by_branch) == {"fc"}
    expected = loop_correlation(toy_detector.weight_maps()["fc"])
    torch.testing.assert_close(by_branch["fc"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_mb", [0, 512])
def test_displacement_equals_a_loop_over_boxes(toy_detector: Any, features: Any, memory_mb: int):
    respond = Responder(toy_detector, memory_mb)
    found = displacement_scores(respond, features, BOX, LABEL, SIZE)
    assert set(found) == set(toy_detector.heads)
    width, height = BOX[2] - BOX[0], BOX[3] - BOX[1]
    for row in range(0, DISPLACEMENT_STEPS, 4):
        for column in range(0, DISPLACEMENT_STEPS, 2):
            dx, dy = (column - 10) / 10 * width, (row - 10) / 10 * height
            box = BOX + torch.stack([dx, dy, dx, dy])
            box[0::2] = box[0::2].clamp(0, SIZE[1])
            box[1::2] = box[1::2].clamp(0, SIZE[0])
            outputs = toy_detector.predict(
                features, toy_detector.pool(features, box[None]), box[None]
            )
            for head, scores in found.items():
                expected = outputs[head].scores[0, LABEL].item()
                assert scores[row, column].item() == pytest.approx(expected, abs=1e-6)


def test_displacement_out_of_the_image_is_nan(toy_detector: Any, features: Any):
    corner = torch.tensor([0.0, 0.0, 20.0, 16.0])
    respond = Responder(toy_detector, 512)
    found = displacement_scores(respond, features, corner, LABEL, SIZE)["fc"]
    gone = found.isnan()
    assert gone[0].all()  # dy = -1
    assert gone[:, 0].all()  # dx = -1
    assert not gone[1:, 1:].any()


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_zeroed_cells_equal_a_loop_over_cells(toy_detector: Any, features: Any, chunk: int):
    exact = toy_detector.pool(features, BOX[None])
    before = {branch: pooled.clone() for branch, pooled in exact.items()}
    found = cell_responses(toy_detector, features, exact, BOX, LABEL, chunk)
    assert all(torch.equal(exact[branch], before[branch]) for branch in exact)

    def respond(roi_features: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
        outputs = toy_detector.predict(features, roi_features, BOX[None])
        return {
            head: (
                output.scores[0, LABEL].item(),
                box_iou(output.boxes[0, LABEL][None].double(), BOX[None].double()).item(),
            )
            for head, output in outputs.items()
        }

    intact = respond(exact)
    for row in range(3):
        for column in range(3):
            zeroed = {branch: pooled.clone() for branch, pooled in exact.items()}
            for pooled in zeroed.values():
                pooled[:, :, row, column] = 0
            for head, (score, iou) in respond(zeroed).items():
                score_change, iou_change = found[head]
                assert score_change[row, column].item() == pytest.approx(
                    score - intact[head][0], abs=1e-6
                )
                assert iou_change[row, column].item() == pytest.approx(
                    iou - intact[head][1], abs=1e-6
                )
    assert found["fc"][0].abs().max() > 1e-3  # the toy does respond


FEW = MeasuringConfig(grid_steps=3)
NO_CELLS = (
    "toy: it shows no RoI features (`pool` gives none), or their positions are not one square for all"
    " branches, so it goes without the responses to zeroed RoI positions"
)


def measured(detector: Any, dataset: CocoDataset, folder: Path) -> Measurements:
    return measure(detector, dataset, "toy", FEW, 0, folder, {"weights": "a"}, progress=False)


def kinds(of: Measurements) -> set[str]:
    return {name[3] for name in of.names if len(name) == 4}


def test_of_a_whole_detector_nothing_is_said(
    toy_detector: Any, toy_dataset: CocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = measured(toy_detector, toy_dataset, tmp_path / "m")
    assert kinds(found) >= {"cell_score", "spatial_correlation", "weight_correlation"}
    assert caplog.text == ""


@pytest.mark.parametrize("cells", ["two squares", "one non-square"])
def test_cells_that_are_not_one_square_cost_no_other_measurement(
    cells: str,
    toy_detector: Any,
    toy_dataset: CocoDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """5 x 5 cells for conv and 3 x 3 for fc, or 2 x 3 for both; the toy answers as with 3 x 3."""
    pool, predict, maps = toy_detector.pool, toy_detector.predict, toy_detector.output_maps

    def pooled(features: Any, boxes: Tensor) -> dict[str, Tensor]:
        found = pool(features, boxes)
        if cells == "one non-square":
            return {name: each[:, :, :2] for name, each in found.items()}
        return {"fc": found["fc"], "conv": torch.nn.functional.pad(found["conv"], (1, 1, 1, 1))}

    def as_before(rois: dict[str, Tensor]) -> dict[str, Tensor]:
        missing = 3 - rois["fc"].shape[-2]
        padded = {n: torch.nn.functional.pad(r, (0, 0, 0, missing)) for n, r in rois.items()}
        return padded | {"conv": padded["conv"][:, :, :3, :3]}

    def shown(rois: dict[str, Tensor]) -> dict[str, Tensor]:
        return maps(as_before(rois)) if cells == "two squares" else dict(rois)

    monkeypatch.setattr(toy_detector, "pool", pooled)
    monkeypatch.setattr(toy_detector, "predict", lambda f, r, b: predict_on(f, as_before(r), b))
    monkeypatch.setattr(toy_detector, "output_maps", shown)

    def predict_on(features: Any, rois: dict[str, Tensor], boxes: Tensor) -> Any:
        with monkeypatch.context() as inside:
            inside.setattr(toy_detector, "output_maps", maps)
            return predict(features, rois, boxes)

    found = measured(toy_detector, toy_dataset, tmp_path / "m")
    expected = {"displacement_score", "weight_correlation"}
    assert kinds(found) == expected | ({"spatial_correlation"} if cells == "two squares" else set())
    for _ in range(2):
        assert NO_CELLS in caplog.messages
        is_said = any(
            "has an output map with RoI positions in a square" in m for m in caplog.messages
        )
        assert is_said == (cells == "one non-square")
        caplog.clear()
        measured(toy_detector, toy_dataset, tmp_path / "m")
    assert toy_detector.extracted == 2


def test_weights_in_no_square_are_named(
    toy_detector: Any,
    toy_dataset: CocoDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(toy_detector, "weight_maps", lambda: {"fc": torch.ones(6, 3, 5)})
    found = measured(toy_detector, toy_dataset, tmp_path / "m")
    assert "weight_correlation" not in kinds(found)
    says = "toy: the RoI positions of fc are in no square, so it goes without the spatial correlation of"
    assert [message.startswith(says) for message in caplog.messages] == [True]
