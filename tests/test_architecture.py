"""Imports run one way: from the command line down to files and errors, without a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import rethink_heads

PACKAGE = Path(rethink_heads.__file__).parent
# From the top down; a module imports of its own layer and of those below.
LAYERS = (
    ("__main__", "cli"),
    ("commands",),
    ("study", "analysis_inputs", "comparable", "run_options", "report", "sweeps", "planning", "describing", "paper"),
    ("training", "plots", "statistics", "evaluation"),
    ("runs",),
    ("measure",),
    ("detectors",),
    ("fastpath", "heads", "data"),
)
FOUNDATION = len(LAYERS)
"""The layer of every module that is not named: files, settings, errors."""


def modules() -> dict[str, Path]:
    """The file of every module by its dotted name in the package."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {
        ".".join(part for part in path.parts if part != "__init__"): PACKAGE
        / path.with_suffix(".py")
        for path in paths
    }


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports, inside functions too; not those for types alone."""
    found = set()
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    only_types = {
        id(node)
        for each in ast.walk(tree)
        if isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test)
        for node in ast.walk(each)
    }
    for node in ast.walk(tree):
        # An import that nothing is used of is for what it registers in detectron2.
        if id(node) in only_types or (
            isinstance(node, ast.ImportFrom) and "noqa: F401" in lines[node.lineno - 1]
        ):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        for each in names:
            inner = each.removeprefix("rethink_heads").removeprefix(".")
            if each.startswith("rethink_heads.") and inner in known and inner != name:
                found.add(inner)
    # A package that is named on the way to its module is not what is imported.
    return {each for each in found if not any(other.startswith(f"{each}.") for other in found)}


def layer(name: str) -> int:
    """The place of a module's layer, 0 at the top."""
    first = name.split(".")[0]
    return next((place for place, names in enumerate(LAYERS) if first in names), FOUNDATION)


def test_imports_run_one_way() -> None:
    known = modules()
    against = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(name, path, known)
        if name and layer(other) < layer(name)
    ]
    assert not against, "\n".join(sorted(against))


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {name: imports(name, path, known) for name, path in known.items() if name}
    assert list(TopologicalSorter(graph).static_order())
