"""Reads a COCO JSON file and checks its entries: each mistake is one clear sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rethink_heads.errors import UserError


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """Return the JSON object in ``path`` and the SHA-256 of its bytes."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no such annotation file: {path}; give a COCO JSON file") from error
    except OSError as error:
        raise UserError(f"cannot read annotation file {path}: {error.strerror}") from error
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); give a COCO JSON file") from error
    if not isinstance(parsed, dict):
        raise UserError(
            f"{path} is not COCO: it holds a {type(parsed).__name__}, not an object with 'images', "
            "'annotations' and 'categories'; give a COCO JSON file"
        )
    return parsed, hashlib.sha256(content).hexdigest()


def records(content: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """Return ``content[name]`` as a list of objects. Raises UserError otherwise."""
    missing = [n for n in ("images", "annotations", "categories") if n not in content]
    if missing:
        listed = " and ".join(f"'{n}'" for n in missing)
        raise UserError(f"{where} is not COCO: it has no {listed}; give a COCO JSON file")
    entries = content[name]
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{where} is not COCO: '{name}' is not a list of objects; mend the file")
    return entries


def field(record: dict[str, Any], key: str, kind: str, where: str) -> Any:
    """Return ``record[key]``. Raises UserError when it is not there."""
    if key not in record:
        name = f" {record['id']!r}" if "id" in record else ""
        raise UserError(f"{where} is not COCO: {kind}{name} has no '{key}'; mend the file")
    return record[key]


def integer(record: dict[str, Any], key: str, kind: str, where: str) -> int:
    """Return ``record[key]``. Raises UserError unless it is a whole number."""
    value = field(record, key, kind, where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: {key} {value!r} of one {kind} is not a whole number; mend it")
    return value


def parse_box(annotation: dict[str, Any], object_id: int, where: str) -> list[float]:
    """Return the box of an annotation: x, y, width, height in px. Raises UserError otherwise."""
    values = field(annotation, "bbox", "annotation", where)
    if (
        not isinstance(values, list)
        or len(values) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    ):
        raise UserError(
            f"{where}: bbox {values!r} of annotation {object_id} is not four numbers x, y, width, "
            "height; mend it"
        )
    return values


def parse_area(annotation: dict[str, Any], object_id: int, where: str) -> float:
    """Return the annotation's area in px^2, NaN if it gives none."""
    value = annotation.get("area")
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UserError(f"{where}: area {value!r} of annotation {object_id} is not a size; mend it")
    return float(value)


def check_unique(distinct: int, total: int, kind: str, where: str) -> None:
    """Raise UserError unless all ``total`` ids are ``distinct``."""
    if distinct != total:
        raise UserError(f"{where}: two {kind} entries share an id; give each its own")
