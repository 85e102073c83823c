"""Reads which of a dataset's classes is which of a detector's from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from rethink_heads.errors import UserError

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
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if is_json else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise UserError(f"no such class map: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read class map {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "JSON" if is_json else "YAML"
        raise UserError(
            f"class map {path} is not {kind}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"class map {path} holds no mapping; write lines of `dataset class: detector class`,"
            " with null to leave a class out"
        )
    for name, other in content.items():
        wrong = [one for one in (name, other) if not isinstance(one, str) and one is not None]
        if wrong or name is None:
            raise UserError(
                f"class map {path}: {(wrong or [name])[0]!r} (in the entry of {name!r}) is not a name;"
                " write names as text, in quotes where YAML reads them as something else"
            )
    return content
