"""Reads the names of a detector's classes from a file, for weights that do not say them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rethink_heads.data.coco_json import category_names, read_json
from rethink_heads.errors import UserError, check_writable, shorten
from rethink_heads.files import read_text


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
        lines = read_text(path, "file of class names").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    for name in names:
        check_writable(name, f"{path}: class")
    twice = [name for name, count in Counter(names).items() if count > 1 and name != "N/A"]
    if not names or twice:
        reason = f"has {shorten(twice[0])!r} twice" if twice else "has no names"
        raise UserError(f"{path} {reason}; write each class once, a line a class")
    return tuple(names)


def _of_categories(path: Path) -> list[str]:
    names = category_names(read_json(path)[0], str(path))
    return [names[category_id] for category_id in sorted(names)]
