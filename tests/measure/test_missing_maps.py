"""What a detector's maps do not allow is left out, and each command says so, also when nothing is measured anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.measure.runner import measure
from rethink_heads.measure.store import Measurements

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
