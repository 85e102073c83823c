"""Reads sweeps: those that come with the package, and files of one's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from rethink_heads.errors import UserError
from rethink_heads.settings import read_mapping, validate
from rethink_heads.sweeps.description import PointDescription, SweepDescription, nearest_name


def sweep_names() -> tuple[str, ...]:
    """Return the names of the sweeps that come with the package, sorted."""
    names = (entry.name for entry in resources.files("rethink_heads.sweeps").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_sweep(name: str | Path) -> SweepDescription:
    """Read a sweep by its name, or the file of one of your own (it ends in .yaml or .yml).

    Raises:
        UserError: no such sweep, or the file has a mistake; the message names it.
    """
    if str(name) in sweep_names():
        with resources.as_file(resources.files("rethink_heads.sweeps") / f"{name}.yaml") as path:
            return _described(read_mapping(path), f"sweep {name}")
    if Path(name).suffix in (".yaml", ".yml"):
        return _described(read_mapping(Path(name)), str(name))
    raise UserError(
        f"unknown sweep {str(name)!r}; {nearest_name(str(name), sweep_names(), 'sweeps')}"
        " (or give the path of a .yaml file)"
    )


def _described(values: dict[str, Any], where: str) -> SweepDescription:
    points = values.get("points")
    if isinstance(points, list):
        # One by one, so that a mistake is explained with the names a point has.
        for number, point in enumerate(points, 1):
            if not isinstance(point, dict):
                raise UserError(f"point {number} of {where} is no mapping: write label: NAME")
            validate(PointDescription, point, f"point {number} of {where}")
    return validate(SweepDescription, values, where)
