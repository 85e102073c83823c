"""The benchmark of sampling, small: on a toy detector's real grids, and on made-up values that leave no doubt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.sampling import (
    MeasuredObject,
    coverage,
    draw_coverage,
    estimates,
    measure_whole,
    measurements_of,
    report,
)
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import HeadOutput
from rethink_heads.measure.moments import ERRORS
from rethink_heads.measure.runner import measure
from rethink_heads.proposals import grid, iou_bin


@pytest.fixture(scope="module")
def synthetic_objects() -> list[MeasuredObject]:
    """Objects on real grids of 9 steps, whose scores follow the IoU with noise."""
    random = np.random.default_rng(2)
    found = []
    for number in range(5):
        ious = grid(torch.tensor([40.0, 30.0, 100.0, 90.0]), (160, 200), 9).ious
        iou, count = ious.numpy(), len(ious)
        score = 1 / (1 + np.exp(-8 * (iou - random.normal(0.5, 0.05)) + random.normal(size=count)))
        box = np.sqrt(iou) * (1 - 0.2 * random.random(count))
        values = {"iou": iou, "score": score, "regressed_iou": box}
        values |= {name: random.normal(size=count) for name in ERRORS}
        names = {"image_id": number, "object_id": number, "class_name": "cat"}
        names |= {"size": "medium", "detector": "run"}
        found.append(MeasuredObject(names, iou_bin(ious), {"fc": values}))
    return found


def test_intervals_hold_the_whole_grids_values_as_often_as_they_claim(
    synthetic_objects: list[MeasuredObject],
) -> None:
    draws = 40
    table = coverage(synthetic_objects, 656, draws)  # a tenth
    assert set(table["proposals"]) == {656}
    correlations = table[table["bin"] < 0].set_index("statistic")
    assert len(correlations) == 4
    # Of 40 draws 95% is 38; 33 or fewer would be found once in 200.
    assert (correlations["held"] >= 34 / draws).all()
    by_bin = table[(table["bin"] >= 0) & np.isfinite(table["whole"])]
    held = by_bin.groupby("statistic")["held"].mean()
    means = held[held.index.str.startswith("mean")]
    assert means.between(0.92, 0.98).all()
    # Of skewed scores a few hold most of the spread; samples without these state too small an error.
    assert held[held.index.str.startswith("std")].between(0.87, 0.98).all()
    # Estimates are right on average, and errors are as stated.
    off = by_bin["bias"].abs() / by_bin["bias_error"].clip(lower=1e-12)
    is_mean = by_bin["statistic"].str.startswith("mean")
    assert (off[is_mean] < 4.5).all()
    ratio = by_bin.groupby("statistic")["variance_ratio"].mean()
    assert ratio.between(0.85, 1.2).all()
    assert "PCC, IoU 0.5 to 1" in report(table, "this test")
    axes = draw_coverage(table).axes
    assert axes[0].get_title() == "run/fc"


def test_drawing_all_is_the_whole_grid(synthetic_objects: list[MeasuredObject]) -> None:
    whole = estimates(measurements_of(synthetic_objects))
    assert (whole["error"][np.isfinite(whole["value"])] == 0).all()
    assert estimates(measurements_of(synthetic_objects, 9**4, seed=3)).equals(whole)


class _Flat:
    """Scores of how much of the image a box covers; leaves boxes as they are."""

    class_names = ("thing",)
    heads = ("fc",)
    device = torch.device("cpu")

    def extract(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor(image.shape[1:]).prod()

    def pool(self, features: torch.Tensor, boxes: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def predict(
        self, features: torch.Tensor, roi_features: dict[str, torch.Tensor], boxes: torch.Tensor
    ) -> dict[str, HeadOutput]:
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        return {"fc": HeadOutput((area / features)[:, None], boxes[:, None])}


def test_the_whole_grids_are_those_that_measuring_sees(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}],
        "annotations": [
            {
                "id": 5,
                "image_id": 1,
                "category_id": 1,
                "bbox": [8, 6, 30, 20],
                "area": 600,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    dataset = CocoDataset(tmp_path / "a.json", tmp_path)
    ours = measurements_of(list(measure_whole(_Flat(), dataset, "flat", 3, 64)))
    theirs = measure(_Flat(), dataset, "flat", progress=False)
    assert ours.to_frame().equals(theirs.to_frame())
    assert ours.to_frame()["n"].sum() > 10_000
