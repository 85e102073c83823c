"""Measurements kept image by image, so that an interruption loses only the image under way."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from rethink_heads.errors import UserError
from rethink_heads.files import atomic_path, write_text
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.merging import merge_folders
from rethink_heads.measure.provenance import differences

logger = logging.getLogger(__name__)

_PROVENANCE = "provenance.json"
MEMORY_MB = 512


class Saved(Protocol):
    """One image's part of a study."""

    def save(self, folder: Path) -> None:
        """Write it into a folder that is made for it."""
        ...


class Parts:
    """A folder with one sub-folder of measurements an image, named by the image's id.

    A sub-folder appears under its name only when it is complete.
    """

    def __init__(self, folder: Path, provenance: dict[str, str], joining: bool = False) -> None:
        """Open or make `folder`.

        Parts of another provenance are removed, after saying what differs, and so is what a killed
        process left half-written.

        Args:
            folder, provenance: of the parts.
            joining: another process has opened it and both write into it: nothing is removed.

        Raises:
            UserError: the folder cannot be written.
        """
        self.folder, self.provenance = folder, provenance
        if joining:
            return
        if folder.is_dir():
            before = _read(folder / _PROVENANCE)
            if before != provenance and any(folder.iterdir()):
                logger.warning(
                    "unfinished measurements in %s are of another setting and are removed (%s)",
                    folder,
                    differences(before or {}, provenance),
                )
                self.remove()
            else:
                for left in folder.glob(".*"):
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink(missing_ok=True)
        write_text(folder / _PROVENANCE, json.dumps(provenance, indent=1, sort_keys=True))

    @property
    def complete(self) -> set[int]:
        """Ids of the images whose parts are complete."""
        names = [entry.name for entry in self.folder.iterdir() if entry.is_dir()]
        return {int(name) for name in names if name.removeprefix("-").isdecimal()}

    def write(self, image_id: int, part: Saved) -> None:
        """Keep one image's part: all of it, or nothing.

        One that is there already stays: it is the same, made by a process that was thought dead, or not
        yet seen in a listing of a network's folder.

        Raises:
            UserError: it cannot be written.
        """
        place = self.folder / str(image_id)
        try:
            with atomic_path(place) as temporary:
                part.save(temporary)
        except UserError:
            if not place.is_dir():
                raise
            logger.info("%s is there already", place)

    def merge_into(
        self,
        folder: Path,
        image_ids: Iterable[int],
        more: Measurements,
        memory_mb: int = MEMORY_MB,
        detector: str | None = None,
    ) -> None:
        """Save the measurements of these images, and more, in a folder, with the parts' provenance.

        Args:
            folder: gets the files of :meth:`Measurements.save`.
            image_ids: all of them have parts.
            more: measurements of no image, as the maps of the detector's weights.
            memory_mb: bound on what is held at once, in MiB.
            detector: its name, whatever it was when the parts were made; None: that.

        Raises:
            UserError: a part is missing or damaged, or the folder cannot be written.
        """
        parts = (self.folder / str(image_id) for image_id in sorted(image_ids))
        merge_folders(parts, more, folder, self.provenance, memory_mb, detector)

    def remove(self) -> None:
        """Delete all parts."""
        # Without it the folder is of another setting: what an interruption leaves is never taken
        # up.
        (self.folder / _PROVENANCE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_leftover(folder: Path, provenance: dict[str, str]) -> None:
    """Delete parts that were merged, where their process ended before it had deleted all of them.

    Those of another provenance stay: they are unfinished measurements of another setting.
    """
    if folder.is_dir() and _read(folder / _PROVENANCE) in (None, provenance):
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
