"""A folder with what was made of one detector, trained here or brought: see :mod:`rethink_heads.runs`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import __version__
from rethink_heads.config import StudyConfig

if TYPE_CHECKING:
    import torch

    from rethink_heads.detectors.base import Detector

CONFIG_NAME = "config.yaml"
DEFAULT_MEASUREMENTS = "default"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyFolder(ABC):
    """A folder with what was made of one detector: its settings, measurements, tables and figures."""

    path: Path
    config: StudyConfig

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """The heads that the detector may have; known without the detector itself."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The classes of the detector's scores, in their order."""

    @abstractmethod
    def load(self, device: torch.device | str = "cpu") -> Detector:
        """The detector, in evaluation mode.

        Raises:
            UserError: it is not there, or cannot be read.
        """

    @abstractmethod
    def provenance(self, detector: Detector) -> dict[str, str]:
        """What everything that the detector says depends on, beside the data."""

    @property
    def name(self) -> str:
        """The folder's name; measurements call the detector by it."""
        return self.path.resolve().name

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
