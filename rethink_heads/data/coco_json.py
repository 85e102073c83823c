"""Reads a COCO JSON file and checks its entries: each mistake is one clear sentence."""

from __future__ import annotations

import hashlib
import json
import reprlib
import sys
from pathlib import Path
from typing import Any

from rethink_heads.errors import UserError

# Of int64 and of float32, in which ids and areas are kept.
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_AREA = 2.0**127


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """Return the JSON object in ``path``, without outlines, and the SHA-256 of its bytes."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no such annotation file: {path}; give a COCO JSON file") from error
    except OSError as error:
        raise UserError(f"cannot read annotation file {path}: {error.strerror}") from error
    try:
        parsed = json.loads(content, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); give a COCO JSON file") from error
    if not isinstance(parsed, dict):
        raise UserError(
            f"{path} is not COCO: it holds a {type(parsed).__name__}, not an object with 'images', "
            "'annotations' and 'categories'; give a COCO JSON file"
        )
    return parsed, hashlib.sha256(content).hexdigest()


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Drop an object's outline at once: those of all objects would take most of the memory, and none is read."""
    record.pop("segmentation", None)
    return record


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
        name = f" {reprlib.repr(record['id'])}" if "id" in record else ""
        raise UserError(f"{where} is not COCO: {kind}{name} has no '{key}'; mend the file")
    return record[key]


def integer(record: dict[str, Any], key: str, kind: str, where: str) -> int:
    """Return ``record[key]``. Raises UserError unless it is a whole number of at most 64 bits."""
    value = field(record, key, kind, where)
    if isinstance(value, bool) or not isinstance(value, int):
        problem = "is not a whole number"
    elif not -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        problem = "is beyond 64 bits"
    else:
        return value
    raise UserError(f"{where}: {key} {reprlib.repr(value)} of one {kind} {problem}; mend it")


def parse_box(annotation: dict[str, Any], object_id: int, where: str) -> list[float]:
    """Return the box of an annotation: x, y, width, height in px. Raises UserError otherwise."""
    values = field(annotation, "bbox", "annotation", where)
    if (
        not isinstance(values, list)
        or len(values) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        # Whole numbers in JSON may have any number of digits.
        or any(isinstance(v, int) and abs(v) > sys.float_info.max for v in values)
    ):
        raise UserError(
            f"{where}: bbox {reprlib.repr(values)} of annotation {object_id} is not four numbers "
            "x, y, width, height; mend it"
        )
    return values


def parse_area(annotation: dict[str, Any], object_id: int, where: str) -> float:
    """Return the annotation's area in px^2, NaN if it gives none."""
    value = annotation.get("area")
    if value is None:
        return float("nan")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= _LARGEST_AREA:
        raise UserError(
            f"{where}: area {reprlib.repr(value)} of annotation {object_id} is not a size; mend it"
        )
    return float(value)


def check_unique(distinct: int, total: int, kind: str, where: str) -> None:
    """Raise UserError unless all ``total`` ids are ``distinct``."""
    if distinct != total:
        raise UserError(f"{where}: two {kind} entries share an id; give each its own")
