"""What the command line changes of a detector's settings: the data, and how it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rethink_heads.brought import BroughtConfig
from rethink_heads.config import DataConfig, StudyConfig
from rethink_heads.errors import UserError, shorten
from rethink_heads.options import DataOptions, MeasuringOptions, StudyOptions

NOTHING = "none"
SETTINGS = {"max_images": "images"}
"""Settings whose names are not those of their options."""
Settings = TypeVar("Settings", bound=StudyConfig)


def configured(config: Settings, options: StudyOptions, index: int = 0, count: int = 1) -> Settings:
    """Return the settings of one of ``count`` detectors with what the options change of them.

    Raises:
        UserError: the options contradict themselves or each other, or a value is bad.
    """
    maps = one_each(options.detectors.class_map, count, "--class-map", "detectors")
    return with_measuring(with_data(config, options.data), options.measuring, maps[index])


def with_data(config: Settings, options: DataOptions) -> Settings:
    """Return a detector's settings with the data asked for as their test data.

    Raises:
        UserError: the options contradict each other.
    """
    other = options.annotations is not None or options.data is not None
    if other and isinstance(config, BroughtConfig):
        # Nothing of the data that its folder was made with belongs to other data, such as the split.
        config = config.model_copy(update={"data": DataConfig()})
    if (options.annotations is None) != (options.images is None):
        raise UserError("--annotations and --images go together: give both or neither")
    changes: dict[str, Any] = {}
    if options.annotations is not None:
        if options.data is not None:
            raise UserError("give either --data or --annotations and --images, not both")
        changes = {"test_annotations": options.annotations, "test_images": options.images}
    elif options.data is not None or options.split is not None:
        changes = {"test_annotations": None, "test_images": None}
        if options.data is not None:
            changes["source"] = options.data
    if options.split is not None:
        changes["test_split"] = options.split
    return config.with_data(**changes)


def with_measuring(
    config: Settings, options: MeasuringOptions, class_map: str | None = None
) -> Settings:
    """Return a detector's settings with the measuring settings asked for.

    Raises:
        UserError: a bad value, or an override of what the detector was trained with.
    """
    overrides = options.overrides or []
    for override in overrides:
        if "=" in override and not override.startswith("measuring."):
            raise UserError(
                f"cannot change {shorten(override.partition('=')[0])!r} of a trained detector;"
                " only settings that begin with measuring. can be given here"
            )
    config = config.with_overrides(overrides)
    for name, value in vars(options).items():
        if name != "overrides" and value is not None:
            setting = f"measuring.{SETTINGS.get(name, name)}={value}"
            config = config.with_overrides([setting], f"--{name.replace('_', '-')}")
    if class_map is None:
        return config
    measuring = config.measuring.model_copy(update={"class_map": Path(class_map).absolute()})
    return config.model_copy(update={"measuring": measuring})


def one_each(given: Sequence[str] | None, count: int, option: str, of: str) -> list[str | None]:
    """One of ``given`` for each of ``count``, the same for all where there is one; ``none`` as None.

    Raises:
        UserError: there are neither as many nor one.
    """
    given = given or [NOTHING]
    if len(given) not in (1, count):
        raise UserError(
            f"{len(given)} times {option} for {count} {of}; give it once for all, or once for each in their order"
            f" ({NOTHING} for none)"
        )
    each = list(given) if len(given) == count else list(given) * count
    return [None if text == NOTHING else text for text in each]
