"""The API page: every public name of a group, documented from its docstring by autodoc.

    ```{public-names} Measuring
    rethink_heads.proposals.Proposals
    ```

The groups are those of ``help(rethink_heads)``; the content names further classes, which functions of the group give
or take. Roles in docstrings name modules of the package: those of a public name become links to it, others stay text,
and one that names nothing fails the build.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import rethink_heads

PACKAGE = rethink_heads.__name__
# By group: name, place (a module, and after a colon the name there where it is another), what it is.
GROUPS: dict[str, list[list[str]]] = rethink_heads._ENTRIES
PLACES: dict[str, str] = rethink_heads._MODULES
PRIVATE = re.compile(r",? _\w+: [^=]*=\s?<factory>")


class PublicNames(SphinxDirective):
    """The names of a group: a line each, then each one's documentation."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """A table and the documentation."""
        entries = GROUPS.get(self.arguments[0])
        if entries is None:
            raise self.error(f"no group {self.arguments[0]!r}; there are {', '.join(GROUPS)}")
        lines = ["| name | what it is |", "| --- | --- |"]
        lines += [f"| {{py:obj}}`~{PACKAGE}.{name}` | {about} |" for name, _, about in entries]
        documented = [_documentation(name) for name, _, _ in entries]
        documented += [_class(name) for name in self.content if name]
        lines += ["", "```{eval-rst}", *"\n\n".join(documented).splitlines(), "```"]
        return self.parse_text_to_nodes("\n".join(lines))


def _documentation(name: str) -> str:
    """The directive that documents a public name."""
    is_class = inspect.isclass(getattr(rethink_heads, name))
    return _class(f"{PACKAGE}.{name}") if is_class else f".. autofunction:: {PACKAGE}.{name}"


def _class(path: str) -> str:
    """The directive that documents a class: of settings its methods, since their keys have a page."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    members = ""
    if issubclass(found, BaseModel):
        own = [m for _, m in inspect.getmembers(found, lambda m: hasattr(m, "__code__"))]
        own = [m for m in own if m.__module__ == found.__module__ and m.__name__[0] != "_"]
        members = ", ".join(m.__name__ for m in own)
    return f".. autoclass:: {path}\n   :members: {members}".rstrip()


def _on_signature(
    app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Leave out what nobody passes: private fields; and the keys of settings, which have a page."""
    if what != "class":
        return None
    if issubclass(found, BaseModel):
        return "(**settings)", ""
    return (PRIVATE.sub("", signature), returned) if signature else None


def _on_missing(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Resolve a role that names an object by where it is defined, and let others of the package be text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].lstrip(".")
    public = _public(target)
    if public is not None:
        shown = contnode if node.get("refexplicit") else nodes.literal(text=public)
        domain = env.domains["py"]
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{PACKAGE}.{public}", node, shown
        )
    is_known = node["reftype"] == "class" and node.get("py:module") is None
    return contnode if is_known or _exists(target, node.get("py:module")) else None


def _public(target: str) -> str | None:
    """The public name of an object that is named by its module, or a part of it."""
    path, _, last = target.rpartition(".")
    for name, place in PLACES.items():
        module, _, own = place.partition(":")
        if (own or name) == last and f".{PACKAGE}.{module}".endswith(f".{path}" if path else ""):
            return name
    return None


def _exists(target: str, module: str | None) -> bool:
    """Whether a module, or an object in one, has this name or a name that ends in it."""
    path, _, last = target.rpartition(".")
    for name in _modules():
        if f".{name}".endswith(f".{target}"):
            return True
        if (
            path
            and f".{name}".endswith(f".{path}")
            and hasattr(importlib.import_module(name), last)
        ):
            return True
    return False


@cache
def _modules() -> tuple[str, ...]:
    return tuple(each.name for each in pkgutil.walk_packages(rethink_heads.__path__, f"{PACKAGE}."))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the resolver."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-signature", _on_signature)
    app.connect("missing-reference", _on_missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
