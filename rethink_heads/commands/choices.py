"""What the command line changes of a detector's settings: the data, and how it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rethink_heads.brought import BroughtConfig
from rethink_heads.config import DataConfig, MeasuringConfig, StudyConfig
from rethink_heads.errors import UserError, shorten

NOTHING = "none"
OPTIONS = {"images": "--max-images"}
"""Options whose names are not those of their settings."""
Settings = TypeVar("Settings", bound=StudyConfig)


@dataclass(frozen=True)
class DataChoice:
    """Which data to read; all None means the run's own test split."""

    source: str | None = None
    annotations: Path | None = None
    images: Path | None = None
    split: str | None = None

    def config(self, config: Settings) -> Settings:
        """Return a detector's settings with this choice as their test data.

        Raises:
            UserError: the choice contradicts itself.
        """
        given = self.annotations is not None or self.source is not None
        if given and isinstance(config, BroughtConfig):
            # Nothing of the data that its folder was made with belongs to other data, such as the split.
            config = config.model_copy(update={"data": DataConfig()})
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
    """Measuring settings given on the command line; None leaves a detector's own.

    ``class_maps`` are one for all detectors or one for each; :meth:`of` is the choice for one of them.
    """

    images: int | None = None
    objects_per_image: int | None = None
    proposals_per_object: int | None = None
    grid_steps: int | None = None
    precision: str | None = None
    memory_mb: int | None = None
    overrides: Sequence[str] = field(default=())
    class_maps: Sequence[str] = field(default=())

    def of(self, index: int, count: int) -> MeasuringChoice:
        """The choice for one of ``count`` detectors.

        Raises:
            UserError: there are neither as many class maps as detectors nor one.
        """
        each = one_each(self.class_maps, count, "--class-map", "detectors")[index]
        return replace(self, class_maps=() if each is None else (each,))

    def config(self, config: Settings) -> Settings:
        """Return a detector's settings with these measuring settings.

        Raises:
            UserError: a bad value, or an override of what the detector was trained with.
        """
        for override in self.overrides:
            if "=" in override and not override.startswith("measuring."):
                raise UserError(
                    f"cannot change {shorten(override.partition('=')[0])!r} of a trained detector;"
                    " only settings that begin with measuring. can be given here"
                )
        given = {
            name: value
            for name, value in vars(self).items()
            if name in MeasuringConfig.model_fields and value is not None
        }
        chosen = config.with_overrides(list(self.overrides))
        for name, value in given.items():
            option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
            chosen = chosen.with_overrides([f"measuring.{name}={value}"], option)
        if not self.class_maps:
            return chosen
        maps = Path(self.class_maps[0])
        return chosen.model_copy(
            update={"measuring": chosen.measuring.model_copy(update={"class_map": maps.absolute()})}
        )


def one_each(given: Sequence[str], count: int, option: str, of: str) -> list[str | None]:
    """One of ``given`` for each of ``count``, the same for all where there is one; ``none`` as None.

    Raises:
        UserError: there are neither as many nor one.
    """
    if len(given) not in (0, 1, count):
        raise UserError(
            f"{len(given)} times {option} for {count} {of}; give it once for all, or once for each in their order"
            f" ({NOTHING} for none)"
        )
    each = list(given) if len(given) == count else list(given or [NOTHING]) * count
    return [None if text == NOTHING else text for text in each]
