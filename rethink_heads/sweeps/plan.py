"""What a sweep does: its points, the trainings that they need, and which of them are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rethink_heads.config import Config, DataConfig, load_preset
from rethink_heads.data.sources import split_paths
from rethink_heads.errors import UserError
from rethink_heads.runs import (
    CONFIG_NAME,
    FREE_SETTINGS,
    NOT_TRAINED,
    Run,
    changed_settings,
    fixed_changes,
)
from rethink_heads.sweeps.description import Point, SweepDescription

State = Literal["done", "interrupted", "to do"]

# What a sweep's overrides may not change, and where it is said instead.
SAID_ELSEWHERE = {
    "seed": "--seed or the sweep's file",
    "preset": "--preset or the sweep's file",
    "head": "the sweep's file",
}
DATA_ROLES: tuple[Literal["train", "test"], ...] = ("train", "test")


@dataclass(frozen=True)
class Training:
    """A detector that the sweep needs: one label and seed.

    Attributes:
        used: whether the folder is a run of the user's, which takes the place of a training.
    """

    label: str
    seed: int
    config: Config
    path: Path
    used: bool = False

    @property
    def key(self) -> str:
        """``<label>-<seed>``, the name of the folder and of the detector in tables."""
        return f"{self.label}-{self.seed}"

    @property
    def state(self) -> State:
        run = Run(self.path, self.config)
        if run.detector_path.is_file():
            return "done"
        return "interrupted" if run.last_checkpoint.is_file() else "to do"


@dataclass(frozen=True)
class Plan:
    """A sweep over one preset, with seeds, in one folder."""

    description: SweepDescription
    output: Path
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    trainings: Mapping[tuple[str, int], Training]

    def training_of(self, point: Point, seed: int) -> Training:
        return self.trainings[point.training, seed]

    def check_folders(self) -> None:
        """Refuse folders that hold something else, before hours of training and not after them.

        Raises:
            UserError: a folder holds a run with other settings; the message names them.
        """
        for training in self.trainings.values():
            if training.used or not (training.path / CONFIG_NAME).exists():
                continue
            changed = fixed_changes(Run.open(training.path).trained_config, training.config)
            if changed:
                raise UserError(
                    f"{training.path} was trained with other settings ({', '.join(changed)});"
                    " choose another folder with --output, or delete that one to train it again"
                )


def make_plan(
    description: SweepDescription,
    output: Path,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
    data: str | None = None,
    used: Sequence[tuple[str, Path]] = (),
) -> Plan:
    """Expand a sweep.

    Args:
        description: the sweep.
        output: the folder of the runs, the table and the figure.
        preset: takes the place of the description's; one of the two must be given.
        overrides: settings of all points, after the base's and before a point's own.
        seeds: take the place of the description's where any are given.
        data: folder of the data, in the place of the preset's.
        used: labels (of a training or of a point) and runs that take the place of trainings.

    Raises:
        UserError: a bad setting, or a run that is not of the settings it is used for.
    """
    chosen = preset or description.base.preset
    if chosen is None:
        raise UserError(f"sweep {description.name} names no preset: give one with --preset NAME")
    seeds = tuple(dict.fromkeys(seeds)) or description.seeds
    expanded = description.expand()
    configs = [_config(description, point, chosen, overrides, data) for point in expanded]
    labels = _training_labels(expanded, configs)
    points = tuple(
        replace(point, training=label, head=config.head)
        for point, config, label in zip(expanded, configs, labels, strict=True)
    )
    trainings = {
        (label, seed): Training(
            label,
            seed,
            config.model_copy(update={"seed": seed}),
            Path(output) / f"{label}-{seed}",
        )
        for label, config in dict(zip(labels, configs, strict=True)).items()
        for seed in seeds
    }
    plan = Plan(description, Path(output), seeds, points, trainings)
    for label, path in used:
        plan = _with_run(plan, label, Path(path))
    return plan


def _config(
    description: SweepDescription,
    point: Point,
    preset: str,
    overrides: Sequence[str],
    data: str | None,
) -> Config:
    for override in overrides:
        name = override.partition("=")[0].strip()
        if name in SAID_ELSEWHERE:
            raise UserError(f"cannot change {name!r} of a sweep; use {SAID_ELSEWHERE[name]}")
    every = [*description.base.overrides, *overrides, *point.overrides]
    config = load_preset(preset, point.head, every)
    return config if data is None else config.with_data(source=data)


def _training_labels(points: Sequence[Point], configs: Sequence[Config]) -> list[str]:
    """The name of each point's training; points of the same settings share one."""
    labels: list[str] = []
    for point, config in zip(points, configs, strict=True):
        first = configs.index(config)
        if first < len(labels):
            labels.append(labels[first])
            continue
        # A shared one is called by what it is, where no other training is called so.
        is_shared = configs.count(config) > 1
        own = point.training or (config.head if is_shared else point.label)
        pairs = zip(points, configs, strict=True)
        others = {other.training or other.label for other, its in pairs if its != config}
        labels.append(point.label if own in others else own)
    return labels


def _with_run(plan: Plan, label: str, path: Path) -> Plan:
    """The plan with a run of the user's in the place of a training."""
    by_point = {point.label: point.training for point in plan.points}
    training_label = by_point.get(label, label)
    if (training_label, plan.seeds[0]) not in plan.trainings:
        known = dict.fromkeys([*by_point, *by_point.values()])
        raise UserError(f"--use {label}={path}: no point {label!r}; there are {', '.join(known)}")
    run = Run.open(path)
    seed = run.config.seed
    if (training_label, seed) not in plan.trainings:
        seeds = ", ".join(map(str, plan.seeds))
        raise UserError(
            f"--use {label}={path}: the run has seed {seed}, the sweep {seeds};"
            f" add --seed {seed} or use another run"
        )
    training = plan.trainings[training_label, seed]
    if not run.detector_path.is_file():
        raise UserError(
            f"--use {label}={path}: the run is not fully trained; go on with:"
            f" rethink-heads train --run {path}"
        )
    different = _differences(training.config, run.trained_config)
    if different:
        raise UserError(
            f"--use {label}={path}: the run has other settings than the point"
            f" ({'; '.join(different)}); give the sweep the run's settings as key=value, or train the point"
        )
    trainings = dict(plan.trainings)
    # Points are compared on the sweep's test images, whatever the run's own test split is.
    config = run.trained_config.model_copy(update={"data": training.config.data})
    trainings[training_label, seed] = replace(training, path=path, config=config, used=True)
    return replace(plan, trainings=trainings)


def _differences(wanted: Config, found: Config) -> list[str]:
    """``setting: found, not wanted`` of each setting that makes another detector, or other test data."""
    same_data = _data_paths(wanted.data) == _data_paths(found.data)
    return [
        f"{name} is {its}, not {ours}"
        for name, (its, ours) in changed_settings(found, wanted).items()
        if name not in (*FREE_SETTINGS, *NOT_TRAINED)
        and not name.startswith("measuring.")
        and not (same_data and name.startswith("data."))
    ]


def _data_paths(data: DataConfig) -> list[tuple[Path, ...]] | None:
    try:
        return [
            tuple(path.resolve() for path in split_paths(data, role, generate=False))
            for role in DATA_ROLES
        ]
    except UserError:
        return None
