"""The directive ``settings``: the keys of a section of the settings, made from the models that read them.

```{settings} training
```
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config as NapoleonConfig
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

from rethink_heads.bounds import Bounds
from rethink_heads.config import Config
from site_extension.options import table

KINDS = {bool: "true | false", float: "number", Path: "path", str: "text"}
"""What is said of a value of a kind that nothing else bounds."""


class Settings(SphinxDirective):
    """What a section's model says of itself, and a row a key."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Text and table."""
        section = self.arguments[0]
        model: Any = Config
        for name in section.split("."):
            model = model.model_fields[name].annotation
        about = str(GoogleDocstring(inspect.getdoc(model) or "", NapoleonConfig()))
        text = self.parse_text_to_nodes(f"```{{eval-rst}}\n{about}\n```")
        rows = [
            (
                [nodes.literal(text=f"{section}.{name}")],
                [nodes.literal(text=_default(field))],
                [nodes.Text(_values(field))],
            )
            for name, field in model.model_fields.items()
            if not _is_section(field)
        ]
        return [*text, table(("key", "default", "values"), rows, (40, 25, 35))]


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _default(field: FieldInfo) -> str:
    value = field.default
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _values(field: FieldInfo) -> str:
    """What a key takes: names, a range, or the kind of value; of a list that of its members."""
    found: list[str] = []
    rest: list[str] = []
    kinds = [Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation]
    while kinds:
        kind = kinds.pop(0)
        if get_origin(kind) is Literal:
            found += map(str, get_args(kind))
        elif isinstance(kind, Bounds):
            found.append(str(kind))
        elif isinstance(getattr(kind, "func", None), Bounds):
            found.append(str(kind.func))
        elif get_args(kind):
            kinds += get_args(kind)
        elif isinstance(kind, type):
            rest.append(KINDS.get(kind, ""))
    return " | ".join(dict.fromkeys(found or filter(None, rest)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
