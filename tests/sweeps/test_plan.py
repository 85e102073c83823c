"""Sweeps' files: what they expand to, runs in the place of trainings, and a sentence for each mistake."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rethink_heads.errors import UserError
from rethink_heads.runs import Run
from rethink_heads.sweeps.description import load_sweep, sweep_names
from rethink_heads.sweeps.plan import make_plan
from rethink_heads.sweeps.runner import Precision, run_sweep
from tests.sweeps.conftest import FakeTraining, MakePlan


def write(folder: Path, **content: Any) -> Path:
    """A sweep's file."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "title": "Mine", **content}))
    return path


def test_the_sweeps_that_come_with_the_package() -> None:
    assert set(sweep_names()) == {
        "structures",
        "depth",
        "balance",
        "weights",
        "fusion",
        "enlargement",
        "backbone",
    }


@pytest.mark.parametrize("preset", ["shapes-tiny", "coco-r50"])
@pytest.mark.parametrize("name", sweep_names())
def test_each_expands_for_every_kind_of_preset(name: str, preset: str, tmp_path: Path) -> None:
    plan = make_plan(load_sweep(name), tmp_path, preset)
    assert plan.seeds == (0, 1)
    assert len({point.label for point in plan.points}) == len(plan.points) > 1
    assert len({training.path for training in plan.trainings.values()}) == len(plan.trainings)
    for training in plan.trainings.values():
        assert training.path.parent == tmp_path
        assert training.config.preset == preset
        assert training.config.seed == training.seed
    # No two trainings are the same.
    settings = [t.config.to_yaml() for (_, seed), t in plan.trainings.items() if seed == 0]
    assert len(set(settings)) == len(settings)


def test_structures_differ_in_their_head_alone(tmp_path: Path) -> None:
    plan = make_plan(load_sweep("structures"), tmp_path, "coco-r50", seeds=[3])
    first, *others = [training.config for training in plan.trainings.values()]
    assert [first.head, *(config.head for config in others)] == [
        "fc",
        "conv",
        "double-fc",
        "double-conv",
        "double-reverse",
        "double",
        "double-ext",
    ]
    assert all(config.model_copy(update={"head": first.head}) == first for config in others)


def test_fusion_needs_one_training(tmp_path: Path) -> None:
    plan = make_plan(load_sweep("fusion"), tmp_path, "shapes-tiny", seeds=[0])
    assert [training.key for training in plan.trainings.values()] == ["double-ext-0"]
    assert [(point.reading, point.fusion) for point in plan.points] == [
        ("fc", None),
        ("conv", None),
        ("double", None),
        ("double-ext", "max"),
        ("double-ext", "mean"),
        ("double-ext", "complementary"),
    ]


def test_axes_are_multiplied(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base={"head": "double", "overrides": ["training.max_iterations=7"]},
        axes={"model.conv_blocks": [1, 2], "model.non_local": [False, True]},
        read_only={"reading": ["double"]},
    )
    plan = make_plan(
        load_sweep(path), tmp_path, "shapes-tiny", ["training.batch_size=2"], seeds=[0]
    )
    assert [point.label for point in plan.points] == [
        "conv_blocks-1-non_local-false-double",
        "conv_blocks-1-non_local-true-double",
        "conv_blocks-2-non_local-false-double",
        "conv_blocks-2-non_local-true-double",
    ]
    trained = plan.training_of(plan.points[3], 0)
    assert trained.key == "conv_blocks-2-non_local-true-0"
    model, training = trained.config.model, trained.config.training
    assert (model.conv_blocks, model.non_local) == (2, True)
    assert (training.max_iterations, training.batch_size) == (7, 2)
    assert plan.points[3].values["model.non_local"] is True


def test_points_of_the_same_settings_share_a_training(tmp_path: Path) -> None:
    points = [
        {"label": "one", "head": "fc"},
        {"label": "two", "head": "fc", "overrides": ["model.conv_blocks=1"]},
        {"label": "three", "head": "fc", "overrides": ["model.conv_blocks=2"]},
    ]
    # shapes-tiny has one block.
    plan = make_plan(load_sweep(write(tmp_path, points=points)), tmp_path, "shapes-tiny", seeds=[0])
    assert [point.training for point in plan.points] == ["fc", "fc", "three"]


def test_other_values_of_an_axis(tmp_path: Path) -> None:
    sweep = load_sweep("backbone").with_values(["model.backbone=tiny,resnet18", "head=fc"])
    plan = make_plan(sweep, tmp_path, "shapes-tiny")
    assert [point.label for point in plan.points] == ["tiny-fc", "resnet18-fc"]
    with pytest.raises(
        UserError, match=r"no axis 'model.backbon'; did you mean 'model.backbone'\?"
    ):
        load_sweep("backbone").with_values(["model.backbon=tiny"])
    with pytest.raises(UserError, match="write setting=value,value"):
        load_sweep("backbone").with_values(["model.backbone"])
    for values in ("[1,2]", "1,,2", "1,: "):
        with pytest.raises(
            UserError, match=r"cannot read .* as a value; write setting=value,value"
        ):
            load_sweep("depth").with_values([f"model.conv_blocks={values}"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"points": [{"lable": "a"}]}, r"unknown setting 'lable' \(point 1 .*did you mean 'label'"),
        ({"points": [{"label": "a", "head": "fcc"}]}, "bad value for head .*point 1"),
        ({"points": ["a"]}, "point 1 .* is no mapping"),
        ({"axis": {}}, r"unknown setting 'axis'.*did you mean 'axes'\?"),
        ({"axes": {"model.conv_block": [1]}}, "did you mean 'model.conv_blocks'"),
        ({"axes": {"model.conv_blocks": ["many"]}}, "bad value for model.conv_blocks"),
        ({"axes": {"model.conv_blocks": []}}, "'model.conv_blocks' has no values"),
        ({"axes": {"model.conv_blocks": [1, 1]}}, "'model.conv_blocks' has a value twice"),
        ({"axes": {"seed": [0, 1]}}, "cannot change 'seed'; give the seeds under 'seeds'"),
        ({"axes": {"data.source": ["a"]}}, "cannot change 'data.source'"),
        ({"axes": {"model.fusion": ["max"]}}, "cannot change 'model.fusion'; it needs no training"),
        ({"read_only": {"rule": ["max"]}}, "unknown setting 'read_only.rule'"),
        ({"points": [{"label": "../a"}]}, "bad value for label .*'../a': use letters"),
        ({"points": [{"label": "a"}, {"label": "a"}]}, "two points are called 'a'"),
        (
            {"points": [{"label": "a", "overrides": ["head=fc"]}]},
            "point a cannot change 'head'; give the head under 'head'",
        ),
        ({"points": [{"label": "a", "overrides": ["model.fusio=max"]}]}, "did you mean 'model.fusion'"),
        ({}, "nothing to sweep"),
        ({"points": [{"label": "a"}], "axes": {"head": ["fc"]}}, "either 'points' or 'axes'"),
        ({"points": [{"label": "a"}], "seeds": [1, 1]}, "a seed is given twice"),
        (
            {"points": [{"label": "abc"}], "paper_order": [["abd"]]},
            r"no point 'abd'; did you mean 'abc'\?",
        ),
        (
            {"axes": {"head": ["fc"]}, "figure": {"kind": "line"}},
            "a figure of kind line needs 'x'",
        ),
        (
            {"axes": {"head": ["fc"]}, "figure": {"kind": "line", "x": "heads"}},
            r"no axis 'heads'; did you mean 'head'\?",
        ),
        (
            {"axes": {"head": ["fc", "conv"]}, "figure": {"kind": "line", "x": "head"}},
            "'head' has values that are no numbers; use kind: points",
        ),
        (
            {
                "axes": {"model.conv_blocks": [1, 2], "model.non_local": [False, True]},
                "figure": {"kind": "line", "x": "model.conv_blocks"},
            },
            "does not tell the values of 'model.non_local' apart",
        ),
        (
            {
                "axes": {"model.l_fc": [0.5, 1.0], "model.l_conv": [0.5, 1.0], "head": ["fc", "double"]},
                "figure": {"kind": "heatmap", "x": "model.l_fc", "y": "model.l_conv", "series": "head"},
            },
            "does not tell the values of 'head' apart",
        ),
    ],
)  # fmt: skip
def test_mistakes(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as error:
        make_plan(load_sweep(write(tmp_path, **content)), tmp_path, "shapes-tiny")
    assert "\n" not in str(error.value)


def test_mistakes_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown sweep 'structure'; did you mean 'structures'\?"):
        load_sweep("structure")
    with pytest.raises(UserError, match="no such file"):
        load_sweep(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="names no preset: give one with --preset"):
        make_plan(load_sweep("depth"), tmp_path)
    with pytest.raises(UserError, match="cannot change 'seed' of a sweep; use --seed"):
        make_plan(load_sweep("depth"), tmp_path, "shapes-tiny", ["seed=3"])
    # The command has no --head.
    with pytest.raises(UserError, match="cannot change 'head' of a sweep; use the sweep's file"):
        make_plan(load_sweep("depth"), tmp_path, "shapes-tiny", ["head=fc"])


def test_more_points_than_anybody_trains_are_refused(tmp_path: Path) -> None:
    axes = {f"model.{name}": list(range(1, 41)) for name in ("fc_width", "conv_width", "min_size")}
    with pytest.raises(UserError, match="sweep mine has 64,000 points, more than 1,000"):
        load_sweep(write(tmp_path, axes=axes)).expand()


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
