"""What runs must have in common before their measurements are compared, object by object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rethink_heads.console import log
from rethink_heads.errors import UserError
from rethink_heads.runs import Run

if TYPE_CHECKING:
    from rethink_heads.measure.store import Measurements

# By entry of the provenance: how a message calls it, and the options that make it equal.
COMPARED = {
    "data": ("annotations", "--data FOLDER, or --annotations FILE and --images DIR,"),
    "images": ("number of images", "--max-images N"),
    "image files": ("content of the images", "the same images"),
    "seed": ("measuring seed", "--seed N"),
}
# Each detector has classes of its own.
NOT_COMPARED = ("class_map",)
SHOWN_OF_A_HASH = 8
HASHES = ("data", "image files")
MOST_NAMED = 8


def check_names(runs: Sequence[Run]) -> None:
    """Measurements call a detector by its run's name, so no two may be equal.

    Raises:
        UserError: two runs have the same name.
    """
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two of the detectors are called {name!r}; rename one of the folders, or name a model:"
                " --model NAME=MODEL"
            )


def name_some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def check_comparable(
    runs: Sequence[Run], provenances: Sequence[Mapping[str, str]], drawing: bool = False
) -> None:
    """Refuse to compare measurements of different data, measuring settings or seeds.

    Objects are paired by their ids; other data or other sampled proposals would be paired silently.

    Args:
        runs: whose measurements they are.
        provenances: of each run; entries that are not given are not compared.
        drawing: whether nothing is measured here, so that the remedy is another command.

    Raises:
        UserError: two runs differ; the message says in what, and which options make them equal.
    """
    first, *others = [_settings(provenance) for provenance in provenances]
    for run, other in zip(runs[1:], others, strict=True):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if not names:
            continue
        found = "; ".join(
            f"{COMPARED.get(name, (name,))[0]} {_shown(first, name)} and {_shown(other, name)}"
            for name in names
        )
        options = " ".join(COMPARED.get(name, ("", f"{name}=VALUE"))[1] for name in names)
        remedy = f"give {options} to measure all runs alike"
        if drawing:
            remedy = (
                "measure them alike first (rethink-heads correlate"
                f" {' '.join(f'--run {each.path}' for each in runs)} {options.rstrip(',')})"
                " and give a --measurements NAME for each run"
            )
        raise UserError(
            f"{runs[0].name} and {run.name} cannot be compared object by object,"
            f" they differ in: {found}; {remedy}"
        )


def merge_measurements(
    runs: Sequence[Run], found: Sequence[Measurements], drawing: bool = False
) -> Measurements:
    """Merge the measurements of several runs after :func:`check_comparable`.

    Detectors with other classes have measured other objects: the objects that all have measured are kept.
    """
    from rethink_heads.measure.store import Measurements

    check_comparable(runs, [measurements.provenance for measurements in found], drawing)
    objects = [_objects(measurements) for measurements in found]
    shared = set.intersection(*objects)
    if any(each != shared for each in objects):
        if not shared:
            raise UserError(
                "the detectors have measured no object in common: their classes differ; give --class-map"
            )
        counts = ", ".join(f"{len(o)} of {r.name}" for r, o in zip(runs, objects, strict=True))
        log(f"compared on the {len(shared)} objects that all have measured ({counts})")
        found = [measurements.restrict(shared) for measurements in found]
    return Measurements.merge(found)


def _objects(measurements: Measurements) -> set[tuple[int, int]]:
    frame = measurements.objects[["image_id", "object_id"]]
    return set(frame.itertuples(index=False, name=None))


def _settings(provenance: Mapping[str, str]) -> dict[str, str]:
    settings = {name: provenance[name] for name in COMPARED if name in provenance}
    if "annotations" in provenance:
        # The file, of which only some classes were measured: the objects that all have are compared.
        settings["data"] = provenance["annotations"]
    for name, value in json.loads(provenance.get("measuring", "{}")).items():
        if name not in NOT_COMPARED:
            settings[f"measuring.{name}"] = json.dumps(value)
    return settings


def _shown(settings: Mapping[str, str], name: str) -> str:
    text = settings.get(name, "not stated")
    return f"{text[:SHOWN_OF_A_HASH]}..." if name in HASHES else text
