"""A small data set, and trainings that take no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rethink_heads.config import Config
from rethink_heads.detectors.base import Detections
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import save_detector
from rethink_heads.runs import Run
from rethink_heads.statistics.bootstrap import FEWEST_IMAGES
from rethink_heads.sweeps.description import load_sweep
from rethink_heads.sweeps.plan import Plan, make_plan
from tests.tiny_coco import CLASSES, COLOURS, SMALL_SETTINGS, write_coco

SETTINGS = [
    *SMALL_SETTINGS,
    "training.max_iterations=2",
    "training.batch_size=2",
    "training.warmup_iterations=0",
    "training.milestones=[]",
    "training.validate_every=2",
    "training.checkpoint_every=1",
    "training.workers=0",
    # Whatever an untrained detector finds.
    "model.score_threshold=0.0",
]
THREE = """
name: three
title: Three structures
points:
  - {label: single-fc, title: Single-FC, head: fc}
  - {label: single-conv, title: Single-Conv, head: conv}
  - {label: double-head-ext, title: Double-Head-Ext, head: double-ext}
paper_order: [[double-head-ext], [single-fc, single-conv]]
paper_note: the first as remembered
"""
TEST_IMAGES = 2 * FEWEST_IMAGES
MakePlan = Callable[..., Plan]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images to train on, and as many to test on as an interval takes of each class."""
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder, "train", 3)
    write_coco(folder, "val", TEST_IMAGES)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A sweep's file."""
    path = tmp_path / "three.yaml"
    path.write_text(THREE)
    return path


@pytest.fixture
def make(data: Path, three: Path, tmp_path: Path) -> MakePlan:
    """The sweep of three points with small detectors, in ``tmp_path / "out"``."""

    def make_one(*overrides: str, sweep: str | Path | None = None, **options: object) -> Plan:
        options.setdefault("seeds", (0, 1))
        description = load_sweep(sweep or three)
        return make_plan(
            description,
            tmp_path / "out",
            "shapes-tiny",
            [*SETTINGS, *overrides],
            data=str(data),
            **options,  # type: ignore[arg-type]
        )

    return make_one


class FakeTraining:
    """Leaves an untrained detector of the seed; remembers its calls."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.fails_at: str | None = None

    def __call__(self, path: Path, config: Config, device: str = "cpu") -> Run:
        run = Run.create(path, config)
        if path.name == self.fails_at:
            raise RuntimeError("CUDA out of memory\nand more words")
        torch.manual_seed(config.seed)
        save_detector(build_detector(config, CLASSES), config, run.detector_path)
        self.trained.append(path.name)
        return run


def detect_by_colour(self: RCNN, image: torch.Tensor) -> dict[str, Detections]:
    """By head: the box of the image's red or green pixels and three beside it, moved by the weights' own noise."""
    found = {}
    weights = self.roi_heads.heads.branch(self.branches[-1]).predictor.cls_score.bias
    extra = int(1000 * float(weights.detach().sum()))
    for place, head in enumerate(self.heads):
        first = next(self.roi_heads.parameters()).detach().flatten()[0]
        noise = torch.Generator().manual_seed(extra + place + int(1e6 * abs(float(first))))
        boxes, labels = [], []
        for label, name in enumerate(CLASSES):
            rows, columns = torch.where(
                (image.permute(1, 2, 0) == torch.tensor(COLOURS[name], dtype=torch.uint8)).all(-1)
            )
            if len(rows) < 20:
                continue
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            boxes += [box + 1.5 * torch.randn(4, generator=noise) for _ in range(3)]
            labels += [label] * 3
        scores = torch.rand(len(boxes), generator=noise).sort(descending=True).values
        found[head] = Detections(torch.stack(boxes), scores, torch.tensor(labels))
    return found


@pytest.fixture
def colour_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detections in the place of an untrained detector's, whose precision would be zero."""
    monkeypatch.setattr(RCNN, "detect", detect_by_colour)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than all else here; they are drawn for tests that use ``drawn``."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("rethink_heads.sweeps.runner.save_figure", lambda *_: [])


@pytest.fixture
def drawn() -> None:
    """Asked for by tests that look at figures."""


@pytest.fixture
def train() -> FakeTraining:
    return FakeTraining()
