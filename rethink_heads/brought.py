"""Detectors that were not trained here: a folder of results for each, as a run has one.

The folder has the layout of a run (see :mod:`rethink_heads.runs`) without ``checkpoints/``: its ``config.yaml`` says
where the detector comes from, which data belongs to it and how it is measured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import files
from rethink_heads.config import Settings, StudyConfig
from rethink_heads.distributed import is_first_process
from rethink_heads.errors import UserError
from rethink_heads.locking import hold
from rethink_heads.runs import BROUGHT, Run
from rethink_heads.settings import read_mapping
from rethink_heads.study_folder import CONFIG_NAME, StudyFolder

if TYPE_CHECKING:
    import torch

    from rethink_heads.detectors.base import Detector


class BroughtDetectorConfig(Settings):
    """Where a detector comes from, and what it said of itself when it was first opened.

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


class BroughtConfig(StudyConfig):
    """Settings of a brought detector's folder."""

    detector: BroughtDetectorConfig


@dataclass(frozen=True)
class BroughtRun(StudyFolder):
    """The folder of a detector that was not trained here: one that is there (:meth:`open`), or a new one.

    A new one is on disk only after :meth:`write`. Its data and measuring settings stay those that it was made with;
    others get measurements of their own beside (see :mod:`rethink_heads.runs`).
    """

    config: BroughtConfig
    _opened: dict[str, Detector] = field(default_factory=dict, compare=False, repr=False)
    _provenance: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def write(self) -> None:
        """Make the folder, unless it is there and belongs to the same detector.

        Raises:
            UserError: the folder belongs to another detector or holds other files, or cannot be written.
        """
        with hold(self.path, lambda: self._there() is not None):
            there = self._there()
            if there is None and is_first_process():
                files.write_text(self.path / CONFIG_NAME, self.config.to_yaml())
            elif there is not None and not there.is_same(self.config.detector):
                raise _taken(self.path, self.config.detector.model)

    def _there(self) -> BroughtRun | None:
        return found_at(self.path, self.config.detector.model)

    @classmethod
    def open(cls, path: Path) -> BroughtRun:
        """Open the folder of a brought detector.

        Raises:
            UserError: its settings cannot be read.
        """
        return cls(Path(path), BroughtConfig.from_yaml(Path(path) / CONFIG_NAME))

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that the detector offered when it was first opened."""
        return tuple(self.config.detector.heads)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the detector's scores, in their order."""
        return tuple(self.config.detector.class_names)

    def is_same(self, detector: BroughtDetectorConfig) -> bool:
        """Whether the folder belongs to the same detector, wherever it was imported from."""
        free = {"imported_from"}
        return self.config.detector.model_dump(exclude=free) == detector.model_dump(exclude=free)

    def is_of(self, model: str, weights: str | None, class_names: list[str] | None) -> bool:
        """Whether the folder was made for this model; class names of None ask for none."""
        said = self.config.detector
        same = (said.model, said.weights) == (model, weights)
        return same and class_names in (None, said.class_names)

    def keep(self, detector: Detector, device: torch.device | str) -> None:
        """Have :meth:`load` give a detector that was opened already."""
        self._opened[str(device)] = detector

    def load(self, device: torch.device | str = "cpu") -> Detector:
        """The detector, opened as when the folder was made.

        Raises:
            UserError: it cannot be opened, or is no longer what it was.
        """
        if str(device) not in self._opened:
            from rethink_heads.detectors.external import open_model

            said = self.config.detector
            if said.imported_from is not None and said.imported_from not in sys.path:
                sys.path.insert(0, said.imported_from)
            detector = open_model(said.model, said.weights, said.class_names, device)
            if (list(detector.class_names), list(detector.heads)) != (
                said.class_names,
                said.heads,
            ):
                raise UserError(
                    f"the classes or heads of {said.model} are no longer those in"
                    f" {self.path / CONFIG_NAME}; delete {self.path}, or name this detector otherwise:"
                    f" --model NAME={said.model}"
                )
            self.keep(detector, device)
        return self._opened[str(device)]

    def provenance(self, detector: Detector) -> dict[str, str]:
        """What everything that the detector says depends on, beside the data."""
        # As it was opened: a user's own may count images, or keep some, and import more on the way.
        if not self._provenance:
            self._provenance.update(self._provenance_of(detector))
        return dict(self._provenance)

    def _provenance_of(self, detector: Detector) -> dict[str, str]:
        from rethink_heads.detectors.fingerprint import fingerprint, source_files

        said = self.config.detector
        found = {"weights": fingerprint(detector), "model": said.model}
        paths = list(source_files(said.model))
        # A user's own detector need not keep what it read from a file where the fingerprint sees it.
        if said.weights is not None and Path(said.weights).is_file():
            paths.append(Path(said.weights))
        sources = {str(path): files.sha256(path) for path in paths}
        return found | ({"source": json.dumps(sources, sort_keys=True)} if sources else {})


def found_at(path: Path, model: str) -> BroughtRun | None:
    """The folder of a brought detector at a path, None where nothing is there.

    Raises:
        UserError: something else is there, which ``model`` must not be mixed up with.
    """
    if not path.exists() or (
        path.is_dir() and all(each.name.startswith(".") for each in path.iterdir())
    ):
        return None
    if (path / CONFIG_NAME).is_file():
        there = open_folder(path)
        if isinstance(there, BroughtRun):
            return there
    raise _taken(path, model)


def _taken(path: Path, model: str) -> UserError:
    return UserError(
        f"{path} belongs to another detector, other weights or other results; name this one otherwise:"
        f" --model NAME={model}"
    )


def open_folder(path: Path) -> Run | BroughtRun:
    """Open the folder of a detector, trained here or brought.

    Raises:
        UserError: no such folder, not one of a detector, or its settings cannot be read.
    """
    config = Path(path) / CONFIG_NAME
    if config.is_file() and BROUGHT in read_mapping(config):
        return BroughtRun.open(path)
    return Run.open(path)
