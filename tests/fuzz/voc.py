"""PASCAL VOC folders as people have them, with their mistakes, and XML with broken bytes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.files import CACHE_VARIABLE
from tests.fuzz.coco import broken, write_images
from tests.fuzz.harness import REFUSED, Case

LEVELS = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12)]
BOMB = f'<!DOCTYPE a [<!ENTITY e0 "ha">{"".join(LEVELS)}]>'
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FATAL = {
    "a coordinate": ["", "abc", "nan", "1e999", "4 5", "0x5", "²", "9" * 5000, "<xmin/>"],
    "a side": ["0", "-5", "1.5", "nan", "1e12", "", "9" * 5000],
    "no": ["size", "width", "bndbox", "ymax", "name"],
    "difficult": ["2", "-1", "yes", "0.5"],
    "swapped sides": [""],
    "list": ["twice", "no XML", "empty", "cut", "NUL", "Latin-1", "../up"],
    "whole": ["", "<a>", "<a/>", "<a>" * 100_000, "{}", "a" * 2_000_000, f"{BOMB}<a>&e11;</a>"],
    "size by entity": ["&e11;", "&none;"],
}


def xml(case: Case, size: tuple[int, int], objects: list[Any], file_name: str) -> str:
    """An annotation as VOC, labelImg and others write it."""
    number = case.pick([str, lambda n: f" {n}\n", lambda n: f"{n}.0", lambda n: f"{n:.2f}"])
    width, height = map(number, size)
    sides = [f"<width>{width}</width>", f"<height>{height}</height>", "<depth>3</depth>"]
    parts = [f"<size>{''.join(case.random.sample(sides, 3))}</size>"]
    parts.append(f"<filename>{file_name}</filename>")
    for name, corners, difficult in objects:
        box = "".join(f"<{c}>{number(v)}</{c}>" for c, v in zip(CORNERS, corners, strict=True))
        inner = [f"<name>{name}</name>", f"<bndbox>{box}</bndbox>"]
        inner += [f"<difficult>{int(difficult)}</difficult>"] if difficult else []
        inner += ["<pose>Left</pose>", "<!-- object -->", "<truncated>1</truncated>"]
        inner += ["<part><name>hand</name><bndbox><xmax>1</xmax></bndbox></part>"]
        parts.append(f"<object>{''.join(case.random.sample(inner, len(inner)))}</object>")
    parts += ["<segmented>0</segmented>", "<source><name>x</name></source>"]
    space = case.pick(["", "\n  ", "\r\n\t"])
    return f"<annotation>{space}{space.join(case.random.sample(parts, len(parts)))}{space}</annotation>"


def meant(images: list[Any]) -> tuple[Any, ...]:
    """Rows (image, class, corners) of the usable objects, and the number of difficult ones."""
    rows = []
    for index, (_, (width, height), objects) in enumerate(images):
        for name, (left, top, right, bottom), difficult in objects:
            corners = (max(left - 1, 0), max(top - 1, 0), min(right, width), min(bottom, height))
            if not difficult and min(corners[2] - corners[0], corners[3] - corners[1]) >= 0.1:
                rows.append((index, name, tuple(np.float32(corners).tolist())))
    return sorted(rows), sum(each[2] for image in images for each in image[2])


def read(root: Path, split: str) -> tuple[Any, ...]:
    """What the product makes of a folder."""
    dataset = CocoDataset(*resolve_split(str(root), split))
    rows = [
        (index, dataset.class_names[label], tuple(box))
        for index in range(len(dataset))
        for sample in [dataset[index]]
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True)
    ]
    return sorted(rows), dataset.box_counts.crowd


def simply(data: bytes, size: tuple[int, int]) -> list[Any] | None:
    """The objects of an XML, or None where it cannot be meant."""
    try:
        root = ElementTree.fromstring(data)
        if tuple(float(root.find("size").findtext(side)) for side in ("width", "height")) != size:
            return None
        found = []
        for item in root.findall("object"):
            box = [float(item.find("bndbox").findtext(corner)) for corner in CORNERS]
            if not all(map(math.isfinite, box)):
                return None
            flag = (item.findtext("difficult") or "0").strip()
            found.append((item.findtext("name").strip(), box, {"0": False, "1": True}[flag]))
        return found
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError, LookupError):
        return None


def check(case: Case) -> None:
    """Read a folder: the objects that its XML says, or a refusal that names the file."""
    way = case.pick(["benign", "benign", "fatal", "fatal", "bytes"])
    names = case.pick([["person", "dog"], ["person", "license plate"], ["Ähre", "kat_1"]])
    suffix = case.pick([".jpg", ".jpg", ".JPG", ".jpeg", ".png", ".PNG"])
    stems = case.pick([["000001", "000002"], ["2008_000001", "2008_000002"], ["a-1", "b.c"]])
    corners = [(3, 4, 20, 18), (9, 1, 60, 10), (1, 1, 5, 5)]
    objects = [(names[n % 2], box, n == 2) for n, box in enumerate(corners)]
    images = [(stems[0], (40, 30), objects), (stems[1], (24, 32), objects[1:])]
    texts = [xml(case, size, objects, stem + suffix) for stem, size, objects in images]
    expected: list[Any] = [meant(images)]
    mark = "-sig" * case.chance(0.3)
    encoding = case.pick([f"utf-8{mark}", "utf-8", "utf-16", "iso-8859-1"])
    header = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    header *= encoding != "utf-8"
    end = case.pick(["\n", "\r\n", "  \n", "\n\n"])
    list_data = (end.join(stems) + end).encode(f"utf-8{mark}")
    case.input = f"{way}: {names}, {suffix}, {encoding}, list {list_data!r}"
    named, what, value = [f"{stems[0]}.xml"], "", ""
    if way == "fatal":
        what = case.pick(list(FATAL))
        value = case.pick(FATAL[what])
        case.input += f"; {what} {value[:30]!r}"
        if what == "size by entity":
            header, encoding = BOMB, "utf-8"
        if what == "list":
            list_data, named = listed(list_data, stems, value), []
        else:
            texts[0] = spoiled(texts[0], what, value)
        expected = [*(expected if what == "swapped sides" else []), REFUSED]
    data = [(header + text).encode(encoding) for text in texts]
    if way == "bytes":
        data[0] = broken(case, data[0])
        said = simply(data[0], (40, 30))
        changed = [(stems[0], (40, 30), said or []), images[1]]
        expected, named = [REFUSED, *([] if said is None else [meant(changed)])], []
    folder = case.folder / "VOCdevkit" / "VOC2007"
    write_images(folder / "JPEGImages", {stem + suffix: size for stem, size, _ in images})
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for stem, content in list(zip(stems, data, strict=True))[value == "no XML" :]:
        (folder / "Annotations" / f"{stem}.xml").write_bytes(content)
    (folder / "ImageSets" / "Main" / "test.txt").write_bytes(list_data)
    os.environ[CACHE_VARIABLE] = str(case.folder / "cache")
    roots = [(folder.parent, "test07"), (case.folder, "test2007"), (folder, "test")]
    root, split = case.pick(roots)
    case.judge(case.read(lambda: read(root, split)), *expected, names=named)


def spoiled(text: str, what: str, value: str) -> str:
    """An XML with a mistake in it."""
    if what == "whole":
        return value
    if what == "swapped sides":
        return text.replace("width>", "_>").replace("height>", "width>").replace("_>", "height>")
    if what == "no" and value in ("bndbox", "ymax", "name"):
        # Not that of a part.
        before, _, rest = text.partition("<object>")
        return f"{before}<object><x/></object>{rest.partition('</object>')[2]}"
    tags = {"a coordinate": "xmin", "a side": "width", "size by entity": "width", "no": value}
    tag = tags.get(what, what)
    before, _, rest = text.partition(f"<{tag}>")
    new = "" if what == "no" else f"<{tag}>{value}</{tag}>"
    return f"{before}{new}{rest.partition(f'</{tag}>')[2]}"


def listed(lines: bytes, stems: list[str], value: str) -> bytes:
    """A list of images with a mistake in it."""
    more = {"twice": stems[1].encode() + b"\n", "Latin-1": b"\xe4\n", "../up": b"../up\n"}
    changed = {"empty": b"\n", "cut": lines.rstrip()[:-1], "NUL": b"\0" * 10 + b"\n" + lines}
    return changed.get(value, lines + more.get(value, b""))
