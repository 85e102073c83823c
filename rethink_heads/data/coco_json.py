"""Reads a COCO JSON file and checks its entries: each mistake is one clear sentence that names the entry."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import reprlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rethink_heads.errors import UserError, shown
from rethink_heads.files import read_bytes

log = logging.getLogger(__name__)

LARGEST_COORDINATE = 2**24
"""In px; float32, in which boxes are kept, has no fractions beyond half of it."""

CONVERTED_FROM = "converted_from"
"""Key in a file's "info": what it was converted from, by which messages call it."""

OUTLINES = "segmentation"
"""Key of an entry's outline or mask, which is not read."""

# Objects365, the largest set that people train on, has some 5 GiB.
_LARGEST_FILE = 8 * 2**30
# Of int64 and of float32, in which ids and areas are kept.
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_AREA = 2.0**127
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?\s*")
_FLAGS = {"0": False, "false": False, "1": True, "true": True}


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """Return the JSON object in ``path``, without outlines, and the SHA-256 of its bytes.

    Any UTF, with or without a byte order mark.
    Raises UserError where the file cannot be read, or is not one JSON object whose keys are each there once.
    """
    content = read_bytes(path, "annotation file", _LARGEST_FILE)
    parsed = parse_json(content, str(path), "a COCO JSON file", OUTLINES)
    if not isinstance(parsed, dict):
        raise UserError(
            f"{path} is not COCO: it holds a {type(parsed).__name__}, not an object with 'images', "
            "'annotations' and 'categories'; give a COCO JSON file"
        )
    return parsed, hashlib.sha256(content).hexdigest()


def parse_json(content: bytes, where: str, what: str, without: str = "") -> Any:
    """Return what JSON in any UTF holds.
    ``without``: a key that entries lose at once: outlines of all objects would take most of the memory.
    Raises UserError where it is not JSON, or has a key twice, of which one would be lost without a word.
    """

    def record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            key = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
            name = f" (id {reprlib.repr(entry['id'])})" if "id" in entry else ""
            raise UserError(
                f"{where}: an entry{name} has the key {reprlib.repr(key)} twice; fix it"
            )
        if without:
            entry.pop(without, None)
        return entry

    try:
        return json.loads(content, object_pairs_hook=record)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply; give {what}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not JSON ({error}); give {what}") from error
    except ValueError as error:
        raise UserError(
            f"{where} holds a number of thousands of digits; fix the file ({error})"
        ) from error


def records(content: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """Return ``content[name]`` as a list of objects. Raises UserError otherwise."""
    missing = [n for n in ("images", "annotations", "categories") if n not in content]
    if missing:
        listed = " and ".join(f"'{n}'" for n in missing)
        raise UserError(f"{where} is not COCO: it has no {listed}; give a COCO JSON file")
    entries = content[name]
    if not isinstance(entries, list):
        raise UserError(
            f"{where} is not COCO: '{name}' is not a list but {reprlib.repr(entries)}; fix the file"
        )
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(
                f"{where} is not COCO: entry {position + 1} of '{name}' is {reprlib.repr(entry)}, not an object;"
                " fix the file"
            )
    return entries


def field(record: dict[str, Any], key: str, kind: str, where: str, position: int = -1) -> Any:
    """Return ``record[key]``. Raises UserError when it is not there.

    Args:
        kind: what the entry is, for messages: "image", "annotation", "category".
        position: of the entry in its list, 0-based, by which messages name it where it has no id; -1 where unknown.
    """
    if key not in record:
        raise UserError(
            f"{where} is not COCO: {_named(record, kind, position)} has no '{key}'; fix the file"
        )
    return record[key]


def integer(record: dict[str, Any], key: str, kind: str, where: str, position: int = -1) -> int:
    """Return ``record[key]``, a whole number of at most 64 bits; 7.0 and "7" are 7. Arguments: :func:`field`'s.
    Raises UserError where it is missing, or something else.
    """
    value = field(record, key, kind, where, position)
    number = _number(value)
    if isinstance(number, float):
        # Beyond 2^53 a float is not the one whole number that it was written as.
        number = int(number) if number.is_integer() and abs(number) <= 2**53 else None
    if number is None:
        problem = "is not a whole number"
    elif not -_LARGEST_INTEGER <= number <= _LARGEST_INTEGER:
        problem = "is beyond 64 bits"
    else:
        return number
    owner = _named({} if key == "id" else record, kind, position)
    raise UserError(f"{where}: {key} {reprlib.repr(value)} of {owner} {problem}; fix it")


def parse_box(annotation: dict[str, Any], object_id: int, where: str) -> list[float]:
    """Return the box of an annotation: x, y, width, height in px. Raises UserError otherwise."""
    values = field(annotation, "bbox", "annotation", where)
    if isinstance(values, list) and len(values) == 4:
        numbers = [_number(value) for value in values]
        # Not-a-number fails any comparison.
        box = [n for n in numbers if n is not None and abs(n) <= LARGEST_COORDINATE]
        if len(box) == 4:
            return box
    raise UserError(
        f"{where}: bbox {reprlib.repr(values)} of annotation {object_id} is not four numbers x, y, width, height"
        f" of at most {LARGEST_COORDINATE:,} px; fix it"
    )


def parse_area(annotation: dict[str, Any], object_id: int, where: str) -> float:
    """Return the annotation's area in px^2, NaN if it gives none."""
    value = annotation.get("area")
    if value is None:
        return float("nan")
    number = _number(value)
    if number is None or not 0 <= number <= _LARGEST_AREA:
        raise UserError(
            f"{where}: area {reprlib.repr(value)} of annotation {object_id} is not a size; fix it"
        )
    return float(number)


def parse_flag(value: Any, what: str, where: str) -> bool:
    """Return a truth value: 0 or 1, false or true, also as text; None is false.
    Raises UserError where it is something else, which ``what`` says whose it is.
    """
    if value is None:
        return False
    # True is 1 and 1.0 is 1 to Python.
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    raise UserError(f"{where}: {what} is {reprlib.repr(value)}, not 0 or 1; fix it")


def category_names(content: dict[str, Any], where: str) -> dict[int, str]:
    """Return the names of a COCO file's categories by id.

    Of several of one name those that no annotation uses are left out, with a line in the log: some exports begin with
    such a root category.
    Raises UserError where an entry is not COCO's, two share an id, or two that are used share a name.
    """
    categories = records(content, "categories", where)
    ids = [integer(c, "id", "category", where, n) for n, c in enumerate(categories)]
    check_unique(ids, "category", where)
    names: dict[int, str] = {}
    by_name: dict[str, list[int]] = defaultdict(list)
    for category_id, category in zip(ids, categories, strict=True):
        name = field(category, "name", "category", where)
        # Digits are classes of some sets.
        if type(name) is int and 0 <= name < 2**31:
            name = str(name)
        names[category_id] = text(name, f"the name of category {category_id}", where)
        by_name[name].append(category_id)
    repeated = {name: shared for name, shared in by_name.items() if len(shared) > 1}
    if not repeated:
        return names
    annotations = enumerate(records(content, "annotations", where))
    used = {integer(a, "category_id", "annotation", where, n) for n, a in annotations}
    for name, shared in repeated.items():
        wanted = [i for i in shared if i in used] or shared[-1:]
        if len(wanted) > 1:
            raise UserError(
                f"{where}: categories {wanted[0]} and {wanted[1]} are both named {reprlib.repr(name)} and both have"
                " annotations; give each its own name"
            )
        for category_id in shared:
            if category_id not in wanted:
                del names[category_id]
                log.warning(
                    "%s: category %d is left out: no annotation uses it, and category %d has the same name %r",
                    where,
                    category_id,
                    wanted[0],
                    name,
                )
    return names


def text(value: Any, what: str, where: str) -> str:
    """Return a name. Raises UserError unless it is text on one line that can be written; ``what`` says whose it is."""
    if not isinstance(value, str) or not value.strip():
        as_written = "null" if value is None else reprlib.repr(value)
        raise UserError(f"{where}: {what} is {as_written}, not a text; fix it")
    # Control characters, NUL among them, separators of lines, and halves of surrogate pairs.
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value):
        raise UserError(
            f"{where}: {what} is {reprlib.repr(value)}, with characters that cannot be written; fix it"
        )
    return value


def check_unique(
    ids: Iterable[int] | Iterable[str], kind: str, where: str, key: str = "id"
) -> None:
    """Raise UserError unless all ids, or values of another key, of a kind of entries differ."""
    repeated = [(value, count) for value, count in Counter(ids).items() if count > 1]
    if repeated:
        value, count = repeated[0]
        others = len(repeated) - 1
        more = f" (and {others} more {'is' if others == 1 else 'are'} shared)" if others else ""
        raise UserError(
            f"{where}: {count} {kind} entries share the {key} {shown(str(value))}{more}; give each its own"
        )


def _named(record: dict[str, Any], kind: str, position: int) -> str:
    if "id" in record:
        return f"{kind} {reprlib.repr(record['id'])}"
    return f"{kind} number {position + 1} of the list" if position >= 0 else f"one {kind}"


def _number(value: Any) -> float | None:
    """Return the number that a value is or, as text, is meant to be; None where it is no number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return float(value) if match[1] or match[2] else int(value)
