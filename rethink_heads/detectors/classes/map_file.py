"""Reads which of a dataset's classes is which of a detector's from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rethink_heads.errors import UserError, check_writable, shorten
from rethink_heads.files import read_text
from rethink_heads.settings import read_yaml

WHAT = "class map"
Given = Mapping[str, str | None]
"""By name of a dataset's class: that of the detector's, None to leave the class out."""


def read_class_map(path: Path | None) -> dict[str, str | None]:
    """Read which dataset class is which of the detector's, from a YAML or JSON file; without a file nothing is given.

    The file is a mapping of the dataset's names to the detector's; null leaves a class out.

    Raises:
        UserError: no such file, neither YAML nor JSON, not a mapping, or names that are not text.
    """
    if path is None:
        return {}
    path = Path(path)
    is_json = path.suffix.lower() == ".json"
    try:
        content = json.loads(read_text(path, WHAT)) if is_json else read_yaml(path, WHAT)
    except (ValueError, RecursionError) as error:
        raise UserError(f"class map {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"class map {path} holds no mapping; write lines of `dataset class: detector class`,"
            " with null to leave a class out"
        )
    for name, other in content.items():
        wrong = [one for one in (name, other) if not isinstance(one, str) and one is not None]
        if wrong or name is None:
            said, entry = (shorten(repr(one)) for one in ((wrong or [name])[0], name))
            raise UserError(
                f"class map {path}: {said} (in the entry of {entry}) is not a name;"
                " write names as text, in quotes where YAML reads them as something else"
            )
        for one in (name, other or ""):
            check_writable(one, f"class map {path}:")
    return content
