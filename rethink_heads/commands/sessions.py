"""What the commands over runs have in common: find or make runs, their data, their measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink_heads.config import Config, MeasuringConfig, load_preset
from rethink_heads.console import say, work
from rethink_heads.errors import UserError
from rethink_heads.files import sha256
from rethink_heads.runs import Run, default_runs_root, measurements_name

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.measurements import Measurements

DEMO_PRESET, DEMO_HEAD = "shapes-tiny", "double-ext"


@dataclass(frozen=True)
class DataChoice:
    """Which data to read; all None means the run's own test split."""

    source: str | None = None
    annotations: Path | None = None
    images: Path | None = None
    split: str | None = None

    def config(self, config: Config) -> Config:
        """Return a run's settings with this choice as their test data.

        Raises:
            UserError: the choice contradicts itself.
        """
        if (self.annotations is None) != (self.images is None):
            raise UserError("--annotations and --images go together: give both or neither")
        changes: dict[str, Any] = {}
        if self.annotations is not None and self.images is not None:
            if self.source is not None:
                raise UserError("give either --data or --annotations and --images, not both")
            changes["test_annotations"] = self.annotations
            changes["test_images"] = self.images
        elif self.source is not None or self.split is not None:
            changes["test_annotations"] = changes["test_images"] = None
            if self.source is not None:
                changes["source"] = self.source
        if self.split is not None:
            changes["test_split"] = self.split
        return config.with_data(**changes)


@dataclass(frozen=True)
class MeasuringChoice:
    """Measuring settings given on the command line; None leaves a run's own."""

    images: int | None = None
    objects_per_image: int | None = None
    proposals_per_object: int | None = None
    grid_steps: int | None = None
    overrides: Sequence[str] = field(default=())

    def config(self, config: Config) -> Config:
        """Return a run's settings with these measuring settings.

        Raises:
            UserError: a bad value, or an override of what the run was trained with.
        """
        for override in self.overrides:
            if "=" in override and not override.startswith("measuring."):
                raise UserError(
                    f"cannot change {override.partition('=')[0]!r} of a trained run;"
                    " only settings that begin with measuring. can be given here"
                )
        given = {
            name: value
            for name, value in vars(self).items()
            if name in MeasuringConfig.model_fields and value is not None
        }
        return config.with_overrides(
            [*self.overrides, *(f"measuring.{name}={value}" for name, value in given.items())]
        )


def train_run(path: Path, config: Config, device: str) -> Run:
    """Train into a folder, or go on where an interrupted training stopped."""
    from rethink_heads.training.train import train

    run = Run.create(path, config)
    with work():
        train(config, run, device)
    return run


def demo_run(device: str, seed: int | None = None, path: Path | None = None) -> Run:
    """Return the demo's run: runs/demo, trained first where there is none."""
    path = path or default_runs_root() / "demo"
    if path.exists():
        run = Run.open(path)
        if run.detector_path.is_file():
            if seed is not None and seed != run.config.seed:
                raise UserError(
                    f"{path} was trained with seed {run.config.seed}; choose another folder for"
                    f" seed {seed} with --run"
                )
            return run
        # Its settings, not the preset's of today: an interrupted training goes on.
        say(f"{path} is not fully trained: going on with it.")
        return train_run(path, run.config, device)
    say(
        f"No run yet: training the demo's detector first ({DEMO_PRESET}, {DEMO_HEAD}) into {path};"
        " this takes some minutes."
    )
    return train_run(path, load_preset(DEMO_PRESET, DEMO_HEAD, seed=seed), device)


def trained_runs(paths: Sequence[Path] | None, device: str) -> list[Run]:
    """Open runs that are trained; with none named, the demo's.

    Raises:
        UserError: a run is missing or untrained, or two have the same name.
    """
    if not paths:
        return [demo_run(device)]
    runs = [Run.open(path) for path in paths]
    for run in runs:
        if not run.detector_path.is_file():
            raise UserError(
                f"{run.path} is not fully trained; go on with: rethink-heads train --run {run.path}"
            )
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of the runs are called {name!r}; rename one of the folders")
    return runs


def read_data(config: Config) -> CocoDataset:
    """Read the test data of the settings and say on standard error what was left out of it."""
    from rethink_heads.data.coco import CocoDataset

    dataset = CocoDataset(*config.data.paths("test"))
    counts = dataset.box_counts
    say(
        f"{dataset.annotations_path}: {len(dataset)} images, {counts.objects} objects"
        f" ({counts.clipped} clipped to the image); left out: {counts.crowd} crowd boxes,"
        f" {counts.degenerate} of zero size, {counts.outside} outside the image"
    )
    return dataset


def measured(
    run: Run, data: DataChoice, measuring: MeasuringChoice, seed: int | None, device: str
) -> tuple[Measurements, str]:
    """Measure a run's heads, or read what was measured before.

    Returns:
        The measurements and their name (see :mod:`rethink_heads.runs`).

    Raises:
        UserError: data and detector do not fit, or something cannot be read or written.
    """
    from rethink_heads.detectors.checkpoints import load_detector
    from rethink_heads.devices import resolve_device
    from rethink_heads.measure.runner import measure

    config = measuring.config(data.config(run.config))
    seed = run.config.seed if seed is None else seed
    dataset = read_data(config)
    name = measurements_name(run.config, config, seed)
    detector = load_detector(run.detector_path, resolve_device(device))
    provenance = {
        "weights": sha256(run.detector_path),
        "preset": run.config.preset,
        "trained head": run.config.head,
        "training seed": str(run.config.seed),
        "model": run.config.model.model_dump_json(),
        "training": run.config.training.model_dump_json(),
    }
    with work():
        measurements = measure(
            detector,
            dataset,
            run.name,
            config.measuring,
            seed,
            run.measurements(name),
            provenance,
        )
    return measurements, name


def chosen_heads(available: Sequence[str], heads: Sequence[str] | None, where: str) -> list[str]:
    """Check the heads asked for against those there are; none asked for means all.

    Raises:
        UserError: a head is not there; the message names those that are.
    """
    for head in heads or ():
        if head not in available:
            raise UserError(f"{where} has no head {head!r}; it has {', '.join(available)}")
    return list(dict.fromkeys(heads)) if heads else list(available)
