"""Reads the names of a detector's classes from a file, for weights that do not say them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rethink_heads.data.coco_json import field, integer, read_json, records
from rethink_heads.errors import UserError


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names in the order of a detector's scores, background left out.

    The file is text with a name a line, or COCO JSON, whose categories are taken by rising id.

    Raises:
        UserError: no such file, not text, no names in it, or a name twice.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        names = _of_categories(path)
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise UserError(f"no such file of class names: {path}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read class names from {path}: {error}") from error
        names = [line.strip() for line in lines if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1 and name != "N/A"]
    if not names or twice:
        reason = f"has {twice[0]!r} twice" if twice else "has no names"
        raise UserError(f"{path} {reason}; write each class once, a line a class")
    return tuple(names)


def _of_categories(path: Path) -> list[str]:
    content: Any = read_json(path)[0]
    categories = records(content, "categories", str(path))
    by_id = sorted(
        (integer(c, "id", "category", str(path)), str(field(c, "name", "category", str(path))))
        for c in categories
    )
    return [name for _, name in by_id]
