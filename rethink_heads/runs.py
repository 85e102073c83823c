"""A run folder: one detector, trained here or external, and everything made from it.

Layout (every file but log.txt is written whole or not at all, see :mod:`rethink_heads.files`)::

    config.yaml              the settings the detector is trained with, or where an external one comes from
    log.txt                  what was done, and when
    .writer.lock, .json      while a command writes here: see :mod:`rethink_heads.locking`
    checkpoints/last.ckpt    where training goes on after an interruption
    checkpoints/best.ckpt    the best validation AP so far
    checkpoints/detector.pt  the detector, its class names and settings: the run is trained
    checkpoints/detector.sha256  its hash, checked whenever it is read
    measurements/<name>/     what was measured on one data set: see :mod:`rethink_heads.measure`
    tables/  figures/        results from measurements/default
    tables/<name>/ ...       results from the measurements of that name

``measurements/default`` belongs to the test split, the measuring settings and the seed of the run's
own config.yaml. Any other choice gets a folder of its own, named by the split and eight digits
that stand for the rest; so it never takes the place of another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import __version__, files
from rethink_heads.config import CONFIG_NAME, Config, ModelConfig, Settings, StudyConfig
from rethink_heads.console import log
from rethink_heads.data.sources import split_paths
from rethink_heads.distributed import is_first_process
from rethink_heads.errors import SignalInterrupt, UserError, interruption
from rethink_heads.locking import hold
from rethink_heads.machine import other_processes
from rethink_heads.settings import read_mapping

if TYPE_CHECKING:
    import torch

    from rethink_heads.detectors.base import Detector

DEFAULT_MEASUREMENTS = "default"
# How much is done at once changes nothing that is measured.
NOT_MEASURED = {"memory_mb"}
# What two runs may differ in and still have the same detector, up to the order of random numbers.
NOT_TRAINED = ("preset", "training.validate_every", "training.validate_images")
FREE_SETTINGS = ("training.workers", "training.checkpoint_every", "data.test_split")
# At their defaults no part of what results depend on: measurements of runs that were made without them stay valid.
NEWER_SETTINGS = ("backbone_weights", "canonical_size", "fpn_norm")

logger = logging.getLogger(__name__)


class ExternalDetector(Settings):
    """Where a detector that was not trained here comes from, and what it said of itself when it was first opened.

    Attributes:
        model: what ``--model`` is given, for example ``torchvision:fasterrcnn_resnet50_fpn``.
        weights: what ``--weights`` is given; None where the model knows its own.
        class_names: the K classes of its scores.
        heads: the heads that it offers.
        imported_from: the folder that modules were first looked for in, for ``python:``.
    """

    model: str
    weights: str | None = None
    class_names: list[str]
    heads: list[str]
    imported_from: str | None = None

    def is_same(self, other: ExternalDetector) -> bool:
        """Whether both are the same detector, wherever it was imported from."""
        free = {"imported_from"}
        return self.model_dump(exclude=free) == other.model_dump(exclude=free)


class ExternalConfig(StudyConfig):
    """Settings of an external detector's folder: its data and how it is measured stay as it was made with."""

    detector: ExternalDetector


@dataclass(frozen=True)
class Run:
    """A run folder and its settings. Make one with :meth:`create`, open one with :meth:`open`.

    An external detector's folder is on disk only when :meth:`create` was called, after something was measured.
    """

    path: Path
    config: Config | ExternalConfig
    # What was opened, by device, and what its answers depend on.
    _opened: dict[str, Detector] = field(default_factory=dict, compare=False, repr=False)
    _provenance: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def create(cls, path: Path, config: Config | ExternalConfig) -> Run:
        """Make the folder, or open it again when it holds the same settings.

        Settings without a part in what the detector becomes (``measuring.*`` and those in ``FREE_SETTINGS``) may
        differ: a trained detector's new values are kept.

        Raises:
            UserError: the folder holds another detector or other files, or cannot be written.
        """
        path = Path(path)
        if isinstance(config, ExternalConfig):
            return cls._create_external(path, config)

        def found() -> Config | None:
            return cls.open(path).trained_config if (path / CONFIG_NAME).exists() else None

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
            # One process writes: the first, once it is ahead, sweeps what others of its torchrun have begun.
            if is_first_process() and (before is None or changed_settings(before, config)):
                files.write_text(path / CONFIG_NAME, config.to_yaml())
        return cls(path, config)

    @classmethod
    def _create_external(cls, path: Path, config: ExternalConfig) -> Run:
        model = config.detector.model
        with hold(path, lambda: external_at(path, model) is not None):
            there = external_at(path, model)
            if there is None and is_first_process():
                files.write_text(path / CONFIG_NAME, config.to_yaml())
            elif there is not None and not there.is_same(config.detector):
                raise _taken(path, model)
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
        config = path / CONFIG_NAME
        if not config.is_file():
            raise UserError(f"{path} is not a run: it has no {CONFIG_NAME}")
        kind = ExternalConfig if "detector" in read_mapping(config) else Config
        return cls(path, kind.from_yaml(config))

    @property
    def is_external(self) -> bool:
        """Whether the detector was not trained here."""
        return isinstance(self.config, ExternalConfig)

    @property
    def trained_config(self) -> Config:
        """The settings that the detector was trained with.

        Raises:
            UserError: it was not trained here.
        """
        if isinstance(self.config, ExternalConfig):
            raise UserError(
                f"{self.path} holds results of a detector that was not trained here: there is nothing to train or"
                " export"
            )
        return self.config

    @property
    def name(self) -> str:
        """The folder's name; measurements call the detector by it."""
        return self.path.resolve().name

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
    def measurements_dir(self) -> Path:
        return self.path / "measurements"

    @property
    def tables_dir(self) -> Path:
        return self.path / "tables"

    @property
    def figures_dir(self) -> Path:
        return self.path / "figures"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def measurements(self, name: str = DEFAULT_MEASUREMENTS) -> Path:
        """Return the folder of the measurements of that name."""
        return self.measurements_dir / name

    def tables(self, name: str = DEFAULT_MEASUREMENTS) -> Path:
        """Return the folder of the tables made from the measurements of that name."""
        return self.tables_dir if name == DEFAULT_MEASUREMENTS else self.tables_dir / name

    def figures(self, name: str = DEFAULT_MEASUREMENTS) -> Path:
        """Return the folder of the figures made from the measurements of that name."""
        return self.figures_dir if name == DEFAULT_MEASUREMENTS else self.figures_dir / name

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that the detector may have, known without it; task weights may have left some untrained."""
        if isinstance(self.config, ExternalConfig):
            return tuple(self.config.detector.heads)
        from rethink_heads.structures import STRUCTURES

        return STRUCTURES[self.config.head].heads

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches of a trained detector; an external one's are known when it was measured."""
        if isinstance(self.config, ExternalConfig):
            return ()
        from rethink_heads.structures import HEAD_CONFIGURATIONS

        head = HEAD_CONFIGURATIONS[self.config.head]
        return (*head.classifiers, head.regressor)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the detector's scores, in their order."""
        if isinstance(self.config, ExternalConfig):
            return tuple(self.config.detector.class_names)
        from rethink_heads.detectors.rcnn.detector import saved_class_names

        return saved_class_names(self.detector_path)

    def keep(self, detector: Detector, device: torch.device | str) -> None:
        """Have :meth:`load` give an external detector that was opened already."""
        self._opened[str(device)] = detector

    def load(self, device: torch.device | str = "cpu") -> Detector:
        """The detector, in evaluation mode; an external one as it was opened first.

        Raises:
            UserError: it is not there, cannot be read or opened, or is no longer what it was.
        """
        if isinstance(self.config, ExternalConfig):
            if str(device) not in self._opened:
                self.keep(self._open_external(self.config.detector, device), device)
            return self._opened[str(device)]
        from rethink_heads.detectors.rcnn.detector import load_detector

        self.check_settings()
        return load_detector(self.detector_path, device)

    def _open_external(self, said: ExternalDetector, device: torch.device | str) -> Detector:
        from rethink_heads.detectors.external import open_model

        if said.imported_from is not None and said.imported_from not in sys.path:
            sys.path.insert(0, said.imported_from)
        detector = open_model(said.model, said.weights, said.class_names, device)
        if (list(detector.class_names), list(detector.heads)) != (said.class_names, said.heads):
            raise UserError(
                f"the classes or heads of {said.model} are no longer those in {self.path / CONFIG_NAME}; delete"
                f" {self.path}, or name this detector otherwise: --model NAME={said.model}"
            )
        return detector

    def check_settings(self) -> None:
        """Refuse a config.yaml that is not of the trained detector; where its data lie may have changed.

        Raises:
            UserError: a setting that makes another detector differs, or the detector cannot be read.
        """
        from rethink_heads.detectors.rcnn.detector import saved_config

        config, trained = self.trained_config, saved_config(self.detector_path)
        # The backbone's weights may not have been there to download: its norm is then another.
        norm = {"norm": config.model.norm}
        trained = trained.model_copy(update={"model": trained.model.model_copy(update=norm)})
        wrong = [
            f"{name} is {stated} there and {real} in the detector"
            for name, (real, stated) in fixed_changes(trained, config).items()
            if name not in NOT_TRAINED and not name.startswith("data.")
        ]
        if wrong:
            raise UserError(
                f"{self.path / CONFIG_NAME} contradicts {self.detector_path}: {'; '.join(wrong)};"
                " put the settings back, or copy the detector again that belongs to them"
            )

    def provenance(self) -> dict[str, str]:
        """What everything that the detector says depends on, beside the data.

        An external one must have been loaded: it counts as it was then, since a user's own may count images, or keep
        some, and import more on the way.
        """
        if self._provenance:
            return dict(self._provenance)
        if isinstance(self.config, ExternalConfig):
            opened = next(iter(self._opened.values()))
            self._provenance.update(_external_provenance(self.config.detector, opened))
        else:
            model, usual = self.config.model, ModelConfig.model_fields
            says_nothing = {n for n in NEWER_SETTINGS if getattr(model, n) == usual[n].default}
            self._provenance.update(
                {
                    "weights": files.sha256(self.detector_path),
                    "preset": self.config.preset,
                    "trained head": self.config.head,
                    "training seed": str(self.config.seed),
                    "model": model.model_dump_json(exclude=says_nothing),
                    "training": self.config.training.model_dump_json(),
                }
            )
        return dict(self._provenance)

    def log(self, text: str) -> None:
        """Append a line to the log, after the time (UTC) and the package's version.

        A log that cannot be written stops nothing: a run may be read where it cannot be changed.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"{now} rethink-heads {__version__} {' '.join(text.splitlines())}\n"
        try:
            with open(self.log_path, "a", encoding="utf-8", newline="\n") as stream:
                stream.write(line)
        except OSError as error:
            logger.warning("cannot write %s: %s", self.log_path, error.strerror or error)

    @contextlib.contextmanager
    def logged(self, what: str) -> Iterator[None]:
        """Note in the log, with the command's words, when something begins and how it ends."""
        command = shlex.join(["rethink-heads", *sys.argv[1:]])

        def note(state: str) -> None:
            # Under torchrun every process runs the command; one of them notes it.
            if is_first_process():
                self.log(f"{what} {state}: {command}")

        note("begins")
        busy = other_processes.busy_line()
        if busy is not None and is_first_process():
            log(f"the machine is busy: {busy}, so that this takes longer")
            self.log(f"the machine is busy: {busy}")
        try:
            yield
        except BaseException as error:
            stopped = interruption(error)
            is_signal = isinstance(stopped, SignalInterrupt)
            note(f"stopped by {stopped if is_signal else type(stopped or error).__name__}")
            raise
        busy = other_processes.busy_line()
        note("ends" if busy is None else f"ends (meanwhile {busy})")


def default_runs_root() -> Path:
    """Return the folder that runs are made in when no other is named: ``runs``, here."""
    return Path("runs")


def external_at(path: Path, model: str) -> ExternalDetector | None:
    """The external detector that a folder belongs to, None where nothing is there.
    Raises UserError where something else is there, which ``model`` must not be mixed up with.
    """
    if not path.exists() or _is_free(path):
        return None
    if (path / CONFIG_NAME).is_file():
        config = Run.open(path).config
        if isinstance(config, ExternalConfig):
            return config.detector
    raise _taken(path, model)


def _taken(path: Path, model: str) -> UserError:
    return UserError(
        f"{path} belongs to another detector, other weights or other results; name this one otherwise:"
        f" --model NAME={model}"
    )


def _external_provenance(said: ExternalDetector, detector: Detector) -> dict[str, str]:
    from rethink_heads.detectors.fingerprint import fingerprint, source_files

    found = {"weights": fingerprint(detector), "model": said.model}
    paths = list(source_files(said.model))
    # A user's own detector need not keep what it read from a file where the fingerprint sees it.
    if said.weights is not None and Path(said.weights).is_file():
        paths.append(Path(said.weights))
    sources = {str(path): files.sha256(path) for path in paths}
    return found | ({"source": json.dumps(sources, sort_keys=True)} if sources else {})


def measurements_name(
    own: StudyConfig, chosen: StudyConfig, seed: int, classes: Sequence[str] | None = None
) -> str:
    """Name the measurements of a run made with other test data, measuring settings or seed.

    Args:
        chosen: the same with the test data and measuring settings that are used.
        classes: the classes that are measured, where others than the detector's own choose them.

    Returns:
        ``default`` where nothing differs from the run's own, otherwise the split's name and eight
        hexadecimal digits that stand for annotations, image folder, settings and seed.
    """
    from rethink_heads.data.coco import read_annotations

    annotations, images = split_paths(chosen.data, "test")
    same_data = own.data == chosen.data or _test_paths(own) == (annotations, images)
    measuring = chosen.measuring.model_dump_json(exclude=NOT_MEASURED)
    same_measuring = own.measuring.model_dump_json(exclude=NOT_MEASURED) == measuring
    if same_data and same_measuring and own.seed == seed and classes is None:
        return DEFAULT_MEASUREMENTS
    # The data are read anyway, once.
    fingerprint = read_annotations(annotations).fingerprint
    parts = [fingerprint, str(images.resolve()), measuring, str(seed)]
    text = "\n".join([*parts, *(classes or ())])
    split = chosen.data.test_split
    if chosen.data.test_annotations is not None:
        split = annotations.stem
    return f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _test_paths(config: StudyConfig) -> tuple[Path, Path] | None:
    try:
        return split_paths(config.data, "test", generate=False)
    except UserError:
        return None


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
