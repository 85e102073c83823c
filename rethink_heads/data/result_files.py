"""Reads files of final detections: COCO's results JSON, YOLO's labels with confidences, VOC's text files a class.

What a file says is checked here, entry by entry; what it means for a data set, :mod:`rethink_heads.data.results` says.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.data.coco_json import LARGEST_COORDINATE, OUTLINES, parse_json
from rethink_heads.data.results import Name, Results, ResultsFormat
from rethink_heads.data.yolo import RESULT_NUMBERS, class_names, label_files, read_labels
from rethink_heads.errors import UserError, shorten, shown
from rethink_heads.files import LARGEST_LIST, is_folder, read_bytes, read_text, write_text

# Some 30 million detections.
_LARGEST_FILE = 4 * 2**30
_LARGEST_ID = 2**63 - 1
_LARGEST_SCORE = 1e9
_KEYS = ("image_id", "category_id", "bbox", "score")
# comp3 or comp4, of any image set.
_VOC_NAME = re.compile(r"comp\d+_det_[^_]+_(.+)\.txt", re.IGNORECASE)


def read_results(path: Path, names: str | None = None) -> Results:
    """Read what a detector has found, as its file or folder says it.
    Raises UserError where it cannot be read, is none of these, or an entry is wrong; the message names the entry.

    Args:
        path: COCO's results JSON; a folder of YOLO's label files with confidences; VOC's ``comp3_det_test_CLASS.txt``,
            one or a folder of them.
        names: of YOLO's classes, as of :class:`.LabelOptions`; None for the order of the data's classes.
    """
    if not is_folder(path):
        if _VOC_NAME.fullmatch(path.name):
            return _voc([path], path)
        if path.suffix.lower() == ".txt":
            raise UserError(
                f"{shown(path)} is not named like VOC's results, comp3_det_test_CLASS.txt; rename it, or give the"
                " folder of YOLO's labels"
            )
        return _coco(path)
    files = sorted(each for each in path.iterdir() if _VOC_NAME.fullmatch(each.name))
    return _voc(files, path) if files else _yolo(path, names)


def _coco(path: Path) -> Results:
    content = read_bytes(path, "results file", _LARGEST_FILE)
    where = shown(path)
    entries = parse_json(content, where, "COCO's results JSON", OUTLINES)
    if not isinstance(entries, list):
        hint = ""
        if isinstance(entries, dict):
            lists = [name for name, value in entries.items() if isinstance(value, list)]
            hint = f" with {', '.join(map(reprlib.repr, lists[:4]))}" if lists else ""
        raise UserError(
            f"{where} is not COCO's results: it holds a {type(entries).__name__}{hint}, not a list of"
            " {image_id, category_id, bbox, score}; give that list alone"
        )

    def refuse(number: int, what: str) -> UserError:
        return UserError(f"{where}: entry {number + 1} {what}; fix it")

    _check(entries, (dict,), refuse, "is {}, not an object")
    columns: dict[str, list[Any]] = {}
    for key in _KEYS:
        try:
            columns[key] = [entry[key] for entry in entries]
        except KeyError:
            number = next(n for n, entry in enumerate(entries) if key not in entry)
            raise refuse(number, f"has no {key!r}") from None
    boxes = columns["bbox"]
    _check(boxes, (list,), refuse, "has the bbox {}, not four numbers")
    wrong = next((n for n, box in enumerate(boxes) if len(box) != 4), None)
    if wrong is not None:
        raise refuse(wrong, f"has the bbox {reprlib.repr(boxes[wrong])}, not four numbers")
    flat = [value for box in boxes for value in box]
    numbers = _numbers(flat, "bbox", lambda n, what: refuse(n // 4, what), LARGEST_COORDINATE)
    return Results(
        where,
        hashlib.sha256(content).hexdigest(),
        *_codes(_names(columns["image_id"], "image_id", refuse)),
        *_codes(_names(columns["category_id"], "category_id", refuse)),
        numbers.reshape(-1, 4),
        _numbers(columns["score"], "score", refuse, _LARGEST_SCORE),
        ResultsFormat(),
        lambda number: f"entry {number + 1}",
    )


def _check(
    values: Sequence[Any],
    types: tuple[type, ...],
    refuse: Callable[[int, str], UserError],
    problem: str,
) -> None:
    """Raise UserError unless all values are of some types, to the letter: a truth value is no number."""
    if not set(map(type, values)) <= set(types):
        number = next(n for n, value in enumerate(values) if type(value) not in types)
        value = values[number]
        as_written = (
            json.dumps(value) if value is None or isinstance(value, bool) else reprlib.repr(value)
        )
        raise refuse(number, problem.format(as_written))


def _numbers(
    values: Sequence[Any], key: str, refuse: Callable[[int, str], UserError], largest: float
) -> np.ndarray:
    _check(values, (int, float), refuse, f"has {{}} in its {key}, not a number")
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        numbers = np.array([min(max(value, -1e300), 1e300) for value in values])
    # Not-a-number fails any comparison.
    wrong = np.flatnonzero(~(np.abs(numbers) <= largest))
    if len(wrong):
        value = shorten(str(values[wrong[0]]), 40)
        raise refuse(
            int(wrong[0]), f"has {value} in its {key}, not a number of at most {largest:,.0f}"
        )
    return numbers


def _names(
    values: Sequence[Any], key: str, refuse: Callable[[int, str], UserError]
) -> Sequence[Name]:
    _check(values, (int, str, float), refuse, f"has the {key} {{}}, neither a number nor a name")
    if {*map(type, values)} <= {str}:
        return values
    for number, value in enumerate(values):
        if isinstance(value, str):
            continue
        is_whole = isinstance(value, int) or value.is_integer()
        if not is_whole or abs(value) > _LARGEST_ID:
            raise refuse(number, f"has the {key} {shorten(str(value), 40)}, not a whole number")
    return [value if isinstance(value, str) else int(value) for value in values]


def _codes(values: Iterable[Name]) -> tuple[list[Name], np.ndarray]:
    """The different values in their order, and of each its place among them."""
    place: dict[Name, int] = {}
    codes = [place.setdefault(value, len(place)) for value in values]
    return list(place), np.array(codes, np.int64)


def _yolo(folder: Path, names: str | None) -> Results:
    files = label_files(folder)
    called = None if names is None else class_names(folder, names)
    digest = hashlib.sha256()
    images, labels, places, values = [], [], [], []
    for path in files:
        digest.update(path.name.encode(errors="replace"))
        for line in read_labels(path, RESULT_NUMBERS):
            if called is not None and line.label >= len(called):
                raise UserError(
                    f"{shown(path)}, line {line.number}: there is no class {line.label} among the {len(called)} names,"
                    " which are numbered from 0; fix either"
                )
            images.append(path.stem)
            labels.append(line.label if called is None else called[line.label])
            places.append(f"{path.name}, line {line.number}")
            values.append(line.values)
    numbers = np.array(values, np.float64).reshape(-1, RESULT_NUMBERS - 1)
    digest.update(repr((images, labels)).encode(errors="replace") + numbers.tobytes())
    _check_bounds(numbers, folder, places)
    categories = "contiguous" if called is None else "names"
    reading = ResultsFormat("cxcywh", "normalised", categories, "names")
    return _from_lines(
        folder, digest.hexdigest(), images, labels, numbers[:, :4], numbers[:, 4], reading, places
    )


def _voc(files: Sequence[Path], where: Path) -> Results:
    digest = hashlib.sha256()
    images, labels, places, values = [], [], [], []
    for path in files:
        name = _VOC_NAME.fullmatch(path.name)
        assert name is not None
        text = read_text(path, "results file", LARGEST_LIST * 64)
        digest.update(f"{path.name}\n{text}".encode())
        for number, line in enumerate(text.splitlines(), 1):
            texts = line.split()
            if not texts:
                continue
            place = f"{path.name}, line {number}"
            try:
                score, *box = (float(each) for each in texts[-5:])
            except ValueError:
                score, box = math.nan, []
            if len(texts) < 6 or len(box) != 4:
                raise UserError(
                    f"{shown(where)}: {place} is {shorten(line)!r}, not `image score xmin ymin xmax ymax`; fix it"
                )
            images.append(" ".join(texts[:-5]))
            labels.append(name[1])
            places.append(place)
            values.append((score, *box))
    numbers = np.array(values, np.float64).reshape(-1, 5)
    _check_bounds(numbers, where, places)
    reading = ResultsFormat("voc", "image", "names", "names")
    return _from_lines(
        where, digest.hexdigest(), images, labels, numbers[:, 1:], numbers[:, 0], reading, places
    )


def _check_bounds(numbers: np.ndarray, where: Path, places: Sequence[str]) -> None:
    wrong = np.flatnonzero(~(np.abs(numbers) <= LARGEST_COORDINATE).all(axis=1))
    if len(wrong):
        raise UserError(
            f"{shown(where)}: {places[wrong[0]]} has something else than numbers of at most {LARGEST_COORDINATE:,};"
            " fix it"
        )


def _from_lines(
    where: Path,
    fingerprint: str,
    images: Sequence[Name],
    labels: Sequence[Name],
    boxes: np.ndarray,
    scores: np.ndarray,
    reading: ResultsFormat,
    places: Sequence[str],
) -> Results:
    codes = (*_codes(images), *_codes(labels))
    return Results(shown(where), fingerprint, *codes, boxes, scores, reading, places.__getitem__)


def write_coco_results(detections: pd.DataFrame, category_ids: Sequence[int], path: Path) -> None:
    """Write one head's detections as COCO's results JSON: the same numbers to the last digit.
    Raises UserError where it cannot be written.
    """
    corners = detections[["x1", "y1", "x2", "y2"]].to_numpy()
    boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    columns = (detections[name].tolist() for name in ("image_id", "label", "score"))
    lines = [
        json.dumps(
            {"image_id": image, "category_id": category_ids[label], "bbox": box, "score": score}
        )
        for image, label, score, box in zip(*columns, boxes, strict=True)
    ]
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")
