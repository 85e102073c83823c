"""Runs in the place of trainings: same settings are taken, others refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rethink_heads.errors import UserError
from rethink_heads.runs import Run
from rethink_heads.sweeps.runner import Precision, run_sweep
from tests.sweeps.conftest import FakeTraining, MakePlan


@pytest.fixture
def mine(make: MakePlan, train: FakeTraining, tmp_path: Path) -> Path:
    """A run of the fc-head and seed 1, trained elsewhere, with other measuring and validation settings."""
    config = make().trainings["single-fc", 1].config
    changed = config.with_overrides(
        ["measuring.images=2", "training.validate_every=1", "training.workers=1", "preset=other"]
    )
    return train(tmp_path / "mine", changed).path


@pytest.mark.usefixtures("colour_detections")
def test_a_used_run_is_not_trained_again(make: MakePlan, mine: Path, train: FakeTraining) -> None:
    plan = make(used=[("single-fc", mine)])
    assert plan.trainings["single-fc", 1].path == mine
    assert [t.used for t in plan.trainings.values()].count(True) == 1
    plan = make(used=[("single-fc", mine)], seeds=[1])
    train.trained.clear()
    settings = (mine / "config.yaml").read_bytes()
    used = run_sweep(plan, "cpu", train).table
    assert train.trained == ["single-conv-1", "double-head-ext-1"]
    assert not (plan.output / "single-fc-1").exists()
    assert (mine / "config.yaml").read_bytes() == settings
    # As if it had been trained here.
    shutil.copytree(mine, plan.output / "single-fc-1")
    config = make(seeds=[0]).trainings["single-fc", 0].config.model_copy(update={"seed": 1})
    (plan.output / "single-fc-1" / "config.yaml").write_text(config.to_yaml())
    own = run_sweep(make(seeds=[1]), "cpu", train).table
    assert used["AP"].tolist() == pytest.approx(own["AP"].tolist())


@pytest.mark.parametrize(
    ("label", "options", "says"),
    [
        ("single-conv", {}, r"other settings than the point \(head is fc, not conv\)"),
        ("single-fc", {"overrides": ["model.fc_width=16"]}, "model.fc_width is 8, not 16"),
        ("single-fc", {"seeds": [0, 5]}, "the run has seed 1, the sweep 0, 5; add --seed 1"),
        ("single", {}, "no point 'single'; there are single-fc, single-conv, double-head-ext"),
    ],
)
def test_another_run_is_refused(
    label: str, options: dict[str, Any], says: str, make: MakePlan, mine: Path
) -> None:
    overrides = options.pop("overrides", [])
    with pytest.raises(UserError, match=f"--use {label}=.*{says}"):
        make(*overrides, used=[(label, mine)], **options)


def test_an_untrained_run_is_refused(make: MakePlan, mine: Path) -> None:
    (mine / "checkpoints" / "detector.pt").unlink()
    with pytest.raises(UserError, match="not fully trained; go on with: rethink-heads train --run"):
        make(used=[("single-fc", mine)])
    with pytest.raises(UserError, match="no such run"):
        make(used=[("single-fc", mine / "nothing")])


def test_the_same_data_by_another_name_is_the_same(
    make: MakePlan, mine: Path, data: Path, tmp_path: Path, train: FakeTraining
) -> None:
    link = tmp_path / "link"
    link.symlink_to(data)
    config = Run.open(mine).config
    train(tmp_path / "linked", config.with_data(source=str(link)))
    assert make(used=[("single-fc", tmp_path / "linked")]).trainings["single-fc", 1].used
    shutil.copytree(data, tmp_path / "copy")
    train(tmp_path / "copied", config.with_data(source=str(tmp_path / "copy")))
    with pytest.raises(UserError, match=r"data\.source is .*copy, not"):
        make(used=[("single-fc", tmp_path / "copied")])


def test_a_used_run_is_read_on_the_test_images_of_the_sweep(
    make: MakePlan, mine: Path, data: Path
) -> None:
    plan = make("data.test_split=train", used=[("single-fc", mine)], seeds=[1])
    assert plan.trainings["single-fc", 1].used
    # The used run is the first of the plan, and its own test split is another.
    precision = Precision(plan, "cpu")
    assert precision.dataset.annotations_path == data / "annotations" / "instances_train.json"
    precision.detections(plan.points[0], 1)
    (folder,) = (mine / "measurements").iterdir()
    assert folder.name.startswith("train-")


def test_a_run_can_be_used_by_the_name_of_a_shared_training(
    make: MakePlan, train: FakeTraining, tmp_path: Path
) -> None:
    config = make(sweep="fusion").trainings["double-ext", 0].config
    path = train(tmp_path / "mine", config).path
    for label in ("double-ext", "max"):
        plan = make(sweep="fusion", used=[(label, path)])
        assert plan.trainings["double-ext", 0].path == path
