"""The files that say what a user's detector does: when one changes, it is measured again."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import rethink_heads

INSTALLED = {"site-packages", "dist-packages"}
OWN = Path(rethink_heads.__file__).parent


def source_files(model: str) -> list[Path]:
    """Files that a detector depends on beside its weights, those that exist.

    Of ``detectron2:`` the configuration itself. Of ``python:`` the module with the function, and what has been imported
    from its package, or from the folder that a single module lies in, by now; so the detector is opened first. What
    lies in the environment's installed packages, which that folder may hold, and this package are left out: they are
    known by their versions.
    """
    kind, _, name = model.partition(":")
    if kind == "detectron2":
        return [Path(name)] if Path(name).is_file() else []
    if kind != "python":
        return []
    module = name.partition(":")[0]
    spec = find_spec(module) if module in sys.modules or "." not in module else None
    if spec is None or not spec.has_location or spec.origin is None:
        return []
    own = Path(spec.origin)
    top = sys.modules.get(module.partition(".")[0])
    folder = Path(getattr(top, "__file__", None) or own).parent
    imported = (getattr(each, "__file__", None) for each in list(sys.modules.values()))
    within = {Path(file) for file in imported if file and _is_the_users(Path(file), folder)}
    return sorted({own, *within})


def _is_the_users(file: Path, folder: Path) -> bool:
    return folder in file.parents and OWN not in file.parents and INSTALLED.isdisjoint(file.parts)
