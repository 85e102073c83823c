"""Imports run one way, as docs/architecture.md draws them, without a circle."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import rethink_heads

PACKAGE = Path(rethink_heads.__file__).parent
DRAWING = Path(__file__).parents[1] / "docs" / "architecture.md"
# Modules that are drawn together; a module without a place of its own is of the foundation.
TOGETHER = {
    "__main__": "cli",
    "detection_files": "study",
    "results": "study",
    "run_options": "study",
    "subject": "study",
    "paper": "plots",
}
FOUNDATION = "foundation"


@cache
def modules() -> dict[str, Path]:
    """The file of every module by its dotted name in the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    del found[""]
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """The package's modules that a module imports, inside functions too, but for those for types alone."""
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    only_types = {
        id(node)
        for each in ast.walk(tree)
        if isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test)
        for node in ast.walk(each)
    }
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in only_types or not node.module:
            continue
        for each in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            inner = each.removeprefix("rethink_heads.")
            if inner != each and inner in modules() and inner != name:
                found.add(inner)
    # A package that is named on the way to its module is not what is imported.
    return frozenset(each for each in found if not any(o.startswith(f"{each}.") for o in found))


def arrows() -> dict[str, set[str]]:
    """The drawing: from each part the parts that it points to."""
    found: dict[str, set[str]] = {}
    for start, end in re.findall(r"^\s+(\w+) --> (\w+)$", DRAWING.read_text(), re.MULTILINE):
        found.setdefault(start, set()).add(end)
    return found


def part(name: str) -> str:
    """Where a module is drawn."""
    first = name.split(".")[0]
    place = TOGETHER.get(first, first)
    drawn = arrows()
    return place if place in drawn else FOUNDATION


def test_imports_run_down_the_arrows() -> None:
    drawn = arrows()
    below: dict[str, set[str]] = {FOUNDATION: {FOUNDATION}}
    for place in TopologicalSorter(drawn).static_order():
        below[place] = {place, FOUNDATION}.union(*(below[each] for each in drawn.get(place, ())))
    against = [
        f"{name} imports {other}"
        for name in modules()
        for other in imports(name)
        if part(other) not in below[part(name)]
    ]
    assert not against, "\n".join(sorted(against))


def test_every_arrow_is_of_an_import() -> None:
    there = {(part(name), part(other)) for name in modules() for other in imports(name)}
    # The command line loads its commands by name, when they are called.
    there.add(("cli", "commands"))
    drawn = {(start, end) for start, ends in arrows().items() for end in ends}
    assert drawn <= there, sorted(drawn - there)


def test_every_file_that_is_named_is_there() -> None:
    files = [f"/{path.relative_to(PACKAGE.parents[0])}" for path in modules().values()]
    files.append("/tests/test_architecture.py")
    named = re.findall(r"`([a-z_0-9/]+\.py)`", DRAWING.read_text(encoding="utf-8"))
    assert len(set(named)) > 40
    assert not [name for name in named if not any(file.endswith(f"/{name}") for file in files)]


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: imports(name) for name in modules()}
    assert set(TopologicalSorter(graph).static_order()) == set(modules())
