"""A run folder: one detector's settings and everything made from it.

Layout (every file but log.txt is written whole or not at all, see :mod:`rethink_heads.files`)::

    config.yaml              the settings the detector is trained with
    log.txt                  what was done, and when
    .writer.lock, .json      while a command writes here: see :mod:`rethink_heads.locking`
    checkpoints/last.ckpt    where training goes on after an interruption
    checkpoints/best.ckpt    the best validation AP so far
    checkpoints/detector.pt  the detector, its class names and settings: the run is trained
    checkpoints/detector.sha256  its hash, checked whenever it is read
    measurements/<name>/     bins.parquet, rows.parquet, maps.parquet, sampling.parquet of one data set
    tables/  figures/        results from measurements/default
    tables/<name>/ ...       results from the measurements of that name

``measurements/default`` belongs to the test split, the measuring settings and the seed of the run's
own config.yaml. Any other choice gets a folder of its own, named by the split and eight digits
that stand for the rest; so it never takes the place of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import files
from rethink_heads.config import Config, StudyConfig
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.settings import read_mapping
from rethink_heads.study_folder import CONFIG_NAME, DEFAULT_MEASUREMENTS, StudyFolder

if TYPE_CHECKING:
    import torch

    from rethink_heads.detectors.base import Detector
    from rethink_heads.detectors.rcnn import RCNN

# How much is done at once changes nothing that is measured.
NOT_MEASURED = {"memory_mb"}
# The section that the settings of a brought detector have, and of no other.
BROUGHT = "detector"
# What two runs may differ in and still have the same detector, up to the order of random numbers.
NOT_TRAINED = ("preset", "training.validate_every", "training.validate_images")
FREE_SETTINGS = ("training.workers", "training.checkpoint_every", "data.test_split")


def default_runs_root() -> Path:
    """Return the folder that runs are made in when no other is named: ``runs``, here."""
    return Path("runs")


@dataclass(frozen=True)
class Run(StudyFolder):
    """A run folder and its settings. Make one with :meth:`create` or :meth:`open`."""

    config: Config

    @classmethod
    def create(cls, path: Path, config: Config) -> Run:
        """Make the folder, or open it again when it holds the same settings.

        Settings without a part in what the detector becomes (``measuring.*`` and those in
        ``FREE_SETTINGS``) may differ: the new values are kept.

        Raises:
            UserError: the folder holds another run or other files, or cannot be written.
        """
        path = Path(path)

        def found() -> Config | None:
            return cls.open(path).config if (path / CONFIG_NAME).exists() else None

        with hold(path, lambda: found() == config):
            before = found()
            if before is None and path.exists() and not _is_free(path):
                # Another process of the same torchrun may just have made it.
                before = found()
                if before is None:
                    raise UserError(
                        f"{path} exists and is not a run; choose another folder with --run"
                    )
            fixed = {} if before is None else fixed_changes(before, config)
            if fixed:
                raise UserError(
                    f"{path} holds a run with other settings ({', '.join(fixed)});"
                    " choose another folder with --run or delete this one"
                )
            if before is None or changed_settings(before, config):
                files.write_text(path / CONFIG_NAME, config.to_yaml())
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run folder.

        Raises:
            UserError: no such folder, not a run, or its settings cannot be read.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(
                f"no such run: {path}; train one with: rethink-heads train --run {path}"
            )
        if not (path / CONFIG_NAME).is_file():
            raise UserError(f"{path} is not a run: it has no {CONFIG_NAME}")
        if BROUGHT in read_mapping(path / CONFIG_NAME):
            raise UserError(
                f"{path} holds results of a detector that was not trained here: there is nothing to train or export"
            )
        return cls(path, Config.from_yaml(path / CONFIG_NAME))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def detector_path(self) -> Path:
        """The trained detector; the file is there only when training is complete."""
        return self.checkpoints / "detector.pt"

    @property
    def heads(self) -> tuple[str, ...]:
        """The readings of its structure; task weights may have left some untrained."""
        from rethink_heads.heads import STRUCTURES

        return STRUCTURES[self.config.head].heads

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it was trained for."""
        from rethink_heads.detectors.rcnn.checkpoints import saved_class_names

        return saved_class_names(self.detector_path)

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that its structure is read from."""
        from rethink_heads.heads import HEAD_CONFIGURATIONS

        reading = HEAD_CONFIGURATIONS[self.config.head]
        return (*reading.classifiers, reading.regressor)

    def load(self, device: torch.device | str = "cpu") -> RCNN:
        """The trained detector, in evaluation mode."""
        from rethink_heads.detectors.rcnn.checkpoints import load_detector

        self.check_settings()
        return load_detector(self.detector_path, device)

    def check_settings(self) -> None:
        """Refuse a config.yaml that is not of the trained detector; where its data lie may have changed.

        Raises:
            UserError: a setting that makes another detector differs, or the detector cannot be read.
        """
        from rethink_heads.detectors.rcnn.checkpoints import saved_config

        trained = saved_config(self.detector_path)
        # The backbone's weights may not have been there to download: its norm is then another.
        norm = {"norm": self.config.model.norm}
        trained = trained.model_copy(update={"model": trained.model.model_copy(update=norm)})
        wrong = [
            f"{name} is {stated} there and {real} in the detector"
            for name, (real, stated) in fixed_changes(trained, self.config).items()
            if name not in NOT_TRAINED and not name.startswith("data.")
        ]
        if wrong:
            raise UserError(
                f"{self.path / CONFIG_NAME} contradicts {self.detector_path}: {'; '.join(wrong)};"
                " put the settings back, or copy the detector again that belongs to them"
            )

    def provenance(self, detector: Detector | None = None) -> dict[str, str]:
        """What everything that the run's detector says depends on, beside the data."""
        return run_provenance(self)


def measurements_name(
    own: StudyConfig, chosen: StudyConfig, seed: int, classes: Sequence[str] | None = None
) -> str:
    """Name the measurements of a run made with other test data, measuring settings or seed.

    Args:
        own: the run's settings.
        chosen: the same with the test data and measuring settings that are used.
        seed: the measuring seed.
        classes: the classes that are measured, where others than the detector's own choose them.

    Returns:
        ``default`` where nothing differs from the run's own, otherwise the split's name and eight
        hexadecimal digits that stand for annotations, image folder, settings and seed.
    """
    annotations, images = chosen.data.paths("test")
    same_data = own.data == chosen.data or _test_paths(own) == (annotations, images)
    measuring = chosen.measuring.model_dump_json(exclude=NOT_MEASURED)
    same_measuring = own.measuring.model_dump_json(exclude=NOT_MEASURED) == measuring
    if same_data and same_measuring and own.seed == seed and classes is None:
        return DEFAULT_MEASUREMENTS
    parts = [files.sha256(annotations), str(images.resolve()), measuring, str(seed)]
    text = "\n".join([*parts, *(classes or ())])
    split = chosen.data.test_split
    if chosen.data.test_annotations is not None:
        split = annotations.stem
    return f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _test_paths(config: StudyConfig) -> tuple[Path, Path] | None:
    try:
        return config.data.paths("test", generate=False)
    except UserError:
        return None


def run_provenance(run: Run) -> dict[str, str]:
    """What everything that a run's detector says depends on, beside the data."""
    return {
        "weights": files.sha256(run.detector_path),
        "preset": run.config.preset,
        "trained head": run.config.head,
        "training seed": str(run.config.seed),
        "model": run.config.model.model_dump_json(),
        "training": run.config.training.model_dump_json(),
    }


def with_fusion(name: str, provenance: Mapping[str, str], rule: str) -> tuple[str, dict[str, str]]:
    """Name and provenance of detections under another fusion rule than the run's own.

    The name is another, so that what the rules give is not mixed up.
    """
    own = f"fusion-{rule}"
    name = own if name == DEFAULT_MEASUREMENTS else f"{name}-{own}"
    return name, {**provenance, "fusion": rule}


def changed_settings(old: Config, new: Config) -> dict[str, tuple[object, object]]:
    """Return the settings (``section.key``) that differ, each with its old and its new value."""
    before, after = _flat(old), _flat(new)
    return {
        name: (before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }


def fixed_changes(old: Config, new: Config) -> dict[str, tuple[object, object]]:
    """Those of :func:`changed_settings` that a run is made with and keeps."""
    return {
        name: values
        for name, values in changed_settings(old, new).items()
        if not name.startswith("measuring.") and name not in FREE_SETTINGS
    }


def _flat(config: Config) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def _is_free(path: Path) -> bool:
    """Whether a folder holds nothing but hidden files, such as settings that are just being written."""
    return path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())
