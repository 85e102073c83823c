"""Annotation files in COCO's JSON: benign changes, changes of meaning, and broken bytes."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rethink_heads.data.coco import CocoDataset
from tests.fuzz.harness import REFUSED, Case

SIZES = {"a.png": (40, 30), "b.png": (24, 32), "c d.png": (16, 16)}
NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, 1.0, -0.0, 1e-300, 1e300, -1e300),
    *(math.nan, math.inf, -math.inf, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400),
    *("", "0", "1", "true", "no", "12.5", "person", "a.png", "../a.png", "\0", "\ud800", "é" * 3),
    *("x" * 300, "x" * 300_000, [], {}, [None], [[]], {"id": 1}, [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]),
    *(["1", "2", "3", "4"], [5, 5, -3, -3], [1e30, 0, 1, 1], [0, 0, 10**400, 1], [0, 0, math.nan, 1]),
]  # fmt: skip


def original() -> dict[str, Any]:
    """Three images of other sizes, with coordinates that float32 has exactly."""
    boxes = [[2, 3.5, 10, 12.25], [20.5, 1, 18, 20], [-3, 4, 10, 10], [1, 1, 8, 8], [3, 2, 5.5, 7]]
    images = [
        {"id": 7 * number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(SIZES.items(), 1)
    ]
    annotations = [
        {"id": 100 + n, "image_id": images[n % 3]["id"], "category_id": 1 + n % 2, "bbox": box}
        | {"area": 50.5 + n, "iscrowd": int(n == 3)}
        for n, box in enumerate(boxes)
    ]
    names = ("person", "Straße", "unused")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_images(folder: Path, sizes: dict[str, tuple[int, int]] = SIZES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        Image.new("RGB", size, (90, 120, 30)).save(folder / name)


def read(annotations: Path, images: Path) -> tuple[Any, ...]:
    """What the product makes of a file: objects as sorted rows, and how many crowds there are."""
    dataset = CocoDataset(annotations, images)
    rows = []
    for sample in (dataset[index] for index in range(len(dataset))):
        columns = (sample.object_ids, sample.labels, sample.boxes, sample.areas)
        for number, label, box, area in zip(*(each.tolist() for each in columns), strict=True):
            rows.append((sample.image_id, number, dataset.class_names[label], tuple(box), area))
    return sorted(rows), dataset.box_counts.crowd


def whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise ValueError
    return value


def untexted(value: Any) -> Any:
    """The same with numbers in place of their texts (but for names), and 2 in place of 2.0."""
    if isinstance(value, dict):
        return {k: v if "name" in k else untexted(v) for k, v in value.items()}
    if isinstance(value, list):
        return [untexted(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    is_number = isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value)
    return json.loads(value) if is_number else value


def meant(content: Any) -> tuple[Any, bool]:
    """What a file says, read simply (or REFUSED), and whether a refusal would do as well."""
    said, content = content, untexted(content)
    doubtful = repr(said) != repr(content)
    try:
        images, names, rows, crowds, ids = {}, {}, [], 0, set()
        for image in content["images"]:
            name = os.path.normpath(image["file_name"])
            if SIZES.get(name) != (whole(image["width"]), whole(image["height"])):
                return REFUSED, False
            doubtful |= name != image["file_name"]
            images[whole(image["id"])] = SIZES[name]
        for category in content["categories"]:
            name = names[whole(category["id"])] = category["name"]
            if name is None or isinstance(name, list | dict):
                return REFUSED, False
            is_usual = isinstance(name, str) and name.isprintable() and 0 < len(name) < 200
            doubtful |= not is_usual
        doubtful |= len(set(names.values())) < len(names)
        if len(images) < len(content["images"]) or len(names) < len(content["categories"]):
            return REFUSED, False
        for entry in content["annotations"]:
            keys = ("id", "image_id", "category_id")
            number, image, category = (whole(entry[key]) for key in keys)
            box, area, crowd = entry["bbox"], entry.get("area"), entry.get("iscrowd", 0)
            if crowd in ("true", "false"):
                crowd, doubtful = crowd == "true", True
            bad = not isinstance(box, list) or any(type(side) not in (int, float) for side in box)
            if bad or number in ids or image not in images or category not in names:
                return REFUSED, False
            ids.add(number)
            x, y, width, height = (float(side) for side in box)
            finite = all(map(math.isfinite, (x, y, width, height)))
            # Beyond 2^24 px float32 does not have all whole numbers.
            doubtful |= max(map(abs, (x, y, width, height))) > 2**24
            doubtful |= not finite or crowd is None or isinstance(crowd, float)
            if (crowd not in (0, 1, "0", "1", None)) or isinstance(crowd, list | dict):
                return REFUSED, False
            if area is not None and (type(area) not in (int, float) or not 0 <= area <= 2.0**127):
                return REFUSED, False
            limits = images[image]
            left, right = (min(max(value, 0), limits[0]) for value in (x, x + width))
            top, bottom = (min(max(value, 0), limits[1]) for value in (y, y + height))
            if int(crowd or 0):
                crowds += 1
            elif finite and min(width, height, right - left, bottom - top) >= 0.1:
                corners = tuple(np.float32([left, top, right, bottom]).tolist())
                area = (right - left) * (bottom - top) if area is None else area
                rows.append((image, number, str(names[category]), corners, float(np.float32(area))))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return REFUSED, False
    return ((sorted(rows), crowds) if rows else REFUSED), doubtful


def nodes(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found = [] if found is None else found
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            nodes(value[key], found)
    return found


def change(case: Case, content: Any) -> None:
    """Replace, remove, double or move one node of a tree, in place."""
    found = nodes(content)
    # Every key as often as any other, however many entries have it.
    wanted = case.pick(sorted({str(key) for _, key in found}))
    parent, key = case.pick([node for node in found if str(node[1]) == wanted])
    way = case.pick(["replace"] * 6 + ["remove", "double", "move"])
    case.input += f" {way} {key!r}"
    if way == "remove":
        del parent[key]
    elif way == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif way == "move" and isinstance(key, str):
        parent[key.upper()] = parent.pop(key)
    else:
        value = case.pick(NASTY)
        case.input += f" {str(parent[key])[:60]!r} by {str(value)[:60]!r}"
        parent[key] = copy.deepcopy(value)


def larger_ids(content: dict[str, Any]) -> dict[str, Any]:
    """The ids of images, annotations and categories beyond what a double has exactly."""
    for entry in content["images"] + content["annotations"] + content["categories"]:
        for key in entry.keys() & {"id", "image_id", "category_id"}:
            entry[key] += 2**60
    return content


def shuffled(case: Case, value: Any) -> Any:
    """The same with the keys of all mappings in another order, and unknown ones."""
    if isinstance(value, list):
        return [shuffled(case, each) for each in value]
    if not isinstance(value, dict):
        return value
    extra = {"note": None, "segmentation": [[1, 2, 3, 4, 5, 6]], "über": {"id": "x"}, "score": "a"}
    items = [*value.items(), *case.random.sample(list(extra.items()), 2)]
    return {key: shuffled(case, each) for key, each in case.random.sample(items, len(items))}


def broken(case: Case, data: bytes) -> bytes:
    """Bytes with some changed, removed or put in, or cut."""
    changed = bytearray(data)
    way = case.pick(["flip", "flip", "cut", "remove", "insert"])
    place = case.random.randrange(len(data))
    case.input += f" bytes: {way} at {place}"
    if way == "cut":
        return bytes(changed[:place])
    for _ in range(case.pick([1, 1, 1, 2, 5])):
        place = case.random.randrange(len(changed))
        if way == "flip":
            changed[place] ^= 1 << case.random.randrange(8)
        elif way == "remove":
            del changed[place : place + case.random.randrange(1, 9)]
        else:
            changed[place:place] = case.random.randbytes(case.random.randrange(1, 5))
    return bytes(changed)


def encoded(case: Case, content: Any) -> bytes:
    """A tree as JSON in one of the ways that mean the same."""
    text = json.dumps(content, indent=case.pick([None, 0, 2, "\t"]), ensure_ascii=case.chance(0.5))
    if case.chance(0.3):
        text = text.replace("\n", "\r\n") + "\r\n \n"
    if case.chance(0.3):
        case.input += " with a byte order mark"
        text = f"\ufeff{text}"
    return text.encode("utf-8", "surrogatepass")


TEXTS = [
    *(b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000, b'{"images": [}'),
    *(b"7" * 5000, b'{"images": ' + b"9" * 5000 + b"}", b"<html></html>", b"PK\x03\x04", b"\0" * 1000),
]  # fmt: skip


def check(case: Case) -> None:
    """Read a changed file: it must say what it says to a simple reader, or be refused."""
    write_images(case.folder / "images")
    content = original()
    way = case.input = case.pick(["benign", "benign", "tree", "tree", "tree", "bytes", "text"])
    if way == "benign":
        content = shuffled(case, larger_ids(content) if case.chance(0.5) else content)
    for _ in range(case.pick([1, 1, 2]) if way == "tree" else 0):
        change(case, content)
    data = case.pick(TEXTS) if way == "text" else encoded(case, content)
    if way == "bytes":
        data = broken(case, data)
    if way in ("bytes", "text"):
        case.input += f" {data[:20]!r} ({len(data)} bytes)"
        try:
            content = json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            content = None
    expected, doubtful = meant(content)
    path = case.folder / "instances.json"
    path.write_bytes(data)
    found = case.read(lambda: read(path, case.folder / "images"))
    case.judge(found, expected, *([REFUSED] if doubtful else []))
